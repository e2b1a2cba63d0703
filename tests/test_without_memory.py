"""Networks without memory: the shapes of the real ones, and nothing else."""

import pytest
import torch
from torch import nn

from wfm_ar.diffusion_decoder.denoiser import Denoiser, DenoiserConfig
from wfm_ar.tokenizers.video import VideoTokenizer, VideoTokenizerConfig
from wfm_ar.without_memory import without_memory
from wfm_ar.world_model import WorldModel, WorldModelConfig

NETWORKS = (
    (VideoTokenizer, VideoTokenizerConfig(height=32, width=32)),
    (WorldModel, WorldModelConfig(vocab=99, out_vocab=50, layers=2, dim=64, heads=2, kv_heads=1, head_dim=32, hidden=96, hint_width=7)),
    (Denoiser, DenoiserConfig()),
)


@pytest.mark.parametrize(("kind", "config"), NETWORKS, ids=lambda one: getattr(one, "__name__", ""))
def test_shapes_are_those_of_the_real_network(kind, config):
    with without_memory():
        weightless = kind(config)
    real = kind(config)
    named = lambda module: {k: (v.shape, v.dtype) for k, v in [*module.named_parameters(), *module.named_buffers()]}  # noqa: E731
    assert named(weightless) == named(real)
    assert weightless.state_dict().keys() == real.state_dict().keys()
    assert all(tensor.is_meta for tensor in [*weightless.parameters(), *weightless.buffers()])


def test_a_terabyte_costs_nothing_and_all_is_as_before_afterwards():
    with without_memory():
        layer = nn.Linear(1 << 20, 1 << 18, bias=False)
    assert layer.weight.shape == (1 << 18, 1 << 20) and layer.weight.is_meta
    torch.manual_seed(0)
    drawn = nn.Linear(4, 3).weight
    torch.manual_seed(0)
    assert torch.equal(drawn, nn.Linear(4, 3).weight) and drawn.abs().sum() > 0 and drawn.device.type == "cpu"


def test_tables_that_follow_from_the_settings_are_computed_elsewhere_all_the_same():
    from wfm_ar.tokenizers.video.fsq import FSQ
    from wfm_ar.world_model.rotary import rotary_frequencies

    with torch.device("meta"):
        assert rotary_frequencies(32, 100.0).is_meta and FSQ((8, 5))._half.is_meta
    assert torch.equal(FSQ((8, 5))._half.flatten(), torch.tensor([7 * 1.001 / 2, 4 * 1.001 / 2]))
    assert torch.allclose(rotary_frequencies(12, 100.0)[0, :2], torch.tensor([1.0, 0.1]))
