"""The published kinds of model through the kernels: the tokens of the library's path, whatever they attend to."""

from functools import partial

import pytest
import torch

from wfm_ar.cosmos import bench, bench_memory
from wfm_ar.cosmos.clock import Clock
from wfm_ar.errors import BadConfig
from wfm_ar.rollout.engine import Actions, Batch, Row
from wfm_ar.rollout.sampling import SamplingConfig
from wfm_ar.world_model import WorldModel, WorldModelConfig
from wfm_ar.world_model.captured_roll import CapturedRoll
from wfm_ar.world_model.forward_step import ForwardStep
from wfm_ar.world_model.kernel_step import KernelStep
from wfm_ar.world_model.sequence import Sequence, published_sequence
from wfm_ar.world_model.steps import Steps

CODES, BINS = 12, 3
GREEDY = SamplingConfig(temperature=0.0)
TEXT = {"context_dim": 10}
KINDS = {
    "4b": {},
    "5b": TEXT | {"additive_positions": True},
    "12b": {"yarn_shape": (3, 2)},
    "13b": TEXT | {"additive_positions": True, "yarn_shape": (3, 2)},
}


def model_of(kind: str) -> WorldModel:
    sizes = dict(vocab=CODES + 1 + BINS, out_vocab=CODES, layers=2, dim=24, heads=4, kv_heads=2, head_dim=8, hidden=24)
    model = WorldModel(WorldModelConfig(**sizes, **KINDS[kind])).eval()
    texts = [(block.cross_attention.out.weight, 0.2) for block in model.blocks if block.cross_attention is not None]
    for weight, std in ((model.head.weight, 0.5), (model.embedding.weight, 1.0), *texts):
        torch.nn.init.normal_(weight, std=std)
    return model


def row_of(seed: int, kind: str) -> Row:
    random = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, CODES, (1, 1, 3), generator=random)
    context = torch.randn(5, 10, generator=random) if "context_dim" in KINDS[kind] else None
    return Row(seed=seed, tokens=tokens, bins=[None], context_SC=context)


def rolled(
    model: WorldModel,
    rows: list[Row],
    sampling: SamplingConfig,
    latents: int = 2,
    futures: list[int] | None = None,
    action: int | None = None,
):
    """Tokens [B, 1 + latents, 1, 3]; behind the second of them the given `futures` of the first row, by their seeds."""
    order = published_sequence(video_vocab=CODES, vocab=CODES + 1 + BINS, bov=bool(model.config.context_dim), grid=(1, 3), rate=1,
                               max_latents=2 if futures is None else 3, action_bins=(BINS,))  # fmt: skip
    batch, kind = Batch(model, Sequence(order), rows, sampling), Actions.ABSENT if action is None else Actions.GIVEN
    for made in range(latents):
        batch = batch.select([0] * len(futures), futures) if futures and made == 1 else batch
        batch.advance(kind, None if action is None else torch.full((len(batch.rows), 1, 1), action))
    return torch.stack([row.tokens.stacked() for row in batch.rows])


@pytest.fixture
def on_both(device, monkeypatch):
    """on_both(model, ...) -> what `rolled` gives by the library, on the CPU, and by the kernels."""

    def roll(model: WorldModel, *args, **kwargs):
        expected = rolled(model.cpu(), *args, **kwargs)
        steps = lambda model: Steps(partial(ForwardStep, model), partial(KernelStep, model))  # noqa: E731
        monkeypatch.setattr("wfm_ar.rollout.engine.steps_of", steps)
        return expected, rolled(model.to(device), *args, **kwargs)

    return roll


@pytest.mark.parametrize(("kind", "latents"), [("4b", 1), ("5b", 2), ("12b", 1), ("13b", 1)])
def test_drawn_tokens_equal_those_of_the_library_path(kind, latents, on_both) -> None:
    """Two rows, each with its text; the window of two latents is full after one and is begun anew."""
    expected, found = on_both(model_of(kind), [row_of(seed, kind) for seed in (2, 4)], SamplingConfig(top_p=0.9, top_k=8), latents)
    assert torch.equal(found, expected) and found[:, 1:].unique().numel() >= 3


@pytest.mark.parametrize("kind", ["4b", "13b"])
def test_greedy_tokens_behind_actions(kind, on_both) -> None:
    model = model_of(kind)
    other = rolled(model, [row_of(7, kind)], GREEDY, latents=1, action=0)
    expected, found = on_both(model, [row_of(7, kind)], GREEDY, latents=1, action=2)
    assert torch.equal(found, expected) and not torch.equal(expected, other)


@pytest.mark.parametrize("kind", ["4b", "13b"])
def test_futures_share_their_past(kind, on_both, monkeypatch) -> None:
    monkeypatch.setattr("wfm_ar.world_model.kv_cache.SHARED_FROM", 4)
    expected, found = on_both(model_of(kind), [row_of(6, kind)], SamplingConfig(), futures=[7, 8])
    assert torch.equal(found, expected) and not torch.equal(found[0], found[1])


@pytest.mark.parametrize("kind", ["5b", "13b"])
def test_a_first_latent_behind_bov_alone_guided_by_the_text(kind, on_both) -> None:
    """BOV is at no position: it turns by nothing, and has nothing added."""
    row, model = Row(seed=2, context_SC=torch.randn(5, 10, generator=torch.Generator().manual_seed(2))), model_of(kind)
    expected, found = on_both(model, [row], SamplingConfig(top_k=6, text_guidance=2.0), latents=1)
    assert torch.equal(found, expected)
    assert not torch.equal(rolled(model.cpu(), [row], SamplingConfig(top_k=6), latents=1), expected)


def test_the_text_is_in_the_cache_before_the_kernels_begin() -> None:
    model = model_of("5b")
    with pytest.raises(BadConfig, match="got a cache without its text"):
        KernelStep(model, model.new_cache(1, 8))


def test_the_benchmarks_decode_through_the_kernels(device, monkeypatch) -> None:
    model, made = model_of("5b").to(device), []
    rolling = CapturedRoll.roll
    monkeypatch.setattr(CapturedRoll, "roll", lambda self, *args: made.append(rolling(self, *args)) or made[-1])
    for module in (bench, bench_memory):
        monkeypatch.setattr(module, "captured_roll", lambda model, cache: CapturedRoll([KernelStep(model, cache)]))
        monkeypatch.setattr(module, "CODEBOOK" if module is bench_memory else "AHEAD", {bench_memory: CODES, bench: 2}[module])
    monkeypatch.setattr(bench, "MODEL", model.config)
    with torch.inference_mode():
        told = bench_memory._go_on(model, 0.9, 2, Clock(str(device)), (17, 32, 48))
        cache = model.new_cache(1, 30)
        model.features(torch.zeros(1, 1, dtype=torch.int64, device=device), torch.zeros(1, 1, 3, dtype=torch.int64, device=device),
                       cache=cache, context=torch.zeros(1, 4, 10, device=device))  # fmt: skip
        bench._decoder(model, cache, 1)()
    assert told.endswith(" s a token") and [tuple(ids.shape) for ids in made] == [(1, 3)] * 3 and cache.longest == 3
