"""How far what is read off a clip lies from what it was told."""

from dataclasses import replace

import numpy as np
import pytest
import tiny_world as tiny

from wfm_ar.inverse_dynamics.network import InverseDynamics, InverseDynamicsConfig
from wfm_ar.rollout import action_reading
from wfm_ar.rollout.action_reading import apart_by_latent
from wfm_ar.rollout.world import World


def test_how_far_off_each_latent_is_in_halves_of_the_range(monkeypatch):
    parts = tiny.make_parts(text=False, refine=False)  # 2 frames a latent, two channels of +-0.025
    assert apart_by_latent(World(parts, "tiny"), tiny.make_video(5), np.zeros((4, 2), np.float32)) is None  # nothing reads there
    reader = InverseDynamics(InverseDynamicsConfig(actions=2, channels=(8,), heads=1, hidden=8)).eval()
    world = World(replace(parts, inverse_dynamics=reader), "tiny")
    monkeypatch.setattr(action_reading, "read_actions", lambda model, frames, rate: np.array([[0.0, 0.0], [1.0, -1.0]], np.float32))
    actions = np.array([[0.025, 0.0], [0.025, 0.0], [0.025, -0.025], [0.025, -0.025]], np.float32)
    assert apart_by_latent(world, tiny.make_video(5), actions) == pytest.approx([0.5, 0.0])
    actions[1] = np.nan
    assert apart_by_latent(world, tiny.make_video(5), actions) == [None, pytest.approx(0.0)]
    assert apart_by_latent(world, tiny.make_video(5), None) is None and apart_by_latent(world, tiny.make_video(1), actions[:0]) is None
