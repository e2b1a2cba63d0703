"""An action schema found in the actions themselves, for data that comes without one.

Ranges are quantiles, so that one wild value does not eat the resolution; a channel that never changes is declared constant and
costs no tokens; whole numbers and two-valued channels keep exactly their values. Whether values are steps or places is taken
from the channel's name, else measured against the robot's state where there is one, else left open; an `actions.json` beside
the data goes before all of this.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from wfm_ar.errors import BadActions, BadData, WfmError
from wfm_ar.schema import ActionChannel, ActionSchema, check_width

MOST_BYTES = 256 << 20  # of actions in double precision that are looked at, whole episodes from the first
TAIL = 0.001  # share of values beyond either end of the range; with fewer than a thousand values the range is all of them
MOST_LEVELS = 32  # distinct values up to which a channel may keep exactly its values
_DELTA = re.compile(r"(^|[_. ])(d|delta|rel|relative|diff)([_. ]|$)|^d(x|y|z|roll|pitch|yaw|rx|ry|rz)$", re.IGNORECASE)
_VELOCITY = re.compile(r"(^|[_. ])(v|vel|velocity|speed|twist)([_. ]|$)", re.IGNORECASE)
_JOINT = re.compile(r"(^|[_. ])(joint|qpos|shoulder|elbow|waist|wrist|forearm)([_. \d]|$)", re.IGNORECASE)
_ABSOLUTE = re.compile(r"(^|[_. ])(abs|absolute|pos|position|qpos)$|\.pos$|joint_position", re.IGNORECASE)
_EULER = re.compile(r"(^|[_. ])(roll|pitch|yaw|euler)([_. ]|$)|^d(roll|pitch|yaw)$", re.IGNORECASE)
_QUATERNION = re.compile(r"(^|[_. ])(q[xyzw]|r[w]|quat(ernion)?)([_. \d]|$)", re.IGNORECASE)
_AXIS_ANGLE = re.compile(r"(^|[_. ])(axis_?angle|rotvec)([_. \d]|$)", re.IGNORECASE)


def schema_from_data(
    actions: Iterable[np.ndarray],
    rate_hz: float,
    *,
    names: Sequence[str] | None = None,
    units: Sequence[str] | None = None,
    states: Sequence[np.ndarray] | None = None,
    bins: int = 64,
    places: Sequence[str] | None = None,
    where: str = "actions",
) -> ActionSchema:
    """The schema of `actions`, arrays [N_i, A] of episodes; `names` default to a0, a1 ...

    states: [N_i, A] a episode, the robot's own measurement of what each channel commands, at the time of each action. places: what
    errors call each of the arrays. Raises BadActions for values that are not finite or widths that differ, BadData where there is
    not one action.
    """
    arrays: list[np.ndarray] = []
    for one in actions:
        arrays.append(np.asarray(one, np.float64))
        if sum(array.nbytes for array in arrays) > MOST_BYTES:
            break
    widths = sorted({one.shape[1] for one in arrays if one.ndim == 2})
    if len(widths) != 1 or any(one.ndim != 2 for one in arrays):
        raise BadActions(f"{where}: got actions of {widths or 'no'} numbers, expected one width; fix: part the data by robot")
    values = np.concatenate(arrays)
    if not len(values):
        raise BadData(f"{where}: got no actions at all, expected some; fix: leave the actions out")
    width = widths[0]
    check_width(width, where)
    names = distinct(names) if names is not None and len(names) == width else [f"a{i}" for i in range(width)]
    for i, array in enumerate(arrays):
        _refuse_not_finite(array, names, where if places is None else places[i])
    own_units = list(units) if units is not None and len(units) == width else [""] * width
    motions = [_named_motion(name) for name in names]
    if states is not None and "" in motions:
        measured = _measured_motions(arrays, [np.asarray(one, np.float64) for one in states[: len(arrays)]])
        motions = [motion or seen for motion, seen in zip(motions, measured, strict=True)]
    rotations = [_named_rotation(name) for name in names]
    for kind in set(rotations) - {""}:  # the joints of an arm are commanded in one way, though one of them may hardly have moved
        words = {motions[i] for i in range(width) if rotations[i] == kind} - {""}
        if len(words) == 1:
            motions = [next(iter(words)) if rotations[i] == kind else motions[i] for i in range(width)]
    channels = []
    for i in range(width):
        channel: dict[str, Any] = dict(name=names[i], unit=own_units[i], motion=motions[i], rotation=rotations[i])
        channels.append(channel | _range(values[:, i], bins))
    try:
        return ActionSchema(channels=tuple(ActionChannel(**channel) for channel in channels), rate_hz=rate_hz)
    except WfmError as error:  # numbers or names that no channel may have
        raise BadActions(f"{where}: {error}") from None


def _refuse_not_finite(values: np.ndarray, names: Sequence[str], where: str) -> None:
    """Raises BadActions that names row and channel of the first value that is NaN or infinite."""
    if not np.isfinite(values).all():
        row, column = np.argwhere(~np.isfinite(values))[0]
        got = f"got {values[row, column]} in row {row}, column {column} ({names[column]})"
        raise BadActions(f"{where}: {got}, expected finite numbers; fix: drop or repair those steps")


def distinct(names: Sequence[str]) -> list[str]:
    """The names with _2, _3 ... behind those that occur again (real sets have two channels called y)."""
    out: list[str] = []
    for name in names:
        name = str(name).strip() or f"a{len(out)}"
        candidate, n = name, 1
        while candidate in out:
            n += 1
            candidate = f"{name}_{n}"
        out.append(candidate)
    return out


def _range(values: np.ndarray, bins: int) -> dict:
    """low, high, bins, discrete and constant of one channel."""
    levels = np.unique(values[:: max(1, len(values) // 100_000)])
    if len(levels) <= MOST_LEVELS:
        levels = np.unique(values)
    low, high = float(levels[0]), float(levels[-1])
    if np.float32(low) == np.float32(high):
        return dict(low=low, high=low, constant=True)
    if len(levels) == 2 and len(values) > 2:
        whole = low.is_integer() and high - low == 1
        return dict(low=low, high=high, bins=2, discrete=whole)
    if len(levels) <= MOST_LEVELS < len(values) and (levels == np.round(levels)).all() and high - low <= 4 * MOST_LEVELS:
        return dict(low=low, high=high, bins=int(high - low) + 1, discrete=True)
    low, high = float(np.quantile(values, TAIL, method="lower")), float(np.quantile(values, 1 - TAIL, method="higher"))
    if np.float32(low) >= np.float32(high):  # nearly always one value, with rare others: they set the range
        low, high = float(values.min()), float(values.max())
    if len(np.unique(np.linspace(low, high, bins).astype(np.float32))) < bins:  # changes too small for float32 to tell apart
        return dict(low=low, high=low, constant=True)
    return dict(low=low, high=high, bins=bins)


def _named_motion(name: str) -> str:
    if _DELTA.search(name):
        return "delta"
    if _VELOCITY.search(name):
        return "velocity"
    return "absolute" if _ABSOLUTE.search(name) else ""


def _named_rotation(name: str) -> str:
    for kind, pattern in (("axis_angle", _AXIS_ANGLE), ("quaternion", _QUATERNION), ("euler", _EULER), ("joint", _JOINT)):
        if pattern.search(name):
            return kind
    return ""


def _measured_motions(actions: list[np.ndarray], states: list[np.ndarray]) -> list[str]:
    """A channel a word: where the action is near the next state, or goes with the change of state, much more than the other."""
    pairs = [(a[:-1], s[: len(a)]) for a, s in zip(actions, states, strict=True) if len(a) > 1 and len(s) >= len(a)]
    width = actions[0].shape[1]
    if not pairs or any(s.shape[1] != width for _, s in pairs):
        return [""] * width
    act = np.concatenate([a for a, _ in pairs])
    after = np.concatenate([s[1:] for _, s in pairs])
    change = np.concatenate([np.diff(s, axis=0) for _, s in pairs])
    words = []
    for i in range(width):
        place, step = _error(act[:, i], after[:, i]), _error(act[:, i], change[:, i])
        spread, scale = after[:, i].std(), np.abs(act[:, i]).max()
        still = spread < 1e-9 or scale < 1e-9 or len(act) < 8
        if still:
            words.append("")
        elif place < 0.5 * step and (place < 0.5 * spread or _correlation(act[:, i], after[:, i]) > 0.9):
            words.append("absolute")
        elif step < 0.5 * place and _correlation(act[:, i], change[:, i]) > 0.5:
            words.append("delta")
        else:
            words.append("")
    return words


def _error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if a.std() < 1e-12 or b.std() < 1e-12:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
