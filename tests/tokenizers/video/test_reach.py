"""The reach that is read off a pass is the one that gradients show."""

import pytest
import torch
from torch import nn

from wfm_ar.tokenizers.video.model import VideoTokenizer, VideoTokenizerConfig
from wfm_ar.tokenizers.video.reach import reach_in_time

THIN = dict(height=8, width=8, spatial_compression=8, patch_space=8, encoder_channels=2, decoder_channels=2, multipliers=(1,), z_channels=2,
            levels=(3,), decoder_blocks=1, background=False, normalise=False)  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (dict(temporal_compression=1, patch_time=1, time_kernel=1), 0),
        (dict(temporal_compression=1, patch_time=1), 24),  # 12 convolutions, two frames each
        (dict(temporal_compression=2, patch_time=2), 49),
        (dict(temporal_compression=4, patch_time=4, time_kernel=1), 3),
        (dict(temporal_compression=1, patch_time=1, factorised_ends=True), 32),
    ],
)
def test_reach_is_what_the_gradient_says(settings, expected):
    config = VideoTokenizerConfig(**THIN | settings)
    assert reach_in_time(config) == expected
    rate, network = config.temporal_compression, VideoTokenizer(config).double()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.4)
    frames = 1 + rate * (expected // rate + 3)
    video = torch.randn(1, 3, frames, 8, 8, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(network(video)[0][:, :, -1].sum(), video)
    assert frames - 1 - int(gradient.abs().amax((0, 1, 3, 4)).nonzero().min()) == expected
