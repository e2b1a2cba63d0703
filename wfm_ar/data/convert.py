"""Data of any known format to our own, or to LeRobot v3.0.

A video that is a file of its own is copied byte for byte into our own format; whatever is cut out of other files, tiled, or goes
to LeRobot is decoded and encoded again, without loss where that is asked for. Ids, texts, splits, actions, their schema and the
state by frame come along.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from wfm_ar.data.claims import whole_folder
from wfm_ar.data.episodes import EpisodeSet, FileReader, even_sides, file_id, write_episode, write_episodes
from wfm_ar.data.files import as_wfm_error, copy_atomic
from wfm_ar.data.folder import NpzReader
from wfm_ar.data.lerobot_write import Clip, goes_by_frame, write_lerobot
from wfm_ar.data.set_folder import refuse_set
from wfm_ar.data.video import count_frames
from wfm_ar.errors import BadConfig, BadData
from wfm_ar.schema import MixedSchema, same_rate


def convert_set(
    episodes: EpisodeSet,
    out: Path,
    format: str,
    *,
    lossless: bool = False,
    crf: int = 16,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Writes `episodes` to the folder `out`, "episodes" or "lerobot" -> what was left out or changed, a line each.

    Raises BadClip, BadData, BadActions for what cannot be read, BadConfig for what the format cannot hold, OutputExists, NoSpace.
    """
    out, notes = Path(out), []
    refuse_set(out, overwrite)
    if out.resolve() == episodes.path.resolve():
        raise BadConfig(f"out: {out} is the source itself, expected another folder; fix: choose a new name")
    if format == "lerobot":
        if isinstance(episodes.schema, MixedSchema):
            robots = ", ".join(episodes.schema.names)
            raise BadConfig(f"format: lerobot holds one robot's actions, got {robots}; fix: convert each set alone, or format=episodes")
        rates = sorted({episode.fps for episode in episodes})
        if not same_rate(rates[0], rates[-1]):
            told = f"got rates of {rates} frames a second, expected one for lerobot"
            raise BadData(f"{episodes.path}: {told}; fix: part the set by rate, or even it with `wfm data curate fps=`")
        clips = _clips(episodes, lossless, notes, on_progress)
        about = {"converted_from": episodes.title}
        write_lerobot(out, clips, fps=rates[0], schema=episodes.schema, lossless=lossless, crf=crf, about=about, overwrite=overwrite)
    elif format == "episodes":
        _write_own(episodes, out, lossless, crf, overwrite, notes, on_progress)
    else:
        raise BadConfig(f"format: got {format!r}, expected episodes or lerobot; fix: name one of them")
    return list(dict.fromkeys(notes))


def _clips(episodes: EpisodeSet, lossless: bool, notes: list[str], on_progress: Callable[[int, int], None] | None) -> Iterator[Clip]:
    alike = _alike_states(episodes)
    for i, episode in enumerate(episodes):
        frames, states = episodes.load_frames(i), episodes.load_state(i) or {}
        left = [name for name, values in states.items() if not goes_by_frame(values, len(frames))]
        if left:
            notes.append(f"state {', '.join(left)} left out: not numbers by frame")
        if differ := sorted(states.keys() - alike - set(left)):
            notes.append(f"state {', '.join(differ)} left out: its width or type differs by episode, or some have none")
        states = {name: values for name, values in states.items() if name in alike}
        yield Clip(
            id=episode.id,
            split=episode.split,
            text=episode.text,
            frames=_fit(frames, lossless, notes),
            actions=episodes.load_actions(i),
            states=states,
        )
        if on_progress:
            on_progress(i + 1, len(episodes))


def _alike_states(episodes: EpisodeSet) -> set[str]:
    """The state arrays that every episode has, of one shape a frame and one type: what can be a column."""
    first: dict[str, tuple] = {}
    alike: set[str] = set()
    for i in range(len(episodes)):
        kinds = {name: (values.shape[1:], values.dtype) for name, values in (episodes.load_state(i) or {}).items()}
        first = first or kinds
        alike = set(kinds) if i == 0 else {name for name in alike if kinds.get(name) == first[name]}
    return alike


def _write_own(
    episodes: EpisodeSet,
    out: Path,
    lossless: bool,
    crf: int,
    overwrite: bool,
    notes: list[str],
    on_progress: Callable[[int, int], None] | None,
) -> None:
    records: list[dict[str, Any]] = []
    taken: set[str] = set()
    try:
        with whole_folder(out, overwrite=overwrite) as part:
            for i, episode in enumerate(episodes):
                name = base = file_id(episode.id.removesuffix(episode.video.suffix))
                n = 1
                while name in taken:
                    n += 1
                    name = f"{base}_{n}"
                taken.add(name)
                more = dict(
                    text=episode.text, actions=episodes.load_actions(i), state=episodes.load_state(i), embodiment=episode.embodiment
                )
                more |= dict(id=name, fps=episode.fps, split=episode.split)
                records.append(_write_one(episodes, i, part, more, lossless, crf, notes))
                if on_progress:
                    on_progress(i + 1, len(episodes))
            write_episodes(part, records, episodes.schema)
    except OSError as error:
        raise as_wfm_error(error, out) from error


def _write_one(
    episodes: EpisodeSet, i: int, part: Path, more: dict[str, Any], lossless: bool, crf: int, notes: list[str]
) -> dict[str, Any]:
    """The record of one episode, its files written."""
    episode = episodes[i]
    if not isinstance(episodes.reader, (FileReader, NpzReader)):
        frames = _fit(episodes.load_frames(i), lossless, notes)
        return write_episode(part, frames_THWC=frames, lossless=lossless, crf=crf, sync=False, **more)
    blank = np.zeros((1, 2, 2, 3), np.uint8)
    record = write_episode(part, frames_THWC=blank, sync=False, **more)  # the other files; the video is copied over
    Path(part, record["video"]).unlink()
    record["video"] = f"videos/{more['id']}{episode.video.suffix.lower()}"
    count_frames(episode.video)
    copy_atomic(episode.video, Path(part, record["video"]), sync=False)
    return record


def _fit(frames: np.ndarray, lossless: bool, notes: list[str]) -> np.ndarray:
    if lossless or not (frames.shape[1] % 2 or frames.shape[2] % 2):
        return frames
    notes.append("odd sides: the last row or column was cut off (lossless=true keeps it)")
    return even_sides(frames)
