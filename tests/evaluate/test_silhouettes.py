"""Shapes told by their silhouettes: on drawn ones, and on true frames with its own rate of error."""

import importlib.util

import numpy as np
import pytest
from tabletop_scenes import GRID, PIXELS

from wfm_ar.evaluate.silhouettes import peg_silhouette, shape_fits, silhouette
from wfm_ar.worlds.tabletop_scene import SHAPES
from wfm_ar.worlds.tabletop_view import SIZE, TIP_HEIGHT, colour_mask, find_peg, to_pixels


def drawn(shape, xy=(0.05, 0.1), turn=0.3) -> np.ndarray:
    return silhouette(shape, np.array(xy), turn, PIXELS, PIXELS, SIZE)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("xy", [(0.0, 0.0), (0.2, 0.2), (-0.21, -0.19), (0.203, -0.05)])
def test_a_drawn_silhouette_is_told_wherever_it_stands_and_however_it_is_turned(shape, xy):
    for turn in np.radians([0, 13, 27, 45, 74]):
        fits = shape_fits(drawn(shape, xy, turn))
        assert max(fits, key=fits.get) == shape, fits
        assert fits[shape] > 0.93


def test_a_blob_is_no_cube():
    """A cube whose corners are gone, as a weak decoder paints it, fits the ball or the cylinder better."""
    cube = drawn("cube", turn=0.0)
    corners = np.linalg.norm(GRID - np.argwhere(cube).mean(axis=0)[::-1], axis=-1) > 7.5
    fits = shape_fits(cube & ~corners)
    assert fits["cube"] < max(fits["ball"], fits["cylinder"]) - 0.05


def test_what_the_peg_hides_does_not_count():
    cube = drawn("cube", (0.0, 0.0))
    peg = peg_silhouette(to_pixels(np.array([-0.035, -0.02, TIP_HEIGHT])), SIZE)
    assert 20 < (cube & peg).sum() < cube.sum() / 2
    fits, blind = shape_fits(cube & ~peg, peg), shape_fits(cube & ~peg)
    assert fits["cube"] > 0.95 > blind["cube"] and max(fits, key=fits.get) == "cube"


def test_the_true_silhouette_fits_wherever_it_is_moved():
    cube = drawn("cube", (0.0, 0.0), 0.17)
    fits = shape_fits(np.roll(cube, (9, -14), axis=(0, 1)), own_HW=cube)
    assert fits["true"] == 1.0


def test_the_edge_of_the_picture_is_no_trouble():
    mask = np.zeros((SIZE, SIZE), bool)
    mask[:5, -4:] = True
    fits = shape_fits(mask, own_HW=mask)
    assert fits["true"] == 1.0 and all(0 <= fit < 1 for shape, fit in fits.items() if shape != "true")


def test_no_peg_hides_nothing():
    assert not peg_silhouette(np.full(2, np.nan), SIZE).any()


@pytest.mark.skipif(importlib.util.find_spec("mujoco") is None, reason="needs mujoco, the extra [sim]")
def test_the_error_rate_on_true_frames():
    """Of the objects that are mostly seen, by their own silhouettes alone: the true one is not shown to the classifier."""
    from wfm_ar.worlds.tabletop import TabletopWorld, record

    world = TabletopWorld()
    wrong, right = [], 0
    for index in range(16):
        recording = record(world, seed=31, index=index, num_frames=9, masks=True)
        state, shown = recording.state, [0, 4, 8]
        for frame, tip, visible in zip(recording.frames[shown], find_peg(recording.frames[shown]), state["visible"][shown], strict=True):
            peg = peg_silhouette(tip, SIZE)
            for name, seen in zip(state["names"], visible, strict=True):
                colour, shape = name.split()
                if seen < 0.8:
                    continue
                fits = shape_fits(colour_mask(frame[None], colour)[0], peg)
                if max(fits, key=fits.get) == shape:
                    right += 1
                else:
                    wrong.append((index, name, fits))
    world.close()
    assert right > 80 and len(wrong) <= 0.02 * (right + len(wrong)), wrong
