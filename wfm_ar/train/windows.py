"""Samples for the stages that learn from pixels: short windows of clips, cut where something happens."""

from dataclasses import dataclass

import numpy as np
import torch

from wfm_ar.errors import BadConfig, BadData
from wfm_ar.tokenizers.video import VideoTokenizerConfig
from wfm_ar.tokenizers.video.reach import reach_in_time
from wfm_ar.train.clips import Clips, to_float

SPAN = 4  # windows' worth of frames that are decoded of one clip at most
MOST_PASSED = 1000  # draws of short episodes for one batch: more, and the set has hardly any others
MOTION_SHARE = 0.7  # of the active crops of MotionSampler: where something moves
AROUND = 3  # pixels around what differs from the background that get its weight
VISIBLE = 0.08  # on the [-1, 1] scale, ten grey levels: above what lossy video files add


@dataclass(frozen=True, kw_only=True)
class Windows:
    """How samples are cut."""

    window: int = 9  # frames a sample, 1 + r*n
    windows_per_clip: int = 4  # samples cut from one decoded clip: decoding costs, cutting does not
    crop: int = 64  # pixels a side of a sample, a multiple of the spatial rate; 0 = whole frames
    active: float = 0.8  # share of crops placed where something differs from the background or moves
    emphasis: float = 4.0  # extra weight of pixels that differ from the background or move


def check_windows(windows: Windows, tokenizer: VideoTokenizerConfig) -> None:
    """Raises BadConfig where windows of this size cannot be cut from the tokenizer's clips."""
    rate, least = tokenizer.spatial_compression, min(tokenizer.height, tokenizer.width)
    if windows.crop % rate or windows.crop > least:
        raise BadConfig(f"crop: got {windows.crop}, expected a multiple of {rate} up to {least}, or 0")
    if (windows.window - 1) % tokenizer.temporal_compression:
        raise BadConfig(f"window: got {windows.window} frames, expected 1 + {tokenizer.temporal_compression}*n")


def check_reach(window: int, tokenizer: VideoTokenizerConfig) -> str:
    """A line on what the tokenizer's convolutions in time never see in windows of `window` frames; "" where they see all they reach.

    Raises BadConfig where some of their weights would never meet a past at all: such a tokenizer gives single frames back, and clips not.
    """
    rate, kernel = tokenizer.temporal_compression, tokenizer.time_kernel
    latents = 1 + (window - 1) // rate
    if latents < kernel:
        least = 1 + rate * (kernel - 1)
        raise BadConfig(
            f"window: got {window} frames, {latents} latent{'s' * (latents > 1)}, expected at least {least} for time_kernel={kernel}: what "
            f"lies further back would be learnt from the repeated first frame alone; fix: window={least}, or time_kernel={latents}"
        )
    reach = reach_in_time(tokenizer)
    if window > reach:
        return ""
    return (
        f"window: {window} frames are shorter than the tokenizer's reach in time, {reach} frames: what is further back is learnt from the "
        "repeated first frame, so long clips may come back worse than the windows (validation is on whole clips)"
    )


class WindowSampler:
    """Draws batches of windows; `background` float [3, H, W] in [-1, 1] is what a fixed camera always sees, or None."""

    def __init__(self, windows: Windows, clips: Clips, background: torch.Tensor | None):
        check_windows(windows, clips.tokenizer)
        if len(clips) == 0:
            raise BadData("training split: it is empty; fix: give more clips")
        self.windows, self.tokenizer, self.clips, self.episodes = windows, clips.tokenizer, clips, clips.episodes
        self.background = background
        self._short: set[int] = set()  # those that were told of

    def batch(self, step: int, size: int, seed: int) -> dict[str, torch.Tensor]:
        """`size` samples: float `foreground` [B, 3, T, side, side] (frames less the background), `still` [B, 3, 1, side, side] (that
        background), `weight` [B, 1, T, side, side]; int64 `clip` and `start` [B], their episodes and first frames, and `corner` [B, 2], the
        row and column of the whole frame that a sample begins at. A function of its arguments alone.
        """
        rng = np.random.default_rng((seed, step))
        samples, clips, starts, passed = [], [], [], 0
        while len(samples) < size:
            index = int(rng.integers(len(self.clips)))
            declared = self.clips.num_frames(index)
            if 0 < declared < self.windows.window:  # one short episode must not end a run on the day it is drawn
                passed += 1
                self._pass_over(index, declared, passed)
                continue
            video_CTHW, first = self._clip(index, declared, rng)
            for _ in range(min(self.windows.windows_per_clip, size - len(samples))):
                t = int(rng.integers(video_CTHW.shape[1] - self.windows.window + 1))
                samples.append(self._cut(video_CTHW[:, t : t + self.windows.window], rng))
                clips.append(index)
                starts.append(first + t)
        about = {"clip": torch.tensor(clips), "start": torch.tensor(starts)}
        return about | {name: torch.stack([s[name] for s in samples]) for name in samples[0]}

    def _pass_over(self, index: int, frames: int, passed: int) -> None:
        """Tells of a short episode, once. Raises BadData where hardly any other is drawn."""
        asked = self.windows.window
        where = f"{self.episodes.path} episode {self.episodes[index].id}: got {frames} frames, expected at least window={asked}"
        if passed == MOST_PASSED:
            raise BadData(f"{where}, like the {MOST_PASSED - 1} drawn before it; fix: a smaller window, or longer clips")
        if index not in self._short:
            self._short.add(index)
            print(f"note: {where}: it is not sampled", flush=True)

    def clip_ids(self, batch: dict[str, torch.Tensor]) -> list[str]:
        """The ids of the episodes in a batch, each once."""
        return [self.episodes[i].id for i in dict.fromkeys(batch["clip"].tolist())]

    def _clip(self, index: int, declared: int, rng: np.random.Generator) -> tuple[torch.Tensor, int]:
        """An episode, or a stretch of SPAN windows of a longer one, and its first frame: nobody waits for an hour of video to cut four
        windows out."""
        most, start = SPAN * self.windows.window, 0
        if declared > most:
            start = int(rng.integers(declared - most + 1))
        count = most if declared > most else None
        frames = self.clips.load(index, start, count)
        if len(frames) < self.windows.window:
            where, asked = self.episodes[index].video, self.windows.window
            raise BadData(f"{where}: got {len(frames)} frames, expected at least window={asked}; fix: a smaller window, or drop it")
        return to_float(frames).permute(3, 0, 1, 2), start

    def _active(self, window_3THW: torch.Tensor, moving_1THW: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        """float [1, H, W]: 1 where active crops are placed."""
        return moving_1THW.amax(1)

    def _before(self, cells: int) -> range:
        """How many places of an active crop of `cells` may lie before the one it is placed by."""
        return range(cells)

    def _cut(self, window: torch.Tensor, rng: np.random.Generator) -> dict[str, torch.Tensor]:
        still = window.mean(1, keepdim=True) if self.background is None else self.background[:, None]
        moving = ((window - still).abs().amax(0, keepdim=True) > VISIBLE).float()
        if self.background is None:
            still = torch.zeros_like(still)
        foreground = window - still
        side, rate, y, x = self.windows.crop, self.tokenizer.spatial_compression, 0, 0
        if side:
            places = torch.nn.functional.max_pool2d(self._active(window, moving, rng), rate)[0].nonzero()
            rows, columns = (self.tokenizer.height - side) // rate, (self.tokenizer.width - side) // rate
            y, x = int(rng.integers(rows + 1)), int(rng.integers(columns + 1))
            if len(places) and rng.random() < self.windows.active:
                row, column = places[int(rng.integers(len(places)))].tolist()
                before = self._before(side // rate)
                y = min(max(row - int(rng.integers(before.start, before.stop)), 0), rows)
                x = min(max(column - int(rng.integers(before.start, before.stop)), 0), columns)
            area = (..., slice(y * rate, y * rate + side), slice(x * rate, x * rate + side))
            foreground, moving, still = foreground[area], moving[area], still[area]
        # both sides of an edge weigh the same: if a missing piece of an object cost more than an extra one, objects would grow
        nearby = torch.nn.functional.max_pool2d(moving, 2 * AROUND + 1, 1, AROUND)
        cut = {"foreground": foreground.contiguous(), "still": still.contiguous(), "weight": 1 + self.windows.emphasis * nearby}
        return cut | {"corner": torch.tensor([y * rate, x * rate])}


class MotionSampler(WindowSampler):
    """Windows whose active crops are mostly cut where a frame differs from the one before; the others show what stays where it is.

    The place a crop is cut for lies near its middle, so that what acts on it is seen too.
    """

    def _active(self, window_3THW: torch.Tensor, moving_1THW: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
        changing_HW = window_3THW.diff(dim=1).abs().amax((0, 1)) > VISIBLE
        still = rng.random() >= MOTION_SHARE
        return moving_1THW.amax(1) if still or not changing_HW.any() else changing_HW.float()[None]

    def _before(self, cells: int) -> range:
        return range(cells // 4, cells - cells // 4)


def still_picture(clips: Clips, most: int = 96) -> torch.Tensor:
    """The per-pixel median over first and last frames of up to `most` clips -> uint8 [H, W, 3]: what a fixed camera always sees."""
    if len(clips) == 0:
        raise BadData("training split: it is empty; fix: give more clips")
    indices = np.linspace(0, len(clips) - 1, min(most, len(clips))).astype(int)
    return torch.from_numpy(np.median(torch.cat([_ends(clips, int(i)) for i in indices]).numpy(), 0).astype(np.uint8))


def _ends(clips: Clips, index: int) -> torch.Tensor:
    """The first and the last frame of an episode, uint8 [2, H, W, 3]."""
    declared = clips.num_frames(index)
    if not declared:
        return clips.load(index)[[0, -1]]
    return torch.cat([clips.load(index, at, 1) for at in (0, declared - 1)])
