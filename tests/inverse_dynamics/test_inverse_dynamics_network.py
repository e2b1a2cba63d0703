"""The network that reads actions off two frames: shapes, rows that do not touch, bins as values."""

import numpy as np
import pytest
import torch

from wfm_ar.errors import BadConfig
from wfm_ar.inverse_dynamics.network import AT_ONCE, InverseDynamics, InverseDynamicsConfig, bin_values, read_actions

TINY = InverseDynamicsConfig(actions=3, channels=(8, 12), heads=2, hidden=16)


@pytest.mark.parametrize("size", [(16, 24), (40, 40), (17, 33)])
def test_any_size_gives_a_number_a_column_and_rows_do_not_touch(size):
    torch.manual_seed(0)
    model, frames = InverseDynamics(TINY).eval(), torch.rand(2, 4, 3, *size)
    both = model(*frames)
    assert both.shape == (4, 3)
    for row in range(4):
        alone = model(frames[0, row : row + 1], frames[1, row : row + 1])
        torch.testing.assert_close(alone[0], both[row], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(model(frames[1], frames[0]), both)


def test_clips_are_read_latent_by_latent_whatever_their_length():
    torch.manual_seed(0)
    model, clip = InverseDynamics(TINY).eval(), np.random.default_rng(0).integers(0, 256, (2 * AT_ONCE + 9, 16, 16, 3), dtype=np.uint8)
    read = read_actions(model, clip, 2)
    assert read.shape == (AT_ONCE + 4, 3) and read.dtype == np.float32
    np.testing.assert_allclose(read[5:7], read_actions(model, clip[10:15], 2), atol=1e-5)


def test_bins_are_values_from_end_to_end():
    values = bin_values(torch.tensor([[0, 0], [4, 1], [2, -1]]), (5, 2))
    assert values[:2].tolist() == [[-1, -1], [1, 1]] and values[2, 0] == 0 and values[2, 1].isnan()


@pytest.mark.parametrize("wrong", [{"channels": ()}, {"channels": (0,)}, {"heads": 0}, {"actions": -1}])
def test_shapes_that_cannot_be_are_refused(wrong):
    with pytest.raises(BadConfig, match="inverse_dynamics"):
        InverseDynamicsConfig(**wrong)
