"""Pictures that are given to a world, made its size as its training pictures were."""

from typing import TYPE_CHECKING

import numpy as np

from wfm_ar.data.video import resize_crop
from wfm_ar.framing import area_of, framing_line

if TYPE_CHECKING:
    from wfm_ar.rollout.world import World


def at_world_size(frames_THWC: np.ndarray, world: "World", crop: str | None = None, where: str = "pictures") -> np.ndarray:
    """uint8 [T, H, W, 3] -> uint8 [T, world.height, world.width, 3].

    crop: what of the picture is kept (framing.py); None = as in the world's training. A world that was trained on an area of larger
    pictures takes what has its own size already as it is. Raises BadClip for a crop that reaches beyond the pictures, BadConfig.
    """
    return resize_crop(frames_THWC, world.height, world.width, _crop_for(frames_THWC, world, crop), where)


def told_of(frames_THWC: np.ndarray, world: "World", crop: str | None = None, where: str = "pictures") -> str:
    """What `at_world_size` makes of these frames, in words; "" where it leaves them as they are."""
    size, crop = frames_THWC.shape[1:3], _crop_for(frames_THWC, world, crop)
    if size == (world.height, world.width) and area_of(crop) is None:
        return ""
    return framing_line([size], world.height, world.width, crop, where)


def _crop_for(frames_THWC: np.ndarray, world: "World", crop: str | None) -> str:
    area = area_of(world.crop)
    if crop is None and area is not None and frames_THWC.shape[1:3] == (world.height, world.width):
        beyond = area.top + area.height > world.height or area.left + area.width > world.width
        return "centre" if beyond else world.crop
    return world.crop if crop is None else crop
