"""The action schema: what each number of an action means.

It travels with a data set (`actions.json`) and with every checkpoint trained on it, and a mismatch between the two is
refused with a readable difference. Data of several robots has a schema for each, a MixedSchema. This file knows nothing of
tokens (`tokenizers/action.py` turns values into ids) nor of how a schema is found in data (`data/schema_from_data.py`).
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from wfm_ar.errors import BadActions, BadData, nearest
from wfm_ar.plain_text import is_plain

MOTIONS = ("", "delta", "absolute", "velocity")  # what a value says: a step from here, a place to be at, a speed; "" = not declared
ROTATIONS = ("", "euler", "axis_angle", "quaternion", "6d", "joint")  # of a channel that is part of one; "" = none, or not declared
RATE_SLACK = 0.01  # part of a rate by which two may differ and be one: 29.97 and 30
MOST_BINS = 32767  # of a channel: bins are stored as int16
MOST_CHANNELS = 1024  # of a robot; the widest real ones have some hundred


def check_width(channels: int, where: str) -> None:
    """Raises BadData for more than any robot has."""
    if channels > MOST_CHANNELS:
        raise BadData(f"{where}: got {channels} numbers an action, expected at most {MOST_CHANNELS}; fix: one row a step, only of actions")


def same_rate(a: float, b: float) -> bool:
    """Whether two rates are one."""
    return abs(a - b) <= RATE_SLACK * max(a, b)


@dataclass(frozen=True, kw_only=True)
class ActionChannel:
    """One number of an action."""

    name: str
    unit: str  # of one action step, such as "m" or "rad"; "" for a pure number
    low: float  # in `unit`; smaller values are clipped when tokenized
    high: float  # in `unit`
    bins: int = 64  # token values the range is cut into
    discrete: bool = False  # True: the values are the whole numbers low..high (keys, gears)
    constant: bool = False  # True: always `low`; it takes no tokens
    motion: str = ""  # one of MOTIONS
    rotation: str = ""  # one of ROTATIONS

    def __post_init__(self) -> None:
        where = f"action channel {self.name!r:.80}"
        for key in ("name", "unit"):
            if not isinstance(getattr(self, key), str):
                raise BadData(f"{where}: {key} is {getattr(self, key)!r:.80}, expected text; fix: put it in quotes")
            if not is_plain(getattr(self, key)):
                raise BadData(f"{where}: {key} is {getattr(self, key)!a:.80}, expected text of one line; fix: remove control characters")
        if not self.name:
            raise BadData("action channel: got an empty name, expected text; fix: name the channel")
        for key in ("low", "high"):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e30:
                raise BadData(f"{where}: {key} is {value!r:.80}, expected a finite number below 1e30; fix: give the limit in {self.unit!r}")
            object.__setattr__(self, key, float(value))  # 1 and 1.0 must write the same JSON
        for key, choices in (("motion", MOTIONS), ("rotation", ROTATIONS)):
            if getattr(self, key) not in choices:
                near = nearest(getattr(self, key), choices)
                raise BadData(f"{where}: {key} is {getattr(self, key)!r:.80}{near}, expected one of {list(choices)}; fix: name one")
        for key in ("discrete", "constant"):
            if not isinstance(getattr(self, key), bool):
                raise BadData(f"{where}: {key} is {getattr(self, key)!r:.80}, expected true or false; fix: use a JSON boolean")
        if self.constant and self.low != self.high:
            raise BadData(f"{where}: low {self.low} and high {self.high} of a constant channel, expected one value; fix: make them equal")
        if self.low >= self.high and not self.constant:
            raise BadData(f"{where}: low {self.low} is not below high {self.high}; fix: swap or widen the limits")
        if isinstance(self.bins, bool) or not isinstance(self.bins, int) or not 2 <= self.bins <= MOST_BINS:
            raise BadData(f"{where}: bins is {self.bins!r:.80}, expected a whole number from 2 to {MOST_BINS}; fix: 64 is a good value")
        if self.discrete and self.high - self.low >= MOST_BINS:
            raise BadData(f"{where}: got {self.high - self.low:g} discrete values, expected at most {MOST_BINS}; fix: discrete=false")


@dataclass(frozen=True, kw_only=True)
class ActionSchema:
    """The channels of an action, in order, and how many actions a second there are."""

    channels: tuple[ActionChannel, ...]
    rate_hz: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        if not self.channels:
            raise BadData("action schema: got no channels, expected at least one; fix: name what each action number is")
        check_width(len(self.channels), "action schema")
        names = [channel.name for channel in self.channels]
        double = sorted({name for name in names if names.count(name) > 1})
        if double:
            raise BadData(f"action schema: channel {double[0]!r} occurs twice, expected distinct names; fix: rename one")
        rate = self.rate_hz
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < 1e6:
            raise BadData(f"action schema: rate_hz is {rate!r:.80}, expected a number above 0; fix: give the actions per second")
        object.__setattr__(self, "rate_hz", float(rate))

    @property
    def width(self) -> int:
        """A: numbers in one action."""
        return len(self.channels)

    def to_json(self) -> dict[str, Any]:
        """Plain dict for json.dump; from_json gives the equal schema back."""
        return {"rate_hz": self.rate_hz, "channels": [asdict(channel) for channel in self.channels]}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "ActionSchema":
        """Strict: unknown or missing keys raise BadData. What a channel has a default for may be left out."""
        _check_keys(data, "action schema", required={"rate_hz", "channels"}, optional=set())
        if not isinstance(data["channels"], (list, tuple)):
            kind = type(data["channels"]).__name__
            raise BadData(f"action schema: channels is a {kind}, expected a list; fix: one object a channel")
        names = [field.name for field in fields(ActionChannel)]
        optional = {"bins", "discrete", "constant", "motion", "rotation"}
        for i, channel in enumerate(data["channels"]):
            _check_keys(channel, f"action schema channel {i}", required=set(names) - optional, optional=optional)
        return cls(channels=tuple(ActionChannel(**channel) for channel in data["channels"]), rate_hz=data["rate_hz"])

    def of(self, embodiment: str | None) -> "ActionSchema":
        """This schema, whatever the name: there is only one robot."""
        return self

    def diff(self, other: "ActionSchema | MixedSchema") -> str:
        """How `other` differs from this schema, readable, '' when they are equal."""
        if isinstance(other, MixedSchema):
            return f"one robot != {len(other.embodiments)}: {', '.join(other.names)}"
        parts = []
        if not same_rate(self.rate_hz, other.rate_hz):
            parts.append(f"rate_hz {self.rate_hz:g} != {other.rate_hz:g}")
        if self.width != other.width:
            mine, theirs = ([c.name for c in s.channels] for s in (self, other))
            parts.append(f"{self.width} channels {mine} != {other.width} channels {theirs}")
        for i, (a, b) in enumerate(zip(self.channels, other.channels, strict=False)):
            for key, value in asdict(a).items():
                undeclared = key in ("motion", "rotation") and "" in (value, getattr(b, key))  # says nothing, so contradicts nothing
                if value != getattr(b, key) and not undeclared:
                    parts.append(f"channel {i} ({a.name}) {key} {value!r:.80} != {getattr(b, key)!r}")
        return "; ".join(parts)

    def validate(self, actions: np.ndarray, where: str) -> None:
        """Raises BadActions unless `actions` is [N, A], numeric and finite. Values out of range are allowed (clipped later)."""
        actions = np.asarray(actions)
        names = ", ".join(channel.name for channel in self.channels)
        if actions.ndim != 2 or actions.shape[1] != self.width:
            raise BadActions(f"{where}: got shape {list(actions.shape)}, expected [N, {self.width}]; fix: one row a step with {names}")
        if actions.dtype.kind not in "fiu":
            raise BadActions(f"{where}: got {actions.dtype} values, expected numbers; fix: save them as float32")
        bad = ~np.isfinite(actions)
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise BadActions(
                f"{where}: got {int(bad.sum())} NaN or infinite values, the first in row {row} ({self.channels[column].name}), "
                "expected finite numbers; fix: drop or repair those steps"
            )


@dataclass(frozen=True, kw_only=True)
class MixedSchema:
    """The schemas of several robots by name, in the order in which their channels stand in one vocabulary."""

    embodiments: tuple[tuple[str, ActionSchema], ...]

    def __post_init__(self) -> None:
        names = self.names
        if len(names) < 2 or len(set(names)) < len(names) or not all(isinstance(name, str) and name and is_plain(name) for name in names):
            raise BadData(f"embodiments: got {list(names)}, expected two or more distinct plain names; fix: name each robot once")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.embodiments)

    def of(self, embodiment: str | None) -> ActionSchema:
        """The schema of one robot. Raises BadData for a name that is none of them."""
        for name, schema in self.embodiments:
            if name == embodiment:
                return schema
        near = nearest(embodiment or "", self.names)
        raise BadData(f"embodiment: got {embodiment!r}{near}, expected one of {list(self.names)}; fix: name one")

    def to_json(self) -> dict[str, Any]:
        return {"embodiments": {name: schema.to_json() for name, schema in self.embodiments}}

    def diff(self, other: "ActionSchema | MixedSchema") -> str:
        """How `other` differs, readable, '' when they are equal."""
        if isinstance(other, ActionSchema):
            return f"{len(self.embodiments)} robots ({', '.join(self.names)}) != one"
        if self.names != other.names:
            return f"embodiments {list(self.names)} != {list(other.names)}"
        parts = [(name, schema.diff(other.of(name))) for name, schema in self.embodiments]
        return "; ".join(f"{name}: {part}" for name, part in parts if part)


Schema = ActionSchema | MixedSchema


def channels_of(schema: Schema) -> list[tuple[str, list[str], float]]:
    """(robot, names of its channels, rate) of each robot."""
    parts = [("", schema)] if isinstance(schema, ActionSchema) else schema.embodiments
    return [(name, [channel.name for channel in part.channels], part.rate_hz) for name, part in parts]


def same_channels(a: Schema, b: Schema) -> bool:
    """Whether one schema may stand in for the other's ranges: the same robots with the same channels, at one rate."""
    ours, theirs = channels_of(a), channels_of(b)
    return [one[:2] for one in ours] == [one[:2] for one in theirs] and all(
        same_rate(mine[2], other[2]) for mine, other in zip(ours, theirs, strict=True)
    )


def schema_from_json(data: Any) -> Schema:
    """What `to_json` of either kind wrote. Strict; raises BadData."""
    if not isinstance(data, dict) or "embodiments" not in data:
        return ActionSchema.from_json(data)
    _check_keys(data, "action schema", required={"embodiments"}, optional=set())
    if not isinstance(data["embodiments"], dict):
        raise BadData("action schema: embodiments is no object, expected a schema a name; fix: docs/robot.md shows one")
    parts = []
    for name, one in data["embodiments"].items():
        try:
            parts.append((name, ActionSchema.from_json(one)))
        except BadData as error:
            raise BadData(f"embodiment {name!r}: {error}") from None
    return MixedSchema(embodiments=tuple(parts))


def _check_keys(data: Any, where: str, *, required: set[str], optional: set[str]) -> None:
    if not isinstance(data, dict):
        raise BadData(f"{where}: got a {type(data).__name__}, expected an object; fix: see actions.json of a made data set")
    for key in data:
        if key not in required | optional:
            known = sorted(required | optional)
            raise BadData(f"{where}: unknown key {key!r:.80}{nearest(key, known)}, expected {known}; fix: remove or rename it")
    missing = sorted(required - set(data))
    if missing:
        raise BadData(f"{where}: key {missing[0]!r} is missing, got {sorted(data)}; fix: add it")
