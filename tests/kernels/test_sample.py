"""`sample`: filters and draws of the kernel against the sorting reference, Philox against known answers, and the distribution."""

import pytest
import torch
from wfm_kernels import KernelError, sample
from wfm_kernels.sample import cpu, reference
from wfm_kernels.sample.philox import philox, philox_word, uniform
from wfm_kernels.sample.triton import CANDIDATES, candidates
from wfm_kernels.sample.triton import sample as triton_sample


def keys(B, device="cpu", seed=7, step=3):
    return tuple(x.to(device) for x in (torch.full((B,), seed), torch.arange(B) + 100, torch.full((B,), step)))


def test_philox_known_answers():
    """Vectors of the Random123 distribution: all counters and keys zero, and all ones."""
    zero, ones = torch.tensor([0]), torch.tensor([-1])
    assert [int(w) for w in philox(zero, zero, zero, 0)] == [0x6627E8D5, 0xE169C58D]
    first, second = philox(torch.tensor([5]), torch.tensor([1]), torch.tensor([2]), 3)
    again = philox(torch.tensor([5, 9]), torch.tensor([1, 8]), torch.tensor([2, 7]), 3)
    assert int(again[0][0]) == int(first) and int(again[1][0]) == int(second)
    streams = philox(torch.tensor([5, 9]), torch.tensor([1, 8]), torch.tensor([2, 7]), torch.tensor([[0], [3]]))
    assert all(torch.equal(words[1], one) for words, one in zip(streams, again, strict=True))
    assert 0 <= float(uniform(torch.tensor(0))) and float(uniform(torch.tensor(0xFFFFFFFF))) < 1.0
    assert [int(w) for w in philox(ones, zero, zero, 0)] != [int(w) for w in philox(torch.tensor([0xFFFFFFFF]), zero, zero, 0)]


def test_philox_of_one_key_is_that_of_many():
    seed, row, step = torch.randint(-(2**62), 2**62, (3, 40))
    words = philox(seed, row, step, 3)[0]
    assert [philox_word(*key, 3) for key in zip(seed.tolist(), row.tolist(), step.tolist(), strict=True)] == words.tolist()
    assert torch.equal(cpu.uniforms(seed, row, step)[:5], cpu.uniforms(seed[:5], row[:5], step[:5]))


SETTINGS = [
    dict(),
    dict(temperature=0.7, top_k=5),
    dict(top_p=0.6),
    dict(temperature=1.3, top_k=20, top_p=0.8, min_p=0.02),
    dict(temperature=0.0),
    dict(guided=True, guidance=2.5, top_p=0.9),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_kernel_equals_reference(settings, device):
    torch.manual_seed(0)
    B, V = 2, 333
    logits = (torch.randn(B, V + 4, device=device) * 2)[:, :V]
    settings = dict(settings)
    if settings.pop("guided", False):
        settings["unguided_BV"] = torch.randn(B, V, device=device)
    arguments = keys(B, device)
    token, logprob = triton_sample(logits, *arguments, **settings)
    expected, expected_logprob = reference.sample(logits, *arguments, **settings)
    assert token.tolist() == expected.tolist()
    torch.testing.assert_close(logprob, expected_logprob, atol=2e-5, rtol=0)


@pytest.mark.parametrize("spread", [4.0, 0.02], ids=["sharp", "flat"])  # flat: top-p keeps more than the candidates in registers
def test_kernel_equals_reference_beyond_one_tile(spread, device):
    """Vocabularies wider than the candidates, than a tile, and than all that are not refused."""
    torch.manual_seed(0)
    logits, other = torch.randn(2, 3, 2 * CANDIDATES + 700, device=device) * spread
    logits[1, 50:-40] = float("-inf")
    logits[2, ::2] = logits[2, 0]  # ties: no threshold leaves few
    for settings in (*SETTINGS, dict(top_k=1), dict(top_k=CANDIDATES + 10), dict(top_k=900, top_p=0.9), dict(top_p=0.95, min_p=0.01)):
        settings = dict(settings)
        if settings.pop("guided", False):
            settings["unguided_BV"] = other
        token, logprob = triton_sample(logits, *keys(3, device), **settings)
        expected, expected_logprob = reference.sample(logits, *keys(3, device), **settings)
        assert token.tolist() == expected.tolist(), settings
        torch.testing.assert_close(logprob, expected_logprob, atol=2e-5, rtol=0)


def long_rows(device):
    """Rows of 4099 and of 8999 tokens on which the histogram and what it leaves might fail, by name."""
    torch.manual_seed(1)
    rows = {name: torch.randn(2 * CANDIDATES + 807, device=device) * 3 for name in ("plain", "masked", "unseen", "far", "cold", "one")}
    rows["masked"][:1024] = float("-inf")  # the first tokens, whole segments
    rows["masked"][CANDIDATES : 2 * CANDIDATES] = float("-inf")
    seen = torch.arange(1024, device=device)
    rows["unseen"][(seen >> 3) * (len(rows["unseen"]) // 128) + (seen & 7)] = float("-inf")  # all those that make the reference
    rows["far"] = rows["far"] / 3 + 100
    rows["cold"] *= 3000  # beyond the bins on both sides
    rows["one"][:] = float("-inf")
    rows["one"][2 * CANDIDATES + 5] = -3.0
    ties = torch.zeros(CANDIDATES + 3, device=device)
    ties[7::2] = -1.0  # a threshold in a bin of 2048 equals, on both sides of the end of a segment
    ties[[40, CANDIDATES + 1]] = 2.0
    crowd = torch.full((2 * CANDIDATES + 100,), 0.25, device=device)
    crowd[[3, CANDIDATES + 9]] = 5.0
    return rows | dict(ties=ties, crowd=crowd, wide=torch.randn(CANDIDATES + 1, device=device) * 0.5)


LONG = [
    dict(temperature=0.0),
    dict(top_k=2),  # in `ties` and `crowd` just those of a bin of their own
    dict(top_k=3),
    dict(top_k=300, top_p=0.7, temperature=0.5),
    dict(top_k=2051),
    dict(top_p=0.02),
    dict(top_p=0.95),
    dict(top_p=0.999, min_p=1e-5),
]


@pytest.mark.parametrize("settings", LONG, ids=str)
def test_long_rows_equal_reference(settings, device):
    for name, row in long_rows(device).items():
        token, logprob = triton_sample(row[None], *keys(1, device), **settings)
        expected, expected_logprob = reference.sample(row[None], *keys(1, device), **settings)
        assert token.tolist() == expected.tolist(), name
        torch.testing.assert_close(logprob, expected_logprob, atol=2e-5, rtol=0, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("settings", LONG[:2] + LONG[3:7], ids=str)
def test_a_long_row_keeps_few_candidates_and_all_that_count(settings, device):
    """The launch before the draw, by itself: what it writes is the row's upper part, ids ascending, and no more than a bin too many."""
    top_k, top_p = 1 if settings.get("temperature") == 0.0 else settings.get("top_k", 0), settings.get("top_p", 1.0)
    scale = 1 / (settings.get("temperature") or 1.0)
    for name, row in long_rows(device).items():
        _, number, score, token = candidates(row[None], row[None], scale, 1.0, top_k, top_p, False)
        n = int(number)
        kept = reference.keep_BV(row[None] * scale, top_k or None, 1.0 if top_k else top_p, 0.0)[0] & row.isfinite()
        if name in ("plain", "masked", "unseen", "far", "one"):
            assert kept.sum() <= n <= 1.5 * kept.sum() + 60, name
        if name in ("ties", "crowd") and top_k in (1, 2):
            assert n == 2, name  # just those of the bin are enough
        if n <= CANDIDATES:
            above = row * scale >= score[0, :n].min()
            assert torch.equal(token[0, :n].long(), above.nonzero()[:, 0]) and torch.equal(score[0, :n], (row * scale)[above]), name
            assert not (kept & ~above).any(), name


def test_a_long_row_is_the_same_alone_and_among_others(device):
    rows = [row[: CANDIDATES + 1] for row in list(long_rows(device).values())[::2]]
    logits, other = torch.stack(rows), torch.randn(len(rows), CANDIDATES + 1, device=device)
    for settings in (dict(temperature=0.0), dict(top_k=40, top_p=0.9), dict(top_p=0.8, unguided_BV=other, guidance=1.7)):
        token, logprob = triton_sample(logits, *keys(len(rows), device), **settings)
        for i in range(1, len(rows), 2):
            alone = {name: x[i : i + 1] if name == "unguided_BV" else x for name, x in settings.items()}
            got = triton_sample(logits[i : i + 1], *(x[i : i + 1] for x in keys(len(rows), device)), **alone)
            assert torch.equal(got[0], token[i : i + 1]) and torch.equal(got[1].view(torch.int32), logprob[i : i + 1].view(torch.int32))


@pytest.mark.parametrize("bad", ["nan", "inf", "-inf"])
def test_a_long_row_without_a_distribution_is_told(bad, device):
    logits = torch.randn(2, CANDIDATES + 9, device=device)
    logits[1, slice(None) if bad == "-inf" else CANDIDATES + 2] = float(bad)
    for settings in (dict(), dict(temperature=0.0), dict(top_k=2), dict(top_p=0.5)):
        token, logprob = triton_sample(logits, *keys(2, device), **settings)
        assert ((0 <= token) & (token < logits.shape[1])).all() and logprob.isnan().tolist() == [False, True]


@pytest.mark.parametrize("spread", [400.0, 4.0, 0.05], ids=["sure", "sharp", "flat"])  # kept: one, few, many
@pytest.mark.parametrize("vocabulary", [7, 256, 1500])
def test_cpu_path_equals_reference(vocabulary, spread):
    torch.manual_seed(0)
    logits, other = torch.randn(2, 12, vocabulary) * spread
    for settings in (*SETTINGS, dict(top_k=700), dict(top_k=300, top_p=0.5), dict(top_p=0.95, min_p=0.01), dict(min_p=0.2)):
        settings = dict(settings)
        if settings.pop("guided", False):
            settings["unguided_BV"] = other
        for step in range(4):
            token, logprob = sample(logits, *keys(12, step=step), **settings)
            expected, expected_logprob = reference.sample(logits, *keys(12, step=step), **settings)
            assert token.tolist() == expected.tolist()
            torch.testing.assert_close(logprob, expected_logprob, atol=2e-5, rtol=0)
            assert torch.equal(cpu.pick(logits, cpu.uniforms(*keys(12, step=step)), **settings), token)


def test_kernel_thresholds_meet_ties_and_masked_tokens(device):
    logits = torch.tensor([[1.0, 3.0, 2.0, 2.0, -1.0, float("-inf"), 2.0]] * 2, device=device)
    arguments = keys(2, device)
    kept = reference.keep_BV(logits, 2, 1.0, 0.0)[0]
    assert kept.nonzero().flatten().tolist() == [1, 2, 3, 6]  # the second place is shared by three
    for settings in (dict(top_k=2), dict(top_p=0.5), dict(min_p=0.3), dict()):
        token, logprob = triton_sample(logits, *arguments, **settings)
        expected, expected_logprob = reference.sample(logits, *arguments, **settings)
        assert token.tolist() == expected.tolist() and 5 not in token.tolist()
        torch.testing.assert_close(logprob, expected_logprob, atol=1e-5, rtol=0)


@pytest.mark.parametrize("settings", [dict(top_k=1), dict(top_p=0.1), dict(temperature=0.0)], ids=str)
def test_the_two_zeros_are_equal(settings, device):
    logits = torch.tensor([[-0.0, 0.0, -1.0], [0.0, -0.0, -1.0]], device=device).repeat(4, 1)
    token, logprob = triton_sample(logits, *keys(8, device), **settings)
    expected, expected_logprob = reference.sample(logits, *keys(8, device), **settings)
    assert token.tolist() == expected.tolist()
    torch.testing.assert_close(logprob, expected_logprob, atol=2e-5, rtol=0)


def test_guidance_leaves_refused_tokens_refused(device):
    none = float("-inf")
    logits = torch.tensor([[1.0, 2.0, none, none, 0.5]] * 6, device=device)
    other = torch.tensor([[0.0, none, none, 1.0, 0.5]] * 6, device=device)
    for path in (reference.sample, triton_sample, *((sample,) if device.type == "cpu" else ())):
        for settings in (dict(), dict(temperature=0.0), dict(top_k=4, top_p=0.99)):
            token, logprob = path(logits, *keys(6, device), unguided_BV=other, guidance=2.0, **settings)
            assert set(token.tolist()) <= {0, 4} and logprob.isfinite().all()


@pytest.mark.parametrize("bad", [[1.0, float("nan"), 2.0], [1.0, float("inf"), 2.0], [float("-inf")] * 3], ids=str)
def test_a_row_without_a_distribution_is_told(bad, device):
    logits = torch.tensor([[0.0, 1.0, 2.0], bad], device=device)
    for settings in (dict(), dict(temperature=0.0), dict(top_k=2), dict(top_p=0.5)):
        token, logprob = triton_sample(logits, *keys(2, device), **settings)
        assert ((0 <= token) & (token < 3)).all() and logprob.isnan().tolist() == [False, True]
        for path in (lambda **s: sample(logits.cpu(), *keys(2), **s), lambda **s: cpu.pick(logits.cpu(), torch.rand(2), **s)):
            with pytest.raises(KernelError, match="sample: row 1 of the logits has NaN, .inf or only -inf"):
                path(**settings)


def test_a_row_draws_the_same_whatever_its_neighbours(device):
    logits = torch.randn(3, 50, device=device)
    seed, row, step = keys(3, device)
    for path in (triton_sample,) + ((sample,) if device.type == "cpu" else ()):
        together = path(logits, seed, row, step, min_p=0.01)
        alone = path(logits[2:3], seed[2:3], row[2:3], step[2:3], min_p=0.01)
        assert torch.equal(together[0][2:3], alone[0]) and torch.equal(together[1][2:3], alone[1])


def test_draws_follow_the_distribution_and_change_with_every_key():
    B = 20000
    probs = torch.tensor([0.5, 0.25, 0.125, 0.125])
    logits = probs.log().expand(B, 4)
    token, logprob = sample(logits, *keys(B))
    frequency = token.bincount(minlength=4) / B
    assert (frequency - probs).abs().max() < 4 * (0.25 / B) ** 0.5
    torch.testing.assert_close(logprob, probs.log()[token])
    for other in (keys(B, seed=8), keys(B, step=4), (keys(B)[0], keys(B)[1] + 1, keys(B)[2])):
        agreement = (sample(logits, *other)[0] == token).float().mean()
        assert abs(agreement - probs.square().sum()) < 0.02  # as two independent draws agree
    kept, kept_logprob = sample(logits, *keys(B), top_k=2)
    assert set(kept.tolist()) == {0, 1}
    torch.testing.assert_close(kept_logprob.exp(), torch.tensor([2 / 3, 1 / 3])[kept])


def test_refusals():
    logits = torch.randn(2, 5)
    for change, message in [
        (dict(top_p=0.0), r"top_p=0.0"),
        (dict(temperature=-1.0), r"temperature=-1.0"),
        (dict(temperature=float("inf")), r"temperature=inf"),
        (dict(temperature=1e-40), r"temperature=1e-40, .* expected temperature 0 or >= 1e-06"),
        (dict(top_k=0), r"top_k=0"),
        (dict(top_k=2.5), r"top_k=2.5"),
        (dict(guidance=float("nan")), r"guidance=nan"),
        (dict(unguided_BV=logits[:, :4]), r"unguided has shape \(2, 4\), expected \(2, 5\)"),
    ]:
        with pytest.raises(KernelError, match="^sample: .*" + message):
            sample(logits, *keys(2), **change)
    with pytest.raises(KernelError, match=r"seed has shape \(3,\), expected \(2,\)"):
        sample(logits, *keys(3))


@pytest.mark.parametrize("V", [60, 65, 129, 600, 2187, 5000])
@pytest.mark.parametrize("spread", [0.1, 1.0, 8.0], ids=["flat", "plain", "sharp"])
def test_few_candidates_draw_what_all_would(V, spread):
    """On the CPU, where the likeliest 64 come first: rows that need more, and ties that reach beyond them."""
    torch.manual_seed(0)
    logits = torch.randn(8, V) * spread
    logits[4:] = (logits[4:] * 2).round() / 2
    for settings in (
        *SETTINGS[:4],
        dict(top_k=70, top_p=0.8),
        dict(top_k=V - 1, top_p=0.99),
        dict(top_p=0.95, min_p=0.02),
        dict(min_p=0.1),
    ):
        token, logprob = cpu.sample(logits, *keys(8), **settings)
        expected, expected_logprob = reference.sample(logits, *keys(8), **settings)
        assert token.tolist() == expected.tolist(), settings
        torch.testing.assert_close(logprob, expected_logprob, atol=2e-5, rtol=0)
        alone = [int(cpu.sample(logits[i : i + 1], *(key[i : i + 1] for key in keys(8)), **settings)[0]) for i in range(8)]
        assert alone == token.tolist()
