"""Episodes that are a video file each. Frames that no rows go with are shown evenly, at the rate of the episode.

Phones and screen recorders write a frame when there is one: with pauses, and more or less far apart. Where actions or state go with the
frames, row by row, the frames stay as they are stored. Else each is shown until the next one's time has come, as players do: a step of
the clip is then a step in time, which is what a world is trained on.
"""

import functools
from pathlib import Path

import numpy as np

from wfm_ar.data.video import VideoInfo, frame_times, read_frames, read_video, video_info
from wfm_ar.errors import BadClip, BadData
from wfm_ar.schema import same_rate

_MOST_FRAMES = 1_000_000  # of one clip with its pauses


class VideoFiles:
    """Reads video files; what their tables say stays in memory."""

    def __init__(self) -> None:
        self._info = functools.lru_cache(maxsize=1 << 16)(video_info)
        self._shown = functools.lru_cache(maxsize=256)(even_numbers)

    def shown_evenly(self, path: Path, paired: bool) -> bool:
        """Whether frames are repeated. Raises BadClip."""
        return not (paired or self._info(path).even)

    def place_within(self, path: Path, paired: bool) -> str:
        """What tells frames that are shown evenly from the same ones as they are stored; "" for these."""
        try:
            return "evenly" if self.shown_evenly(path, paired) else ""
        except BadClip:  # told when its frames are read
            return ""

    def num_frames(self, path: Path, fps: float, paired: bool) -> int:
        """Frames of an episode of `fps` a second; paired: rows go with the stored ones. Raises BadClip, BadData."""
        info = self._info(path)
        check_rate(path, info, fps)
        return len(self._shown(path, fps)) if self.shown_evenly(path, paired) else info.frames

    def frames(self, path: Path, fps: float, paired: bool, start: int, count: int | None) -> np.ndarray:
        """uint8 [T, H, W, 3], `count` frames from `start`, to the end for None. Raises BadClip, BadData."""
        check_rate(path, self._info(path), fps)
        if not self.shown_evenly(path, paired):
            return read_video(path, start, count)
        shown = self._shown(path, fps)
        end = len(shown) if count is None else start + count
        if not 0 <= start < end <= len(shown):
            got = f"got {len(shown)} frames at {fps:g} a second, expected frames {start} to {end - 1} too"
            raise BadClip(f"{path}: {got}; fix: ask for frames that exist")
        return read_frames(path, shown[start:end])


def check_rate(path: Path, info: VideoInfo, fps: float) -> None:
    """Raises BadData where a file plays at another rate than its episode is said to have."""
    if not same_rate(info.fps, fps):
        raise BadData(f"{path}: plays at {info.fps:g} fps, expected {fps:g} as the line says; fix: correct the line")


def even_numbers(path: Path, fps: float) -> np.ndarray:
    """int64 [T]: which of a file's frames is on at 0, 1, 2, ... fps-ths of a second. Raises BadClip."""
    ticks = np.rint(frame_times(path) * fps).astype(np.int64)
    if ticks[-1] >= _MOST_FRAMES:
        got = f"lasts {ticks[-1] / fps:.0f} s with its pauses, {ticks[-1] + 1} frames at {fps:g} a second"
        raise BadClip(f"{path}: {got}, expected at most {_MOST_FRAMES}; fix: cut out the pauses")
    return np.searchsorted(ticks, np.arange(ticks[-1] + 1), side="right") - 1
