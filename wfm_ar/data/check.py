"""Looks at every file of a data set and lists what is wrong: `check_data`, and `summarize` for what is there.

Videos are read packet by packet without decoding, which finds missing, truncated and miscounted files at some thousand
frames a second; `decode=True` decodes them too and finds damaged pictures. Nothing is changed.
"""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wfm_ar.data.cameras import TILE
from wfm_ar.data.episodes import INDEX, Episode, EpisodeSet, FileReader, check_count, load_actions, load_state
from wfm_ar.data.episodes_jsonl import parse_line, read_lines
from wfm_ar.data.folder import NpzReader, videos_in
from wfm_ar.data.formats import HAVE_CAMERAS, format_of, open_any, open_episodes
from wfm_ar.data.problems import bare
from wfm_ar.data.schema_file import SCHEMA, read_schema
from wfm_ar.data.video import count_frames, read_video, video_info
from wfm_ar.data.video_files import check_rate
from wfm_ar.errors import BadConfig, BadData, MissingDependency, WfmError
from wfm_ar.plain_text import shown
from wfm_ar.schema import Schema, same_rate

A_FILE_EACH = ("episodes", "videos", "bridge")  # formats with a video file an episode


@dataclass(frozen=True, kw_only=True)
class Defect:
    """One thing that is wrong; str() is its one line."""

    file: str
    line: int | None  # of episodes.jsonl, where the defect belongs to an episode
    what: str
    fix: str

    def __str__(self) -> str:
        return shown(f"{self.place}: {self.what}; fix: {self.fix}")

    @property
    def place(self) -> str:
        """The file, and the line where there is one."""
        return f"{self.file} line {self.line}" if self.line else self.file


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a data set holds, in counts; str() is its one line."""

    format: str  # as a user calls it
    episodes: int
    splits: dict[str, int]  # split -> episodes
    with_text: int
    with_actions: int
    with_state: int
    texts: int  # distinct
    frames: int  # as the containers declare
    seconds: float
    notes: tuple[str, ...]  # what was chosen or assumed while opening

    def __str__(self) -> str:
        splits = ", ".join(f"{count} {name}" for name, count in sorted(self.splits.items()))
        return (
            f"{self.format}, {self.episodes} episode{'s' * (self.episodes != 1)} ({splits}), "
            f"{self.frames} frames, {self.seconds / 60:.1f} min; "
            f"{self.with_text} with text ({self.texts} distinct), {self.with_actions} with actions, {self.with_state} with state"
        )


def check_data(
    path: str | Path,
    *,
    camera: str | None = None,
    fps: float | None = None,
    decode: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Defect]:
    """All defects of a data set, or of several joined by ":", in the order of its lines; [] for a sound one.

    camera, fps: as for open_episodes. `on_progress(done, total)` is called after each episode. Raises nothing for bad data, and a
    path that is no data set is a defect, but BadConfig for a camera or rate that cannot be, MissingDependency.
    """
    how = {"camera": camera, "fps": fps}
    if not Path(path).exists() and len(parts := [part for part in str(path).split(os.pathsep) if part]) > 1:
        return [defect for part in parts for defect in check_data(part, decode=decode, on_progress=on_progress, **how)]
    path = Path(path)
    root = path.parent if path.name == INDEX else path
    if not (root / INDEX).is_file():
        return _check_other(path, decode, on_progress, **how)
    defects: list[Defect] = []
    try:
        lines = read_lines(root)
    except BadData as error:
        return [_defect(error, root / INDEX, None)]
    schema = _check_schema(root, lines, defects)
    first_line: dict[str, int] = {}
    users: dict[Path, int] = {}
    for number, line in enumerate(lines, 1):
        for error in _check_line(line, number, root, schema, first_line, users, decode):
            defects.append(_defect(error, root / INDEX, number))
        if on_progress:
            on_progress(number, len(lines))
    return defects


def summarize(path: str | Path, **view: Any) -> Summary:
    """Counts for a data set that opens. view: camera, fps, flip, as for open_episodes. Raises BadData, BadClip."""
    episodes = open_episodes(path, **view)
    frames = [episodes.num_frames(i) for i in range(len(episodes))]
    return Summary(
        format=episodes.title or episodes.format,
        episodes=len(episodes),
        splits=dict(Counter(episode.split for episode in episodes)),
        with_text=sum(episode.text is not None for episode in episodes),
        with_actions=sum(episode.actions is not None for episode in episodes),
        with_state=sum(episode.state is not None for episode in episodes),
        texts=len({episode.text for episode in episodes if episode.text is not None}),
        frames=sum(frames),
        seconds=sum(count / episode.fps for count, episode in zip(frames, episodes, strict=True)),
        notes=(*episodes.notes, *episodes.video_notes()),
    )


def _check_line(
    line: bytes,
    number: int,
    root: Path,
    schema: Schema | None,
    first_line: dict[str, int],
    users: dict[Path, int],
    decode: bool,
) -> list[WfmError]:
    """What is wrong with one line of episodes.jsonl and the files it names."""
    try:
        episode = parse_line(line, "", root)
    except BadData as error:
        return [error]
    errors: list[WfmError] = []
    before = first_line.setdefault(episode.id, number)
    if before != number:
        errors.append(BadData(f"id {episode.id!r} is that of line {before} too, expected distinct ids; fix: rename one"))
    files = [file for file in (episode.video, episode.actions, episode.state) if file is not None]
    own = {file for file in files if users.setdefault(file, number) == number}
    for file in files:
        if file not in own:  # and it is not looked at once more
            errors.append(BadData(f"{file.name} belongs to line {users[file]} too, expected a file an episode; fix: copy it"))
    frames = _try(errors, lambda: _check_video(episode, decode)) if episode.video in own else None
    if episode.actions in own:
        _try(errors, lambda: _check_actions(episode, schema, frames))
    if episode.state in own:
        _try(errors, lambda: _check_state(episode, frames))
    return errors


def _check_video(episode: Episode, decode: bool) -> int:
    """The number of frames."""
    frames = count_frames(episode.video)
    if decode:
        frames = len(read_video(episode.video))
    check_rate(episode.video, video_info(episode.video), episode.fps)
    return frames


def _check_actions(episode: Episode, schema: Schema | None, frames: int | None) -> None:
    if schema is None:
        return  # said once, for actions.json
    schema = schema.of(episode.embodiment)
    assert episode.actions is not None, "looked at only where there are some"
    actions = load_actions(episode.actions, schema)
    if frames is not None:
        check_count(actions, frames, str(episode.actions))
    if not same_rate(schema.rate_hz, episode.fps):
        raise BadData(
            f"{episode.actions}: actions.json says {schema.rate_hz:g} actions a second, expected {episode.fps:g}, "
            "the line's fps; fix: resample the actions or correct the rate"
        )


def _check_state(episode: Episode, frames: int | None) -> None:
    assert episode.state is not None, "looked at only where there is one"
    for name, array in load_state(episode.state).items():
        if array.dtype.kind == "f" and frames is not None and (array.ndim == 0 or len(array) != frames):
            raise BadData(f"{episode.state}: {name} has shape {list(array.shape)}, expected {frames} rows; fix: make it again")


def _check_schema(root: Path, lines: list[bytes], defects: list[Defect]) -> Schema | None:
    try:
        return read_schema(root, needed=any(b'"actions"' in line for line in lines))
    except BadData as error:
        defects.append(_defect(error, root / SCHEMA, None))
        return None


def _check_other(path: Path, decode: bool, on_progress: Callable[[int, int], None] | None, **how: Any) -> list[Defect]:
    """The defects of a set in another format, through its reader: what opening it meets, then each episode's frames and arrays."""
    problems: list[WfmError] = []
    try:
        if how["camera"] is None and format_of(path)[0] in HAVE_CAMERAS:
            how["camera"] = TILE  # every camera is looked at
        episodes = open_any(path, problems=problems, **how)
    except (BadConfig, MissingDependency):
        raise
    except WfmError as error:
        problems += [error, *_broken_videos(path, decode)]
        episodes = None
    defects = [_located(error, path, "") for error in problems]
    if episodes is None:
        return list(dict.fromkeys(defects))
    for i, episode in enumerate(episodes):
        found = episode_defects(episodes, i, decode)
        errors: list[WfmError] = []
        _try(errors, lambda i=i, episodes=episodes: episodes.load_state(i))
        defects += [*found, *(_located(error, path, f" episode {episode.id}") for error in errors)]
        if on_progress:
            on_progress(i + 1, len(episodes))
    return list(dict.fromkeys(defects))  # a file that several episodes lie in is told once


def episode_defects(episodes: EpisodeSet, i: int, decode: bool = False) -> list[Defect]:
    """What is wrong with the frames and the actions of episode i, as training would meet it sooner or later."""
    errors: list[WfmError] = []
    _try(errors, lambda: _read_frames(episodes, i, decode))
    if episodes.schema is not None:  # none could be made where no actions can be read, which is told already
        _try(errors, lambda: episodes.load_actions(i))
    return [_located(error, episodes.path, f" episode {episodes[i].id}") for error in errors]


def _read_frames(episodes: EpisodeSet, i: int, decode: bool) -> None:
    if decode:
        episodes.load_frames(i)
    elif episodes.format in A_FILE_EACH and isinstance(episodes.reader, (FileReader, NpzReader)):  # every packet is looked at
        count_frames(episodes[i].video)
    else:
        count = episodes.num_frames(i)
        episodes.load_frames(i, 0, 1)
        episodes.load_frames(i, max(0, count - 1), 1)


def _broken_videos(path: Path, decode: bool) -> list[WfmError]:
    """What is wrong with the videos of a set that does not open as a whole."""
    errors: list[WfmError] = []
    for video in videos_in(path).values() if path.is_dir() else ():
        _try(errors, lambda video=video: read_video(video) if decode else count_frames(video))
    return errors


def _located(error: WfmError, path: Path, within: str) -> Defect:
    """The defect at the place that the error names, or at `path`, `within` it."""
    if error.where.startswith((str(path), os.path.abspath(path))):
        return _defect(error, Path(error.where), None)
    return _defect(error, Path(f"{path}{within}"), None)


def _try(errors: list[WfmError], check: Callable[[], Any]) -> Any:
    try:
        return check()
    except WfmError as error:
        errors.append(bare(error))
        return None


def _defect(error: WfmError, file: Path, line: int | None) -> Defect:
    what = error.what if error.where == str(file) else error.problem
    return Defect(file=str(file), line=line, what=what, fix=error.fix or "docs/robot.md shows the format")
