"""What the world model is told of a coming latent: the codes that the predicted frame would have, and where it changes.

    last two latents --video_tokenizer.decode--> two frames --FramePredictor (+ actions)--> the next frame --encoder--> its codes

For tokenizers of single frames. A code is given before it is rounded, so that the world model sees how near the next level was.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from wfm_ar.errors import BadConfig
from wfm_ar.frame_predictor.network import FramePredictor, FramePredictorConfig
from wfm_ar.tokenizers.video import VideoTokenizer, VideoTokenizerConfig
from wfm_ar.world_model.sequence import NOT_TOLD, TOLD_SCALE

AT_ONCE = 16  # latents of a clip in one pass; bounds the memory
CHANGED = 0.06  # largest pixel error on the [-1, 1] scale, eight grey levels, up to which a place counts as standing still


class Lookahead:
    """A tokenizer and the frame predictor that was trained with it."""

    def __init__(self, tokenizer: VideoTokenizer, predictor: FramePredictor, action_bins: Sequence[int] = ()) -> None:
        """action_bins: bins of each column of the action vocabulary. Raises BadConfig for a tokenizer that it cannot be for."""
        check_lookahead(tokenizer.config, predictor.config)
        self.tokenizer, self.predictor, self._bins = tokenizer, predictor, tuple(action_bins)
        self._decoded: dict[bytes, Tensor] = {}  # frames of the last latents of the last call: mostly the next one's first

    @torch.inference_mode()
    def __call__(self, before_Bhw: Tensor, last_Bhw: Tensor, bins_BA: Tensor | None) -> Tensor:
        """Tokens int64 [B, h, w] of the last two latents (the same twice where there is one), bins int64 [B, A] of the actions that
        lead on, a column for each channel of the vocabulary and below 0 where there is none -> int8 [B, h, w, n + 1], as `told`."""
        size = len(last_Bhw) if self.tokenizer.post_quant_conv.weight.is_cuda else 1  # on the CPU a row's numbers are those it has alone
        parts = [None] * len(last_Bhw) if bins_BA is None else bins_BA.split(size)
        known, told = self._decoded, []
        self._decoded = {}
        for before, last, bins in zip(before_Bhw.split(size), last_Bhw.split(size), parts, strict=False):
            pair = [_key(tokens) for tokens in (before, last)]
            for key, tokens in zip(pair, (before, last), strict=True):
                if key not in known:
                    known[key] = self.decoded(tokens)
            self._decoded[pair[1]] = known[pair[1]]
            told.append(self.of_frames(known[pair[0]], known[pair[1]], bins))
        return torch.cat(told)

    def of_frames(self, before_B3HW: Tensor, last_B3HW: Tensor, bins_BA: Tensor | None) -> Tensor:
        """The same, of frames less the background."""
        coming = self.predictor(before_B3HW, last_B3HW, self.values(bins_BA, last_B3HW))
        return self.told(last_B3HW, coming)[0].cpu()

    def along(self, tokens_thw: Tensor, bins_tA: Tensor | None) -> Tensor:
        """What is told of each latent of a clip [t, h, w], int8 [t, h, w, n + 1]: NOT_TOLD of the first, and where bins int64 [t - 1, A]
        are all below 0 though there are columns."""
        t, digits = len(tokens_thw), len(self.tokenizer.config.levels)
        told_thwK = torch.full((t, *tokens_thw.shape[1:], digits + 1), NOT_TOLD, dtype=torch.int8)
        with torch.inference_mode():
            for start in range(0, t - 1, AT_ONCE):
                stop = min(t - 1, start + AT_ONCE)
                frames = self.decoded(tokens_thw[max(0, start - 1) : stop])
                before = frames[: stop - start] if start else torch.cat((frames[:1], frames[:-1]))
                told_thwK[start + 1 : stop + 1] = self.of_frames(
                    before, frames[-(stop - start) :], None if bins_tA is None else bins_tA[start:stop]
                )
        if self._bins and t > 1:
            told_thwK[1:][(bins_tA < 0).all(1)] = NOT_TOLD
        return told_thwK

    def decoded(self, tokens_Bhw: Tensor) -> Tensor:
        """Tokens int64 [B, h, w] -> frames less the background [B, 3, H, W]."""
        return self.frames(self.tokenizer.codes(tokens_Bhw[:, None].to(self.tokenizer.post_quant_conv.weight.device)))

    def values(self, bins_BA: Tensor | None, like: Tensor) -> Tensor | None:
        """Bins as the network takes them: values in [-1, 1], NaN where there are none; None of a world without actions."""
        if not self._bins:
            return None
        top_A = torch.tensor(self._bins, device=like.device).sub(1).clamp_min(1)
        bins_BA = bins_BA.to(like.device)
        return torch.where(bins_BA < 0, torch.nan, 2 * bins_BA / top_A - 1).to(like.dtype)

    def frames(self, codes_Bc1hw: Tensor) -> Tensor:
        """Codes -> frames less the background [B, 3, H, W]."""
        return self.tokenizer.foreground(codes_Bc1hw)[:, :, 0]

    def told(self, last_B3HW: Tensor, coming_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Frames less the background -> (int8 [B, h, w, n + 1], codes [B, n, 1, h, w] of the coming frame).

        int8: of each of the n digits of a code where it lies between its first (0) and its last level (TOLD_SCALE), then how much of the
        place changes: TOLD_SCALE times the root of the largest pixel error, at most TOLD_SCALE.
        """
        quantizer, side = self.tokenizer.quantizer, self.tokenizer.config.spatial_compression
        latents = self.tokenizer.latents(coming_B3HW[:, :, None])
        levels = torch.tensor(quantizer.levels, device=latents.device).view(1, -1, 1, 1)
        place_Bnhw = (quantizer.bound(latents)[:, :, 0] + levels // 2) / (levels - 1)
        told = torch.cat((place_Bnhw, changes(last_B3HW, coming_B3HW, side).sqrt()), 1).clamp(-0.2, 1.2)
        return (told * TOLD_SCALE).round().to(torch.int8).permute(0, 2, 3, 1), quantizer(latents)


def check_lookahead(config: VideoTokenizerConfig, settings: FramePredictorConfig) -> None:
    """Raises BadConfig for a tokenizer that a frame predictor of these settings cannot look ahead for."""
    if not config.frames_apart:
        raise BadConfig(
            f"predictor: got a tokenizer of {config.temporal_compression} frames a latent with time_kernel={config.time_kernel}, "
            "expected one of single frames (temporal_compression=1 time_kernel=1); fix: predictor=null"
        )
    if config.height % settings.multiple or config.width % settings.multiple:
        got = f"{config.width}x{config.height} pixels"
        raise BadConfig(f"predictor patch: got {settings.patch} with {got}, expected sides that are multiples of {settings.multiple}")


def changes(last_B3HW: Tensor, coming_B3HW: Tensor, side: int) -> Tensor:
    """float32 [B, 1, h, w]: the largest difference of a pixel in each place of `side` x `side` pixels, at most 1."""
    return F.max_pool2d((coming_B3HW - last_B3HW).abs().amax(1, keepdim=True).float(), side).clamp_max(1)


def expected_tokens(told_hwK: Tensor, last_hw: Tensor, levels: Sequence[int]) -> Tensor:
    """int64 [..., h, w]: the tokens of the predicted frame where it changes, those of the last latent where it stands still."""
    expected = torch.zeros_like(last_hw)
    for digit, count in enumerate(levels):
        level = (told_hwK[..., digit].float() / TOLD_SCALE * (count - 1)).round().long().clamp(0, count - 1)
        expected += level * math.prod(levels[:digit])
    return torch.where(told_hwK[..., -1] > TOLD_SCALE * CHANGED**0.5, expected, last_hw)


def _key(tokens_Bhw: Tensor) -> bytes:
    return tokens_Bhw.cpu().numpy().tobytes()
