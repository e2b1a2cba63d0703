"""How far a frame is from a picture."""

import numpy as np
import pytest

from wfm_ar.errors import BadClip
from wfm_ar.simulate.goal import GoalPicture, picture_distance


def dot_at(x: int, size: int = 64) -> np.ndarray:
    picture = np.full((size, size, 3), 90, np.uint8)
    picture[28:36, x : x + 8] = 250, 30, 30
    return picture


def test_is_zero_for_the_picture_itself_and_a_hand_computed_number_for_another():
    picture = dot_at(20)
    assert picture_distance(picture[None], picture).tolist() == [0.0]
    one = np.zeros((2, 1, 1, 3), np.uint8)
    one[1] = 10, 20, 20
    # a single pixel has no waves of more than one cycle: what is left is the plain root mean square
    assert picture_distance(one, one[0]) == pytest.approx([0.0, np.sqrt(300)])
    even = np.full((1, 8, 8, 3), 10, np.uint8)
    assert 8 < picture_distance(even, np.zeros((8, 8, 3), np.uint8))[0] < 10  # coarse: nearly whole
    checks = np.indices((8, 8)).sum(0) % 2 * 20
    fine = np.repeat(checks[None, ..., None], 3, -1).astype(np.uint8)
    assert picture_distance(fine, np.full((8, 8, 3), 10, np.uint8))[0] < 4  # as far off pixel by pixel, but fine


def test_leads_downhill_from_far_off():
    """The nearer a thing stands, the smaller the distance, though it covers itself in the last few pixels only."""
    distances = picture_distance(np.stack([dot_at(x) for x in (50, 42, 34, 26, 22, 18, 12, 10)]), dot_at(10))
    assert (np.diff(distances) < 0).all()
    at_one_scale = [np.square(dot_at(x).astype(float) - dot_at(10)).mean() for x in (50, 26)]
    assert at_one_scale[0] == at_one_scale[1]  # where a plain difference is blind


def test_the_last_frames_count():
    clip = np.stack([dot_at(10)] * 5 + [dot_at(30)] * 2)
    assert GoalPicture(picture=dot_at(30), last=2)(clip) == 0.0
    assert GoalPicture(picture=dot_at(30), last=4)(clip) == pytest.approx(picture_distance(clip[:1], dot_at(30))[0] / 2)
    assert GoalPicture(picture=dot_at(10), last=2)(clip) == pytest.approx(picture_distance(clip[:1], dot_at(30))[0])


@pytest.mark.parametrize("picture", [np.zeros((64, 32, 3), np.uint8), np.zeros((64, 64, 3)), np.zeros((64, 64), np.uint8)])
def test_refuses_another_size(picture):
    with pytest.raises(BadClip, match="goal: got .* expected one size.*fix: "):
        picture_distance(dot_at(0)[None], picture)
