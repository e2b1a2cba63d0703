"""Clips as training sees them: loaded at the tokenizer's size, between pixels and floats, and as strips to look at."""

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F

from wfm_ar.data.episodes import EpisodeSet
from wfm_ar.data.video import resize_crop

LOOKED_AT = 257  # frames of a held-out clip: hours of it would neither fit nor tell more
AT_ONCE = 64  # frames that are decoded before they are made small: a long clip of large frames would not fit


def load_clip(episodes: EpisodeSet, index: int, height: int, width: int, start: int = 0, count: int | None = None) -> torch.Tensor:
    """The frames of episode `index`, or `count` of them from `start`, resized and centre-cropped -> uint8 [T, height, width, 3]."""
    if count is None:
        declared = episodes.num_frames(index)
        count = declared - start if declared else None
    if count is None or count <= AT_ONCE:
        return torch.from_numpy(resize_crop(episodes.load_frames(index, start, count), height, width))
    pieces = [(at, min(AT_ONCE, start + count - at)) for at in range(start, start + count, AT_ONCE)]
    return torch.from_numpy(np.concatenate([resize_crop(episodes.load_frames(index, at, n), height, width) for at, n in pieces]))


def whole_latents(episodes: EpisodeSet, index: int, height: int, width: int, rate: int, most: int | None = None) -> Iterator[torch.Tensor]:
    """`load_clip` in pieces of at most AT_ONCE frames, without the frames beyond the last whole latent: first 1 + rate*k, then rate*k each.

    most: at most so many frames in all. So a clip of any length is encoded in bounded memory.
    """
    declared = episodes.num_frames(index)
    if not declared:
        clip = load_clip(episodes, index, height, width)
        yield clip[: 1 + (min(len(clip), most or len(clip)) - 1) // rate * rate]
        return
    end = 1 + (min(declared, most or declared) - 1) // rate * rate
    step, start = max(1, (AT_ONCE - 1) // rate) * rate, 0
    while start < end:
        stop = min(end, start + step + (start == 0))
        yield load_clip(episodes, index, height, width, start, stop - start)
        start = stop


def load_beginning(episodes: EpisodeSet, index: int, height: int, width: int, rate: int) -> torch.Tensor:
    """What a validation looks at: whole latents of the first LOOKED_AT frames at most, uint8 [1 + rate*n, height, width, 3]."""
    return torch.cat(list(whole_latents(episodes, index, height, width, rate, LOOKED_AT)))


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
