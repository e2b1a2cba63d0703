"""tools/plan_bench.py: plans of the shipped world carried out in MuJoCo."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from wfm_ar.simulate.planner import PlanConfig

SOURCE = Path(__file__).resolve().parents[2] / "tools" / "plan_bench.py"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("mujoco") is None, reason="needs mujoco, the extra [sim]"),
    pytest.mark.skipif(not SOURCE.is_file(), reason="needs the checkout"),
]


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("plan_bench", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_episode_can_be_done_again(bench):
    from wfm_ar.worlds.tabletop import play

    sim = bench.TabletopWorld()
    episode = bench.Episode(sim, 3)
    assert np.linalg.norm(episode.carried_out(np.zeros((32, 2)))[0] - episode.wanted_xy) >= 0.05  # a push pushes
    _, actions, _ = play(sim, bench.SEED, 3, bench.FRAMES, "push")
    place, picture = episode.carried_out(actions)
    assert np.array_equal(place, episode.wanted_xy) and np.array_equal(picture, episode.goal)
    episode.begin()
    episode.go(actions[:9])
    place, picture = episode.go(actions[9:])  # in two parts, looking in between
    assert np.array_equal(place, episode.wanted_xy) and np.array_equal(picture, episode.goal)
    long = np.array([[0.02, 0.02], [0.01, 0.0]])
    assert np.allclose(np.linalg.norm(bench.within_reach(long), axis=1), [0.025, 0.01])
    sim.close()


def test_every_way_of_acting_is_measured(bench, tmp_path, capsys):
    table = bench.main(1, "tabletop", tmp_path / "t.json", PlanConfig(samples=2, rounds=1, elites=1))
    assert tuple(table) == bench.WAYS and json.loads((tmp_path / "t.json").read_text())["ways"] == table
    assert all(0 <= row["median_m"] < 0.6 and row["near"] == (row["median_m"] <= bench.NEAR) for row in table.values())
    out = capsys.readouterr().out
    assert out.startswith("1/1 push the ") and all(f"\n| {way} | " in out for way in bench.WAYS)
