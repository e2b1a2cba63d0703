"""Pictures that are given to a world, made its size as its training pictures were."""

from pathlib import Path
from typing import Protocol

import numpy as np

from wfm_ar.data.curate.retime import kept_frames
from wfm_ar.data.video import resize_crop, video_info
from wfm_ar.data.video_files import even_numbers
from wfm_ar.errors import BadClip, BadPrompt
from wfm_ar.framing import area_of, framing_line
from wfm_ar.schema import same_rate


class Shown(Protocol):
    """What of a world matters to the pictures it is given."""

    height: int
    width: int
    crop: str
    fps: float


def at_world_size(frames_THWC: np.ndarray, world: Shown, crop: str | None = None, where: str = "pictures") -> np.ndarray:
    """uint8 [T, H, W, 3] -> uint8 [T, world.height, world.width, 3].

    crop: what of the picture is kept (framing.py); None = as in the world's training. A world that was trained on an area of larger
    pictures takes what has its own size already as it is. Raises BadClip for a crop that reaches beyond the pictures, BadConfig.
    """
    return resize_crop(frames_THWC, world.height, world.width, _crop_for(frames_THWC, world, crop), where)


def told_of(frames_THWC: np.ndarray, world: Shown, crop: str | None = None, where: str = "pictures") -> str:
    """What `at_world_size` makes of these frames, in words; "" where it leaves them as they are."""
    size, crop = frames_THWC.shape[1:3], _crop_for(frames_THWC, world, crop)
    if size == (world.height, world.width) and area_of(crop) is None:
        return ""
    return framing_line([size], world.height, world.width, crop, where)


def _crop_for(frames_THWC: np.ndarray, world: Shown, crop: str | None) -> str:
    area = area_of(world.crop)
    if crop is None and area is not None and frames_THWC.shape[1:3] == (world.height, world.width):
        beyond = area.top + area.height > world.height or area.left + area.width > world.width
        return "centre" if beyond else world.crop
    return world.crop if crop is None else crop


def numbers_at_rate(path: Path, world: Shown, fps: float | None, told: list[str]) -> np.ndarray:
    """The numbers of a video's frames that show it evenly at the world's rate; `told` gets a line of what that took.

    fps: frames a second it is taken to have, one after the other; None: its own times. Raises BadClip, BadPrompt.
    """
    about = video_info(path)
    rate = fps or about.fps
    if not rate:
        got = f"does not say how many frames a second it has, expected {world.fps:g}, the world's"
        raise BadClip(f"{path}: {got}; fix: prompt_fps={world.fps:g} takes it frame by frame")
    if rate < world.fps and not same_rate(rate, world.fps):
        got = f"got {rate:g} frames a second, expected {world.fps:g} or more, as the world has"
        raise BadPrompt(f"{path}: {got}; fix: prompt_fps={world.fps:g} takes it frame by frame")
    kept = np.arange(about.frames)
    if not about.even and fps is None:
        kept = even_numbers(path, rate)
        told.append("unevenly timed, shown evenly: a frame until the next one's time")
    if not same_rate(rate, world.fps):
        kept = kept[kept_frames(len(kept), rate, world.fps)]
        told.append(f"{rate:g} frames a second re-timed to the world's {world.fps:g}")
    return kept
