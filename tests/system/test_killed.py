"""The short forms of the training campaigns in tools/campaigns: real kills, numbers that are not finite, the same tokens."""

from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools" / "campaigns"
pytestmark = [pytest.mark.skipif(not TOOLS.is_dir(), reason="needs the checkout"), pytest.mark.timeout(600)]


def test_twelve_kills_lose_nothing(tmp_path, load):
    kill_training = load(TOOLS / "kill_training.py")
    report = kill_training.campaign(tmp_path, kills=12, seed=3, stages=("world_model",))
    assert report.kills == 12 and report.inside >= 4 and report.runs >= 1


def test_numbers_that_are_not_finite_reach_no_checkpoint(tmp_path, load):
    not_finite = load(TOOLS / "not_finite.py")
    report = not_finite.campaign(tmp_path, cases=15, seed=0, steps=10, a_run=5)
    assert report.total >= 15 and report.runs >= 3 and report.checkpoints > 10 and set(report.exits) <= {0, 2}
    assert {place for place, _ in report.cases} == set(not_finite.PLACES)


def test_fifty_prompts_have_the_same_tokens_in_any_batch(load):
    same_tokens = load(TOOLS / "same_tokens.py")
    tiny = load(Path(__file__).parents[1] / "rollout" / "tiny_world.py")
    world = same_tokens.World(tiny.make_parts(refine=False), name="tiny")
    prompts = same_tokens.prompts_of(world, [tiny.make_video(9, seed) for seed in range(3)], tiny.TEXTS, 50, seed=0)
    assert len({prompt.num_frames for prompt in prompts}) >= 3 and any(prompt.actions is not None for prompt in prompts)
    assert same_tokens.campaign(world, prompts, seed=0) == 50 * 3 * 2
