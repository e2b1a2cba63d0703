"""The engine: cached == uncached tokens, the same tokens in any batch, forks, rolling on beyond the trained length."""

import copy
from dataclasses import replace

import pytest
import torch

from wfm_ar.rollout import drawing, threads
from wfm_ar.rollout.engine import Actions, Batch, Request, Row, roll
from wfm_ar.rollout.sampling import SamplingConfig, Stream, draws, sample
from wfm_ar.world_model import Sequence, SequenceConfig, WorldModel, WorldModelConfig
from wfm_ar.world_model.decode_step import DecodeStep, weights_of
from wfm_ar.world_model.steps import GuidedStep

CONFIG = SequenceConfig(
    video_vocab=40,
    levels=(5, 4, 2),
    grid_h=2,
    grid_w=3,
    rate=2,
    action_bins=(5, 7),
    text_vocab=20,
    max_text=6,
    max_latents=5,
    action_sums=True,
)
GREEDY, SAMPLED = SamplingConfig(temperature=0.0), SamplingConfig(temperature=1.3, top_p=0.95)
GUIDED, DRIVEN = replace(SAMPLED, text_guidance=2.5), replace(SAMPLED, action_guidance=2.5)


@pytest.fixture(scope="module")
def sequence() -> Sequence:
    return Sequence(CONFIG)


@pytest.fixture(scope="module")
def model(sequence: Sequence) -> WorldModel:
    return make_model(sequence)


def make_model(sequence: Sequence) -> WorldModel:
    torch.manual_seed(0)
    sizes = dict(layers=2, dim=48, heads=4, kv_heads=2, head_dim=12, hidden=80)
    model = WorldModel(WorldModelConfig(**sequence.model_vocabularies(), **sizes)).eval()
    torch.nn.init.normal_(model.head.weight, std=0.3)  # it starts at zero, which would make every token as likely
    torch.nn.init.normal_(model.embedding.weight)
    torch.nn.init.normal_(model.hints.down.weight, std=0.3)
    return model


def _halves(model: WorldModel) -> WorldModel:
    """Weights that half precision holds, as shipped worlds have them: lone rows are guessed at."""
    return copy.deepcopy(model).half().float().requires_grad_(False)


def _tokens(count: int, seed: int) -> tuple[torch.Tensor, ...]:
    return tuple(torch.randint(0, 40, (count, 2, 3), generator=torch.Generator().manual_seed(seed)))


def _bins(*shape: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randint(0, n, shape, generator=generator) for n in CONFIG.action_bins], -1)


def _row(seed: int, latents: int = 1, text: int = 0, with_bins: bool = True) -> Row:
    bins = tuple(_bins(latents, 2, seed=seed)) if with_bins else (None,) * latents
    return Row(seed=seed, text_ids=list(range(text)), tokens=_tokens(latents, seed), bins=(None, *bins[1:])[:latents])


def _roll(rows: Batch, kinds: list[Actions], seed: int = 5) -> torch.Tensor:
    """Advance once a kind; given actions depend on the row's seed and the latent alone."""
    out = []
    for kind in kinds:
        bins = torch.stack([_bins(2, seed=97 * row.seed + len(row.tokens)) for row in rows.rows]) if kind is Actions.GIVEN else None
        out.append(rows.advance(kind, bins))
    return torch.stack(out, 1)


def _uncached(model: WorldModel, sequence: Sequence, row: Row, kind: Actions, sampling: SamplingConfig) -> Row:
    """One latent by whole forward passes over sequence.pack alone: the specification of `advance`."""
    latent, bins = len(row.tokens), None
    video, action = draws(row.seed, latent, Stream.VIDEO, 6), draws(row.seed, latent, Stream.ACTION, 4)

    def context(text_ids, known_bins) -> list:
        pieces = [sequence.text_piece(text_ids)]
        for i, tokens_hw in enumerate(row.tokens):
            if i and known_bins[i] is not None:
                pieces.append(sequence.action_piece(i, known_bins[i]))
            pieces.append(sequence.latent_piece(i, tokens_hw, row.tokens[:i], known_bins[1 : i + 1]))
        return pieces

    def logits_behind(pieces, known: list[int], coming) -> torch.Tensor:
        ids, positions, seen_hints, _ = sequence.join(pieces)
        ids = torch.cat((ids, torch.tensor(known, dtype=torch.int64)))
        positions = torch.cat((positions, coming.positions[: len(known)]))
        hints = torch.cat((seen_hints[:-1], coming.hints[: len(known) + 1]))
        with torch.inference_mode():
            return model(ids[None], positions[None], hints_BLF=hints[None])[:, -1]

    def guided(told: torch.Tensor, untold: torch.Tensor, guidance: float) -> torch.Tensor:
        return untold + guidance * (told - untold)

    def next_logits(known: list[int], coming, led: list) -> torch.Tensor:
        """`led`: the action piece before the coming one, where it is known."""
        told = logits_behind(context(row.text_ids, row.bins) + led, known, coming)
        if sampling.text_guidance == 1:
            return told
        return guided(told, logits_behind(context([], row.bins) + led, known, coming), sampling.text_guidance)

    led = []
    if kind is not Actions.ABSENT:
        bins = _bins(2, seed=97 * row.seed + latent)
        if kind is Actions.IMAGINED:
            empty, ids = sequence.action_piece(latent, torch.zeros(2, 2, dtype=torch.int64)), []
            for i in range(4):
                logits = next_logits(ids, empty, [])
                ids.append(int(sample(logits, torch.tensor([action[i]]), sampling, sequence.action_range(i % 2))))
            bins = torch.tensor(ids).view(2, 2) - torch.tensor([sequence.action_range(0)[0], sequence.action_range(1)[0]])
        led = [sequence.action_piece(latent, bins)]
    empty, blind = (
        sequence.latent_piece(latent, torch.zeros(2, 3, dtype=torch.int64), row.tokens, known)
        for known in ((*row.bins[1:], bins), (None,) * len(row.bins) if row.bins else ())
    )
    ids = []
    for i in range(6):
        logits = next_logits(ids, empty, led)
        if kind is Actions.GIVEN and sampling.action_guidance != 1:
            unled = logits_behind(context(row.text_ids, (None,) * len(row.bins)), ids, blind)
            logits = guided(logits, unled, sampling.action_guidance)
        ids.append(int(sample(logits, torch.tensor([video[i]]), sampling, (0, 40))))
    return replace(row, tokens=(*row.tokens, torch.tensor(ids).view(2, 3)), bins=(*row.bins, bins))


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, GUIDED, DRIVEN], ids=["greedy", "sampled", "guided", "driven"])
@pytest.mark.parametrize("kind", list(Actions), ids=lambda kind: kind.value)
@pytest.mark.parametrize("latents,text", [(1, 0), (1, 4), (3, 6)])
def test_cached_tokens_equal_uncached_ones(model, sequence, sampling, kind, latents, text) -> None:
    row = _row(11, latents, text, with_bins=kind is Actions.GIVEN)
    rows = Batch(model, sequence, [row], sampling)
    for _ in range(2):
        rows.advance(kind, _bins(1, 2, seed=97 * row.seed + len(row.tokens)) if kind is Actions.GIVEN else None)
        row = _uncached(model, sequence, row, kind, sampling)
    assert torch.equal(rows.rows[0].tokens.stacked(), row.tokens.stacked())
    for mine, theirs in zip(rows.rows[0].bins, row.bins, strict=True):
        assert (mine is None) == (theirs is None) and (mine is None or torch.equal(mine, theirs))


@pytest.mark.parametrize("sampling", [SAMPLED, GUIDED], ids=["sampled", "guided"])
def test_a_first_latent_from_text_and_from_nothing(model, sequence, sampling) -> None:
    for text in ([], [1, 2, 3]):
        row = Row(seed=3, text_ids=text)
        rows = Batch(model, sequence, [row], sampling)
        rows.advance(Actions.ABSENT)
        rows.advance(Actions.IMAGINED)
        row = _uncached(model, sequence, row, Actions.ABSENT, sampling)
        row = _uncached(model, sequence, row, Actions.IMAGINED, sampling)
        assert torch.equal(rows.rows[0].tokens.stacked(), row.tokens.stacked())
        assert rows.rows[0].bins[0] is None and torch.equal(rows.rows[0].bins[1], row.bins[1])


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, GUIDED, DRIVEN], ids=["greedy", "sampled", "guided", "driven"])
@pytest.mark.parametrize("kind", list(Actions), ids=lambda kind: kind.value)
@pytest.mark.parametrize("kept", ["float32", "bfloat16", "halves"])
def test_a_row_gives_the_same_tokens_in_any_batch(model, sequence, sampling, kind, kept) -> None:
    model = _halves(model) if kept == "halves" else copy.deepcopy(model).to(getattr(torch, kept))
    prompts = [_row(seed, latents=1 + seed % 4, text=seed % 3 * 2) for seed in range(8)]  # ragged, some roll on midway
    whole = _roll(Batch(model, sequence, prompts, sampling), [kind] * 5)
    assert len({tuple(row.flatten().tolist()) for row in whole}) == 8
    for members in ([0], [3], [7], [5, 2], [6, 1, 4], [7, 6, 5, 4, 3, 2, 1, 0]):
        part = _roll(Batch(model, sequence, [prompts[i] for i in members], sampling), [kind] * 5)
        assert torch.equal(part, whole[members])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_logits_are_bitwise_the_same_in_any_batch(model, sequence, dtype) -> None:
    model = copy.deepcopy(model).to(dtype)
    prompts = [_row(seed, latents=1 + seed % 3, text=seed % 5) for seed in range(8)]

    def logits(members: list[int]) -> torch.Tensor:
        rows = Batch(model, sequence, [prompts[i] for i in members], SAMPLED)
        return rows._drawing.step(rows._plan([None] * len(members)), 0)

    with torch.inference_mode():
        whole = logits(list(range(8)))
        for members in ([0], [4], [1, 2], [3, 7, 5]):
            assert torch.equal(logits(members), whole[members])


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED, GUIDED, DRIVEN], ids=["greedy", "sampled", "guided", "driven"])
@pytest.mark.parametrize("wrong", [[], [1], [0, 4], [2, 3, 5], [0, 1, 2, 3, 4, 5]], ids=str)
def test_guesses_right_and_wrong_give_the_same_tokens(model, sequence, sampling, wrong, monkeypatch) -> None:
    model, row = _halves(model), _row(11, 3, 6)
    if not weights_of(model).apart:
        pytest.skip("this CPU rounds a token otherwise beside others, so nothing is guessed")
    kind = Actions.GIVEN if sampling is DRIVEN else Actions.IMAGINED
    fed, each = [], DecodeStep.each
    monkeypatch.setattr(DecodeStep, "each", lambda step, ids, first: (fed.append(ids.shape[1]), each(step, ids, first))[1])
    monkeypatch.setattr(drawing, "WIDTHS", (4, 4))
    with monkeypatch.context() as patch:
        for step in (DecodeStep, GuidedStep):
            patch.setattr(step, "apart", 0)
        tokens = _roll(Batch(model, sequence, [row], sampling), [kind] * 2)[0]
    assert not fed
    guesses = tokens[0].flatten().clone()
    guesses[wrong] = (guesses[wrong] + 1) % CONFIG.video_vocab
    rows = Batch(model, sequence, [row], sampling)
    monkeypatch.setattr(rows, "_draft", lambda stream: guesses.tolist() if stream is Stream.VIDEO else [])
    made = [_roll(rows, [kind])[0, 0] for _ in range(2)]  # the second latent stands on what the first has left in the cache
    assert torch.equal(torch.stack(made), tokens)
    assert len(fed) <= 2 * 5 and (wrong or fed[:2] == [4, 1])
    (made_row,) = rows.rows
    of_actions = sequence.action_size if kind is Actions.IMAGINED else 0
    assert made_row.passes == len(fed) + 2 * (1 + of_actions) and made_row.drafted == sum(fed) - len(fed)
    assert made_row.pass_rates(2)["passes_per_latent"] == made_row.passes / 2
    assert 0 <= made_row.pass_rates(2)["draft_acceptance"] <= 1 and (wrong or made_row.accepted > 0)


def test_seeds_differ_and_repeat(model, sequence) -> None:
    same = [replace(_row(1), seed=seed) for seed in (1, 2, 1)]
    a, b, c = _roll(Batch(model, sequence, same, SAMPLED), [Actions.ABSENT] * 3)
    assert torch.equal(a, c) and not torch.equal(a, b)
    a, b, _ = _roll(Batch(model, sequence, same, GREEDY), [Actions.ABSENT] * 3)
    assert torch.equal(a, b)


@pytest.mark.parametrize("sampling", [SAMPLED, GUIDED, DRIVEN], ids=["sampled", "guided", "driven"])
def test_a_fork_goes_on_as_the_original_would(model, sequence, sampling) -> None:
    rows = Batch(model, sequence, [_row(1), _row(2, 3, 4)], sampling)
    _roll(rows, [Actions.GIVEN])
    forks = rows.select([1, 0, 1])
    ahead = _roll(forks, [Actions.IMAGINED, Actions.GIVEN, Actions.GIVEN])
    assert torch.equal(_roll(rows, [Actions.IMAGINED, Actions.GIVEN, Actions.GIVEN]), ahead[[1, 0]])
    assert torch.equal(ahead[0], ahead[2])


def test_guidance_is_for_rows_with_a_text(model, sequence) -> None:
    """A row without one costs and gives what it does unguided, and goes on so beside others, joined or parted."""
    plain, told = _row(1), _row(2, 3, 4)
    lone, other = Batch(model, sequence, [plain], GUIDED), Batch(model, sequence, [told], GUIDED)
    expected = _roll(Batch(model, sequence, [plain], SAMPLED), [Actions.IMAGINED] * 5)[0]
    joined = Batch.stack([lone, other])
    assert [len(rows._caches) for rows in (lone, other, joined, joined.select([0]))] == [1, 2, 2, 1]
    assert torch.equal(_roll(joined, [Actions.IMAGINED] * 5)[0], expected)
    assert not torch.equal(_roll(Batch(model, sequence, [told], SAMPLED), [Actions.IMAGINED] * 2), _roll(other, [Actions.IMAGINED] * 2))
    parted = joined.select([0])
    assert torch.equal(_roll(parted, [Actions.IMAGINED]), _roll(joined, [Actions.IMAGINED])[:1])


def test_guidance_by_actions_is_for_given_ones(model, sequence) -> None:
    """It comes and goes with them, and a row goes on so beside others, joined or parted."""
    rows, other = (Batch(model, sequence, [_row(seed)], DRIVEN) for seed in (1, 2))
    _roll(rows, [Actions.GIVEN])
    _roll(other, [Actions.IMAGINED])
    assert not torch.equal(rows.rows[0].tokens[-1], _roll(Batch(model, sequence, [_row(1)], SAMPLED), [Actions.GIVEN])[0, 0])
    assert torch.equal(other.rows[0].tokens[-1], _roll(Batch(model, sequence, [_row(2)], SAMPLED), [Actions.IMAGINED])[0, 0])
    joined = Batch.stack([rows, other])
    assert [len(each._caches) for each in (rows, other, joined)] == [2, 1, 1]
    kinds = [Actions.GIVEN, Actions.IMAGINED, Actions.ABSENT, Actions.GIVEN, Actions.GIVEN]  # beyond the trained length
    assert torch.equal(_roll(joined, kinds), torch.cat([_roll(rows, kinds), _roll(other, kinds)]))


def test_beyond_the_trained_length_a_row_rolls_on_from_its_last_latents(model, sequence) -> None:
    rows = Batch(model, sequence, [_row(4, text=3)], SAMPLED)
    _roll(rows, [Actions.GIVEN] * 4)
    assert rows.rows[0].base == 0 and len(rows.rows[0].tokens) == 5
    before = rows.rows[0]
    _roll(rows, [Actions.GIVEN])
    assert rows.rows[0].base == 3  # two latents were kept, the third is new
    # the same as a prompt of the last two latents, but for the count that the draws go by
    prompt = replace(before, base=3)
    fresh = Batch(model, sequence, [prompt], SAMPLED)
    assert torch.equal(_roll(fresh, [Actions.GIVEN])[0, 0], rows.rows[0].tokens[-1])
    _roll(rows, [Actions.GIVEN] * 10)
    assert len(rows.rows[0].tokens) == 16 and rows._caches[0].capacity == sequence.max_length


def test_a_prompt_longer_than_the_trained_length_keeps_its_end(model, sequence) -> None:
    rows = Batch(model, sequence, [_row(4, latents=9)], SAMPLED)
    assert rows.rows[0].base == 7 and rows._caches[0].longest == 1 + 2 * 6 + 4 - 1
    assert rows.advance(Actions.ABSENT).shape == (1, 2, 3)


def test_tokens_stay_in_their_ranges(model, sequence) -> None:
    rows = Batch(model, sequence, [_row(seed) for seed in range(4)], SamplingConfig(temperature=50.0, top_p=1.0))
    tokens = _roll(rows, [Actions.IMAGINED] * 4)
    assert 0 <= tokens.min() and tokens.max() < 40 and tokens.unique().numel() > 30
    bins = torch.stack([b for row in rows.rows for b in row.bins[1:]])
    assert bins.shape[1:] == (2, 2)
    assert bins[..., 0].unique().tolist() == list(range(5)) and bins[..., 1].unique().tolist() == list(range(7))


@pytest.fixture
def sharing(monkeypatch) -> None:
    """Pasts are shared from 8 tokens on, which the tiny prompts here reach."""
    monkeypatch.setattr("wfm_ar.world_model.kv_cache.SHARED_FROM", 8)
    monkeypatch.setattr("wfm_ar.rollout.engine.SHARED_FROM", 8)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("kind", list(Actions), ids=lambda kind: kind.value)
def test_futures_of_one_prompt_share_its_past_and_give_the_tokens_of_lone_rows(model, sequence, sampling, kind, sharing) -> None:
    prompts = [replace(_row(3, 3, 4, with_bins=kind is Actions.GIVEN), seed=seed) for seed in range(5)]
    rows = Batch(model, sequence, prompts, sampling)
    length = 4 + 1 + 3 * 6 + (2 * 4 if kind is Actions.GIVEN else 0) - 1
    assert rows._caches[0].prefix[0].shape == (2, 2, length, 12)  # once for all five rows
    assert rows._caches[0].k.shape == (2, 5, 2, sequence.max_length - length, 12)
    together = _roll(rows, [kind] * 2)
    assert rows._caches[0].prefix is not None and rows._caches[0].longest > 0
    alone = [_roll(Batch(model, sequence, [prompt], sampling), [kind] * 2) for prompt in prompts]
    assert torch.equal(together, torch.cat(alone))
    _roll(rows, [kind] * 2)  # beyond the trained length every row goes on from its own last latents
    assert rows._caches[0].prefix is None


def test_a_fork_copies_no_past(model, sequence, sharing) -> None:
    rows = Batch(model, sequence, [_row(2, 2, 4)], SAMPLED)
    _roll(rows, [Actions.GIVEN])
    forks = rows.select([0] * 4)
    length = rows._caches[0].longest
    assert forks._caches[0].prefix[0].data_ptr() == rows._caches[0].k.data_ptr() and forks._caches[0].prefix[0].shape[2] == length
    forks.rows = [replace(row, seed=seed) for seed, row in enumerate(forks.rows)]
    ahead = _roll(forks, [Actions.GIVEN])
    again = forks.select([1, 1])
    assert again._caches[0].prefix[0].shape[2] == length + forks._caches[0].longest
    assert torch.equal(_roll(again, [Actions.GIVEN])[0], _roll(forks, [Actions.GIVEN])[1])
    rows.rows = [replace(rows.rows[0], seed=3)]  # the original goes on in the same memory, behind what its forks see
    assert torch.equal(_roll(rows, [Actions.GIVEN])[0], ahead[3])
    mixed = Batch.stack([forks, rows])  # different pasts: each row gets its own copy
    assert mixed._caches[0].prefix is None and len(mixed.rows) == 5
    expected = torch.cat((_roll(forks, [Actions.ABSENT]), _roll(rows, [Actions.ABSENT])))
    assert torch.equal(_roll(mixed, [Actions.ABSENT]), expected)


def test_logits_of_a_shared_past_are_near_a_lone_rows(model, sequence, sharing) -> None:
    prompts = [replace(_row(3, 4, 4), seed=seed) for seed in range(5)]

    def logits(members: list[int]) -> torch.Tensor:
        rows = Batch(model, sequence, [prompts[i] for i in members], SAMPLED)
        return rows._drawing.step(rows._plan([None] * len(members)), 0)

    with torch.inference_mode():
        together, alone = logits([0, 1, 2, 3, 4]), logits([0])
        assert (together - alone).abs().max().item() <= 1e-5 and together.std() > 0.5
        assert torch.equal(logits([2, 3]), together[:2])  # among rows that share, bit for bit


def test_roll_puts_rows_of_one_past_together(model, sequence, sharing, monkeypatch) -> None:
    sizes, use = [], Batch._use

    def seen(self, cache) -> None:
        sizes.append((len(self.rows), cache.prefix is not None))
        use(self, cache)

    monkeypatch.setattr(Batch, "_use", seen)
    rows = [replace(_row(3, 3), seed=seed) for seed in range(3)] + [_row(5, 2), _row(6, 1)]
    requests = [Request(row=row, num_latents=4, actions=Actions.ABSENT) for row in rows]
    finished = roll(model, sequence, requests, SAMPLED)
    assert (3, True) in sizes and (2, False) in sizes
    for request, row in zip(requests, finished, strict=True):
        (alone,) = roll(model, sequence, [request], SAMPLED)
        assert len(row.tokens) == 4 and torch.equal(alone.tokens.stacked(), row.tokens.stacked())


def test_rolling_leaves_threads_to_others(model, sequence, monkeypatch) -> None:
    monkeypatch.setattr(threads, "SMALL", 0)
    assert threads.shared_threads(model, 1) == (torch.get_num_threads(), 0)
    monkeypatch.undo()
    requests = [Request(row=_row(seed), num_latents=2, actions=Actions.ABSENT) for seed in (1, 2)]
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(4)
    try:
        for some in (requests[:1], requests):
            roll(model, sequence, some, SAMPLED, lambda *made: seen.append(torch.get_num_threads()))
            assert torch.get_num_threads() == 4
        with pytest.raises(InterruptedError):
            roll(model, sequence, requests[:1], SAMPLED, lambda *made: (_ for _ in ()).throw(InterruptedError))
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
    assert seen == [1, 2, 2]
