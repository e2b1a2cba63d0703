"""Tabletop episodes drawn with numpy alone, for the tests of measures: one object is pushed, the others stand."""

from dataclasses import dataclass

import numpy as np

from wfm_ar.evaluate.silhouettes import peg_silhouette, silhouette
from wfm_ar.worlds.tabletop_view import COLOURS, SIZE, TIP_HEIGHT, to_pixels

PIXELS = np.arange(SIZE)
GRID = np.stack(np.meshgrid(PIXELS, PIXELS), axis=-1)
NAMES = ("red cube", "green ball", "blue cylinder")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """An episode's content: frames uint8 [T, S, S, 3], places [T, n, 2] and peg [T, 2] in metres."""

    names: tuple[str, ...]
    frames: np.ndarray
    object_xy: np.ndarray
    peg_xy: np.ndarray


def draw(names, object_xy, peg_xy, turns=None) -> np.ndarray:
    """One picture uint8 [S, S, 3]: names, [n, 2] metres, [2] metres or None for no peg, [n] radians."""
    picture = np.full((SIZE, SIZE, 3), 140, np.uint8)
    for k, (name, xy) in enumerate(zip(names, object_xy, strict=True)):
        colour, shape = name.split()
        rgb = COLOURS[colour] if colour in COLOURS else (0.95, 0.5, 0.05)  # orange, which no object of the tabletop has
        picture[silhouette(shape, xy, 0.3 if turns is None else turns[k], PIXELS, PIXELS, SIZE)] = np.array(rgb) * 255
    if peg_xy is not None:
        tip = to_pixels(np.array([*peg_xy, TIP_HEIGHT]))
        picture[peg_silhouette(tip, SIZE)] = 25
        picture[np.linalg.norm(GRID - tip, axis=-1) < 3.5] = 255
    return picture


def push(names=NAMES, frames=33, step=0.004, seed=0) -> Scene:
    """The peg pushes the first object to the right from frame 4 on, in its own row of the table; the others stand."""
    rng = np.random.default_rng(seed)
    start = np.array([[-0.10, -0.12], [0.0, 0.02], [0.08, 0.14]])[: len(names)] + rng.uniform(-0.02, 0.02, (len(names), 2))
    way = np.maximum(np.arange(frames) - 4, 0) * step
    object_xy = np.repeat(start[None], frames, axis=0)
    object_xy[:, 0, 0] += way
    peg_xy = object_xy[:, 0] - (0.06, 0.0)
    clip = np.stack([draw(names, xy, peg) for xy, peg in zip(object_xy, peg_xy, strict=True)])
    return Scene(names=tuple(names), frames=clip, object_xy=object_xy, peg_xy=peg_xy)


def redraw(scene: Scene, *, names=None, object_xy=None, extra=()) -> np.ndarray:
    """The scene as a broken world would show it from frame 1 on: other names or places; `extra`: (name, [T, 2]) drawn too."""
    names = list(scene.names if names is None else names) + [name for name, _ in extra]
    places = scene.object_xy if object_xy is None else object_xy
    places = np.concatenate([places, *(xy[:, None] for _, xy in extra)], axis=1)
    clip = [draw(names, xy, peg) for xy, peg in zip(places, scene.peg_xy, strict=True)]
    return np.stack([scene.frames[0], *clip[1:]])
