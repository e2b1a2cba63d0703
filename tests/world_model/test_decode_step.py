"""The decoding pass: `WorldModel.forward` up to rounding, and bit for bit the same for a row in any batch."""

import pytest
import torch

from wfm_ar.errors import BadConfig, BadPrompt, Note
from wfm_ar.world_model.decode_step import DecodeStep, weights_of
from wfm_ar.world_model.forward_step import ForwardStep
from wfm_ar.world_model.kv_cache import KVCache
from wfm_ar.world_model.row_product import half_products_here
from wfm_ar.world_model.steps import steps_of
from wfm_ar.world_model.transformer import Decoding, WorldModel, WorldModelConfig

SIZES = dict(vocab=50, out_vocab=30, layers=3, dim=48, heads=6, kv_heads=2, head_dim=12, hidden=80)
LENGTH, CAPACITY = 50, 48


def _model(halves: bool = False, **changes: object) -> WorldModel:
    """`halves`: with weights that half precision holds, as shipped worlds have them."""
    torch.manual_seed(0)
    model = WorldModel(WorldModelConfig(**(SIZES | dict(hint_width=60) | changes))).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # norms away from one, the head away from zero
            parameter.normal_(1.0 if parameter.ndim == 1 else 0.0, 0.3 if parameter.ndim == 1 or "head" in name else 0.15)
            parameter.copy_(parameter.half() if halves else parameter)
    return model


def _rows(rows: int, hints: bool = True) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 50, (rows, LENGTH), generator=draw)
    positions = torch.randint(0, 9, (rows, LENGTH, 3), generator=draw)
    return ids, positions, torch.randn(rows, LENGTH, 60, generator=draw) if hints else None


def _decode(model: WorldModel, members: list[int], starts: list[int], passes: list[int]) -> torch.Tensor:
    """Logits behind each pass, of rows that were prefilled alone up to `starts`."""
    ids, positions, hints = _rows(8, model.hints is not None)
    caches = []
    for row, start in zip(members, starts, strict=True):
        caches.append(model.new_cache(1, CAPACITY))
        step = DecodeStep(model, caches[-1])
        step.plan(positions[row : row + 1], None if hints is None else hints[row : row + 1])
        step.step(ids[row : row + 1, :start], 0)
    step = DecodeStep(model, KVCache.stack(caches))

    def coming(tensor: torch.Tensor) -> torch.Tensor:
        return torch.stack([tensor[row, start : start + sum(passes)] for row, start in zip(members, starts, strict=True)])

    step.plan(coming(positions), None if hints is None else coming(hints))
    tokens, out, at = coming(ids), [], 0
    for count in passes:
        out.append(step.step(tokens[:, at : at + count], at))
        at += count
    return torch.stack(out, 1)


@pytest.mark.parametrize("changes", [{}, {"halves": True}, {"hint_width": 0}, {"kv_heads": 6}, {"yarn_shape": (3, 40)}], ids=str)
@pytest.mark.parametrize("passes", [[1] * 6, [5, 1, 1, 8]], ids=str)
def test_equals_the_uncached_forward(changes: dict, passes: list[int]) -> None:
    model, starts = _model(**changes), [3, 17, 20, 25]
    ids, positions, hints = _rows(8, model.hints is not None)
    with torch.inference_mode():
        whole = model(ids, positions, hints_BLF=hints)
        found = _decode(model, [0, 1, 2, 3], starts, passes)
    for row, start in enumerate(starts):
        ends = start + torch.tensor(passes).cumsum(0) - 1
        assert (found[row] - whole[row, ends]).abs().max().item() <= 1e-5
    assert whole.std() > 0.5


@pytest.mark.parametrize("starts", [[20] * 8, [3, 17, 20, 25, 1, 9, 30, 12]], ids=["even", "ragged"])
@pytest.mark.parametrize("passes", [[1] * 5, [3, 1, 1]], ids=str)
@pytest.mark.parametrize("halves", [False, True], ids=["floats", "halves"])
def test_a_row_has_the_same_bits_in_any_batch(starts: list[int], passes: list[int], halves: bool) -> None:
    model = _model(halves)
    with torch.inference_mode():
        whole = _decode(model, list(range(8)), starts, passes)
        for members in ([0], [5], [3, 1], [2, 7, 6], [7, 6, 5, 4, 3, 2, 1, 0]):
            assert torch.equal(_decode(model, members, [starts[i] for i in members], passes), whole[members])


@pytest.mark.parametrize("ragged", [False, True], ids=["even", "ragged"])
@pytest.mark.parametrize("changes", [{}, {"kv_heads": 6}, {"kv_heads": 1}, {"hint_width": 0}], ids=str)
def test_a_token_has_the_same_bits_beside_any_others(changes: dict, ragged: bool) -> None:
    """Of one pass or of many, after others were tried in its place, alone and in a batch."""
    model = _model(halves=True, **changes)
    if not weights_of(model).apart:
        pytest.skip("this CPU rounds a token otherwise beside others, so nothing is guessed")
    ids, positions, hints = _rows(3, model.hints is not None)
    starts, count = ([2, 9, 14] if ragged else [9] * 3), 34

    def step_of(members: list[int]) -> tuple[DecodeStep, torch.Tensor]:
        caches = []
        for row in members:
            caches.append(model.new_cache(1, CAPACITY))
            step = DecodeStep(model, caches[-1])
            step.plan(positions[row : row + 1], None if hints is None else hints[row : row + 1])
            step.step(ids[row : row + 1, : starts[row]], 0)
        step = DecodeStep(model, KVCache.stack(caches))
        coming = [torch.stack([t[row, starts[row] : starts[row] + count] for row in members]) for t in (ids, positions)]
        known = None if hints is None else torch.stack([hints[row, starts[row] : starts[row] + count] for row in members])
        step.plan(coming[1], known)
        assert step.apart
        return step, coming[0]

    with torch.inference_mode():
        step, tokens = step_of([0, 1, 2])
        alone = torch.stack([step.step(tokens[:, i : i + 1], i) for i in range(count)], 1)
        assert alone.std() > 0.5
        for members in ([0, 1, 2], [1], [2, 0]):
            step, tokens = step_of(members)
            for at, size in ((0, 4), (4, 1), (5, 2), (7, 27)):  # the last more than are read for together
                if not ragged or len(members) == 1:  # only rows of one length are taken back
                    step.each((tokens[:, at : at + size] + 7) % 50, at)
                    step.take_back(size)
                assert torch.equal(step.each(tokens[:, at : at + size], at), alone[members, at : at + size])


def test_what_is_not_apart() -> None:
    """Weights that half precision would round, a prompt, and rows that share a past."""
    model, (ids, positions, hints) = _model(halves=True), _rows(1)
    cache = model.new_cache(1, 400)
    step = DecodeStep(model, cache)
    step.plan(positions.repeat(1, 7, 1), hints.repeat(1, 7, 1))
    assert not step.apart
    with torch.inference_mode():
        step.step(ids.repeat(1, 7), 0)
    for other, held in ((model, cache.fork(torch.zeros(2, dtype=torch.int64))), (_model(), _model().new_cache(1, 9))):
        step, rows = DecodeStep(other, held), len(held.lengths_B)
        step.plan(positions[:, :4].repeat(rows, 1, 1), hints[:, :4].repeat(rows, 1, 1))
        assert not step.apart


@pytest.mark.parametrize("halves", [False, True], ids=["floats", "halves"])
def test_steps_beside_each_other_give_the_bits_of_each(halves: bool) -> None:
    """Of batches of other sizes and lengths, of which one goes on by itself between."""
    model = _model(halves)
    ids, positions, hints = _rows(8)
    made = {}
    with torch.inference_mode():
        for together in (False, True):
            steps, logits = [], []
            for members, start in (([0, 1, 2], 9), ([3, 4], 20)):
                cache = model.new_cache(len(members), CAPACITY)
                steps.append(DecodeStep(model, cache))
                steps[-1].plan(positions[members, :start], hints[members, :start])
                steps[-1].step(ids[members, :start], 0)
                steps[-1].plan(positions[members, start : start + 6], hints[members, start : start + 6])
            both = DecodeStep.beside(*steps)
            logits.append(torch.cat([step.step(ids[:count, :1], 0) for step, count in zip(steps, (3, 2), strict=True)]))
            for at, count in ((1, 1), (2, 3), (5, 1)):
                tokens = ids[:5, at : at + count]
                alone = () if together else (steps[0].step(tokens[:3], at), steps[1].step(tokens[3:], at))
                logits.append(both.step(tokens, at) if together else torch.cat(alone))
            made[together] = torch.stack(logits)
    assert torch.equal(made[True], made[False]) and made[True].std() > 0.5


def test_weights_are_laid_out_again_only_after_they_changed() -> None:
    model = _model(halves=True)
    assert weights_of(model) is not weights_of(model)  # it may be in training
    model.requires_grad_(False)
    first = weights_of(model)
    assert weights_of(model) is first
    model.load_state_dict({name: 2 * tensor for name, tensor in model.state_dict().items()})
    second = weights_of(model)
    assert second is not first and weights_of(model) is second
    x_4D = torch.randn(4, model.config.dim)
    assert torch.equal(second.head(x_4D), 2 * first.head(x_4D))
    model.to(torch.float64).float()
    assert weights_of(model) is not second


def test_a_full_cache_is_refused() -> None:
    model = _model()
    with torch.inference_mode(), pytest.raises(BadPrompt, match="KV cache: got 40 . 9 tokens, capacity 48"):
        _decode(model, [0], [39], [1, 9])


def _published(changes: dict) -> WorldModel:
    """A model without hints, with bfloat16's weights, some so small that half precision rounds them, that decodes in it."""
    model = _model(hint_width=0, **changes)
    model.decoding = Decoding.HALF
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
            parameter.view(-1)[::50] *= 2.0**-18
    assert sum(int((parameter.half().float() != parameter).sum()) for parameter in model.parameters()) > 100
    return model


def _texts(rows: int) -> torch.Tensor:
    return torch.randn(rows, 7, 20, generator=torch.Generator().manual_seed(3))


TEXT = {"context_dim": 20}


@pytest.mark.skipif(not half_products_here(), reason="this torch or CPU has no product with half-precision weights")
@pytest.mark.parametrize("changes", [{}, TEXT, TEXT | {"additive_positions": True}], ids=["plain", "text", "text, positions"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_decoding_in_half_precision_is_the_forward(changes: dict, dtype: torch.dtype) -> None:
    """Rows of different lengths and texts, in one batch and beside each other, behind prompts that went through the forward."""
    model, starts, count = _published(changes).to(dtype), [3, 17, 20, 25], 6
    ids, positions, _ = _rows(4, hints=False)
    texts = _texts(4) if changes else None
    with torch.inference_mode():
        whole = _published(changes)(ids, positions, context=texts)
        caches = []
        for row, start in enumerate(starts):
            caches.append(model.new_cache(1, CAPACITY))
            if texts is not None:
                model.read_context(caches[-1], texts[row : row + 1])
            step = steps_of(model).prompt(caches[-1])
            step.plan(positions[row : row + 1, :start], None)
            step.step(ids[row : row + 1, :start], 0)
        coming = [torch.stack([x[row, start : start + count] for row, start in enumerate(starts)]) for x in (ids, positions)]
        batches = [[0, 1], [2, 3]]
        found = []
        for members in batches:
            step = steps_of(model).token(KVCache.stack([caches[row] for row in members]))
            assert type(step) is DecodeStep
            step.plan(coming[1][members], None)
            found.append(step)
        beside = DecodeStep.beside(*found)
        logits = torch.stack([beside.step(coming[0][:, i : i + 1], i) for i in range(count)], 1)
    expected = torch.stack([whole[row, start : start + count] for row, start in enumerate(starts)])
    assert whole.std() > 0.5 and logits.dtype == torch.float32
    assert (logits - expected).abs().max().item() <= (
        1e-5 if dtype == torch.float32 else 0.15
    )  # whose prompts, keys and values are bfloat16


@pytest.mark.skipif(not half_products_here(), reason="this torch or CPU has no product with half-precision weights")
def test_which_step_a_published_model_takes(monkeypatch) -> None:
    model = _published({})
    cache = model.new_cache(1, CAPACITY)
    assert type(steps_of(model).token(cache)) is DecodeStep and type(steps_of(model).prompt(cache)) is ForwardStep
    model.decoding = Decoding.EXACT
    assert type(steps_of(model).token(cache)) is ForwardStep
    model.decoding = Decoding.HALF
    monkeypatch.setattr("wfm_ar.world_model.steps.half_products_here", lambda: False)
    with pytest.warns(Note, match="decoding=half: this torch or CPU has no product"):
        assert type(steps_of(model).token(cache)) is ForwardStep


@pytest.mark.skipif(not half_products_here(), reason="this torch or CPU has no product with half-precision weights")
def test_weights_that_half_precision_cannot_hold() -> None:
    model = _published({})
    with torch.no_grad():
        model.blocks[1].ffn.down.weight[0, 0] = -7e4
    with pytest.raises(BadConfig, match="decoding: got half, .* above 65504, expected smaller ones; fix: decoding=exact"):
        DecodeStep(model, model.new_cache(1, CAPACITY))
