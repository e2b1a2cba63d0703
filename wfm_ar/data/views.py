"""A data set seen another way: upside down, or at a lower rate. Frames, actions and state stay together, and nothing is written.

Each view is a reader around the set's own: whatever uses a data set uses its view the same way.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from wfm_ar.data.cameras import tiling
from wfm_ar.data.curate.retime import cut_state, joined_actions, kept_frames, retimed_schema, rules_of
from wfm_ar.data.episodes import Episode, EpisodeSet, Place, Reader
from wfm_ar.data.schema_file import SCHEMA
from wfm_ar.errors import BadClip, BadConfig, BadData, nearest
from wfm_ar.schema import ActionSchema, MixedSchema, Schema, same_rate

FLIPS = ("vertical",)
MAYBE_UPSIDE_DOWN = "pictures may be stored bottom row first, as LIBERO's are: look at some of them (flip=vertical turns them)"
SPAN = 64  # frames of the source that are read at once to pick some of them
_JOINED = {"sum": "summed", "last": "held", "mean": "averaged"}  # what becomes of the actions between two frames that are kept


def check_flip(flip: str | None) -> None:
    """Raises BadConfig for what is no way to turn a picture."""
    if flip is not None and flip not in FLIPS:
        raise BadConfig(f"flip: got {flip!r}{nearest(flip, FLIPS)}, expected null or one of {list(FLIPS)}; fix: flip=vertical")


def turned(frames_THWC: np.ndarray, flip: str | None, tiles: int = 1) -> np.ndarray:
    """The frames as they are, or with the bottom row first; of several cameras side by side each is turned where it stands."""
    if flip is None:
        return frames_THWC
    (T, H, W, C), (rows, _) = frames_THWC.shape, tiling(tiles)
    return np.ascontiguousarray(frames_THWC.reshape(T, rows, H // rows, W, C)[:, :, ::-1].reshape(T, H, W, C))


def flipped(episodes: EpisodeSet, flip: str) -> EpisodeSet:
    """The set with its pictures turned upside down: some are stored bottom row first. Raises BadConfig."""
    check_flip(flip)
    notes = [note for note in episodes.notes if note != MAYBE_UPSIDE_DOWN]
    notes.append(f"pictures turned upside down (flip={flip})")
    return replace(episodes, reader=FlippedReader(episodes.reader, flip, episodes.tiles), notes=tuple(notes))


def thinned(episodes: EpisodeSet, fps: float) -> EpisodeSet:
    """The set with the episodes of a higher rate at `fps` frames a second: frames are left out, and the actions between two that are
    kept are summed, held or averaged by what their channels declare (delta, absolute, velocity). A robot of a lower rate keeps it.

    Raises BadConfig where no episode has that many frames a second, or a channel does not say what its values are.
    """
    rates = sorted({episode.fps for episode in episodes})
    if all(rate < fps and not same_rate(rate, fps) for rate in rates):
        raise BadConfig(
            f"fps: got {fps:g}, but {episodes.path} has {rates[-1]:g} frames a second, expected at most that; fix: leave it out"
        )
    if not any(_faster(rate, fps) for rate in rates):
        return episodes
    joins = _joins(episodes, fps)
    schema: Schema | None = episodes.schema
    if isinstance(schema, MixedSchema):
        parts = tuple((name, joins[name].joined if name in joins else part) for name, part in schema.embodiments)
        schema = replace(schema, embodiments=parts)
    elif schema is not None and None in joins:
        schema = joins[None].joined
    for one in episodes:
        if one.actions and _faster(one.fps, fps) and _robot(one, joins) not in joins:
            told = f"got {one.fps:g} frames a second, but actions at another rate"
            raise BadData(f"{episodes.path} episode {one.id}: {told}, expected one rate to thin both; fix: run `wfm data check`")
    out = [replace(one, fps=fps, source=one) if _faster(one.fps, fps) else one for one in episodes]
    changed = sum(_faster(episode.fps, fps) for episode in episodes)
    told = ", ".join(f"{rate:g}" for rate in rates if _faster(rate, fps))
    notes = [
        f"{changed} of {len(episodes)} episodes thinned from {told} to {fps:g} frames a second",
        *(join.told() for join in joins.values()),
    ]
    reader = ThinnedReader(episodes.reader, fps, joins)
    return replace(episodes, episodes=tuple(out), reader=reader, schema=schema, notes=(*episodes.notes, *notes))


@dataclass(frozen=True, kw_only=True)
class _Join:
    """How the actions of one robot are joined."""

    schema: ActionSchema  # as they are
    joined: ActionSchema  # as they are at the lower rate
    rules: list[str]  # one a channel

    def told(self) -> str:
        """What is said of it, channel by channel."""
        ways: dict[str, list[str]] = {}
        for channel, rule in zip(self.schema.channels, self.rules, strict=True):
            if not channel.constant:
                ways.setdefault(_JOINED[rule], []).append(channel.name)
        return "actions " + "; ".join(f"{way} ({', '.join(names)})" for way, names in ways.items()) if ways else "no action changes"


def _faster(rate: float, fps: float) -> bool:
    return rate > fps and not same_rate(rate, fps)


def _joins(episodes: EpisodeSet, fps: float) -> dict[str | None, _Join]:
    """embodiment (None: the only one) -> how its actions are joined, for those that are thinned."""
    schema = episodes.schema
    parts: list[tuple[str | None, ActionSchema]] = []
    if schema is not None:
        parts = [(None, schema)] if isinstance(schema, ActionSchema) else list(schema.embodiments)
    out: dict[str | None, _Join] = {}
    for name, part in parts:
        if _faster(part.rate_hz, fps):
            try:
                rules = rules_of(part, "auto")
                out[name] = _Join(schema=part, joined=retimed_schema(part, part.rate_hz, fps, rules), rules=rules)
            except BadConfig as error:
                fix = f"give its motion in {episodes.path / SCHEMA}"
                raise BadConfig(error.got, where=f"fps: {episodes.path}", expected=error.expected, fix=fix) from None
    return out


class FlippedReader:
    """Another reader's episodes, their frames turned."""

    def __init__(self, reader: Reader, flip: str, tiles: int) -> None:
        self.reader, self.flip, self.tiles = reader, flip, tiles

    def frames(self, episode: Episode, start: int, count: int | None) -> np.ndarray:
        return turned(self.reader.frames(episode, start, count), self.flip, self.tiles)

    def num_frames(self, episode: Episode) -> int:
        return self.reader.num_frames(episode)

    def frames_from(self, episode: Episode) -> list[Place]:
        told = f"flip={self.flip}" + f" of {self.tiles}" * (self.tiles > 1)
        return [place._replace(within=[place.within, told]) for place in self.reader.frames_from(episode)]

    def actions(self, episode: Episode, schema: ActionSchema) -> np.ndarray:
        return self.reader.actions(episode, schema)

    def state(self, episode: Episode) -> dict[str, np.ndarray]:
        return self.reader.state(episode)


class ThinnedReader:
    """Another reader's episodes; those whose source is the episode as it was have fewer frames, and their actions are joined."""

    def __init__(self, reader: Reader, fps: float, joins: dict[str | None, _Join]) -> None:
        self.reader, self.fps, self.joins = reader, fps, joins

    def _kept(self, whole: Episode) -> np.ndarray:
        """The frames that are kept, int64."""
        return kept_frames(self.reader.num_frames(whole), whole.fps, self.fps)

    def num_frames(self, episode: Episode) -> int:
        return len(self._kept(whole)) if (whole := _whole(episode)) else self.reader.num_frames(episode)

    def frames(self, episode: Episode, start: int, count: int | None) -> np.ndarray:
        if (whole := _whole(episode)) is None:
            return self.reader.frames(episode, start, count)
        kept = self._kept(whole)
        stop = len(kept) if count is None else start + count
        if not 0 <= start < stop <= len(kept):
            got = f"got {len(kept)} frames at {self.fps:g} a second, expected frames {start} to {stop - 1} too"
            raise BadClip(f"{episode.video} episode {episode.id}: {got}; fix: ask for frames that exist")
        pieces, wanted = [], kept[start:stop]
        while len(wanted):
            here = wanted[: max(1, int(np.searchsorted(wanted, wanted[0] + SPAN)))]
            frames = self.reader.frames(whole, int(here[0]), int(here[-1] - here[0]) + 1)
            pieces.append(frames[here - here[0]])
            wanted = wanted[len(here) :]
        return np.concatenate(pieces)

    def frames_from(self, episode: Episode) -> list[Place]:
        return self.reader.frames_from(_whole(episode) or episode)  # the rate tells the two apart

    def actions(self, episode: Episode, schema: ActionSchema) -> np.ndarray:
        if (whole := _whole(episode)) is None:
            return self.reader.actions(episode, schema)
        join, kept = self.joins[_robot(whole, self.joins)], self._kept(whole)
        return joined_actions(self.reader.actions(whole, join.schema), kept, join.rules)

    def state(self, episode: Episode) -> dict[str, np.ndarray]:
        if (whole := _whole(episode)) is None:
            return self.reader.state(episode)
        return cut_state(self.reader.state(whole), self.reader.num_frames(whole), self._kept(whole))


def _robot(episode: Episode, joins: dict[str | None, _Join]) -> str | None:
    """The key of its robot among the joins; a set of one robot has the key None, whatever its episodes call it."""
    return None if None in joins else episode.embodiment


def _whole(episode: Episode) -> Episode | None:
    """The episode at its own rate; None for one that is at it."""
    source: Any = episode.source
    return source if isinstance(source, Episode) else None
