"""What the world model is told of a coming latent: the codes that the predicted frame would have, and where it changes.

    last latents --video_tokenizer.decode--> frames --FramePredictor (+ actions)--> the next frame --encoder--> its codes

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
        self._decoded: dict[bytes, Tensor] = {}  # frames of the latents of the last call: mostly the next one's too

    @property
    def history(self) -> int:
        """Latents that a prediction is made from; where there are fewer, the first one stands for those before it."""
        return self.predictor.config.history

    @torch.inference_mode()
    def __call__(self, tokens_BNhw: Tensor, bins_BMA: Tensor | None) -> Tensor:
        """What is told of the coming latents.

        Args:
            tokens_BNhw: int64, the last N = history latents, oldest first.
            bins_BMA: int64, the actions that lead on from each of them but the first, M = N - 1, a column for each channel of the
                vocabulary, below 0 where there is none; None of a world without actions.

        Returns:
            int8 [B, h, w, n + 1], as `told`.
        """
        size = len(tokens_BNhw) if self.tokenizer.post_quant_conv.weight.is_cuda else 1  # on the CPU a row's numbers are those it has alone
        parts = [None] * len(tokens_BNhw) if bins_BMA is None else bins_BMA.split(size)
        known, told = self._decoded, []
        self._decoded = {}
        for tokens, bins in zip(tokens_BNhw.split(size), parts, strict=False):
            frames = []
            for each_Bhw in tokens.unbind(1):
                key = _key(each_Bhw)
                if key not in self._decoded:
                    self._decoded[key] = known[key] if key in known else self.decoded(each_Bhw)
                frames.append(self._decoded[key])
            told.append(self.of_frames(torch.stack(frames, 1), bins))
        return torch.cat(told)

    def of_frames(self, frames_BN3HW: Tensor, bins_BMA: Tensor | None) -> Tensor:
        """The same, of frames less the background."""
        coming = self.predictor(frames_BN3HW, self.values(bins_BMA, frames_BN3HW))
        return self.told(frames_BN3HW[:, -1], coming)[0].cpu()

    def along(self, tokens_thw: Tensor, bins_tA: Tensor | None) -> Tensor:
        """What is told of each latent of a clip [t, h, w], int8 [t, h, w, n + 1]: NOT_TOLD of the first, and where bins int64 [t - 1, A]
        are all below 0 though there are columns."""
        t, digits = len(tokens_thw), len(self.tokenizer.config.levels)
        told_thwK = torch.full((t, *tokens_thw.shape[1:], digits + 1), NOT_TOLD, dtype=torch.int8)
        with torch.inference_mode():
            for start in range(1, t, AT_ONCE):
                latents = range(start, min(t, start + AT_ONCE))
                first = max(0, start - self.history)
                frames = self.decoded(tokens_thw[first : latents.stop - 1])
                seen = torch.stack([frames[[max(0, i) - first for i in self.before(k)]] for k in latents])
                bins_BMA = None if bins_tA is None else torch.stack([self.bins_behind(bins_tA, k) for k in latents])
                told_thwK[latents.start : latents.stop] = self.of_frames(seen, bins_BMA)
        if self._bins and bins_tA is not None and t > 1:
            told_thwK[1:][(bins_tA < 0).all(1)] = NOT_TOLD
        return told_thwK

    def before(self, latent: int) -> range:
        """The latents that `latent` is predicted from, oldest first; those below 0 are shown as the first."""
        return range(latent - self.history, latent)

    def bins_behind(self, bins_tA: Tensor, latent: int) -> Tensor:
        """Of a clip's actions int64 [t - 1, A], those that lead on from `before(latent)` but the first of them, -1 where there are none."""
        none_A = torch.full_like(bins_tA[0], -1)
        return torch.stack([bins_tA[i] if i >= 0 else none_A for i in self.before(latent)[1:]])

    def decoded(self, tokens_Bhw: Tensor) -> Tensor:
        """Tokens int64 [B, h, w] -> frames less the background [B, 3, H, W]."""
        return self.frames(self.tokenizer.codes(tokens_Bhw[:, None].to(self.tokenizer.post_quant_conv.weight.device)))

    def values(self, bins_BMA: Tensor | None, like: Tensor) -> Tensor | None:
        """Bins as the network takes them: values in [-1, 1], NaN where there are none; None of a world without actions."""
        if not self._bins or bins_BMA is None:
            return None
        top_A = torch.tensor(self._bins, device=like.device).sub(1).clamp_min(1)
        bins_BMA = bins_BMA.to(like.device)
        return torch.where(bins_BMA < 0, torch.nan, 2 * bins_BMA / top_A - 1).to(like.dtype)

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
