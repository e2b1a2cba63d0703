import json

import numpy as np
import pytest

from wfm_ar.errors import BadActions, BadData
from wfm_ar.schema import ActionChannel, ActionSchema


def make_schema(**changes) -> ActionSchema:
    steer = ActionChannel(**{"name": "steer", "unit": "rad", "low": -0.5, "high": 0.5, **changes})
    return ActionSchema(channels=(steer, ActionChannel(name="gear", unit="", low=0, high=5, bins=6, discrete=True)), rate_hz=10)


def test_json_round_trip_is_equal():
    schema = make_schema()
    assert ActionSchema.from_json(json.loads(json.dumps(schema.to_json()))) == schema
    assert schema.width == 2
    assert schema.diff(make_schema()) == ""


def test_bins_and_discrete_may_be_left_out():
    schema = ActionSchema.from_json({"rate_hz": 5, "channels": [{"name": "x", "unit": "m", "low": -1, "high": 1}]})
    assert (schema.channels[0].bins, schema.channels[0].discrete, schema.rate_hz) == (64, False, 5.0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("rate_hz"), "'rate_hz' is missing"),
        (lambda d: d.update(rate=5), "unknown key 'rate'"),
        (lambda d: d.update(rate_hz=0), "rate_hz is 0"),
        (lambda d: d.update(channels=[]), "no channels"),
        (lambda d: d.update(channels={}), "channels is a dict"),
        (lambda d: d["channels"][0].pop("unit"), "'unit' is missing"),
        (lambda d: d["channels"][0].update(lo=1), "unknown key 'lo' .did you mean .low"),
        (lambda d: d["channels"][0].update(low=0.5), "not below"),
        (lambda d: d["channels"][0].update(high=float("nan")), "finite"),
        (lambda d: d["channels"][0].update(low="0"), "finite"),
        (lambda d: d["channels"][0].update(bins=1), "bins is 1"),
        (lambda d: d["channels"][0].update(bins=2.5), "bins is 2.5"),
        (lambda d: d["channels"][0].update(name="gear"), "occurs twice"),
        (lambda d: d["channels"].append(3), "got a int, expected an object"),
    ],
)
def test_a_bad_schema_is_refused_in_one_line(change, words):
    data = make_schema().to_json()
    change(data)
    with pytest.raises(BadData, match=words) as caught:
        ActionSchema.from_json(data)
    assert "\n" not in str(caught.value)


def test_diff_names_what_differs():
    assert make_schema().diff(make_schema(unit="deg", low=-30.0)) == (
        "channel 0 (steer) unit 'rad' != 'deg'; channel 0 (steer) low -0.5 != -30.0"
    )
    wider = ActionSchema(channels=(*make_schema().channels, ActionChannel(name="dz", unit="m", low=0, high=1)), rate_hz=5)
    assert make_schema().diff(wider).startswith("rate_hz 10 != 5; 2 channels ['steer', 'gear'] != 3 channels")


def test_validate():
    schema = make_schema()
    schema.validate(np.zeros((7, 2), np.float32), "a.npy")
    schema.validate(np.full((1, 2), 99.0), "a.npy")  # out of range is clipped later, not refused
    schema.validate(np.zeros((0, 2)), "a.npy")
    with pytest.raises(BadActions, match=r"a.npy: got shape \[7, 3\], expected \[N, 2\]; fix: .* steer, gear"):
        schema.validate(np.zeros((7, 3)), "a.npy")
    with pytest.raises(BadActions, match="expected .N, 2"):
        schema.validate(np.zeros(2), "a.npy")
    with pytest.raises(BadActions, match="numbers"):
        schema.validate(np.array([["a", "b"]]), "a.npy")
    actions = np.zeros((7, 2))
    actions[4, 1], actions[5, 0] = np.nan, np.inf
    with pytest.raises(BadActions, match=r"2 NaN or infinite values, the first in row 4 \(gear\)"):
        schema.validate(actions, "a.npy")


def test_what_is_not_declared_contradicts_nothing():
    def schema(motion):
        return ActionSchema(channels=(ActionChannel(name="dx", unit="m", low=-1, high=1, motion=motion),), rate_hz=10)

    assert schema("").diff(schema("delta")) == schema("delta").diff(schema("")) == ""
    assert schema("absolute").diff(schema("delta")) == "channel 0 (dx) motion 'absolute' != 'delta'"
