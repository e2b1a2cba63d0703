"""A world as a gymnasium environment."""

import importlib.util
import sys

import numpy as np
import pytest
import tiny_world as tiny

from wfm_ar.errors import BadActions, BadClip, BadConfig, MissingDependency
from wfm_ar.rollout.world import World

gymnasium = pytest.importorskip("gymnasium")
from gymnasium.utils.env_checker import check_env  # noqa: E402

from wfm_ar.simulate.environment import WorldEnv  # noqa: E402

STARTS = [tiny.make_video(1, seed) for seed in range(3)]


@pytest.fixture(scope="module")
def world() -> World:
    return World(tiny.make_parts(), name="tiny")


def brightness(frames: np.ndarray) -> tuple[float, bool]:
    return float(frames.mean()), bool(frames.mean() > 200)


def test_keeps_gymnasiums_contract(world):
    """Spaces, kinds of results, and that one seed gives one episode: gymnasium's own checks, warnings included."""
    import warnings

    env = WorldEnv(world, STARTS, brightness, render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*(not of unit|symmetric and normalized).*")  # actions are in metres
        warnings.filterwarnings("ignore", message="keep_detail is off")  # an untrained tokenizer copies poorly
        check_env(env, skip_render_check=True, skip_close_check=True)
    frame = env.step(np.zeros((2, 2)))[0]
    assert np.array_equal(env.render(), frame)


def test_an_episode_is_a_driven_stream(world):
    env, actions = WorldEnv(world, STARTS, brightness, max_steps=3, temperature=0.0), tiny.make_actions(6).reshape(3, 2, 2)
    first, info = env.reset(seed=1, options={"start": 2})
    assert np.array_equal(first, STARTS[2][0]) and info["start"] == 2
    stream = world.start(video=STARTS[2], temperature=0.0)
    for k in range(3):
        frame, reward, over, truncated, info = env.step(actions[k])
        frames = stream.step(actions[k])
        assert np.array_equal(info["frames"], frames) and np.array_equal(frame, frames[-1])
        assert reward == pytest.approx(frames.mean()) and not over and truncated == (k == 2)


def test_seeds_decide_starts_and_draws(world):
    def episode(seed: int) -> tuple:
        env = WorldEnv(world, STARTS)
        first, info = env.reset(seed=seed)
        return info["start"], env.step(np.zeros((2, 2)))[0].tobytes(), env.reset()[1]["start"]

    assert episode(0) == episode(0)
    assert len({episode(seed)[0] for seed in range(12)}) == 3 and len({episode(seed)[1] for seed in range(6)}) > 3


def test_a_reward_may_end_the_episode(world):
    env = WorldEnv(world, STARTS, lambda frames: (7, True))
    env.reset(seed=0)
    assert env.step(np.zeros((2, 2)))[1:4] == (7.0, True, False)
    plain = WorldEnv(world, STARTS)
    plain.reset(seed=0)
    assert plain.step(np.zeros((2, 2)))[1:4] == (0.0, False, False) and plain.render() is None


def test_a_fork_goes_on_by_itself(world):
    env, (one, two) = WorldEnv(world, STARTS, max_steps=4), tiny.make_actions(4).reshape(2, 2, 2)
    env.reset(seed=0)
    env.step(one)
    fork = env.fork()
    ahead = [env.step(action) for action in (one, two)]
    behind = [fork.step(action) for action in (one, two)]
    for mine, theirs in zip(ahead, behind, strict=True):
        assert np.array_equal(mine[0], theirs[0]) and mine[3] == theirs[3]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (dict(starts=[]), BadClip, "starts: got none"),
        (dict(max_steps=0), BadConfig, "max_steps: got 0"),
        (dict(render_mode="human"), BadConfig, "render_mode: got 'human'"),
    ],
)
def test_bad_settings_are_one_line(world, change, error, words):
    with pytest.raises(error, match=words):
        WorldEnv(**(dict(world=world, starts=STARTS) | change))


def test_bad_starts_and_actions_are_one_line(world):
    bare = World(tiny.make_parts(text=False, actions=False, refine=False))
    with pytest.raises(BadActions, match="takes no actions"):
        WorldEnv(bare, STARTS)
    env = WorldEnv(world, STARTS)
    with pytest.raises(BadConfig, match="start: got 3, expected 0 to 2"):
        env.reset(options={"start": 3})
    env.reset()
    with pytest.raises(BadActions, match="actions: got 3, expected 2"):
        env.step(np.zeros((3, 2)))
    with pytest.raises(BadClip, match=r"got float32 \[1, 3, 3, 3\], expected a file"):
        WorldEnv(world, [np.zeros((1, 3, 3, 3), np.float32)]).reset()


def test_without_gymnasium_it_says_what_to_install(monkeypatch):
    spec = importlib.util.find_spec("wfm_ar.simulate.environment")
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(MissingDependency, match=r"gymnasium is missing; fix: pip install 'gymnasium"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
