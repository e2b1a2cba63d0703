"""Frames, actions and state of a piece of an episode at another frame rate."""

from dataclasses import replace
from typing import Any

import numpy as np

from wfm_ar.errors import BadConfig
from wfm_ar.schema import ActionChannel, ActionSchema, same_rate

BY_MOTION = {"delta": "sum", "absolute": "last", "velocity": "mean"}  # how the actions between two frames that are kept are joined


def kept_frames(num_frames: int, source_fps: float, fps: float | None) -> np.ndarray:
    """int64 indices of the frames that make `num_frames` at `source_fps` play at `fps` (None = as they are), each at most once."""
    if fps is None or same_rate(fps, source_fps):
        return np.arange(num_frames)
    assert fps < source_fps, "frames are left out, never repeated"
    count = max(1, int((num_frames - 1) * fps / source_fps) + 1)
    return np.floor(np.arange(count) * source_fps / fps + 1e-6).astype(np.int64)


def rules_of(schema: ActionSchema, chosen: str) -> list[str]:
    """How each channel's actions are joined: `chosen`, or with "auto" by what the schema declares. Raises BadConfig."""
    if chosen != "auto":
        return [chosen] * schema.width
    rules = []
    for channel in schema.channels:
        motion = channel.motion
        if channel.constant or (not motion and (channel.discrete or channel.bins == 2)):  # keys, gears, a gripper open or closed
            rules.append("last")
            continue
        if motion not in BY_MOTION:
            raise BadConfig(
                f"channel {channel.name!r} does not say whether it is a step or a place",
                where="actions",
                expected="it for joining actions at a lower rate",
                fix="actions=sum for steps, actions=last for places, or actions=drop",
            )
        rules.append(BY_MOTION[motion])
    return rules


def joined_actions(actions: np.ndarray, kept: np.ndarray, rules: list[str]) -> np.ndarray:
    """float32 [T-1, A] between all frames -> float32 [len(kept)-1, A] between the kept ones."""
    out = np.empty((len(kept) - 1, actions.shape[1]), np.float32)
    for row, (start, end) in enumerate(zip(kept[:-1], kept[1:], strict=True)):
        for a, rule in enumerate(rules):
            between = actions[start:end, a]
            out[row, a] = between[-1] if rule == "last" else between.sum() if rule == "sum" else between.mean()
    return out


def retimed_schema(schema: ActionSchema, source_fps: float, fps: float, rules: list[str]) -> ActionSchema:
    """The schema of joined actions: summed channels reach further by as many actions as are joined at most."""
    most = int(np.ceil(source_fps / fps - 1e-6))

    def wider(channel: ActionChannel, rule: str) -> ActionChannel:
        if rule == "mean" and channel.discrete:
            raise BadConfig(f"actions: channel {channel.name!r} is discrete, expected no mean of it; fix: actions=last")
        if rule != "sum":
            return channel
        # a sum of one action is possible at the end of an odd ratio, so the old range stays inside
        return replace(channel, low=min(channel.low, channel.low * most), high=max(channel.high, channel.high * most))

    channels = tuple(wider(channel, rule) for channel, rule in zip(schema.channels, rules, strict=True))
    return replace(schema, channels=channels, rate_hz=fps)


def cut_state(state: dict[str, Any], num_frames: int, kept: np.ndarray) -> dict[str, np.ndarray]:
    """The rows of the kept frames of every array that has one a frame; the others as they are."""
    return {name: array[kept] if np.ndim(array) and len(array) == num_frames else array for name, array in state.items()}
