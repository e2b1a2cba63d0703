"""The action schema: what each number of an action means.

It travels with a data set (`actions.json`) and with every checkpoint trained on it, and a mismatch between the two is
refused with a readable difference. This file knows nothing of tokens; `tokenizers/action.py` turns values into ids.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from wfm_ar.errors import BadActions, BadData, nearest

MOST_BINS = 32767  # of a channel: bins are stored as int16


@dataclass(frozen=True, kw_only=True)
class ActionChannel:
    """One number of an action."""

    name: str
    unit: str  # of one action step, such as "m" or "rad"; "" for a pure number
    low: float  # in `unit`; smaller values are clipped when tokenized
    high: float  # in `unit`
    bins: int = 64  # token values the range is cut into
    discrete: bool = False  # True: the values are the whole numbers low..high (keys, gears)

    def __post_init__(self) -> None:
        where = f"action channel {self.name!r:.80}"
        for key in ("name", "unit"):
            if not isinstance(getattr(self, key), str):
                raise BadData(f"{where}: {key} is {getattr(self, key)!r:.80}, expected text; fix: put it in quotes")
        if not self.name:
            raise BadData("action channel: got an empty name, expected text; fix: name the channel")
        for key in ("low", "high"):
            value = getattr(self, key)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e30:
                raise BadData(f"{where}: {key} is {value!r:.80}, expected a finite number below 1e30; fix: give the limit in {self.unit!r}")
            object.__setattr__(self, key, float(value))  # 1 and 1.0 must write the same JSON
        if self.low >= self.high:
            raise BadData(f"{where}: low {self.low} is not below high {self.high}; fix: swap or widen the limits")
        if isinstance(self.bins, bool) or not isinstance(self.bins, int) or not 2 <= self.bins <= MOST_BINS:
            raise BadData(f"{where}: bins is {self.bins!r:.80}, expected a whole number from 2 to {MOST_BINS}; fix: 64 is a good value")
        if not isinstance(self.discrete, bool):
            raise BadData(f"{where}: discrete is {self.discrete!r:.80}, expected true or false; fix: use a JSON boolean")
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
        """Strict: unknown or missing keys raise BadData. `bins` and `discrete` may be left out."""
        _check_keys(data, "action schema", required={"rate_hz", "channels"}, optional=set())
        if not isinstance(data["channels"], (list, tuple)):
            kind = type(data["channels"]).__name__
            raise BadData(f"action schema: channels is a {kind}, expected a list; fix: one object a channel")
        names = [field.name for field in fields(ActionChannel)]
        optional = {"bins", "discrete"}
        for i, channel in enumerate(data["channels"]):
            _check_keys(channel, f"action schema channel {i}", required=set(names) - optional, optional=optional)
        return cls(channels=tuple(ActionChannel(**channel) for channel in data["channels"]), rate_hz=data["rate_hz"])

    def diff(self, other: "ActionSchema") -> str:
        """How `other` differs from this schema, readable, '' when they are equal."""
        parts = []
        if self.rate_hz != other.rate_hz:
            parts.append(f"rate_hz {self.rate_hz:g} != {other.rate_hz:g}")
        if self.width != other.width:
            mine, theirs = ([c.name for c in s.channels] for s in (self, other))
            parts.append(f"{self.width} channels {mine} != {other.width} channels {theirs}")
        for i, (a, b) in enumerate(zip(self.channels, other.channels, strict=False)):
            for key, value in asdict(a).items():
                if value != getattr(b, key):
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
