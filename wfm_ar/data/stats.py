"""What a data set holds, in numbers: lengths, rates, sizes, words, and the distribution of every action channel.

Headers and small arrays are read, no pictures are decoded. `DataStats.notes` names what is allowed but seldom meant.
"""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wfm_ar.data.episodes import EpisodeSet
from wfm_ar.data.formats import open_episodes
from wfm_ar.data.video import video_info
from wfm_ar.schema import ActionSchema

BINS = 50  # of a channel's histogram
CLIPPED = 0.01  # share of values beyond the schema's range above which it is told


@dataclass(frozen=True, kw_only=True)
class ChannelStats:
    """One action channel over the whole set."""

    robot: str  # "" where the set has one schema
    name: str
    unit: str
    low: float  # the schema's range
    high: float
    count: int
    minimum: float
    maximum: float
    mean: float
    std: float
    clipped: float  # share of values beyond the schema's range
    edges: tuple[float, ...]  # BINS + 1 edges from minimum to maximum
    counts: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class DataStats:
    """Everything that `wfm data stats` shows."""

    path: str
    format: str
    splits: dict[str, int]
    frames: tuple[int, ...]  # of each episode, as its file declares
    seconds: tuple[float, ...]
    rates: dict[float, int]  # frames a second -> episodes
    sizes: dict[tuple[int, int], int]  # (height, width) -> episodes
    texts: dict[str, int]  # instruction -> episodes
    words: dict[str, int]  # lower-case word -> occurrences
    with_text: int
    with_actions: int
    with_state: int
    channels: tuple[ChannelStats, ...]
    notes: tuple[str, ...]


def data_stats(
    path: str | Path,
    *,
    on_progress: Callable[[int, int], None] | None = None,
    **view: Any,
) -> DataStats:
    """view: camera, fps, flip, as for open_episodes.

    Raises BadData, BadClip, BadActions for a set that is not sound: `wfm data check` lists everything that is wrong.
    """
    episodes = open_episodes(path, **view)
    frames, sizes, actions = [], Counter(), {}
    for i, episode in enumerate(episodes):
        frames.append(episodes.num_frames(i))
        sizes[_size(episodes, i)] += 1
        values = episodes.load_actions(i)
        if values is not None:
            actions.setdefault(getattr(episode, "embodiment", None) or "", (i, []))[1].append(values)
        if on_progress:
            on_progress(i + 1, len(episodes))
    texts = Counter(episode.text for episode in episodes if episode.text)
    words: Counter[str] = Counter()
    for text, count in texts.items():
        for word in re.findall(r"[\w'-]+", text.lower()):
            words[word] += count
    channels = [
        channel_stats(robot, schema_of(episodes, first), np.concatenate(arrays), c)
        for robot, (first, arrays) in actions.items()
        for c in range(schema_of(episodes, first).width)
    ]
    rates = Counter(episode.fps for episode in episodes)
    return DataStats(
        path=str(path),
        format=episodes.format,
        splits=dict(Counter(episode.split for episode in episodes)),
        frames=tuple(frames),
        seconds=tuple(count / episode.fps for count, episode in zip(frames, episodes, strict=True)),
        rates=dict(sorted(rates.items())),
        sizes=dict(sizes.most_common()),
        texts=dict(texts.most_common()),
        words=dict(words.most_common()),
        with_text=sum(texts.values()),
        with_actions=sum(episode.actions is not None for episode in episodes),
        with_state=sum(episode.state is not None for episode in episodes),
        channels=tuple(channels),
        notes=tuple(_notes(episodes, frames, rates, sizes, channels)),
    )


def channel_stats(robot: str, schema: ActionSchema, values: np.ndarray, c: int) -> ChannelStats:
    """Of column `c` of float actions [N, A]."""
    channel, column = schema.channels[c], values[:, c].astype(np.float64)
    slack = 1e-6 * max(1.0, abs(channel.low), abs(channel.high))  # float32 of a limit is not beyond it
    counts, edges = np.histogram(column, BINS)
    return ChannelStats(
        robot=robot,
        name=channel.name,
        unit=channel.unit,
        low=channel.low,
        high=channel.high,
        count=len(column),
        minimum=float(column.min()),
        maximum=float(column.max()),
        mean=float(column.mean()),
        std=float(column.std()),
        clipped=float(((column < channel.low - slack) | (column > channel.high + slack)).mean()),
        edges=tuple(edges.tolist()),
        counts=tuple(counts.tolist()),
    )


def schema_of(episodes: EpisodeSet, i: int) -> Any:
    """The ActionSchema of episode i's own robot."""
    of_robot = getattr(episodes, "schema_of", None)
    return episodes.schema if of_robot is None else of_robot(i)


def _size(episodes: EpisodeSet, i: int) -> tuple[int, int]:
    if episodes.format in ("episodes", "videos"):
        info = video_info(episodes[i].video)
        return info.height, info.width
    return episodes.load_frames(i, 0, 1).shape[1:3]


def _notes(episodes: EpisodeSet, frames: list[int], rates: Counter, sizes: Counter, channels: list[ChannelStats]) -> list[str]:
    """What is allowed but seldom meant, a line each."""
    notes = []
    for channel in channels:
        name = f"action channel {channel.name!r}" + (f" of {channel.robot}" if channel.robot else "")
        if channel.clipped > CLIPPED:
            notes.append(
                f"{name}: {100 * channel.clipped:.1f} % of its values lie beyond {channel.low:g} to {channel.high:g} and are clipped; "
                f"they reach from {channel.minimum:g} to {channel.maximum:g}: widen the range in actions.json"
            )
        elif channel.minimum == channel.maximum and channel.low < channel.high:
            notes.append(f"{name}: is {channel.minimum:g} throughout, and costs a token a step all the same")
        elif 0 < channel.maximum - channel.minimum < 0.1 * (channel.high - channel.low):
            share = 100 * (channel.maximum - channel.minimum) / (channel.high - channel.low)
            notes.append(f"{name}: uses {share:.0f} % of its range, so most of its bins are never seen: narrow the range in actions.json")
    if len(rates) > 1:
        notes.append(f"frame rates differ: {', '.join(f'{rate:g}' for rate in sorted(rates))} a second; `wfm data curate fps=` evens them")
    if len(sizes) > 1:
        notes.append(f"{len(sizes)} picture sizes: each clip is cropped to the tokenizer's shape; `wfm data curate` can do it once")
    short = sum(count < 5 for count in frames)
    if short:
        notes.append(f"episodes of fewer than 5 frames, too few to learn motion from: {short}")
    untold = sum(not episode.text for episode in episodes)
    if 0 < untold < len(episodes):
        notes.append(f"{untold} of {len(episodes)} episodes have no text; `wfm data curate` can add captions")
    if len({episode.split for episode in episodes} & {"val", "test"}) == 0:
        notes.append("nothing is held out: there is no val or test episode to measure with")
    return notes
