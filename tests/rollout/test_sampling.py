"""Sampling: against the published networks' filters, against counting, and independent of neighbours."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import wfm_kernels

from wfm_ar.errors import BadCheckpoint, BadConfig, BadPrompt
from wfm_ar.rollout.sampling import PLACES, SamplingConfig, Stream, draws, filtered_probabilities, keys, sample

GOLDEN = Path(os.environ.get("WFM_GOLDEN", Path(__file__).parents[3] / "shared" / "golden"))


def _golden() -> dict[str, torch.Tensor]:
    path = GOLDEN / "sampling.safetensors"
    if not path.is_file():
        pytest.skip("golden/sampling.safetensors is not here")
    from safetensors.torch import load_file

    return load_file(path)


@pytest.mark.golden
def test_filters_equal_the_published_ones() -> None:
    golden, compared = _golden(), 0
    logits = golden["logits"][:, -1]
    for key, expected in golden.items():
        if not key.endswith(".probs"):
            continue
        kind, temperature, bound = key.removesuffix(".probs").split(".", 1)[0], *_settings(key)
        config = SamplingConfig(temperature=temperature, top_p=1.0, top_k=bound) if kind == "top_k" else None
        config = config or SamplingConfig(temperature=temperature, top_p=bound)
        found = filtered_probabilities(logits, config, ties=kind == "top_k").float()
        if kind == "top_p":  # which of row 2's equal tokens is kept is nobody's promise: compare their sizes
            assert torch.allclose(found[:2], expected[:2], atol=1e-7, rtol=1e-5)
            found, expected = found[2].sort().values, expected[2].sort().values
        assert torch.allclose(found, expected, atol=1e-7, rtol=1e-5), key
        compared += 1
    assert compared == 24
    assert torch.equal(sample(logits, torch.zeros(3), SamplingConfig(temperature=0.0)), golden["greedy.token"][:, 0])


def _settings(key: str) -> tuple[float, float | int | None]:
    temperature, bound = key.removesuffix(".probs").split(".t", 1)[1].rsplit(".p" if "top_p" in key else ".k", 1)
    if "top_p" in key:
        return float(temperature), float(bound)
    return float(temperature), None if bound == "None" else int(bound)


def _logits(rows: int, vocabulary: int, spread: float = 2.0, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * spread


CONFIGS = [
    SamplingConfig(),
    SamplingConfig(temperature=0.0),
    SamplingConfig(top_p=1.0),
    SamplingConfig(temperature=3.0, top_p=0.99),
    SamplingConfig(top_k=5, top_p=1.0),
    SamplingConfig(top_k=200, top_p=1.0),
    SamplingConfig(top_k=8, top_p=0.5, temperature=0.7),
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("vocabulary", [7, 256, 1000])
def test_a_row_does_not_depend_on_its_neighbours(config: SamplingConfig, vocabulary: int) -> None:
    logits = torch.cat([_logits(4, vocabulary), _logits(4, vocabulary, spread=0.01, seed=1)])
    uniforms = torch.from_numpy(draws(3, 0, Stream.VIDEO, 8))
    together = sample(logits, uniforms, config)
    alone = torch.cat([sample(logits[i : i + 1], uniforms[i : i + 1], config) for i in range(8)])
    assert torch.equal(together, alone) and together.dtype == torch.int64
    assert torch.equal(sample(logits[:, 2:6], uniforms, config) + 2, sample(logits, uniforms, config, allowed=(2, 6)))


@pytest.mark.parametrize("config", [c for c in CONFIGS if c.temperature], ids=str)
@pytest.mark.parametrize("spread", [2.0, 0.3])
def test_evenly_spaced_uniforms_give_the_filtered_probabilities(config: SamplingConfig, spread: float) -> None:
    logits, count = _logits(1, 300, spread), 4000
    uniforms = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    frequencies = torch.bincount(sample(logits.expand(count, -1), uniforms, config), minlength=300) / count
    expected = filtered_probabilities(logits, config)[0]
    assert expected.sum().item() == pytest.approx(1.0, abs=1e-12)
    assert (frequencies - expected).abs().max().item() <= 1.01 / count


def test_what_is_kept() -> None:
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()
    kept = {p: int((filtered_probabilities(logits, SamplingConfig(top_p=p)) > 0).sum()) for p in (0.01, 0.39, 0.41, 0.71, 1.0)}
    assert kept == {0.01: 1, 0.39: 1, 0.41: 2, 0.71: 3, 1.0: 4}
    ties = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    assert int((filtered_probabilities(ties, SamplingConfig(top_p=1.0, top_k=2)) > 0).sum()) == 3
    assert sample(logits, torch.tensor([1 - 2.0**-32], dtype=torch.float64), SamplingConfig(top_p=1.0)).item() == 3
    assert sample(logits, torch.tensor([0.0]), SamplingConfig(top_p=1.0)).item() == 0
    assert sample(logits, torch.tensor([0.0]), SamplingConfig(), allowed=(2, 4)).item() == 2


def test_a_sharp_row_takes_its_peak() -> None:
    logits = torch.full((1, 5000), -50.0)
    logits[0, 4321] = 50.0
    for config in CONFIGS:
        assert sample(logits, torch.tensor([0.999], dtype=torch.float64), config).item() == 4321


def test_draws_are_counted_not_carried() -> None:
    first = draws(7, 3, Stream.VIDEO, 100)
    assert first.dtype == np.float32 and 0 <= first.min() and first.max() < 1
    assert np.array_equal(draws(7, 3, Stream.VIDEO, 10), first[:10])
    others = [draws(8, 3, Stream.VIDEO, 100), draws(7, 4, Stream.VIDEO, 100), draws(7, 3, Stream.ACTION, 100)]
    assert all(np.abs(other - first).min() > 0 for other in others)
    many = draws(0, 0, Stream.VIDEO, 100_000)
    assert abs(many.mean() - 0.5) < 0.005 and abs(many.std() - math.sqrt(1 / 12)) < 0.005
    # the first word of the Random123 vector of Philox-4x32-10 with all counters and keys zero
    assert draws(0, 0, Stream.VIDEO, 1)[0] == (0x6627E8D5 >> 8) * 2.0**-24


def test_draws_are_those_of_the_kernels_op() -> None:
    """`wfm_kernels.sample` with the keys draws what `sample` draws with the uniforms: one generator for every path."""
    logits, count = _logits(9, 200), 9
    seed, row, step = keys(5, 2, Stream.ACTION)
    assert step == 2 * PLACES
    full = (torch.full((count,), seed), torch.full((count,), row), step + torch.arange(count))
    uniforms = torch.from_numpy(draws(5, 2, Stream.ACTION, count))
    for config in CONFIGS:
        assert torch.equal(wfm_kernels.sample(logits, *full, **config.settings)[0], sample(logits, uniforms, config))


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, True, "1"])
def test_bad_seeds(seed: object) -> None:
    with pytest.raises(BadPrompt, match="seed: got"):
        draws(seed, 0, Stream.VIDEO, 1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": -0.1},
        {"temperature": 1e-40},
        {"temperature": math.nan},
        {"temperature": "1"},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": 0},
        {"top_k": 1.5},
        {"text_guidance": -1},
        {"action_guidance": float("nan")},
        {"text_guidance": 2.0, "action_guidance": 1.5},
    ],
)
def test_bad_settings(settings: dict) -> None:
    with pytest.raises(BadConfig, match=f"{next(iter(settings))}: got"):
        SamplingConfig(**settings)


@pytest.mark.parametrize("config", [SamplingConfig(temperature=0.0), SamplingConfig(), SamplingConfig(top_k=2)], ids=str)
def test_logits_that_are_no_numbers_are_the_checkpoints_fault(config):
    with pytest.raises(BadCheckpoint, match="world model: sample: row 1 of the logits has NaN"):
        sample(torch.tensor([[0.0, 1.0, 2.0], [0.0, math.nan, 2.0]]), torch.rand(2), config)


def test_actions_may_have_a_temperature_of_their_own():
    config = SamplingConfig(temperature=0.0, action_temperature=0.7)
    assert config.of(Stream.VIDEO) == config and config.of(Stream.ACTION).temperature == 0.7
    assert SamplingConfig(temperature=0.3).of(Stream.ACTION).temperature == 0.3
    with pytest.raises(BadConfig, match="action_temperature: got -1"):
        SamplingConfig(action_temperature=-1)


def test_a_first_picture_may_be_drawn_in_its_own_way():
    config = SamplingConfig(temperature=0.3, top_p=0.9, image_temperature=1.0, image_top_p=1.0)
    assert config.of(Stream.VIDEO, image=True).settings == {"temperature": 1.0, "top_k": None, "top_p": 1.0}
    assert config.of(Stream.VIDEO).settings == {"temperature": 0.3, "top_k": None, "top_p": 0.9}
    assert config.of(Stream.ACTION) == config
    assert SamplingConfig(temperature=0.3).of(Stream.VIDEO, image=True).settings["temperature"] == 0.3
    with pytest.raises(BadConfig, match="image_top_p: got 0"):
        SamplingConfig(image_top_p=0)
