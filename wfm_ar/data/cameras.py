"""Which of several cameras an episode shows: one by name, or all of them tiled into one picture."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from wfm_ar.data.video import resize_crop
from wfm_ar.errors import BadClip, BadConfig, nearest

TILE = "tile"


def choose_cameras(cameras: Sequence[str], camera: str | None, where: str) -> tuple[tuple[str, ...], str]:
    """The cameras to show, and what to tell the user of the choice. Raises BadConfig for a name that is none of them.

    A name may be given by its last part: `image_0` for `observation.images.image_0`.
    """
    if camera is None:
        note = "" if len(cameras) == 1 else f"camera {cameras[0]} of {len(cameras)} (camera= names another, camera=tile shows all)"
        return (cameras[0],), note
    if camera == TILE:
        return tuple(cameras), f"{len(cameras)} cameras in one picture"
    found = [name for name in cameras if camera in (name, name.rpartition(".")[2], name.rpartition("/")[2])]
    if len(found) != 1:
        near = nearest(camera, [name.rpartition("/")[2].rpartition(".")[2] for name in cameras])
        raise BadConfig(f"camera: got {camera!r}{near}, expected one of {[*cameras, TILE]} of {where}; fix: name one")
    return (found[0],), f"camera {found[0]}"


def view_of(cameras: Sequence[str], shown: Sequence[str]) -> str:
    """What tells one choice of cameras from another; "" where there was none."""
    return "+".join(shown) if len(cameras) > 1 else ""


def tiling(count: int) -> tuple[int, int]:
    """(rows, columns) in which the pictures of `count` cameras stand."""
    columns = math.isqrt(max(1, count) - 1) + 1
    return -(-count // columns), columns


def tiled(cameras: Sequence[str], load: Callable[[str], np.ndarray], where: str) -> np.ndarray:
    """The frames of one camera, or of all side by side in rows of ceil(sqrt(n)), each cut and resized to the smallest one's size.

    uint8 [T, H, W, 3] each, the same T; a place that is left over is black. Sides of a cell are even. Raises BadClip.
    """
    if len(cameras) == 1:
        return load(cameras[0])
    views = [load(name) for name in cameras]
    if len({len(view) for view in views}) > 1:
        told = ", ".join(f"{name} {len(view)}" for name, view in zip(cameras, views, strict=True))
        raise BadClip(f"{where}: cameras have different numbers of frames ({told}), expected one; fix: camera= names one, or record again")
    height, width = (max(2, min(view.shape[axis] for view in views) // 2 * 2) for axis in (1, 2))
    rows, columns = tiling(len(views))
    out = np.zeros((len(views[0]), rows * height, columns * width, 3), np.uint8)
    for i, view in enumerate(views):
        y, x = i // columns * height, i % columns * width
        out[:, y : y + height, x : x + width] = resize_crop(view, height, width)
    return out
