"""What a text makes: the truthful passes; a wrong colour, a wrong shape, a still world and others fail by name."""

import numpy as np
import pytest
from tabletop_scenes import NAMES, draw, push

from wfm_ar.evaluate import control
from wfm_ar.evaluate.heldout import Clip
from wfm_ar.evaluate.text_following import absent_push, absent_summary, moved_most, object_there, text_alone_summary
from wfm_ar.worlds.tabletop_scene import SHAPES
from wfm_ar.worlds.tabletop_view import COLOURS

PUSH = control.Push(colour="red", shape="cube", direction="right")
PLACES = np.array([[-0.1, -0.1], [0.1, 0.0], [0.0, 0.15]])
PEG = np.array([-0.2, 0.2])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", sorted(COLOURS))
def test_the_named_object_is_there_in_its_colour_and_shape(colour, shape):
    frame = draw([f"{colour} {shape}"], [(0.05, -0.08)], PEG, turns=[0.6])
    assert object_there(frame, control.Push(colour=colour, shape=shape, direction="left"))
    other = SHAPES[(SHAPES.index(shape) + 1) % 3]
    assert not object_there(frame, control.Push(colour=colour, shape=other, direction="left"))
    assert not object_there(frame, control.Push(colour="red" if colour != "red" else "blue", shape=shape, direction="left"))


def test_two_of_a_kind_or_a_smear_are_not_the_object():
    twice = draw(["red cube", "red cube"], [(0.1, 0.1), (-0.1, -0.1)], PEG)
    assert not object_there(twice, PUSH)
    smear = draw([], np.empty((0, 2)), PEG)
    smear[60:66, 20:90] = (200, 30, 30)
    assert not object_there(smear, PUSH)


def test_who_moves_most_is_named():
    first, moved = draw(NAMES, PLACES, PEG), PLACES + [[0.01, 0], [0, -0.08], [0.05, 0]]
    assert moved_most(first, draw(NAMES, moved, PEG)) == "green"
    assert moved_most(first, draw(NAMES, PLACES + [[0.01, 0.0]], PEG)) is None
    assert moved_most(first, draw([], np.empty((0, 2)), PEG)) is None


def clip(names=NAMES, step=(0.08, 0.0), who=0, names_later=None) -> np.ndarray:
    moved = PLACES.copy()
    moved[who] += step
    return np.stack([draw(names, PLACES, PEG), draw(names, (PLACES + moved) / 2, PEG), draw(names_later or names, moved, PEG)])


WORLDS = {  # of a text alone: what a clip shows -> (there, colour_there, moved_most, followed)
    "truthful": (clip(), (1, 1, 1, 1)),
    "another colour": (clip(names=("yellow cube", *NAMES[1:])), (0, 0, 0, 0)),
    "another shape": (clip(names=("red ball", *NAMES[1:])), (0, 1, 1, 0)),
    "still": (clip(step=(0, 0)), (1, 1, 0, 0)),
    "the other way": (clip(step=(-0.08, 0)), (1, 1, 1, 0)),
    "something else moves": (clip(who=1), (1, 1, 0, 0)),
    "gone at the end": (clip(names_later=("yellow cube", *NAMES[1:])), (1, 1, 0, 0)),
    "nothing": (np.full((3, 128, 128, 3), 140, np.uint8), (0, 0, 0, 0)),
}


@pytest.mark.parametrize("world", WORLDS)
def test_text_alone_fails_by_name(world):
    frames, expected = WORLDS[world]
    numbers = text_alone_summary([PUSH], [frames])
    assert tuple(numbers[name] for name in ("there", "colour_there", "moved_most", "followed")) == expected


def test_shares_of_text_alone_have_intervals():
    numbers = text_alone_summary([PUSH] * 4, [WORLDS["truthful"][0], WORLDS["still"][0]] * 2)
    assert numbers["followed_interval"][0] == numbers["followed"] == 0.5 and numbers["followed_interval"][1] < 0.5
    assert numbers["there_interval"] == [1.0, 1.0, 1.0] and numbers["episodes"] == 4


def test_what_is_not_there_must_not_appear():
    told = control.Push(colour="purple", shape="ball", direction="left")
    still = clip(step=(0, 0))
    conjured = np.stack([*still[:2], draw((*NAMES, "purple ball"), [*PLACES, (0.15, -0.15)], PEG)])
    numbers = absent_summary([told] * 3, [still, conjured, clip()])
    assert numbers["appeared"] == pytest.approx(1 / 3) and numbers["all"] == [True, False, True]
    assert numbers["something_else_moved"] == pytest.approx(1 / 3)


def test_absent_texts_name_colours_that_are_not_in_the_picture():
    scene = push()
    given = Clip(id="0", text=None, frames=scene.frames, actions=None, peg_xy=None)
    told = [absent_push(given, PUSH, k) for k in range(4)]
    assert {push.colour for push in told} == {"yellow", "purple"} and {(p.shape, p.direction) for p in told} == {("cube", "right")}
