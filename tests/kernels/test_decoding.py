"""Decoding through the kernels: the tokens of the reference path, nothing read back to the host, one graph for every token."""

import copy
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from wfm_kernels.attention.triton import attention as triton_attention

from wfm_ar.errors import BadPrompt
from wfm_ar.rollout.engine import Actions, Batch, Row
from wfm_ar.rollout.sampling import SamplingConfig
from wfm_ar.world_model import Sequence, SequenceConfig, WorldModel, WorldModelConfig
from wfm_ar.world_model.attention import CrossAttention
from wfm_ar.world_model.captured_roll import CapturedRoll
from wfm_ar.world_model.decode_step import DecodeStep
from wfm_ar.world_model.kernel_step import KernelStep
from wfm_ar.world_model.kv_cache import KVCache
from wfm_ar.world_model.steps import Steps

CONFIG = SequenceConfig(
    video_vocab=12,
    levels=(4, 3),
    grid_h=2,
    grid_w=2,
    rate=1,
    action_bins=(3, 4),
    text_vocab=5,
    max_text=3,
    max_latents=4,
    action_sums=True,
)
GREEDY = SamplingConfig(temperature=0.0)


@pytest.fixture(scope="module")
def sequence() -> Sequence:
    return Sequence(CONFIG)


@pytest.fixture(scope="module")
def model(sequence, device) -> WorldModel:
    torch.manual_seed(0)
    sizes = dict(layers=2, dim=16, heads=2, kv_heads=1, head_dim=8, hidden=24, theta=10000.0)
    model = WorldModel(WorldModelConfig(**sequence.model_vocabularies(), **sizes)).eval()
    for weight, std in ((model.head.weight, 0.5), (model.embedding.weight, 1.0), (model.hints.down.weight, 0.3)):
        torch.nn.init.normal_(weight, std=std)
    return model.to(device)


@pytest.fixture
def through_kernels(monkeypatch) -> None:
    monkeypatch.setattr("wfm_ar.rollout.engine.steps_of", lambda model: Steps(*[partial(KernelStep, model)] * 2))


def row(seed: int, latents: int = 2) -> Row:
    tokens = torch.randint(0, 12, (latents, 2, 2), generator=torch.Generator().manual_seed(seed))
    return Row(seed=seed, tokens=tuple(tokens), bins=(None,) * latents)


def on_the_cpu(model: WorldModel) -> WorldModel:
    return copy.deepcopy(model).cpu()


def both(model, sequence, rows, sampling, kinds, monkeypatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of the library path, which is the CPU's, and of the kernel path."""
    out = []
    for step in (DecodeStep, KernelStep):
        monkeypatch.setattr("wfm_ar.rollout.engine.steps_of", lambda model, step=step: Steps(*[partial(step, model)] * 2))
        batch = Batch(on_the_cpu(model) if step is DecodeStep else model, sequence, rows, sampling)
        bins = torch.tensor([[[1, 2]]]).expand(len(rows), -1, -1)
        out.append(torch.stack([batch.advance(kind, bins if kind is Actions.GIVEN else None) for kind in kinds], 1).cpu())
        if Actions.IMAGINED in kinds:
            out[-1] = torch.cat((out[-1].flatten(1), torch.stack([r.bins[-1] for r in batch.rows]).flatten(1).cpu()), 1)
    return out[0], out[1]


@pytest.mark.parametrize("kinds", [[Actions.GIVEN], [Actions.IMAGINED]], ids=["given", "imagined"])
def test_greedy_tokens_equal_those_of_the_reference_path(kinds, model, sequence, monkeypatch) -> None:
    expected, found = both(model, sequence, [row(1, 1), row(2)] if kinds == [Actions.GIVEN] else [row(3, 1)], GREEDY, kinds, monkeypatch)
    assert torch.equal(found, expected) and found.unique().numel() >= 3


def test_drawn_tokens_equal_those_of_the_library_path(model, sequence, monkeypatch) -> None:
    """One Philox, one order of the vocabulary: the same seed gives the same tokens on both paths. Ragged rows."""
    expected, found = both(model, sequence, [row(1, 1), row(2)], SamplingConfig(top_p=0.9, top_k=8), [Actions.ABSENT], monkeypatch)
    assert torch.equal(found, expected)


def test_guided_tokens_equal_those_of_the_library_path(model, sequence, monkeypatch) -> None:
    rows, guided = [replace(row(1, 1), text_ids=[1, 2]), row(2)], SamplingConfig(text_guidance=3.0)
    expected, found = both(model, sequence, rows, guided, [Actions.ABSENT], monkeypatch)
    plain, _ = both(model, sequence, rows, SamplingConfig(), [Actions.ABSENT], monkeypatch)
    assert torch.equal(found, expected) and not torch.equal(expected[0], plain[0]) and torch.equal(expected[1], plain[1])


def test_tokens_guided_by_actions_equal_those_of_the_library_path(model, sequence, monkeypatch) -> None:
    rows, kinds = [row(1, 1), row(2)], [Actions.GIVEN]
    expected, found = both(model, sequence, rows, SamplingConfig(action_guidance=3.0), kinds, monkeypatch)
    plain, _ = both(model, sequence, rows, SamplingConfig(), kinds, monkeypatch)
    assert torch.equal(found, expected) and not torch.equal(expected, plain)


def test_futures_of_one_past_share_it(model, sequence, monkeypatch) -> None:
    monkeypatch.setattr("wfm_ar.world_model.kv_cache.SHARED_FROM", 4)
    rows = [replace(row(1), seed=seed) for seed in (5, 6)]
    expected, found = both(model, sequence, rows, SamplingConfig(), [Actions.ABSENT], monkeypatch)
    assert torch.equal(found, expected) and not torch.equal(found[0], found[1])


def test_a_prompt_longer_than_a_pass_is_a_prefill(model, device) -> None:
    """65 tokens at once take the library's attention; then three more behind them equal the uncached forward."""
    ids = torch.randint(0, 12, (1, 68), device=device)
    positions = torch.arange(68)[None, :, None].expand(-1, -1, 3).contiguous()
    hints = torch.zeros(1, 68, model.config.hint_width, device=device)
    with torch.inference_mode():
        step = KernelStep(model, model.new_cache(1, 80))
        step.plan(positions, hints)
        found = [step.step(ids[:, :65], 0).clone(), step.step(ids[:, 65:], 65)]
        whole = model(ids, positions.to(device), hints_BLF=hints)
    assert (found[0] - whole[:, 64]).abs().max() <= 1e-5 and (found[1] - whole[:, 67]).abs().max() <= 1e-5
    with pytest.raises(BadPrompt, match="KV cache: got 68 . 13 tokens, capacity 80"):
        step.step(torch.zeros(1, 13, dtype=torch.int64, device=device), 0)
    with pytest.raises(BadPrompt, match="position: got 94, expected below 80"):
        step.plan(positions + 27, hints)


@pytest.mark.parametrize("given", ["a mask a row", "all", "one text for all rows"])
def test_cross_attention_goes_through_the_kernel(given, device, monkeypatch) -> None:
    """A cached text context whose mask has holes: where nothing is learnt it is our op, with the numbers of the library."""
    torch.manual_seed(0)
    layer = CrossAttention(dim=16, context_dim=12, heads=4, kv_heads=2, head_dim=8, eps=1e-6).to(device)
    x, context = torch.randn(2, 3, 16, device=device), torch.randn(1 if given.startswith("one") else 2, 7, 12, device=device)
    mask = torch.tensor([[1, 0, 1, 1, 0, 1, 0], [1, 1, 1, 0, 0, 0, 0]], device=device).bool() if given == "a mask a row" else None
    expected, calls = layer(x, context, mask, 0), []
    monkeypatch.setattr("wfm_ar.world_model.attention.attention", lambda *a, **kw: calls.append(kw) or triton_attention(*a, **kw))
    with torch.inference_mode():
        cache = KVCache(1, 2, 4, 2, 8, torch.float32, device)
        for given_context in (context, None):  # the second time its keys are in the cache
            assert (layer(x, given_context, mask, 0, cache) - expected).abs().max() <= 1e-6
    assert len(calls) == 2 and (mask is None or torch.equal(calls[0]["mask"].seen_BL, mask))


class HostRead(Exception):
    pass


class NoHostReadOps(TorchDispatchMode):
    REFUSED = ("_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal", "masked_select", "unique", "_unique2")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in self.REFUSED:
            raise HostRead(str(func))
        return func(*args, **(kwargs or {}))


class NoHostReadCalls(TorchFunctionMode):
    """The reads of a CPU tensor that never reach the dispatcher. Triton's interpreter reads its tensors: that is its launch."""

    REFUSED = ("tolist", "item", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__")

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in self.REFUSED:
            frame = sys._getframe(1)
            while frame is not None and "triton/runtime" not in frame.f_code.co_filename:
                frame = frame.f_back
            if frame is None:
                raise HostRead(func.__name__)
        return func(*args, **(kwargs or {}))


def prepared(model, step_class, rows: int = 2, guided: bool = False):
    """What rolls steps behind three tokens; `guided`: with a second one beside it, whose plan says other hints."""
    steps = [step_class(model, model.new_cache(rows, 24)) for _ in range(1 + guided)]
    for hint, step in enumerate(steps):
        hints = torch.full((rows, 12, model.config.hint_width), float(hint))
        step.plan(torch.arange(12)[None, :, None].expand(rows, -1, 3).contiguous(), hints)
    fed = CapturedRoll(steps, 2.0) if step_class is KernelStep else steps[0]
    fed.step(torch.zeros(rows, 3, dtype=torch.int64, device=model.head.weight.device), 0)
    return fed


@pytest.mark.parametrize("guided", [False, True], ids=["plain", "guided"])
def test_a_token_is_drawn_and_fed_without_a_host_read(model, guided) -> None:
    with torch.inference_mode():
        kernels, library = prepared(model, KernelStep, guided=guided), prepared(on_the_cpu(model), DecodeStep)
        kernels._planned_1.fill_(3)
        with NoHostReadOps(), NoHostReadCalls():
            for settings in (GREEDY.settings, SamplingConfig(top_k=3).settings):
                kernels._body(settings, (0, 12))
        assert kernels._made_1.item() == 2 and all(step.cache.lengths_B.tolist() == [5, 5] for step in kernels.steps)
        with pytest.raises(HostRead), NoHostReadOps(), NoHostReadCalls():  # the library's path reads lengths: the modes do see it
            library.step(torch.zeros(2, 1, dtype=torch.int64), 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: graph capture and synchronisation are CUDA's")
@pytest.mark.gpu
@pytest.mark.parametrize("guided", [False, True], ids=["plain", "guided"])
def test_a_captured_graph_gives_the_eager_tokens_without_synchronising(guided, model, sequence) -> None:
    keys = [(5, 0, 0), (6, 0, 0)]
    with torch.inference_mode():
        eager, graphed = (prepared(model, KernelStep, guided=guided) for _ in range(2))
        eager._replay = eager._body
        expected = eager.roll(keys, SamplingConfig().settings, [(0, 12)] * 8, 3)
        graphed.roll(keys, SamplingConfig().settings, [(0, 12)] * 2, 3)  # captures
        graphed = prepared(model, KernelStep, guided=guided)
        first = graphed.roll(keys, SamplingConfig().settings, [(0, 12)] * 8, 3)
        assert torch.equal(first, expected) and len(graphed._graphs) == 1
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(2):  # the last two places of the plan
                graphed._replay(SamplingConfig().settings, (0, 12))
        finally:
            torch.cuda.set_sync_debug_mode("default")
