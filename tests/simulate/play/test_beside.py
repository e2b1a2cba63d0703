"""The simulator beside its world."""

import importlib.util

import numpy as np
import pytest
from play_client import ARM, tiny_world

from wfm_ar.simulate.play.beside import Simulator, distances, simulator_of

LEFT = np.float32([[-0.025, 0.0]])


def test_only_the_world_of_the_simulator_has_one():
    assert simulator_of(tiny_world(schema=ARM)) is None and simulator_of(tiny_world(actions=False)) is None
    assert simulator_of(tiny_world()) is None, "its channels are those of the tabletop, its pictures are not"


def test_the_distance_of_two_clips_grows_with_the_way_between():
    def at(x: int) -> np.ndarray:
        frame = np.full((32, 32, 3), 90, np.uint8)
        frame[10:16, x : x + 6] = 250
        return frame

    near, far, same = distances(np.stack([at(4), at(4), at(4)]), np.stack([at(8), at(20), at(4)]))
    assert 0 == same < near < far


@pytest.mark.skipif(importlib.util.find_spec("mujoco") is None, reason="needs mujoco (the extra sim)")
def test_it_goes_on_from_a_state_that_it_had():
    simulator = Simulator(3)
    assert simulator.text.startswith("push the") and simulator.picture().shape == (128, 128, 3)
    state = simulator.state()
    moved = simulator.step(np.repeat(LEFT, 4, 0))
    assert not np.array_equal(moved[0], moved[-1])
    simulator.restore(state)
    assert np.array_equal(simulator.step(np.repeat(LEFT, 4, 0)), moved)
    simulator.step(np.float32([[9.0, 9.0]]))  # longer than the peg can go: shortened, not refused
    simulator.close()
    other = Simulator(3)
    assert np.array_equal(other.step(np.repeat(LEFT, 4, 0)), moved), "one seed, one table"
    other.close()
