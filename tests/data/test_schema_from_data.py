"""What is found in actions: ranges, constant and discrete channels, steps or places."""

import numpy as np
import pytest

from wfm_ar.data.schema_from_data import distinct, schema_from_data
from wfm_ar.errors import BadActions, BadData
from wfm_ar.tokenizers.action import ActionTokenizer

RNG = np.random.default_rng(0)


def channel(values, **keys):
    return schema_from_data([np.asarray(values, np.float64)[:, None]], 10, **keys).channels[0]


def test_ranges_are_quantiles_so_that_one_wild_value_costs_nothing():
    values = RNG.normal(0, 0.01, 5000)
    values[7] = 100
    found = channel(values)
    assert -0.05 < found.low < -0.02 and 0.02 < found.high < 0.05 and found.bins == 64


def test_few_values_are_all_in_range():
    found = channel([0.1, -0.3, 0.25])
    assert (found.low, found.high) == (-0.3, 0.25)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([2.5] * 50, dict(constant=True, low=2.5, high=2.5)),
        ([0, 1, 1, 0] * 20, dict(discrete=True, low=0, high=1)),
        ([-1, 1, 1] * 20, dict(discrete=False, low=-1, high=1, bins=2)),
        ([0, 0.04, 0.04] * 20, dict(discrete=False, low=0, high=0.04, bins=2)),
        (list(range(-2, 4)) * 20, dict(discrete=True, low=-2, high=3, bins=6)),
        ([1e9, 1e9 + 1e-7] * 50, dict(constant=True)),
    ],
)
def test_constant_and_discrete_channels_keep_exactly_their_values(values, expected):
    found = channel(values)
    assert {key: getattr(found, key) for key in expected} == expected
    if not found.constant:
        schema = schema_from_data([np.asarray(values, np.float64)[:, None]], 10)
        tokenizer = ActionTokenizer(schema)
        bins, clipped = tokenizer.encode(np.asarray(values, np.float32)[:, None])
        assert clipped == 0 and (tokenizer.decode(bins)[:, 0] == np.asarray(values, np.float32)).all()


def test_mostly_one_value_still_has_a_range():
    values = np.zeros(10_000)
    values[:40] = np.linspace(1, 2, 40)
    assert channel(values).high > 1


def test_names_say_what_a_channel_is():
    names = ["delta_x", "dyaw", "joint_vel_0", "gripper_pos", "qx", "axis_angle_1", "left_joint_3", "x"]
    schema = schema_from_data([RNG.normal(size=(20, 8))], 10, names=names, units=["m"] * 8)
    assert [c.motion for c in schema.channels] == ["delta", "delta", "velocity", "absolute", "", "", "velocity", ""]
    assert [c.rotation for c in schema.channels] == ["", "euler", "joint", "", "quaternion", "axis_angle", "joint", ""]
    assert schema.channels[0].unit == "m" and schema.rate_hz == 10


def test_steps_and_places_are_measured_against_the_state():
    state = np.cumsum(RNG.normal(0, 0.1, (200, 3)), 0) + 5
    act = np.empty_like(state)
    act[:-1, 0] = state[1:, 0] + RNG.normal(0, 0.01, 199)  # where to be
    act[:-1, 1] = np.diff(state[:, 1]) + RNG.normal(0, 0.02, 199)  # how far to go
    act[:-1, 2] = RNG.normal(size=199)  # neither
    act[-1] = act[-2]
    assert [c.motion for c in schema_from_data([act], 10, states=[state]).channels] == ["absolute", "delta", ""]


def test_names_that_occur_twice():
    assert distinct(["x", "y", "y", "", "y"]) == ["x", "y", "y_2", "a3", "y_3"]


def test_what_cannot_be():
    with pytest.raises(BadActions, match=r"here: got actions of \[2, 3\] numbers"):
        schema_from_data([np.zeros((3, 2)), np.zeros((3, 3))], 10, where="here")
    with pytest.raises(BadActions, match=r"here: got inf in row 0, column 1 \(a1\)"):
        schema_from_data([np.array([[0, np.inf]])], 10, where="here")
    with pytest.raises(BadData, match="no actions at all"):
        schema_from_data([np.zeros((0, 2))], 10)


def test_numbers_that_no_channel_may_have_are_told_with_their_file():
    with pytest.raises(BadActions, match=r"^a.hdf5: action channel 'a1': high is .*e\+38, expected a finite number"):
        schema_from_data([np.array([[0, 1], [0, 1.5e38], [0, 2]])], 10, where="a.hdf5")
