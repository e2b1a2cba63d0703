"""Decoding through the model's forward: its logits token by token, for the published kinds of model; rows of any length together."""

import pytest
import torch

from wfm_ar.world_model import KVCache, WorldModel, WorldModelConfig
from wfm_ar.world_model.forward_step import ForwardStep

KINDS = {"4b": {}, "5b": {"context_dim": 10, "additive_positions": True}, "12b": {"yarn_shape": (3, 2)}}


def model_of(kind: str) -> WorldModel:
    torch.manual_seed(0)
    sizes = dict(vocab=20, out_vocab=16, layers=2, dim=24, heads=4, kv_heads=2, head_dim=8, hidden=24)
    model = WorldModel(WorldModelConfig(**sizes, **KINDS[kind])).eval()
    for weight in (model.head.weight, model.embedding.weight):
        torch.nn.init.normal_(weight)
    return model


def case(kind: str, length: int, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """ids [1, L], positions [1, L, 3] of which the first is none, and a context [1, 5, 10] where the model attends to one."""
    random = torch.Generator().manual_seed(seed)
    positions = torch.randint(0, 6, (1, length, 3), generator=random)
    positions[:, 0] = -1
    context = torch.randn(1, 5, 10, generator=random) if "context_dim" in KINDS[kind] else None
    return torch.randint(0, 20, (1, length), generator=random), positions, context


def begun(model: WorldModel, context: torch.Tensor | None) -> KVCache:
    cache = model.new_cache(1, 24)
    if context is not None:
        model.read_context(cache, context)
    return cache


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_the_logits_are_those_of_the_whole_forward(kind):
    model, (ids, positions, context) = model_of(kind), case(kind, 12)
    whole = model(ids, positions, context=context)
    step = ForwardStep(model, begun(model, context))
    step.plan(positions[:, :7], None)
    found = [step.step(ids[:, :4], 0), step.step(ids[:, 4:7], 4)]
    step.plan(positions[:, 7:], None)
    found += [step.step(ids[:, i : i + 1], i - 7) for i in range(7, 12)]
    for logits, at in zip(found, (3, 6, 7, 8, 9, 10, 11), strict=True):
        assert (logits - whole[:, at]).abs().max() <= 1e-5 and whole.std() > 0.5


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_rows_of_different_lengths_and_two_steps_side_by_side(kind):
    model, cases = model_of(kind), [case(kind, length, seed) for seed, length in enumerate((5, 9, 7))]
    alone, caches = [], []
    for ids, positions, context in cases:
        for kept in (alone, caches):
            step = ForwardStep(model, begun(model, context))
            step.plan(positions, None)
            step.step(ids[:, :-1], 0)
            kept.append(step if kept is alone else step._parts[0][0])
    expected = torch.cat([step.step(ids[:, -1:], ids.shape[1] - 1) for step, (ids, _, _) in zip(alone, cases, strict=True)])
    last, places = (torch.cat([each[i][:, -1:] for each in cases]) for i in (0, 1))
    stacked, lone = ForwardStep(model, KVCache.stack(caches[:2])), ForwardStep(model, caches[2])
    stacked.plan(places[:2], None)
    lone.plan(places[2:], None)
    found = ForwardStep.beside(stacked, lone).step(last, 0)
    assert (found - expected).abs().max() <= 1e-5
    assert stacked._parts[0][0].lengths_B.tolist() == [5, 9] and caches[2].longest == 7  # both caches have moved on
