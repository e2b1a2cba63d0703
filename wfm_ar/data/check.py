"""Looks at every file of a data set and lists what is wrong: `check_data`, and `summarize` for what is there.

Videos are read packet by packet without decoding, which finds missing, truncated and miscounted files at some thousand
frames a second; `decode=True` decodes them too and finds damaged pictures. Nothing is changed.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wfm_ar.data.episodes import INDEX, SCHEMA, Episode, EpisodeSet, load_actions, load_state, open_episodes, parse_line, read_schema
from wfm_ar.data.video import VIDEO_SUFFIXES, count_frames, read_video, video_info
from wfm_ar.errors import BadData, WfmError
from wfm_ar.schema import ActionSchema


@dataclass(frozen=True, kw_only=True)
class Defect:
    """One thing that is wrong; str() is its one line."""

    file: str
    line: int | None  # of episodes.jsonl, where the defect belongs to an episode
    what: str
    fix: str

    def __str__(self) -> str:
        place = f"{self.file} line {self.line}" if self.line else self.file
        return " ".join(f"{place}: {self.what}; fix: {self.fix}".splitlines())


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Counts of what a data set holds."""

    episodes: int
    splits: dict[str, int]  # split -> episodes
    with_text: int
    with_actions: int
    with_state: int
    texts: int  # distinct
    frames: int  # as the containers declare
    seconds: float

    def __str__(self) -> str:
        splits = ", ".join(f"{count} {name}" for name, count in sorted(self.splits.items()))
        return (
            f"{self.episodes} episodes ({splits}), {self.frames} frames, {self.seconds / 60:.1f} min; "
            f"{self.with_text} with text ({self.texts} distinct), {self.with_actions} with actions, {self.with_state} with state"
        )


def check_data(path: str | Path, *, decode: bool = False, on_progress: Callable[[int, int], None] | None = None) -> list[Defect]:
    """All defects of a data set, in the order of its lines; [] for a sound one.

    `on_progress(done, total)` is called after each episode. Raises nothing for bad data: a path that is no data set is a defect.
    """
    path = Path(path)
    root = path.parent if path.name == INDEX else path
    if not (root / INDEX).is_file():
        other = _open_other(path)
        return _check_videos(root, decode, on_progress) if other is None else _check_other(other, path, decode, on_progress)
    defects: list[Defect] = []
    schema = _check_schema(root, defects)
    lines = (root / INDEX).read_bytes().splitlines()
    if not lines:
        defects.append(Defect(file=str(root / INDEX), line=None, what="is empty", fix="make the data set again"))
    first_line: dict[str, int] = {}
    users: dict[Path, int] = {}
    for number, line in enumerate(lines, 1):
        for error in _check_line(line, number, root, schema, first_line, users, decode):
            defects.append(_defect(error, root / INDEX, number))
        if on_progress:
            on_progress(number, len(lines))
    return defects


def summarize(path: str | Path) -> Summary:
    """Counts for a data set that opens. Raises BadData, BadClip."""
    episodes = open_episodes(path)
    frames = [episodes.num_frames(i) for i in range(len(episodes))]
    return Summary(
        episodes=len(episodes),
        splits=dict(Counter(episode.split for episode in episodes)),
        with_text=sum(episode.text is not None for episode in episodes),
        with_actions=sum(episode.actions is not None for episode in episodes),
        with_state=sum(episode.state is not None for episode in episodes),
        texts=len({episode.text for episode in episodes if episode.text is not None}),
        frames=sum(frames),
        seconds=sum(count / episode.fps for count, episode in zip(frames, episodes, strict=True)),
    )


def _check_line(
    line: bytes,
    number: int,
    root: Path,
    schema: ActionSchema | None,
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
    for file in (episode.video, episode.actions, episode.state):
        if file is not None and users.setdefault(file, number) != number:
            errors.append(BadData(f"{file.name} belongs to line {users[file]} too, expected a file an episode; fix: copy it"))
    frames = _try(errors, lambda: _check_video(episode, decode))
    if episode.actions is not None:
        _try(errors, lambda: _check_actions(episode, schema, frames))
    if episode.state is not None:
        _try(errors, lambda: _check_state(episode, frames))
    return errors


def _check_video(episode: Episode, decode: bool) -> int:
    """The number of frames."""
    frames = count_frames(episode.video)
    if decode:
        frames = len(read_video(episode.video))
    fps = video_info(episode.video).fps
    if abs(fps - episode.fps) > 0.01 * episode.fps:
        raise BadData(f"{episode.video}: plays at {fps:g} fps, expected {episode.fps:g} as the line says; fix: correct the line")
    return frames


def _check_actions(episode: Episode, schema: ActionSchema | None, frames: int | None) -> None:
    if schema is None:
        return  # said once, for actions.json
    actions = load_actions(episode.actions, schema)
    if frames is not None and len(actions) != frames - 1:
        shape = f"[{frames - 1}, {schema.width}]"
        raise BadData(
            f"{episode.actions}: got {len(actions)} actions, expected {shape} for {frames} frames; fix: one action between every two frames"
        )
    if abs(schema.rate_hz - episode.fps) > 0.01 * episode.fps:
        raise BadData(
            f"{episode.actions}: actions.json says {schema.rate_hz:g} actions a second, expected {episode.fps:g}, "
            "the line's fps; fix: resample the actions or correct the rate"
        )


def _check_state(episode: Episode, frames: int | None) -> None:
    for name, array in load_state(episode.state).items():
        if array.dtype.kind == "f" and frames is not None and (array.ndim == 0 or len(array) != frames):
            raise BadData(f"{episode.state}: {name} has shape {list(array.shape)}, expected {frames} rows; fix: make it again")


def _check_schema(root: Path, defects: list[Defect]) -> ActionSchema | None:
    wants_actions = b'"actions"' in (root / INDEX).read_bytes()
    try:
        return read_schema(root, needed=wants_actions)
    except BadData as error:
        defects.append(_defect(error, root / SCHEMA, None))
        return None


def _check_videos(root: Path, decode: bool, on_progress: Callable[[int, int], None] | None) -> list[Defect]:
    """The defects of a bare folder of videos."""
    defects = []
    names = sorted(path for path in root.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES) if root.is_dir() else []
    names = [path for path in names if not any(part.startswith(".") for part in path.relative_to(root).parts)]
    if not names:
        try:
            open_episodes(root)
        except WfmError as error:
            return [_defect(error, root, None)]
    for done, path in enumerate(names, 1):
        try:
            read_video(path) if decode else count_frames(path)
        except WfmError as error:
            defects.append(_defect(error, path, None))
        if on_progress:
            on_progress(done, len(names))
    return defects


def _open_other(path: Path) -> EpisodeSet | None:
    """A set in a format that is neither ours nor a bare folder of videos, where `path` holds one that opens."""
    try:
        episodes = open_episodes(path)
    except WfmError:
        return None  # what is wrong is told by the check of its files
    return None if episodes.format in ("episodes", "videos") else episodes


def _check_other(episodes: EpisodeSet, path: Path, decode: bool, on_progress: Callable[[int, int], None] | None) -> list[Defect]:
    """The defects of a set in another format, through its reader: the first and the last frames, or all, and every array."""
    defects = []
    for i, episode in enumerate(episodes):
        errors: list[WfmError] = []
        frames = _try(errors, lambda i=i: _readable_frames(episodes, i, decode))
        actions = _try(errors, lambda i=i: episodes.load_actions(i))
        _try(errors, lambda i=i: episodes.load_state(i))
        if frames is not None and actions is not None and len(actions) != frames - 1:
            errors.append(
                BadData(f"got {len(actions)} actions for {frames} frames, expected {frames - 1}; fix: one between every two frames")
            )
        defects += [_defect(error, Path(f"{path} episode {episode.id}"), None) for error in errors]
        if on_progress:
            on_progress(i + 1, len(episodes))
    return defects


def _readable_frames(episodes: EpisodeSet, i: int, decode: bool) -> int:
    if decode:
        return len(episodes.load_frames(i))
    count = episodes.num_frames(i)
    episodes.load_frames(i, 0, 1)
    episodes.load_frames(i, max(0, count - 1), 1)
    return count


def _try(errors: list[WfmError], check: Callable[[], Any]) -> Any:
    try:
        return check()
    except WfmError as error:
        errors.append(error)
        return None


def _defect(error: WfmError, file: Path, line: int | None) -> Defect:
    """An error's line taken apart again: `place: what; fix: how`."""
    what, _, fix = str(error).partition("; fix: ")
    what = what.removeprefix(f"{file}").removeprefix(": ")
    return Defect(file=str(file), line=line, what=what, fix=fix or "see the README")
