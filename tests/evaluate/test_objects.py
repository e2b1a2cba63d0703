"""Objects of whole evaluations: ranks, the numbers of the bars, and one latent ahead at any rate."""

import numpy as np
import pytest
from tabletop_scenes import push, redraw

from wfm_ar.evaluate.heldout import Clip
from wfm_ar.evaluate.objects import ObjectTally, one_step_cuts


def clip_of(k: int, frames: int = 33) -> Clip:
    scene = push(seed=k, frames=frames)
    known = {"names": scene.names, "object_xy": scene.object_xy, "peg_xy": scene.peg_xy, "visible": np.ones(scene.object_xy.shape[:2])}
    return Clip(id=f"e{k}", text=None, frames=scene.frames, actions=None, **known)


@pytest.fixture(scope="module")
def tally() -> ObjectTally:
    """Eight episodes, each with its objects a little further off than the one before; the tokenizer copies perfectly."""
    tally = ObjectTally()
    for k in range(8):
        scene = push(seed=k)
        off = redraw(scene, object_xy=scene.object_xy + (0.003 * k, 0.0))
        tally.add(clip_of(k), {"rollout": off} | ({"tokenizer": scene.frames} if k < 2 else {}))
    return tally


def test_strips_are_the_worst_five_the_median_and_the_best(tally):
    ranked = tally.ranked()
    assert [mark for mark, _, _ in ranked] == [
        "worst 1 of 8",
        "worst 2 of 8",
        "worst 3 of 8",
        "typical: the median of 8",
        "worst 5 of 8",
        "best of 8",
    ]
    assert [k for _, k, _ in ranked] == [7, 6, 5, 4, 3, 0]
    assert ranked[-1][2] == 1.0 and all(a[2] <= b[2] for a, b in zip(ranked, ranked[1:], strict=False))


def test_the_bars_numbers_are_those_of_the_rollouts_and_the_copy(tally):
    report = tally.summary()
    assert report["episodes"] == 8 and report["occluded_by"] == "the simulator's masks"
    assert report["copy_iou"] == 1.0 and report["copy_shape_right"] == 1.0
    rollout = report["rollout"]["groups"]
    assert report["moved_iou_32"] == rollout["moved"]["32"]["iou"][0] < 0.8
    assert report["untouched_iou_32"] == rollout["untouched"]["32"]["iou"][0]
    assert report["moved_vanished"] == report["moved_other_colour"] == report["moved_doubled"] == report["untouched_vanished_32"] == 0.0
    assert report["repeat"]["groups"]["moved"]["32"]["iou"][0] == 0.0
    assert report["by_episode"][0] == {"id": "e0", "moved_iou": 1.0}
    assert "shown" not in report and "one_step" not in report  # nothing was added of these


def test_what_is_not_measured_is_none():
    tally = ObjectTally()
    tally.add(clip_of(0, frames=9), {"rollout": push(frames=9).frames})
    report = tally.summary()
    assert report["moved_iou_32"] is None and report["copy_iou"] is None and report["moved_vanished"] is None


@pytest.mark.parametrize(
    ("rate", "cuts"),
    [
        (1, [(1, 2), (4, 5), (8, 9), (16, 17), (32, 33)]),
        (4, [(1, 5), (5, 9), (13, 17), (29, 33)]),
        (2, [(1, 3), (3, 5), (7, 9), (15, 17), (31, 33)]),
    ],
)
def test_one_latent_ahead_holds_each_horizon_once(rate, cuts):
    assert list(one_step_cuts(rate, 33)) == cuts
    for given, count in cuts:
        assert count - given == rate
    for horizon in (1, 4, 8, 16, 32):
        assert sum(given <= horizon < count for given, count in cuts) == 1
