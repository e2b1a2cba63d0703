"""Clips as training sees them: loaded at the tokenizer's size, between pixels and floats, and as strips to look at."""

import torch

from wfm_ar.data.episodes import EpisodeSet
from wfm_ar.data.video import resize_crop


def load_clip(episodes: EpisodeSet, index: int, height: int, width: int) -> torch.Tensor:
    """All frames of episode `index`, resized and centre-cropped -> uint8 [T, height, width, 3]."""
    return torch.from_numpy(resize_crop(episodes.load_frames(index), height, width))


def to_float(frames: torch.Tensor) -> torch.Tensor:
    """uint8 in 0..255 -> float32 in [-1, 1]."""
    return frames.float() / 127.5 - 1


def to_uint8(frames: torch.Tensor) -> torch.Tensor:
    """float in [-1, 1] (clamped) -> uint8 in 0..255."""
    return ((frames.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def side_by_side(clips_THWC: list[torch.Tensor], every: int = 1) -> torch.Tensor:
    """Clips uint8 [T, H, W, 3] -> one picture [rows * H, columns * W, 3]: a row a clip, every n-th frame a column."""
    return torch.cat([torch.cat(list(clip[::every]), 1) for clip in clips_THWC], 0)


def psnr(error: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio in dB of errors on the [-1, 1] scale (peak 2)."""
    return 10 * torch.log10(4 / error.float().square().mean().clamp_min(1e-10))
