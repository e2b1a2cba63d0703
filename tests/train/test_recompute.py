"""Activation checkpointing: the same gradients of every network, bit for bit, and less kept for the backward pass."""

import copy
from dataclasses import replace

import pytest
import tiny_stages
import torch
from torch import nn

from wfm_ar.data.files import sha256_of
from wfm_ar.frame_predictor.network import FramePredictor, FramePredictorConfig
from wfm_ar.tokenizers.video import VideoTokenizer
from wfm_ar.train.diffusion_decoder_stage import DiffusionDecoderStage
from wfm_ar.train.loop import train
from wfm_ar.train.recompute import recompute_blocks


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_stages.make_data(tmp_path_factory.mktemp("data"))


def awake(model: nn.Module) -> nn.Module:
    """Weights that begin at zero made others, so that every gradient is there."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn(weight.shape, generator=generator))
    return model.train()


def step(model: nn.Module, loss) -> tuple[dict[str, torch.Tensor], int]:
    """-> (gradients, bytes that autograd keeps from the forward pass on, weights left out)."""
    weights, kept = {weight.data_ptr() for weight in model.parameters()}, {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.data_ptr() not in weights:
            kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        value = loss(model)
        held = sum(kept.values())
    value.backward()
    return {name: weight.grad for name, weight in model.named_parameters()}, held


def compared(model: nn.Module, loss) -> float:
    """Share of the bytes that are still kept; the gradients are the same."""
    plain, spare = awake(model), copy.deepcopy(model).train()
    assert recompute_blocks(spare) > 0 and list(spare.state_dict()) == list(plain.state_dict())
    (expected, usual), (found, held) = step(plain, loss), step(spare, loss)
    assert all((expected[name] is None) == (found[name] is None) for name in expected)
    assert all(torch.equal(expected[name], found[name]) for name in expected if expected[name] is not None)
    assert any(gradient is not None and gradient.abs().max() > 0 for gradient in expected.values())
    return held / usual


@pytest.mark.parametrize("name", tiny_stages.STAGES)
def test_the_stages_have_the_same_gradients(data, name):
    stage = tiny_stages.make_stage(name, data)
    if name == "diffusion_decoder":  # the tiny one has next to nothing in its blocks
        wide = replace(stage.config, channels=(48,), blocks=(2,))
        stage = DiffusionDecoderStage(wide, stage.training, stage.tokenizer, stage.windows.episodes, stage.windows.episodes)
    batch = stage.batch(0, 2, 0)
    assert compared(stage.model, lambda model: stage.loss(model, batch, torch.Generator().manual_seed(0))[0]) < 0.7


def test_the_frame_predictor_has_too():
    config = FramePredictorConfig(actions=2, channels=(16, 24), blocks=(2, 2, 2), embedding=16)
    frames, actions = torch.randn(2, 2, 3, 32, 32), torch.rand(2, 1, 2)
    assert compared(FramePredictor(config), lambda model: model(frames, actions).square().mean()) < 0.6


def test_a_copy_recomputes_its_own_blocks():
    """What averages weights copies networks: a copy must not run the blocks of the one it was copied from."""
    model = VideoTokenizer(tiny_stages.TOKENIZER)
    recompute_blocks(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight in model.parameters():
            weight.fill_(float("nan"))
    video = torch.rand(1, 3, 5, 16, 24)
    assert other(video)[0].isfinite().all()
    other(video)[0].mean().backward()
    assert all(weight.grad is None for weight in model.parameters())
    assert all(weight.grad.isfinite().all() for weight in other.parameters() if weight.grad is not None)


def test_a_run_ends_with_the_same_bytes(data, tmp_path):
    folders = []
    for spare in (False, True):
        stage = tiny_stages.make_stage("world_model", data)
        config = tiny_stages.loop_config(6, activation_checkpointing=spare)
        folders.append(train(stage, config, tmp_path / str(spare)))
    for name in ("model", "ema", "optimizer"):
        assert sha256_of(folders[0] / f"{name}.safetensors") == sha256_of(folders[1] / f"{name}.safetensors")


def test_networks_without_blocks_stay_as_they_are():
    model = nn.Sequential(nn.Linear(2, 2), nn.SiLU())
    assert recompute_blocks(model) == 0 and "forward" not in vars(model[0])
