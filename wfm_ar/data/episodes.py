"""Data sets: episodes with random access, whatever the files look like; and how one of our own format is written.

Files behind the paths are read when asked for, window by window; `check.py` looks at all of them beforehand.
The way in for every format is `open_episodes` of formats.py, which finds out which one a path holds; each has a reader of its own.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import numpy as np

from wfm_ar.data.arrays import ACTION_BYTES, npy_bytes, npz_bytes, read_npy, read_npz
from wfm_ar.data.files import copy_atomic, write_atomic
from wfm_ar.data.schema_file import SCHEMA
from wfm_ar.data.splits import SPLITS
from wfm_ar.data.video import write_video
from wfm_ar.data.video_files import VideoFiles
from wfm_ar.data.video_notes import video_notes
from wfm_ar.errors import BadActions, BadData, nearest
from wfm_ar.plain_text import is_plain, shown
from wfm_ar.schema import ActionSchema, Schema

INDEX = "episodes.jsonl"
STATE_BYTES = 1 << 30  # of an episode's state, unpacked


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One episode. Paths are absolute; what a data set does not have is None."""

    id: str
    video: Path  # the file its frames lie in, alone or with others'
    text: str | None
    actions: Path | None  # the file its actions lie in; in our own format .npy, float32 [T-1, A], row t leads from frame t to t+1
    state: Path | None  # the file of its state by frame; in our own format .npz, for evaluation only
    fps: float
    split: str  # "train", "val" or "test"
    embodiment: str | None = None  # which robot, where a set has several
    source: Any = None  # where in the files, in the reader's own words


class Place(NamedTuple):
    """Where frames of an episode lie: a file, or `length` bytes of it from `begin`; and where in there, in the reader's own words."""

    path: Path
    begin: int = 0
    length: int | None = None  # None: to the end of the file
    within: Any = ""  # JSON


class Reader(Protocol):
    """How the files of one format are read. Stateless but for caches: threads share it."""

    def frames(self, episode: Episode, start: int, count: int | None) -> np.ndarray:
        """uint8 [T, H, W, 3], `count` frames from `start` (to the end for None). Raises BadClip, BadData."""
        ...

    def num_frames(self, episode: Episode) -> int:
        """Frames as the files declare them. Raises BadClip, BadData."""
        ...

    def frames_from(self, episode: Episode) -> list[Place]:
        """Everything that `frames` is read from: as long as it stays the same, so do the frames."""
        ...

    def actions(self, episode: Episode, schema: ActionSchema) -> np.ndarray:
        """float32 [T-1, A], row t leads from frame t to t+1. Raises BadActions, BadData."""
        ...

    def state(self, episode: Episode) -> dict[str, np.ndarray]:
        """Arrays by name, [T, ...] each where they go by frame. Raises BadData."""
        ...


def paired(episode: Episode) -> bool:
    """Whether rows go with the frames as they are stored."""
    return episode.actions is not None or episode.state is not None


class FileReader:
    """Our own format and bare videos: a file an episode for each kind of data."""

    def __init__(self) -> None:
        self._videos = VideoFiles()

    def frames(self, episode: Episode, start: int, count: int | None) -> np.ndarray:
        return self._videos.frames(episode.video, episode.fps, paired(episode), start, count)

    def num_frames(self, episode: Episode) -> int:
        return self._videos.num_frames(episode.video, episode.fps, paired(episode))

    def frames_from(self, episode: Episode) -> list[Place]:
        return [Place(episode.video, within=self._videos.place_within(episode.video, paired(episode)))]

    def actions(self, episode: Episode, schema: ActionSchema) -> np.ndarray:
        return load_actions(cast("Path", episode.actions), schema)

    def state(self, episode: Episode) -> dict[str, np.ndarray]:
        return load_state(cast("Path", episode.state))


@dataclass(frozen=True, kw_only=True)
class EpisodeSet(Sequence):
    """Episodes with random access; `set[i]` is an Episode, `load_*` reads its files."""

    path: Path
    format: str  # "episodes", "videos", "lerobot", "bridge", "rlds", "hdf5" or "mix"
    schema: Schema | None  # of the actions, where there are any
    episodes: tuple[Episode, ...]
    reader: Reader = field(default_factory=FileReader)
    schema_made: bool = False  # the schema was found in the data, not read from a file: another look may find other ranges
    title: str = ""  # the format as a user calls it
    notes: tuple[str, ...] = ()  # what was chosen or assumed while opening, for the user to read
    tiles: int = 1  # cameras that a frame shows side by side, see cameras.tiled
    view: str = ""  # the cameras that are shown, where there are several: two looks at one episode are two clips

    def __post_init__(self) -> None:
        for episode in self.episodes:
            if not is_plain(episode.id) or not is_plain(episode.embodiment or ""):
                told = f"got the episode {episode.id!a:.80}, expected an id of plain characters in one line"
                raise BadData(f"{self.path}: {told}; fix: rename it, without control characters and marks of direction")

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, i: int) -> Episode:
        return self.episodes[i]

    def load_frames(self, i: int, start: int = 0, count: int | None = None) -> np.ndarray:
        """uint8 [T, H, W, 3] of episode i, or `count` frames of it from `start`. Raises BadClip."""
        return self.reader.frames(self.episodes[i], start, count)

    def num_frames(self, i: int) -> int:
        """Frames of episode i as its files declare them. Raises BadClip, BadData."""
        return self.reader.num_frames(self.episodes[i])

    def load_actions(self, i: int) -> np.ndarray | None:
        """float32 [T-1, A] of episode i, or None. Raises BadData, BadActions, also where they are more or fewer; BadClip."""
        episode = self.episodes[i]
        if episode.actions is None or (schema := self.schema_of(i)) is None:
            return None
        actions = self.reader.actions(episode, schema)
        check_count(actions, self.num_frames(i), f"{episode.actions}" + f" ({episode.id})" * (self.format != "episodes"))
        return actions

    def load_state(self, i: int) -> dict[str, np.ndarray] | None:
        """The state arrays of episode i by name, or None. Raises BadData."""
        return None if self.episodes[i].state is None else self.reader.state(self.episodes[i])

    def schema_of(self, i: int) -> ActionSchema | None:
        """The schema of episode i's own robot; None where it has no actions."""
        episode = self.episodes[i]
        return None if self.schema is None or episode.actions is None else self.schema.of(episode.embodiment)

    def of_split(self, split: str) -> "EpisodeSet":
        """The episodes of one split. Raises BadData where there are none."""
        if split not in SPLITS:
            raise BadData(f"{self.path}: got split {split!r}{nearest(split, SPLITS)}, expected one of {list(SPLITS)}; fix: name one")
        kept = tuple(episode for episode in self.episodes if episode.split == split)
        if not kept:
            there = " or ".join(dict.fromkeys(episode.split for episode in self.episodes))
            raise BadData(f"{self.path}: got no episode of split {split!r}, expected at least one; fix: add one, or take split {there}")
        return replace(self, episodes=kept)

    def about(self) -> str:
        """One line (for several sets, one more for each): what was found, and what was chosen or assumed."""
        splits = {split: sum(episode.split == split for episode in self.episodes) for split in SPLITS}
        counted = ", ".join(f"{count} {split}" for split, count in splits.items() if count)
        texts = sum(episode.text is not None for episode in self.episodes)
        parts = [] if self.schema is None else [("", self.schema)] if isinstance(self.schema, ActionSchema) else self.schema.embodiments
        acting = [f"{name + ' ' if name else ''}{schema.width}" for name, schema in parts]
        acting = f"actions of {', '.join(acting)} channels" if acting else "no actions"
        plural = "1 episode" if len(self) == 1 else f"{len(self)} episodes"
        told = shown(f"{self.path}: {self.title or self.format}, {plural} ({counted}), {texts} with text, {acting}")
        notes = [shown(note) for note in (*self.notes, *self.video_notes())]
        return ("\n  " if self.format == "mix" else "; ").join([told, *notes])

    def video_notes(self) -> list[str]:
        """What there is to say of how the video files are shown; for several sets, their own lines say it."""
        return video_notes(episode.video for episode in self.episodes if self.format != "mix")


def write_episode(
    root: Path,
    *,
    id: str,
    frames_THWC: np.ndarray,
    fps: float,
    split: str,
    text: str | None = None,
    actions: np.ndarray | None = None,
    state: dict[str, np.ndarray] | None = None,
    pack_state: bool = False,
    embodiment: str | None = None,
    crf: int = 16,
    lossless: bool = False,
    overwrite: bool = False,
    sync: bool = True,
) -> dict[str, Any]:
    """Writes the files of one episode below `root` and returns its record for `write_episodes`. Same input, same bytes.

    pack_state: the state's file is compressed; for states of masks.
    """
    if not id or Path(id).name != id or id.startswith("."):
        raise BadData(f"episode id {id!r}: cannot be a file name, expected a plain name; fix: leave out slashes and first dots")
    record: dict[str, Any] = {"id": id, "text": text, "video": f"videos/{id}.mp4"}
    contents: dict[str, bytes] = {}
    if actions is not None:
        record["actions"] = f"actions/{id}.npy"
        contents[record["actions"]] = npy_bytes(np.asarray(actions, dtype=np.float32))
    if state is not None:
        record["state"] = f"states/{id}.npz"
        contents[record["state"]] = npz_bytes(state, packed=pack_state)
    for name in (record["video"], *contents):
        Path(root, name).parent.mkdir(parents=True, exist_ok=True)
    write_video(Path(root, record["video"]), frames_THWC, fps, crf=crf, lossless=lossless, overwrite=overwrite, sync=sync)
    for name, content in contents.items():
        write_atomic(Path(root, name), content, overwrite=overwrite, sync=sync)
    if embodiment is not None:
        record["embodiment"] = embodiment
    return {**record, "fps": float(fps), "split": split}


def write_episodes(root: Path, records: Iterable[dict[str, Any]], schema: Schema | None = None, *, overwrite: bool = False) -> None:
    """Writes the index of a data set, last of all its files: `actions.json`, then `episodes.jsonl`."""
    lines = b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)
    if schema is not None:
        content = json.dumps(schema.to_json(), indent=2).encode() + b"\n"
        write_atomic(Path(root, SCHEMA), content, overwrite=overwrite)
    write_atomic(Path(root, INDEX), lines, overwrite=overwrite)


def copy_episodes(episodes: EpisodeSet, indices: Iterable[int], root: Path, most_frames: int = 129) -> None:
    """A data set of our own at `root` with these episodes: files copied byte for byte where they are of our own format, else
    the first `most_frames` frames encoded anew (one pixel cut off odd sides)."""
    records = []
    for i in indices:
        episode = episodes[i]
        if not isinstance(episodes.reader, FileReader):
            records.append(_encode_episode(episodes, i, root, most_frames))
            continue
        record: dict[str, Any] = {"id": episode.id, "fps": episode.fps, "split": episode.split, "text": episode.text}
        record["embodiment"] = episode.embodiment
        for key, folder in (("video", "videos"), ("actions", "actions"), ("state", "states")):
            if (source := getattr(episode, key)) is not None:
                name = episode.id.removesuffix(source.suffix)  # of a bare folder the id is the file's name
                record[key] = f"{folder}/{name}{source.suffix}"
                target = Path(root, record[key])
                target.parent.mkdir(parents=True, exist_ok=True)
                copy_atomic(source, target)
        records.append({key: value for key, value in record.items() if value is not None})
    write_episodes(root, records, episodes.schema)


def _encode_episode(episodes: EpisodeSet, i: int, root: Path, most_frames: int) -> dict[str, Any]:
    episode, count = episodes[i], min(most_frames, episodes.num_frames(i))
    frames_THWC, actions = even_sides(episodes.load_frames(i, 0, count)), episodes.load_actions(i)
    return write_episode(
        root,
        id=file_id(episode.id),
        frames_THWC=frames_THWC,
        fps=episode.fps,
        split=episode.split,
        text=episode.text,
        actions=None if actions is None else actions[: count - 1],
        embodiment=episode.embodiment,
    )


def file_id(name: str) -> str:
    """An id that can be a file name: what cannot stand in one becomes "_"; distinct names may meet."""
    plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in name).lstrip(".")
    return plain.encode()[:100].decode(errors="ignore") or "_"


def even_sides(frames_THWC: np.ndarray) -> np.ndarray:
    """The frames without the last row or column where their number is odd: lossy H.264 halves the colour planes."""
    height, width = (side - side % 2 for side in frames_THWC.shape[1:3])
    return frames_THWC[:, :height, :width]


def load_actions(path: Path, schema: ActionSchema) -> np.ndarray:
    """float32 [N, A], checked against the schema. Raises BadData, BadActions."""
    actions = read_npy(path, ACTION_BYTES)
    if actions.dtype != np.float32:
        raise BadActions(f"{path}: got {actions.dtype} values, expected float32; fix: save actions.astype(np.float32)")
    schema.validate(actions, str(path))
    return actions


def check_count(actions: np.ndarray, frames: int, where: str) -> None:
    """Raises BadActions unless there is an action [A] between every two frames: of other counts nothing tells which belong together."""
    if len(actions) != frames - 1:
        raise BadActions(
            f"{where}: got {len(actions)} actions for {frames} frames, expected {frames - 1}; fix: one action between every two frames"
        )


def load_state(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a state .npz by name. Raises BadData."""
    return read_npz(path, STATE_BYTES)
