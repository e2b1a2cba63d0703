"""Clips as training sees them: loaded at the tokenizer's size, between pixels and floats, and as strips to look at."""

import hashlib
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from wfm_ar.data.episodes import EpisodeSet
from wfm_ar.data.fingerprint import frames_fingerprint
from wfm_ar.data.frame_cache import FrameCache
from wfm_ar.data.video import resize_crop
from wfm_ar.tokenizers.video import VideoTokenizerConfig

LOOKED_AT = 257  # frames of a held-out clip: hours of it would neither fit nor tell more
AT_ONCE = 64  # frames that are decoded before they are made small: a long clip of large frames would not fit


class Clips:
    """The clips of a data set at a tokenizer's size. Threads share one."""

    def __init__(self, episodes: EpisodeSet, tokenizer: VideoTokenizerConfig, cache: FrameCache | None = None):
        """cache: where decoded frames are kept; None = every look decodes."""
        self.episodes, self.tokenizer, self.cache = episodes, tokenizer, cache
        self._num_frames: dict[int, int] = {}
        self._keys: dict[int, str] = {}
        self._asked: tuple[int, int] | None = None  # to_decode's first answer
        self._new = 0  # frames decoded for the cache since then

    def __len__(self) -> int:
        return len(self.episodes)

    def num_frames(self, index: int) -> int:
        """Frames of episode `index` as its files declare them; 0 where they do not."""
        if index not in self._num_frames:
            self._num_frames[index] = self.episodes.num_frames(index)
        return self._num_frames[index]

    def load(self, index: int, start: int = 0, count: int | None = None) -> torch.Tensor:
        """The frames of episode `index`, or `count` of them from `start` -> uint8 [T, height, width, 3]."""
        declared = self.num_frames(index)
        if count is None:
            count = declared - start if declared else None
        if count is None:
            return torch.from_numpy(self._decoded(index, start, None))
        if self.cache is None or start < 0 or start + count > declared:  # the last two: the reader says what is wrong
            return torch.from_numpy(self._in_pieces(index, start, count))
        size = self.tokenizer.height, self.tokenizer.width
        return torch.from_numpy(self.cache.load(self.key(index), size, declared, start, count, partial(self._for_cache, index)))

    def to_decode(self) -> tuple[int, int] | None:
        """(frames that are not in the cache yet, all frames); None where some are decoded at every use, for want of a cache or of room."""
        if self.cache is None:
            return None
        frame_bytes = self.tokenizer.height * self.tokenizer.width * 3
        if self._asked is None:
            total = sum(map(self.num_frames, range(len(self))))
            held = sum(self.cache.held[self.key(i)] for i in range(len(self))) if self.cache.used else 0
            self._asked, self._new = (max(0, total - held // frame_bytes), total), 0
        missing, total = self._asked
        left = max(0, missing - self._new * self.cache.sharers)
        return (left, total) if self.cache.used + left * frame_bytes <= self.cache.most else None

    def _for_cache(self, index: int, start: int, count: int) -> np.ndarray:
        self._new += count
        return self._in_pieces(index, start, count)

    def key(self, index: int) -> str:
        """What the frames of an episode are known by in a cache."""
        if index not in self._keys:
            settings, made_from = self.tokenizer, frames_fingerprint(self.episodes, index)
            about = f"{made_from} {settings.height} {settings.width} {settings.crop}"
            self._keys[index] = hashlib.sha256(about.encode()).hexdigest()[:32]
        return self._keys[index]

    def _in_pieces(self, index: int, start: int, count: int) -> np.ndarray:
        pieces = [(at, min(AT_ONCE, start + count - at)) for at in range(start, start + count, AT_ONCE)]
        made = [self._decoded(index, at, n) for at, n in pieces]
        return made[0] if len(made) == 1 else np.concatenate(made)

    def _decoded(self, index: int, start: int, count: int | None) -> np.ndarray:
        settings, frames = self.tokenizer, self.episodes.load_frames(index, start, count)
        where = f"{self.episodes.path} episode {self.episodes[index].id}"
        return resize_crop(frames, settings.height, settings.width, settings.crop, where)

    def whole_latents(self, index: int, most: int | None = None) -> Iterator[torch.Tensor]:
        """`load` in pieces of at most AT_ONCE frames, without those beyond the last whole latent: first 1 + rate*k, then rate*k each.

        most: at most so many frames in all. So a clip of any length is encoded in bounded memory.
        """
        declared, rate = self.num_frames(index), self.tokenizer.temporal_compression
        if not declared:
            clip = self.load(index)
            yield clip[: 1 + (min(len(clip), most or len(clip)) - 1) // rate * rate]
            return
        end = 1 + (min(declared, most or declared) - 1) // rate * rate
        step, start = max(1, (AT_ONCE - 1) // rate) * rate, 0
        while start < end:
            stop = min(end, start + step + (start == 0))
            yield self.load(index, start, stop - start)
            start = stop

    def beginning(self, index: int) -> torch.Tensor:
        """What a validation looks at: whole latents of the first LOOKED_AT frames at most, uint8 [1 + rate*n, height, width, 3]."""
        return torch.cat(list(self.whole_latents(index, LOOKED_AT)))


def to_float(frames: torch.Tensor) -> torch.Tensor:
    """uint8 in 0..255 -> float32 in [-1, 1]."""
    return frames.float() / 127.5 - 1


def to_uint8(frames: torch.Tensor) -> torch.Tensor:
    """float in [-1, 1] (clamped) -> uint8 in 0..255."""
    return ((frames.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def side_by_side(clips_THWC: list[torch.Tensor], every: int = 1) -> torch.Tensor:
    """Clips uint8 [T, H, W, 3] -> one picture [rows * H, columns * W, 3]: a row a clip, every n-th frame a column."""
    return torch.cat([torch.cat(list(clip[::every]), 1) for clip in clips_THWC], 0)


def one_below_another(pictures_HWC: list[torch.Tensor]) -> torch.Tensor:
    """Pictures uint8 [H, W, 3] of any widths -> one, black on the right of the narrower."""
    width = max(picture.shape[1] for picture in pictures_HWC)
    return torch.cat([F.pad(picture, (0, 0, 0, width - picture.shape[1])) for picture in pictures_HWC])


def psnr(error: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio in dB of errors on the [-1, 1] scale (peak 2)."""
    return 10 * torch.log10(4 / error.float().square().mean().clamp_min(1e-10))
