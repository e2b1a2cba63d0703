"""The action tokenizer: lattice, exact zero, clipping, refusals."""

import numpy as np
import pytest
import torch

from wfm_ar.errors import BadActions, BadData
from wfm_ar.schema import ActionChannel, ActionSchema
from wfm_ar.tokenizers.action import ActionTokenizer


def _schema(*channels: ActionChannel) -> ActionSchema:
    return ActionSchema(channels=channels, rate_hz=10.0)


def _channel(low: float, high: float, bins: int = 64, discrete: bool = False, name: str = "x") -> ActionChannel:
    return ActionChannel(name=name, unit="m", low=low, high=high, bins=bins, discrete=discrete)


PEG = _schema(_channel(-0.025, 0.025, name="dx"), _channel(-0.025, 0.025, name="dy"))
CAR = _schema(_channel(-1.0, 1.0, 31, name="steer"), _channel(0.0, 1.0, 16, name="pedal"), _channel(-1.0, 6.0, discrete=True, name="gear"))


def test_sizes_and_offsets() -> None:
    peg, car = ActionTokenizer(PEG), ActionTokenizer(CAR)
    assert peg.bins == (63, 63) and peg.offsets == (0, 63) and peg.vocab_size == 126
    assert car.bins == (31, 16, 8) and car.offsets == (0, 31, 47) and car.vocab_size == 55


@pytest.mark.parametrize("schema", [PEG, CAR])
def test_every_token_survives_a_round_trip(schema: ActionSchema) -> None:
    tokenizer = ActionTokenizer(schema)
    longest = max(tokenizer.bins)
    bins = torch.stack([torch.arange(longest).clamp(max=n - 1) for n in tokenizer.bins], dim=1)
    values = tokenizer.decode(bins)
    again, num_clipped = tokenizer.encode(values)
    assert values.dtype == np.float32 and again.dtype == torch.int64
    assert torch.equal(again, bins) and num_clipped == 0


@pytest.mark.parametrize("low,high,bins", [(-0.025, 0.025, 64), (-0.025, 0.025, 63), (-1, 3, 64), (-3, 1, 10), (-0.001, 9, 5), (-1, 1, 3)])
def test_zero_is_exact_and_the_error_is_half_a_step(low: float, high: float, bins: int) -> None:
    tokenizer = ActionTokenizer(_schema(_channel(low, high, bins)))
    ends = np.array([[0.0], [low], [high]])
    ids, num_clipped = tokenizer.encode(ends)
    assert np.array_equal(tokenizer.decode(ids), ends.astype(np.float32)) and num_clipped == 0
    values = np.linspace(low, high, 1001)[:, None]
    step = np.diff(tokenizer.points[0]).max()
    assert np.abs(tokenizer.decode(tokenizer.encode(values)[0]) - values).max() <= step / 2 + 1e-7 * (high - low)
    if low == -high:
        assert np.allclose(np.diff(tokenizer.points[0]), step, rtol=1e-9)
        mirrored = tokenizer.encode(-values[::7] * 0.999)[0] + tokenizer.encode(values[::7] * 0.999)[0]
        assert (mirrored == tokenizer.bins[0] - 1).all()


def test_values_out_of_range_are_clipped_and_counted() -> None:
    tokenizer = ActionTokenizer(CAR)
    bins, num_clipped = tokenizer.encode(np.array([[-2.0, 0.5, 9], [1.0, 1.0, 6.0], [0.0, -1e30, -1]], np.float32))
    assert num_clipped == 3
    assert tokenizer.decode(bins)[[0, 0, 2], [0, 2, 1]].tolist() == [-1.0, 6.0, 0.0]


def test_float32_limits_do_not_count_as_clipped() -> None:
    limits = np.array([[0.025, -0.025]], np.float32)  # 0.025f > 0.025
    assert ActionTokenizer(PEG).encode(limits)[1] == 0


def test_discrete_channels_round_to_whole_numbers() -> None:
    tokenizer = ActionTokenizer(_schema(_channel(-1, 2, discrete=True)))
    bins, _ = tokenizer.encode(np.array([[-1], [-0.4], [0.6], [2]]))
    assert bins[:, 0].tolist() == [0, 1, 2, 3] and tokenizer.decode(bins)[:, 0].tolist() == [-1.0, 0.0, 1.0, 2.0]
    with pytest.raises(BadData, match="expected whole numbers"):
        ActionTokenizer(_schema(_channel(-0.5, 2, discrete=True)))


def test_no_steps_is_fine() -> None:
    bins, num_clipped = ActionTokenizer(PEG).encode(np.zeros((0, 2), np.float32))
    assert bins.shape == (0, 2) and num_clipped == 0 and ActionTokenizer(PEG).decode(bins).shape == (0, 2)


def test_bad_values_are_refused() -> None:
    tokenizer = ActionTokenizer(PEG)
    with pytest.raises(BadActions, match=r"a.npy: got shape \[5, 3\], expected \[N, 2\]"):
        tokenizer.encode(np.zeros((5, 3)), "a.npy")
    with pytest.raises(BadActions, match=r"1 NaN or infinite values, the first in row 1 \(dy\)"):
        tokenizer.encode(np.array([[0, 0], [0, np.nan]]))
    with pytest.raises(BadActions, match=r"channel 'dy': got 0 to 63, expected 0 to 62"):
        tokenizer.decode(torch.tensor([[0, 0], [0, 63]]))
    with pytest.raises(BadActions, match=r"got shape \[4\]"):
        tokenizer.decode(torch.zeros(4, dtype=torch.int64))
    with pytest.raises(BadData, match="fall together in float32"):
        ActionTokenizer(_schema(_channel(1e8, 1e8 + 4)))
