"""Does it listen: a world that ignores its actions scores zero, one that obeys them does not, whatever robot it is."""

import numpy as np
import pytest

from wfm_ar.evaluate.heldout import Clip
from wfm_ar.evaluate.listening import KINDS, Driven, action_kinds, by_robot, joined, listening_numbers, partner_shift
from wfm_ar.schema import ActionChannel, ActionSchema

FRAMES, CLIPS = 9, 8
SCHEMA = ActionSchema(
    channels=(
        ActionChannel(name="dx", unit="px", low=-2, high=2, motion="delta"),
        ActionChannel(name="height", unit="m", low=0, high=1, motion="absolute"),
        ActionChannel(name="grip", unit="", low=1, high=1, constant=True),
    ),
    rate_hz=10,
)


def commands(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    dx = np.full(FRAMES - 1, rng.choice([-2, -1, 1, 2]))
    return np.stack([dx, rng.uniform(0, 1, FRAMES - 1), np.ones(FRAMES - 1)], 1).astype(np.float32)


def picture(actions: np.ndarray) -> np.ndarray:
    """A bar that the first channel moves, over a pattern."""
    frames = np.full((FRAMES, 16, 48, 3), 60, np.uint8)
    frames[:, ::4] = 90
    places = 20 + np.concatenate([[0], np.cumsum(actions[:, 0])]).astype(int)
    for frame, x in zip(frames, places, strict=True):
        frame[:, x : x + 6] = 230
    return frames


def driven(obeys: bool) -> tuple[list[np.ndarray], dict[str, Driven]]:
    """(true clips, what a world makes of all kinds of actions): one that does as told, or always the same."""
    true = [commands(seed) for seed in range(CLIPS)]
    clips, kinds = [picture(actions) for actions in true], action_kinds(true, SCHEMA)
    out = {}
    for kind, given in kinds.items():
        acted = given if obeys else [np.zeros_like(one) for one in given]
        frames = [picture(one) for one in acted]
        loss = [float(np.abs(a - b).mean()) for a, b in zip(frames, clips, strict=True)]
        out[kind] = Driven(actions=given, loss=loss, frames=frames, tokens=[np.zeros((FRAMES, 1, 1), int)] * CLIPS)
    return clips, out


def test_a_world_that_does_not_look_at_its_actions_scores_zero():
    numbers = listening_numbers(*driven(obeys=False))
    assert numbers["score"] == [0, 0, 0]
    for gaps in ("loss_gap", "psnr_gap", "distance_gap"):
        assert all(interval == [0, 0, 0] for interval in numbers[gaps].values()), gaps


def test_one_that_obeys_has_a_gap_and_an_interval_above_zero():
    numbers = listening_numbers(*driven(obeys=True))
    assert numbers["loss"]["true"] == 0 < numbers["loss"]["mirrored"] and numbers["psnr"]["true"] == [60.0] * 4
    assert numbers["horizons"] == [1, 2, 4, 8]
    for gaps in ("loss_gap", "psnr_gap", "distance_gap"):
        for kind in ("shuffled", "mirrored", "zero"):
            mean, low, high = numbers[gaps][kind]
            assert 0 < low < mean < high, (gaps, kind)
    assert numbers["score"] == numbers["loss_gap"]["shuffled"]
    mirrored = numbers["psnr"]["mirrored"]
    assert mirrored[-1] < mirrored[0] and numbers["distance"]["mirrored"][-1] > numbers["distance"]["zero"][0]


def test_kinds_of_actions_mean_what_their_channels_do():
    true = [commands(seed) for seed in range(3)]
    kinds = action_kinds(true, SCHEMA)
    assert tuple(kinds) == KINDS
    assert (kinds["zero"][0][:, 0] == 0).all() and np.allclose(kinds["zero"][0][:, 1], true[0][0, 1])  # a place is held
    assert (kinds["mirrored"][1][:, 0] == -true[1][:, 0]).all()
    assert np.allclose(kinds["mirrored"][1][:, 1], np.clip(2 * true[1][0, 1] - true[1][:, 1], 0, 1))
    assert all((one[:, 2] == 1).all() for each in kinds.values() for one in each)  # a constant channel stays
    assert not any(np.array_equal(a, b) for a, b in zip(kinds["shuffled"], true, strict=True))


def test_partners_are_those_with_the_least_like_commands():
    a, b = np.full((4, 1), 1.0), np.full((4, 1), -1.0)
    assert partner_shift([a, a, b, b]) == 2 and partner_shift([a, b, a, b]) in (1, 3)


def test_robots_are_kept_apart():
    def clip(robot, acts=True):
        return Clip(id="x", text=None, frames=None, actions=commands(0) if acts else None, peg_xy=None, robot=robot)

    groups = by_robot([clip("a"), clip("b"), clip("a"), clip("c", acts=False), clip("c", acts=False), clip("b")])
    assert [[one.robot for one in group] for group in groups] == [["a", "a"], ["b", "b"]]
    _, one = driven(obeys=True)
    both = joined([one, one])
    assert both["true"].loss == 2 * one["true"].loss and len(both["zero"].frames) == 2 * CLIPS


def test_one_clip_cannot_be_shuffled():
    with pytest.raises(AssertionError, match="two or more clips"):
        action_kinds([commands(0)], SCHEMA)
