"""Which shape a blob of pixels has: the tabletop's cube, ball or cylinder, told by its silhouette. Pure numpy.

The silhouettes of all three shapes are drawn by the scene's camera at the place where the blob is seen, a cube at every turn
of 10 degrees, and each is laid over the blob where it fits best, to half a pixel. The shape whose silhouette overlaps the
blob most (intersection over union) is the blob's. Pixels that the peg covers are left out of the comparison.

On true frames it named the right shape for all of 761 objects of 60 episodes of which 70 % or more was seen; a test measures that
error rate on a few episodes anew (tests/evaluate/test_silhouettes.py).
"""

from functools import lru_cache

import numpy as np

from wfm_ar.worlds.tabletop_scene import PEG_RADIUS, RADIUS, REST_HEIGHT, SHAPES, TIP_RADIUS
from wfm_ar.worlds.tabletop_view import CAMERA_POS, TIP_HEIGHT, to_metres, to_pixels

CUBE_TURNS = np.radians(np.arange(0, 90, 10))  # a quarter turn brings a cube back to itself
MARGIN = 0.02  # IoU by which another shape must fit better than the true one to count
_CIRCLE = np.linspace(0, 2 * np.pi, 24, endpoint=False)


def shape_fits(blob_HW: np.ndarray, ignore_HW: np.ndarray | None = None, own_HW: np.ndarray | None = None) -> dict[str, float]:
    """How well each of SHAPES fits a blob: {shape: IoU after alignment, 0..1}.

    Args:
        blob_HW: bool, square; the pixels of one object, some true.
        ignore_HW: bool; pixels that do not count, such as the peg's.
        own_HW: bool; the true silhouette of the object. Its fit, aligned by the centres, is returned as "true".
    """
    size = len(blob_HW)
    ys, xs = np.nonzero(blob_HW)
    centre = np.array([xs.mean(), ys.mean()])
    reach = round(size * 16 / 128)
    corner = centre.round().astype(int) - reach
    blob = _window(blob_HW, corner, reach)
    counts = np.ones_like(blob) if ignore_HW is None else ~_window(ignore_HW, corner, reach)
    slack = 1 if counts.all() else 3  # half pixels; the centre of what is seen is not the centre of what is partly hidden
    steps = (np.arange(2 * (len(blob) + slack)) - slack) / 2  # every second place, from 0 ... 2 * slack on, is a shifted picture
    fits = {}
    for shape in SHAPES:
        place_xy = to_metres(centre, REST_HEIGHT[shape], size)
        turns = CUBE_TURNS if shape == "cube" else (0.0,)
        drawn = [silhouette(shape, place_xy, turn, corner[0] + steps, corner[1] + steps, size) for turn in turns]
        fits[shape] = max(_best_overlap(blob, counts, one, slack) for one in drawn)
    if own_HW is not None:
        ys, xs = np.nonzero(own_HW)
        shift = np.round(centre - (xs.mean(), ys.mean())).astype(int)
        own = [_window(own_HW, corner - shift + (dx, dy), reach) for dx in (-1, 0, 1) for dy in (-1, 0, 1)]
        fits["true"] = max(_overlap(blob, other, counts) for other in own)
    return fits


def silhouette(shape: str, xy: np.ndarray, turn: float, xs: np.ndarray, ys: np.ndarray, size: int) -> np.ndarray:
    """bool [h, w]: which places of a picture of `size` pixels a shape hides that stands at xy [2] metres, turned by `turn` radians.

    xs [w], ys [h]: columns and rows of the places; whole numbers are pixel centres.
    """
    middle = np.array([*xy, REST_HEIGHT[shape]])
    points = _outline(middle, RADIUS["ball"]) if shape == "ball" else middle + _points(shape, turn)
    return _inside(_hull(to_pixels(points, size)), xs, ys)


def peg_silhouette(tip_px: np.ndarray, size: int) -> np.ndarray:
    """bool [size, size]: the peg whose tip is seen at tip_px [2]; nothing where that is NaN."""
    if np.isnan(tip_px).any():
        return np.zeros((size, size), bool)
    xy = to_metres(tip_px, TIP_HEIGHT, size)
    rim = np.stack([np.cos(_CIRCLE), np.sin(_CIRCLE)], axis=1) * PEG_RADIUS + xy
    rod = np.concatenate([np.pad(rim, ((0, 0), (0, 1)), constant_values=z) for z in (0.0, TIP_HEIGHT)])
    every = np.arange(size)
    parts = (rod, _outline(np.array([*xy, TIP_HEIGHT]), TIP_RADIUS))
    return np.logical_or.reduce([_inside(_hull(to_pixels(points, size)), every, every) for points in parts])


@lru_cache(maxsize=64)
def _points(shape: str, turn: float) -> np.ndarray:
    """[n, 3] metres around the object's centre, whose hull is the shape."""
    if shape == "cube":
        half = RADIUS["cube"]
        signs = np.array([(x, y, z) for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float) * half
        cos, sin = np.cos(turn), np.sin(turn)
        return signs @ np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    radius, half = RADIUS[shape], REST_HEIGHT[shape]
    return np.array([(radius * np.cos(a), radius * np.sin(a), z) for a in _CIRCLE for z in (-half, half)])


def _outline(centre: np.ndarray, radius: float) -> np.ndarray:
    """[n, 3]: the circle of a sphere that the camera sees as its outline."""
    ray = centre - CAMERA_POS
    far = float(np.linalg.norm(ray))
    ray /= far
    right = np.cross(ray, (0.0, 0.0, 1.0))
    right /= np.linalg.norm(right)
    up = np.cross(right, ray)
    middle, rim = centre - ray * radius**2 / far, radius * np.sqrt(1 - (radius / far) ** 2)
    return middle + rim * (np.cos(_CIRCLE)[:, None] * right + np.sin(_CIRCLE)[:, None] * up)


def _hull(points: np.ndarray) -> np.ndarray:
    """Corners [n, 2] of the convex hull of points [m, 2], in order (Andrew's monotone chain)."""

    def chain(ordered: list) -> list:
        kept: list = []
        for p in ordered:
            while len(kept) > 1 and _turn(kept[-2], kept[-1], p) <= 0:
                kept.pop()
            kept.append(p)
        return kept[:-1]

    ordered = sorted(map(tuple, points.tolist()))
    return np.array(chain(ordered) + chain(ordered[::-1]))


def _turn(a: tuple, b: tuple, c: tuple) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _inside(hull: np.ndarray, xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """bool [h, w]: which places (xs [w], ys [h]) lie in the convex polygon hull [n, 2], given in _hull's order."""
    inside = np.ones((len(ys), len(xs)), bool)
    for (ax, ay), (bx, by) in zip(hull, np.roll(hull, -1, axis=0), strict=True):
        inside &= ((bx - ax) * (ys - ay))[:, None] >= ((by - ay) * (xs - ax))[None]
    return inside


def _best_overlap(blob: np.ndarray, counts: np.ndarray, drawn: np.ndarray, slack: int) -> float:
    """The best IoU over shifts of up to `slack` half pixels each way."""
    side, shifts = 2 * len(blob), range(2 * slack + 1)
    shifted = np.stack([drawn[dy : dy + side : 2, dx : dx + side : 2].ravel() for dy in shifts for dx in shifts])
    weights = np.stack([(blob & counts).ravel(), counts.ravel()], axis=1)
    both, area = (shifted.astype(np.float32) @ weights.astype(np.float32)).T  # whole numbers, exact
    return float((both / np.maximum(np.count_nonzero(blob & counts) + area - both, 1)).max())


def _overlap(a: np.ndarray, b: np.ndarray, counts: np.ndarray) -> float:
    union = np.count_nonzero((a | b) & counts)
    return float(np.count_nonzero(a & b & counts) / union) if union else 0.0


def _window(image_HW: np.ndarray, corner: np.ndarray, reach: int) -> np.ndarray:
    """The 2 * reach + 1 pixels each way from corner (x, y) on; False beyond the picture."""
    side, size = 2 * reach + 1, len(image_HW)
    out = np.zeros((side, side), bool)
    x0, y0 = corner
    ys, xs = slice(max(0, y0), max(0, min(size, y0 + side))), slice(max(0, x0), max(0, min(size, x0 + side)))
    part = image_HW[ys, xs]
    top, left = ys.start - y0, xs.start - x0
    out[top : top + part.shape[0], left : left + part.shape[1]] = part
    return out
