"""A simulated world is one class in a file and one line in the registry: `make_dataset` needs nothing else of it."""

import signal
from concurrent.futures import Executor, Future

import numpy as np
import pytest

from wfm_ar.data import check_data, open_episodes
from wfm_ar.errors import BadConfig, MissingDependency
from wfm_ar.schema import ActionChannel, ActionSchema
from wfm_ar.worlds import make
from wfm_ar.worlds.make import make_dataset
from wfm_ar.worlds.registry import SIMULATORS
from wfm_ar.worlds.simulator import Recording


class Lamp:
    """A picture as bright as its one action says."""

    actions = ActionSchema(channels=(ActionChannel(name="light", unit="1", low=0.0, high=1.0),), rate_hz=5)
    tasks = ("dim", "flicker")
    needs = ("numpy", "sim")

    def record(self, seed: int, index: int, num_frames: int, task: str | None = None, *, masks: bool = False) -> Recording:
        light = np.random.default_rng([seed, index]).random((num_frames - 1, 1)).astype(np.float32)
        grey = np.concatenate(([0.0], 255 * light[:, 0])).astype(np.uint8)
        frames = np.broadcast_to(grey[:, None, None, None], (num_frames, 16, 16, 3))
        return Recording(frames=frames, text=task or "anything", actions=light, state={"grey": grey.astype(np.float32)})

    def close(self) -> None:
        pass


class Here(Executor):
    """The pool of worker processes as calls in this one, which knows the lamp."""

    def __init__(self, workers, mp_context, initializer, initargs) -> None:
        initializer(*initargs)

    def submit(self, call, /, *args):
        future = Future()
        future.set_result(call(*args))
        return future


@pytest.fixture
def lamp(monkeypatch):
    monkeypatch.setitem(SIMULATORS, "lamp", Lamp)
    monkeypatch.setattr(make, "ProcessPoolExecutor", Here)
    monkeypatch.setattr(make, "_worker_world", None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)


def test_a_world_of_the_registry_makes_a_sound_set(lamp, tmp_path):
    made = make_dataset(world="lamp", episodes=3, frames=6, seed=2, val_fraction=0.4, task="dim", out=tmp_path / "set", progress=False)
    assert check_data(made, decode=True) == []
    episodes = open_episodes(made)
    assert episodes.schema == Lamp.actions and {episode.fps for episode in episodes} == {5.0}
    assert [episode.text for episode in episodes] == ["dim"] * 3
    for i in range(3):
        own = Lamp().record(2, i, 6, "dim")
        assert np.array_equal(episodes.load_actions(i), own.actions)
        assert np.array_equal(episodes.load_state(i)["grey"], own.state["grey"])
        assert np.abs(episodes.load_frames(i)[:, 8, 8].astype(float) - own.frames[:, 8, 8]).max() < 8


def test_what_the_world_does_not_have_is_refused(lamp, monkeypatch, tmp_path):
    how = dict(world="lamp", episodes=1, out=tmp_path / "set", progress=False)
    with pytest.raises(BadConfig, match=r"task: got 'flick' \(did you mean \"flicker\"\?\), expected null or one of \['dim', 'flicker'\]"):
        make_dataset(**how, task="flick")
    with pytest.raises(BadConfig, match=r"world: got 'lmp' \(did you mean \"lamp\"\?\), expected one of \['tabletop', 'lamp'\]"):
        make_dataset(**how | {"world": "lmp"})
    monkeypatch.setattr(Lamp, "needs", ("no_such_package", "sim"))
    with pytest.raises(MissingDependency, match="world lamp: needs the package no_such_package"):
        make_dataset(**how)
    assert not list(tmp_path.iterdir())
