"""How a picture of one size becomes one of another: what of it is kept, cut off, or framed in black.

The setting `crop` says it: `centre` keeps the largest centred part of the wanted aspect, `fit` the whole picture with black bars,
`stretch` the whole picture with another aspect, and `x,y,w,h` (pixels of the source, from its upper left corner) the centre of that
area. Knows sizes only; wfm_ar/data/video.py moves the pixels.
"""

import re
from typing import NamedTuple

from wfm_ar.errors import BadClip, BadConfig, nearest

CENTRE, FIT, STRETCH = NAMES = ("centre", "fit", "stretch")
MOST = 1 << 16  # pixels a side of an area
TOLD = 4  # sizes that a line names


class Box(NamedTuple):
    """A part of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int


class Framing(NamedTuple):
    """What becomes of one picture: `source` of it is resized to `target` of the new one; the rest of that is black."""

    source: Box
    target: Box
    lost: float  # share of the old picture's area that is cut off
    bars: float  # share of the new picture's area that is black
    stretched: float  # how many times wider things become than they are high, or higher than wide: 1 = not at all


def area_of(crop: str) -> Box | None:
    """The area that a crop `x,y,w,h` names; None for one of NAMES. Raises BadConfig for anything else."""
    if crop in NAMES:
        return None
    if not re.fullmatch(r"\d{1,5},\d{1,5},\d{1,5},\d{1,5}", crop):
        expected = f"{', '.join(NAMES)}, or x,y,w,h in pixels of the source"
        raise BadConfig(f"crop: got {crop!r:.60}{nearest(crop, NAMES)}, expected {expected}; fix: such as crop=fit or crop=80,0,480,480")
    left, top, width, height = map(int, crop.split(","))
    if not (0 < width <= MOST and 0 < height <= MOST):
        raise BadConfig(f"crop: got an area of {width}x{height} pixels, expected at least 1x1; fix: x,y,w,h with w and h above 0")
    return Box(top, left, height, width)


def framing(rows: int, columns: int, height: int, width: int, crop: str, where: str = "crop") -> Framing:
    """How a picture of `rows` x `columns` pixels becomes one of `height` x `width`.

    Raises BadConfig for a crop that says nothing, BadClip, beginning with `where`, for an area that reaches beyond the picture.
    """
    whole, target, kept = Box(0, 0, rows, columns), Box(0, 0, height, width), area_of(crop) or Box(0, 0, rows, columns)
    if kept.top + kept.height > rows or kept.left + kept.width > columns:
        raise BadClip(f"{where}: got pictures of {columns}x{rows} pixels, expected ones that hold crop={crop}; fix: an area within them")
    if crop == FIT:
        scale = min(height / rows, width / columns)
        target = _centred(target, max(1, round(rows * scale)), max(1, round(columns * scale)))
    elif crop != STRETCH:
        scale = min(kept.height / height, kept.width / width)
        kept = _centred(kept, max(1, round(height * scale)), max(1, round(width * scale)))
    wider = (target.width / kept.width) / (target.height / kept.height)
    return Framing(
        source=kept,
        target=target,
        lost=1 - kept.height * kept.width / (whole.height * whole.width),
        bars=1 - target.height * target.width / (height * width),
        stretched=max(wider, 1 / wider),
    )


def framing_line(sizes: list[tuple[int, int]], height: int, width: int, crop: str, where: str = "crop") -> str:
    """One line for pictures of these sizes (rows, columns): how they become `height` x `width`, and what is lost. Sizes: width x height.

    Raises BadClip where one of them does not hold the area of `crop`.
    """
    parts = []
    for rows, columns in dict.fromkeys(sizes):
        _, _, lost, bars, stretched = framing(rows, columns, height, width, crop, where)
        told = [f"{lost:.0%} of the picture is cut off"] if lost > 0.004 else []
        told += [f"{bars:.0%} of {width}x{height} is black"] if bars > 0.004 else []
        told += [f"stretched by {stretched:.2f}"] if stretched > 1.02 and crop == STRETCH else []
        parts.append(f"{columns}x{rows}: {', '.join(told) or 'nothing is lost'}")
    more = [f"and {len(parts) - TOLD} more sizes"] if len(parts) > TOLD else []
    return f"pictures become {width}x{height} (crop={crop}); {'; '.join(parts[:TOLD] + more)}"


def _centred(outer: Box, height: int, width: int) -> Box:
    return Box(outer.top + (outer.height - height) // 2, outer.left + (outer.width - width) // 2, height, width)
