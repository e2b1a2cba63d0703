"""RLDS episodes in TFRecord files, as TFDS writes them: one episode a record, each step's values one after the other.

    steps/observation/<camera>        JPEG or PNG a step          steps/action or steps/action/*    numbers a step
    steps/language_instruction        text                        steps/observation/*               other numbers: state

Read without TensorFlow. A record is checked against its sum when frames or actions are first taken from it; after that a window
costs its own pictures, however long the episode. Nothing in the file says how many steps a second there are.
"""

import functools
import mmap
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wfm_ar.data.cameras import choose_cameras, tiled, view_of
from wfm_ar.data.episodes import Episode, EpisodeSet, Place, hashed_splits, read_schema
from wfm_ar.data.folder import sample, schema_note
from wfm_ar.data.listing import files_below, refuse_leading_out, refuse_pointer
from wfm_ar.data.problems import Problems, noted, sound
from wfm_ar.data.schema_from_data import schema_from_data
from wfm_ar.data.tfrecord import byte_strings, features_of, first_string, index_records, read_record, values_of
from wfm_ar.data.video import decode_images
from wfm_ar.errors import BadActions, BadClip, BadData
from wfm_ar.schema import ActionSchema

ACTION, OBSERVATION = "steps/action", "steps/observation/"
TEXTS = ("steps/language_instruction", "steps/observation/natural_language_instruction", "steps/natural_language_instruction",
         "steps/observation/language_instruction", "language_instruction", "episode_metadata/language_instruction")  # fmt: skip
DEFAULT_FPS = 5.0  # BridgeData's
_IMAGES = (b"\x89PNG", b"\xff\xd8\xff")
_SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True, kw_only=True)
class Record:
    """Where an episode lies in its file."""

    number: int
    offset: int  # bytes
    length: int  # bytes
    steps: int


class Layout(NamedTuple):
    """A record that matched its sum: its features that are no pictures, and where the pictures lie."""

    numbers: dict[str, memoryview]
    pictures: dict[str, np.ndarray]  # int64 [n, 2]: (offset in the file, bytes) of each


class RldsReader:
    """Reads episodes of one data set; of the last records it is known what lies where."""

    def __init__(self, cameras: tuple[str, ...]) -> None:
        self.cameras = cameras
        self._layout = functools.lru_cache(maxsize=1024)(self._read)

    @staticmethod
    def _read(path: Path, record: Record) -> Layout:
        content = read_record(path, record.number, record.offset, record.length)
        numbers, pictures, begin = {}, {}, _address(content)
        for name, feature in features_of(content, _where(path, record.number)).items():
            if _is_pictures(feature):
                strings = byte_strings(feature)
                places = [(_address(one) - begin + record.offset if len(one) else record.offset, len(one)) for one in strings]
                pictures[name] = np.array(places, np.int64)
            else:
                numbers[name] = memoryview(bytes(feature))
        return Layout(numbers, pictures)

    def num_frames(self, episode: Episode) -> int:
        return episode.source.steps

    def frames_from(self, episode: Episode) -> list[Place]:
        return [Place(episode.video, episode.source.offset, episode.source.length, list(self.cameras))]

    def frames(self, episode: Episode, start: int, count: int | None) -> np.ndarray:
        record, where = episode.source, _where(episode.video, episode.source.number)
        stop = record.steps if count is None else start + count
        if not 0 <= start < stop <= record.steps:
            raise BadClip(f"{where}: got {record.steps} steps, expected frames {start} to {stop - 1} too; fix: ask for frames that exist")
        pictures = self._layout(episode.video, record).pictures

        def view(camera: str) -> np.ndarray:
            places = pictures.get(camera, ())
            if len(places) != record.steps:
                raise BadClip(f"{where}: {camera} has {len(places)} pictures, expected {record.steps}; fix: name another camera=")
            with open(episode.video, "rb") as file:
                images = [os.pread(file.fileno(), int(length), int(offset)) for offset, length in places[start:stop]]
            return decode_images(images, [f"{where}, {camera} step {t}" for t in range(start, stop)])

        return tiled(self.cameras, view, where)

    def actions(self, episode: Episode, schema: ActionSchema) -> np.ndarray:
        where = _where(episode.video, episode.source.number)
        values = _actions(self._layout(episode.video, episode.source).numbers, episode.source.steps, where)[:-1]
        schema.validate(values, where)
        return np.ascontiguousarray(values, np.float32)

    def state(self, episode: Episode) -> dict[str, np.ndarray]:
        where, steps = _where(episode.video, episode.source.number), episode.source.steps
        return _state(self._layout(episode.video, episode.source).numbers, steps, where)


def open_rlds(path: Path, camera: str | None, fps: float | None, problems: Problems = None) -> EpisodeSet:
    """A .tfrecord file, or a folder of them. Raises BadData, BadConfig, BadActions."""
    files = [path] if path.is_file() else [one for one in files_below(path) if ".tfrecord" in one.name]
    root = path.parent if path.is_file() else path
    if not files:
        raise BadData(f"{path}: holds no regular .tfrecord file, expected one; fix: copy it in")
    for file in files:
        refuse_leading_out(root, file)
    found, cameras, shown, camera_note = [], [], (), ""
    for file, number, offset, content in _records(files, problems):
        where = _where(file, number)
        with noted(problems):
            features = features_of(content, where)
            if not shown:
                cameras = sorted(name for name, f in features.items() if name.startswith(OBSERVATION) and _is_pictures(f))
                if not cameras:
                    raise BadData(f"{where}: got no pictures in {sorted(features)[:12]}, expected JPEG or PNG under {OBSERVATION}*; "
                                  "fix: write encoded images")  # fmt: skip
                shown, camera_note = choose_cameras(cameras, camera, str(path))
            steps = len(byte_strings(features.get(shown[0], b"")))
            if not steps:
                raise BadData(f"{where}: has no pictures of {shown[0]}, expected some; fix: name another camera=")
            acting = any(name == ACTION or name.startswith(f"{ACTION}/") for name in features)
            state = any(name.startswith(OBSERVATION) and not _is_pictures(feature) for name, feature in features.items())
            name = f"{file.relative_to(root).as_posix()}:{number}"
            record = Record(number=number, offset=offset, length=len(content), steps=steps)
            found.append((name, file, record, _text(features, where), acting, state))
    told = {name: _file_split(file) for name, file, *_ in found}
    splits = told if {"train", "val"} <= set(told.values()) and None not in told.values() else hashed_splits(list(told))
    rate = fps or DEFAULT_FPS
    episodes = tuple(
        Episode(
            id=name,
            video=file,
            text=text,
            actions=file if acting and record.steps > 1 else None,
            state=file if state else None,
            fps=rate,
            split=splits[name],
            source=record,
        )
        for name, file, record, text, acting, state in found
    )
    notes = [camera_note] if camera_note else []
    notes += [] if fps else [f"{rate:g} frames a second assumed, the files do not say (fps= sets it)"]
    reader, schema, made = RldsReader(shown), read_schema(root, needed=False), False
    actors = sample([episode for episode in episodes if episode.actions])
    actors = sound(actors, lambda episode: _actions_and_state(reader, episode)[0], problems)
    if actors and schema is None:
        made, pairs = True, [_actions_and_state(reader, episode) for episode in actors]
        states = [state for _, state in pairs] if all(state is not None for _, state in pairs) else None
        places = [_where(episode.video, episode.source.number) for episode in actors]
        schema = schema_from_data([values for values, _ in pairs], rate, states=states, places=places, where=str(path))
        notes.append(schema_note(schema, root))
    return EpisodeSet(
        path=path,
        format="rlds",
        title="RLDS episodes in TFRecord",
        schema=schema,
        episodes=episodes,
        reader=reader,
        schema_made=made,
        notes=tuple(notes),
        view=view_of(cameras, shown),
    )


def _records(files: list[Path], problems: Problems) -> Iterator[tuple[Path, int, int, memoryview]]:
    """(file, number, offset, content) of each record; only the pages that are looked at are read from the disk."""
    for file in files:
        places = []
        with noted(problems):
            refuse_pointer(file)
            places = index_records(file)
        if places:
            with open(file, "rb") as handle:
                mapped = memoryview(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ))  # closed with the last view of it
        for number, (offset, length) in enumerate(places):
            yield file, number, offset, mapped[offset : offset + length]


def _actions_and_state(reader: RldsReader, episode: Episode) -> tuple[np.ndarray, np.ndarray | None]:
    """What a schema is made from: of a long record only the pages that hold it are read, so its sum is not looked at here."""
    where, record = _where(episode.video, episode.source.number), episode.source
    with open(episode.video, "rb") as handle:
        mapped = memoryview(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ))
    features: Mapping[str, memoryview] = features_of(mapped[record.offset : record.offset + record.length], where)
    values = _actions(features, record.steps, where)[:-1]
    if not np.isfinite(values).all():  # damage is told as such
        features = reader._layout(episode.video, record).numbers
        values = _actions(features, record.steps, where)[:-1]
    state = _state(features, record.steps, where).get("state")
    return values, state if state is not None and state.shape[1] >= values.shape[1] else None


def _actions(features: Mapping[str, memoryview], steps: int, where: str) -> np.ndarray:
    """[steps, A]; a dictionary of actions is joined in the order of its names."""
    names = [ACTION] if ACTION in features else sorted(name for name in features if name.startswith(f"{ACTION}/"))
    parts = [values_of(features[name], f"{where}, {name}") for name in names]
    parts = [part for part in parts if isinstance(part, np.ndarray)]
    if not parts or any(not len(part) or len(part) % steps for part in parts):
        sizes = [len(part) for part in parts]
        raise BadActions(f"{where}: got {sizes} action numbers for {steps} steps, expected a multiple; fix: one action a step")
    return np.concatenate([part.reshape(steps, -1).astype(np.float32) for part in parts], axis=1)


def _state(features: Mapping[str, memoryview], steps: int, where: str) -> dict[str, np.ndarray]:
    out = {}
    for name, feature in features.items():
        if name.startswith(OBSERVATION) and not _is_pictures(feature):
            values = values_of(feature, f"{where}, {name}")
            if isinstance(values, np.ndarray) and len(values) and len(values) % steps == 0:
                out[name.removeprefix(OBSERVATION)] = values.reshape(steps, -1)
    return out


def _text(features: dict[str, memoryview], where: str) -> str | None:
    for name in TEXTS:
        strings = byte_strings(features.get(name, b""))
        if strings:
            try:
                text = bytes(strings[0]).decode().strip()
            except UnicodeDecodeError:
                raise BadData(f"{where}: {name} is not UTF-8, expected text; fix: write it so") from None
            if text:
                return text
    return None


def _address(content) -> int:
    """Where bytes lie in memory: the offset of a view in what it was cut from is the difference."""
    return np.frombuffer(content, np.uint8).ctypes.data


def _is_pictures(feature) -> bool:
    first = first_string(feature)
    return first is not None and bytes(first[:4]).startswith(_IMAGES)


def _file_split(file: Path) -> str | None:
    """TFDS names its files <set>-<split>.tfrecord-00000-of-00008."""
    words = file.name.partition(".tfrecord")[0].split("-")
    return next((_SPLITS[word] for word in reversed(words) if word in _SPLITS), None)


def _where(path: Path, number: int) -> str:
    return f"{path} record {number}"
