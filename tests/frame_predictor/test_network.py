"""The frame predictor's network: what it begins with, what it sees, and settings that cannot be."""

from dataclasses import replace

import pytest
import torch

from wfm_ar.errors import BadConfig
from wfm_ar.frame_predictor.network import FramePredictor, FramePredictorConfig, places

SMALL = FramePredictorConfig(actions=2, patch=2, channels=(8, 8), blocks=(1, 1, 1), embedding=8)


def drawn(config: FramePredictorConfig = SMALL) -> FramePredictor:
    network = FramePredictor(config)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return network


def test_it_begins_by_repeating_the_last_frame():
    frames = torch.randn(3, 2, 3, 16, 24)
    assert torch.equal(FramePredictor(SMALL)(frames, torch.zeros(3, 1, 2)), frames[:, -1])


def test_a_gate_that_is_shut_everywhere_still_learns():
    network = drawn()
    torch.nn.init.constant_(network.leave.bias[3 * SMALL.patch**2 :], -200.0)  # the gates, far below what any input makes up for
    torch.nn.init.zeros_(network.leave.weight[3 * SMALL.patch**2 :])
    network(torch.randn(1, 2, 3, 16, 24), torch.zeros(1, 1, 2)).square().mean().backward()
    assert network.leave.weight.grad[: 3 * SMALL.patch**2].abs().max() > 1e-4


def test_frames_and_actions_all_matter_and_unknown_actions_are_not_zero():
    network, frames, actions = drawn(replace(SMALL, history=3)), torch.randn(1, 3, 3, 16, 24), torch.zeros(1, 2, 2)
    made = network(frames, actions)
    for k in range(3):
        other = frames.clone()
        other[:, k] = 0
        assert (network(other, actions) - made).abs().max() > 1e-3
    for k in range(2):
        for value in (0.5, torch.nan):
            other = actions.clone()
            other[:, k] = value
            changed = network(frames, other)
            assert changed.isfinite().all() and (changed - made).abs().max() > 1e-3


def test_a_crop_has_the_numbers_of_the_whole_frame_away_from_its_edges():
    network = drawn(FramePredictorConfig(patch=2, channels=(8, 8), blocks=(1, 1, 0), embedding=8))
    frames = torch.randn(1, 2, 3, 64, 64)
    cut = places(64, 64, 2)[..., 4:28, 4:28]
    whole, crop = network(frames, None), network(frames[..., 8:56, 8:56], None, cut)
    assert torch.allclose(whole[..., 28:36, 28:36], crop[..., 20:28, 20:28], atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"patch": 0}, "predictor: patch: got 0, expected 1 to 64"),
        ({"history": 1}, "predictor: history: got 1, expected 2 to 16"),
        ({"channels": (8,)}, r"channels and blocks: got \[8\] and \[1, 1, 1\], expected two widths and three counts"),
        ({"blocks": (1, 1)}, r"expected two widths and three counts"),
    ],
)
def test_settings_that_cannot_be(settings, line):
    shape = {"actions": 2, "patch": 2, "channels": (8, 8), "blocks": (1, 1, 1)} | settings
    with pytest.raises(BadConfig, match=line):
        FramePredictorConfig(**shape)


def test_places_differ_and_belong_to_the_whole_frame():
    grid = places(64, 32, 4)
    assert grid.shape == (1, 14, 16, 8) and grid.abs().max() <= 1
    assert len({tuple(place) for place in grid[0].flatten(1).T.tolist()}) == 16 * 8
    assert torch.equal(grid[0, 0, :, 0], -grid[0, 0, :, 0].flip(0)) and grid[0, 0, 0, 0] == -1 + 1 / 16
    made = drawn()(torch.zeros(1, 2, 3, 16, 24), torch.zeros(1, 1, 2))
    assert (made[..., 4:8, 4:8] - made[..., 4:8, 16:20]).abs().max() > 1e-3  # the same picture, the same actions, another place
