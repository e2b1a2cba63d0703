"""Latents to frames, one latent at a time: what a whole clip and a stream share, so that both give the same frames."""

import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from copy import copy
from functools import partial

import numpy as np
import torch
from torch import Tensor

from wfm_ar.diffusion_decoder.denoiser import Denoiser
from wfm_ar.diffusion_decoder.sampler import RefineStream
from wfm_ar.errors import Note
from wfm_ar.rollout.detail import POOR_COPY, Detail, TrainingCopies
from wfm_ar.rollout.placement import Placement
from wfm_ar.tokenizers.video.model import VideoTokenizer


class FrameDecoder:
    """Latents to frames for one row, one latent at a time, with the state that decoding and refining carry."""

    def __init__(
        self,
        tokenizer: VideoTokenizer,
        denoiser: Denoiser | None = None,
        seed: int = 0,
        refine_steps: int | None = None,
        *,
        size: tuple[int, int] | None = None,
        placement: Placement | None = None,
    ) -> None:
        """`refine_steps`: 1 to 8, or BadConfig; None leaves the frames as decoded. `seed` is that of the refining noise.

        size: pixels (H, W) that are kept of a picture, from the top left; None keeps all. placement: where the tokenizer works.
        """
        self.tokenizer, self.decoding = tokenizer, tokenizer.decode_stream()
        self._height, self._width = size or (None, None)
        self._placement = placement or Placement({})
        self.refining = None if denoiser is None or refine_steps is None else RefineStream(denoiser, steps=refine_steps, seeds=[seed])
        self.detail: Detail | None = None

    def keep_detail(self, given_THWC: np.ndarray) -> None:
        """Before the first latent: keep the detail of the frames that the first latents were encoded from (detail.py).

        given_THWC: uint8 [1 + r*n, H, W, 3].
        """
        given_CTHW = torch.from_numpy(np.array(given_THWC)).to(self._device).permute(3, 0, 1, 2).float() / 127.5 - 1
        self.detail = Detail(given_CTHW)

    def decode(self, tokens_hw: Tensor) -> Tensor:
        """int64 [h, w] -> float32 [1, 3, r or 1, H, W], about [-1, 1], as the tokenizer has it."""
        with self._placement.at_work("video_tokenizer"):
            return self.decoding.push(tokens_hw[None, None].to(self._device)).float()[..., : self._height, : self._width]

    @property
    def _device(self) -> torch.device:
        return next(self.tokenizer.parameters()).device

    @property
    def changes(self) -> bool:
        """Whether what is shown is anything else than what is decoded."""
        return self.refining is not None or self.detail is not None

    @torch.inference_mode()
    def shown(self, tokens_hw: Tensor, decoded_BCTHW: Tensor) -> Tensor:
        """What `decode` gave for these tokens -> what is shown of it, refined and with the given detail, as so started."""
        made_BCTHW = decoded_BCTHW
        if self.refining is not None:
            made_BCTHW = self.refining.push(self.tokenizer.codes(tokens_hw[None, None].to(self._device)), decoded_BCTHW)
        return made_BCTHW if self.detail is None else self.detail.restore(decoded_BCTHW, made_BCTHW)

    def frames(self, tokens_hw: Tensor) -> np.ndarray:
        """int64 [h, w] -> uint8 frames [r or 1, H, W, 3], as they are shown."""
        return to_uint8(self.shown(tokens_hw, self.decode(tokens_hw)))

    @property
    def keeps_detail(self) -> bool:
        """Whether imagined frames keep anything of the given ones; known once those are decoded."""
        return self.detail is not None and self.detail.keeps

    @property
    def state_bytes(self) -> int:
        """What a fork holds for itself: the memory of the decoder and of the refiner."""
        carried = [] if self.refining is None else self.refining.carried
        return sum(tensor.nbytes for tensor in (*self.decoding.memory.values(), *carried))

    def fork(self) -> "FrameDecoder":
        other = copy(self)
        other.decoding = self.tokenizer.decode_stream()
        other.decoding.memory = dict(self.decoding.memory)  # its tensors are replaced, never changed in place
        other.refining = None if self.refining is None else self.refining.fork()
        other.detail = None if self.detail is None else self.detail.fork()
        return other


class BackgroundDecoder(AbstractContextManager):
    """Decodes the clips of a batch, in a background thread while the next latents are generated, or all at the end."""

    def __init__(self, decoders: Sequence[FrameDecoder], threads: int) -> None:
        """threads: of the CPU, that decode beside the caller; 0 = decode synchronously in `finish`."""
        self.seconds = {"decode": 0.0, "refine": 0.0}
        self._decoders, self._latents = decoders, [[] for _ in decoders]
        self._pool = ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(threads,)) if threads else None

    def add(self, clip: int, *latents: Tensor) -> None:
        """The next latents of a clip, int64 [h, w] each."""
        for tokens_hw in latents:
            decode = partial(self._decode, self._decoders[clip], tokens_hw)
            self._latents[clip].append(decode if self._pool is None else self._pool.submit(decode).result)

    def finish(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(shown, raw) frames of every clip, uint8 [T, H, W, 3] each; the same array where what is shown is what was decoded."""
        clips = []
        for latents in self._latents:
            shown, raw = zip(*(latent() for latent in latents), strict=True)
            raw_frames = np.concatenate(raw)
            clips.append((raw_frames if shown[0] is None else np.concatenate(shown), raw_frames))
        return clips

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    @torch.inference_mode()
    def _decode(self, decoder: FrameDecoder, tokens_hw: Tensor) -> tuple[np.ndarray | None, np.ndarray]:
        begun = time.perf_counter()
        decoded = decoder.decode(tokens_hw)
        raw = to_uint8(decoded)
        between = time.perf_counter()
        shown = to_uint8(decoder.shown(tokens_hw, decoded)) if decoder.changes else None
        self.seconds["decode"] += between - begun
        self.seconds["refine"] += time.perf_counter() - between
        return shown, raw


def to_uint8(video_BCTHW: Tensor) -> np.ndarray:
    """Float [1, 3, T, H, W] in [-1, 1] -> uint8 [T, H, W, 3]."""
    return ((video_BCTHW[0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).cpu().numpy()


def note_poor_copies(decoders: Sequence[FrameDecoder], training: TrainingCopies | None) -> None:
    """One line where the tokenizer's copy of a given picture is poor: worse than those of the training data, or too poor to keep
    anything of the picture. training: what was measured of those; None: it was not."""
    copies = [(decoder.detail.copy_db, decoder.keeps_detail) for decoder in decoders if decoder.detail is not None]
    expected = POOR_COPY if training is None else training.expected_db
    poor = [(db, keeps) for db, keeps in copies if db < expected or not keeps]
    if not poor:
        return
    worst, (off, shown) = min(poor)[0], ("keep_detail is off", "what is shown is what was decoded")
    kept = all(keeps for _, keeps in poor)
    if training is None:
        why = "it is unlike the pictures of the training data, or the tokenizer copies these poorly too"
        line = f"{off}: the tokenizer's own copy of the given picture has {worst:.1f} dB, expected {POOR_COPY:.0f} or more: {why}; {shown}"
    elif worst < training.expected_db:
        usual = f"{training.expected_db:.1f} or more, as of pictures of the training data ({training.median_db:.1f} is usual)"
        line = f"the given picture is unlike the training data: the tokenizer's own copy of it has {worst:.1f} dB, expected {usual}"
        line += "; fix: crop= where the camera sees more or less than in training" + ("" if kept else f"; {off}: {shown}")
    else:
        line = f"{off}: the tokenizer's own copies have {worst:.1f} dB, of the training data too, expected {POOR_COPY:.0f} or more; {shown}"
    warnings.warn(Note(line), stacklevel=4)
