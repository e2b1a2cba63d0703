"""Data sets on disk: a folder with `episodes.jsonl` (video + text + actions + rate), or a bare folder of videos.

Promises: what is opened was parsed strictly, every error names file and line, and no path leaves the folder, symbolic links
included. Files behind the paths are read when asked for; `check.py` looks at all of them beforehand.
"""

import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wfm_ar.data.files import write_atomic
from wfm_ar.data.video import VIDEO_SUFFIXES, read_video, video_info, write_video
from wfm_ar.errors import BadActions, BadData, nearest
from wfm_ar.schema import ActionSchema

INDEX, SCHEMA = "episodes.jsonl", "actions.json"
KEYS = ("id", "video", "text", "actions", "state", "fps", "split")
REQUIRED = ("id", "video", "fps", "split")
SPLITS = ("train", "val", "test")
LINE_BYTES = 64 << 10  # of episodes.jsonl
STATE_BYTES = 1 << 30  # of an episode's state, unpacked
VAL_FRACTION = 0.05  # of a bare folder of videos


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One episode. Paths are absolute; what a data set does not have is None."""

    id: str
    video: Path
    text: str | None
    actions: Path | None  # .npy, float32 [T-1, A]; row t leads from frame t to t+1
    state: Path | None  # .npz, true state by frame, for evaluation only
    fps: float
    split: str  # "train", "val" or "test"


@dataclass(frozen=True, kw_only=True)
class EpisodeSet(Sequence):
    """Episodes with random access; `set[i]` is an Episode, `load_*` reads its files."""

    path: Path
    format: str  # "episodes" or "videos"
    schema: ActionSchema | None  # of the actions, where there are any
    episodes: tuple[Episode, ...]

    def __len__(self) -> int:
        return len(self.episodes)

    def __getitem__(self, i: int) -> Episode:
        return self.episodes[i]

    def load_frames(self, i: int, start: int = 0, count: int | None = None) -> np.ndarray:
        """uint8 [T, H, W, 3] of episode i, or `count` frames of it from `start`. Raises BadClip."""
        return read_video(self.episodes[i].video, start, count)

    def load_actions(self, i: int) -> np.ndarray | None:
        """float32 [T-1, A] of episode i, or None. Raises BadData, BadActions."""
        path = self.episodes[i].actions
        return None if path is None else load_actions(path, self.schema)

    def load_state(self, i: int) -> dict[str, np.ndarray] | None:
        """The true state arrays of episode i, or None. Raises BadData."""
        path = self.episodes[i].state
        return None if path is None else load_state(path)


def open_episodes(path: str | Path, split: str | None = None) -> EpisodeSet:
    """Opens a data-set folder (or its episodes.jsonl); `split` keeps only "train", "val" or "test". Raises BadData, BadClip."""
    path = Path(path)
    if split is not None and split not in SPLITS:
        raise BadData(f"{path}: got split {split!r}{nearest(split, SPLITS)}, expected one of {list(SPLITS)}; fix: name one")
    root = path.parent if path.name == INDEX else path
    if not root.is_dir():
        raise BadData(f"{root}: is not a folder, expected a data set; fix: check the path, or make one with `wfm data make`")
    if (root / INDEX).exists():
        episodes = tuple(_parse_index(root))
        needs_schema = any(episode.actions for episode in episodes)
        found = EpisodeSet(path=root, format="episodes", schema=read_schema(root, needed=needs_schema), episodes=episodes)
    else:
        found = EpisodeSet(path=root, format="videos", schema=None, episodes=tuple(_list_videos(root)))
    if split is None:
        return found
    kept = tuple(episode for episode in found.episodes if episode.split == split)
    if not kept:
        raise BadData(f"{root}: got no episode of split {split!r}, expected at least one; fix: add one or choose another split")
    return EpisodeSet(path=root, format=found.format, schema=found.schema, episodes=kept)


def split_of(episode_id: str, val_fraction: float) -> str:
    """ "train" or "val" by a hash of the id, so that an episode never changes sides when a set grows."""
    return "val" if _draw(episode_id) < val_fraction else "train"


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
    crf: int = 16,
    overwrite: bool = False,
    sync: bool = True,
) -> dict[str, Any]:
    """Writes the files of one episode below `root` and returns its record for `write_episodes`. Same input, same bytes."""
    if not id or Path(id).name != id or id.startswith("."):
        raise BadData(f"episode id {id!r}: cannot be a file name, expected a plain name; fix: leave out slashes and first dots")
    record: dict[str, Any] = {"id": id, "text": text, "video": f"videos/{id}.mp4"}
    contents: dict[str, bytes] = {}
    if actions is not None:
        record["actions"] = f"actions/{id}.npy"
        contents[record["actions"]] = _bytes_of(np.save, np.asarray(actions, dtype=np.float32))
    if state is not None:
        record["state"] = f"states/{id}.npz"
        contents[record["state"]] = _bytes_of(np.savez, **state)
    for name in (record["video"], *contents):
        Path(root, name).parent.mkdir(parents=True, exist_ok=True)
    write_video(Path(root, record["video"]), frames_THWC, fps, crf=crf, overwrite=overwrite, sync=sync)
    for name, content in contents.items():
        write_atomic(Path(root, name), content, overwrite=overwrite, sync=sync)
    return {**record, "fps": float(fps), "split": split}


def write_episodes(root: Path, records: Iterable[dict[str, Any]], schema: ActionSchema | None = None, *, overwrite: bool = False) -> None:
    """Writes the index of a data set, last of all its files: `actions.json`, then `episodes.jsonl`."""
    lines = b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)
    if schema is not None:
        content = json.dumps(schema.to_json(), indent=2).encode() + b"\n"
        write_atomic(Path(root, SCHEMA), content, overwrite=overwrite)
    write_atomic(Path(root, INDEX), lines, overwrite=overwrite)


def copy_episodes(episodes: Iterable[Episode], schema: ActionSchema | None, root: Path) -> None:
    """A data set of its own at `root` with these episodes, their files copied byte for byte."""
    records = []
    for episode in episodes:
        record: dict[str, Any] = {"id": episode.id, "fps": episode.fps, "split": episode.split, "text": episode.text}
        for key, folder in (("video", "videos"), ("actions", "actions"), ("state", "states")):
            if (source := getattr(episode, key)) is not None:
                record[key] = f"{folder}/{episode.id}{source.suffix}"
                target = Path(root, record[key])
                target.parent.mkdir(parents=True, exist_ok=True)
                write_atomic(target, source.read_bytes())
        records.append({key: value for key, value in record.items() if value is not None})
    write_episodes(root, records, schema)


def parse_line(line: bytes, where: str, root: Path) -> Episode:
    """One line of episodes.jsonl -> Episode; every error begins with `where`. Does not look whether the files exist."""
    if len(line) > LINE_BYTES:
        raise BadData(f"{where}: got a line of {len(line)} bytes, expected at most {LINE_BYTES}; fix: shorten its text")
    try:
        data = json.loads(line, object_pairs_hook=_refuse_double, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadData(f"{where}: is not JSON ({error}), expected one object a line; fix: write it with a JSON library") from None
    if not isinstance(data, dict):
        raise BadData(f"{where}: got a {type(data).__name__}, expected an object; fix: one object a line")
    for key in data:
        if key not in KEYS:
            raise BadData(f"{where}: unknown key {key!r}{nearest(key, KEYS)}, expected {list(KEYS)}; fix: rename or remove it")
    for key in REQUIRED:
        if data.get(key) is None:
            raise BadData(f"{where}: key {key!r} is missing, expected {list(REQUIRED)}; fix: add it")
    for key in KEYS:
        value = data.get(key)
        if key != "fps" and value is not None and (not isinstance(value, str) or not value.strip()):
            raise BadData(f"{where}: {key} is {value!r:.80}, expected text that is not empty; fix: fill it in or leave the key out")
        if isinstance(value, str):
            _check_words(value, f"{where}: {key}", is_path=key in ("video", "actions", "state"))
    fps = data["fps"]
    if isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 < fps < 1e6:  # NaN is not
        raise BadData(f"{where}: fps is {fps!r:.80}, expected a number above 0; fix: give the frames per second")
    if data["split"] not in SPLITS:
        near = nearest(data["split"], SPLITS)
        raise BadData(f"{where}: split is {data['split']!r}{near}, expected one of {list(SPLITS)}; fix: name one")
    paths = {key: _inside(root, data.get(key), f"{where}: {key}") for key in ("video", "actions", "state")}
    return Episode(id=data["id"], text=data.get("text"), fps=float(fps), split=data["split"], **paths)


def read_schema(root: Path, *, needed: bool) -> ActionSchema | None:
    """The action schema of a data set; None where there is none and none is needed. Raises BadData."""
    path = Path(root, SCHEMA)
    if not path.exists():
        if needed:
            raise BadData(f"{path}: does not exist, expected the schema of the actions; fix: write it, see the README")
        return None
    try:
        data = json.loads(path.read_bytes(), object_pairs_hook=_refuse_double, parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise BadData(f"{path}: is not JSON ({error}), expected an action schema; fix: repair or remake it") from None
    try:
        return ActionSchema.from_json(data)
    except BadData as error:
        raise BadData(f"{path}: {error}") from None


def load_actions(path: Path, schema: ActionSchema) -> np.ndarray:
    """float32 [N, A], checked against the schema. Raises BadData, BadActions."""
    actions = _load_array(path)
    if actions.dtype != np.float32:
        raise BadActions(f"{path}: got {actions.dtype} values, expected float32; fix: save actions.astype(np.float32)")
    schema.validate(actions, str(path))
    return actions


def load_state(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a state .npz by name. Raises BadData."""
    archive = _load_array(path)
    if isinstance(archive, np.ndarray):
        raise BadData(f"{path}: got a single array, expected an .npz of named arrays; fix: save it with np.savez")
    with archive:
        size = sum(one.file_size for one in archive.zip.infolist())
        if size > STATE_BYTES:  # compressed a thousandfold, a small file could fill the memory
            raise BadData(f"{path}: unpacks to {size} bytes, expected at most {STATE_BYTES}; fix: make it again")
        try:
            return {name: archive[name] for name in archive.files}
        except Exception as error:  # zipfile and numpy raise a dozen kinds for damaged archives
            raise BadData(f"{path}: cannot be read ({error}), expected a whole .npz; fix: make it again") from error


def _parse_index(root: Path) -> Iterator[Episode]:
    lines = (root / INDEX).read_bytes().splitlines()
    if not lines:
        raise BadData(f"{root / INDEX}: is empty, expected one line an episode; fix: make the data set again")
    first_line: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        where = f"{root / INDEX} line {number}"
        episode = parse_line(line, where, root)
        if episode.id in first_line:
            before = first_line[episode.id]
            raise BadData(f"{where}: id {episode.id!r} is that of line {before} too, expected distinct ids; fix: rename one")
        first_line[episode.id] = number
        yield episode


def _list_videos(root: Path) -> Iterator[Episode]:
    """A bare folder, searched to the bottom; hidden files are left alone."""
    found = sorted(path for path in root.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())
    names = {path.relative_to(root).as_posix(): path for path in found}
    names = {name: path for name, path in names.items() if not any(part.startswith(".") for part in name.split("/"))}
    if not names:
        raise BadData(
            f"{root}: got neither {INDEX} nor any {'/'.join(s[1:] for s in VIDEO_SUFFIXES)} file, expected a data set; fix: check the path"
        )
    first = min(names, key=_draw)  # with two files or more there is always one to validate with, and one to train on
    last = max(names, key=_draw)
    for name in names:
        video = _inside(root, name, str(root / name))
        split = split_of(name, VAL_FRACTION)
        if len(names) > 1:
            split = "val" if name == first else "train" if name == last else split
        yield Episode(id=name, video=video, text=None, actions=None, state=None, fps=video_info(video).fps, split=split)


def _inside(root: Path, name: str | None, where: str) -> Path | None:
    """The absolute path of `name`, which must stay inside `root` whatever links lie on the way."""
    if name is None:
        return None
    path = os.path.normpath(os.path.join(root, name))
    top = os.path.realpath(root)
    if os.path.isabs(name) or "\0" in name or os.path.commonpath([top, os.path.realpath(path)]) != top:
        raise BadData(f"{where} is {name!r}, which leads out of the folder, expected a relative path inside; fix: copy it in")
    return Path(os.path.abspath(path))


def _draw(name: str) -> float:
    """[0, 1), from a hash of the name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def _bytes_of(save, *args, **arrays) -> bytes:
    buffer = io.BytesIO()
    save(buffer, *args, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _load_array(path: Path):
    if not Path(path).is_file():
        raise BadData(f"{path}: does not exist or is not a regular file, expected an array; fix: restore it or drop the episode")
    try:
        return np.load(path, allow_pickle=False)
    except Exception as error:  # numpy and zipfile raise a dozen kinds for damaged files
        raise BadData(f"{path}: cannot be read ({error}), expected a numpy file; fix: make it again") from error


def _refuse_double(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError("a key occurs twice")
    return data


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _check_words(value: str, where: str, *, is_path: bool) -> None:
    """Text that can be written again, and a path that a file system can take."""
    try:
        content = value.encode()
    except UnicodeEncodeError as error:
        raise BadData(f"{where}: got a lone surrogate at character {error.start}, expected Unicode text; fix: remove it") from None
    if is_path and (len(content) > 2048 or max(map(len, content.split(b"/"))) > 255):
        raise BadData(f"{where}: got a path of {len(content)} bytes, expected names of at most 255; fix: shorten it")
