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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wfm_ar.data.cameras import TILE, choose_cameras, tiled, view_of
from wfm_ar.data.episodes import Episode, EpisodeSet, Place
from wfm_ar.data.folder import sample, schema_note
from wfm_ar.data.listing import files_below, refuse_leading_out, refuse_pointer
from wfm_ar.data.problems import Problems, noted, sound
from wfm_ar.data.schema_file import read_schema
from wfm_ar.data.schema_from_data import schema_from_data
from wfm_ar.data.splits import hashed_splits
from wfm_ar.data.tfrecord import byte_strings, features_of, first_string, index_records, read_record, values_of
from wfm_ar.data.video import decode_images
from wfm_ar.decoding.pool import LIMITS
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
    steps: int  # of the whole record
    first: int = 0  # step at which the episode begins, where it is a part of the record
    count: int | None = None  # its steps; None: all

    @property
    def num_frames(self) -> int:
        return self.steps if self.count is None else self.count

    @property
    def part(self) -> slice:
        """Its steps in the record."""
        return slice(self.first, self.first + self.num_frames)


class Found(NamedTuple):
    """A record as it is found when the set is opened."""

    file: Path
    number: int
    offset: int
    length: int
    features: list[str]
    cameras: dict[str, tuple[int, int]]  # camera -> (pictures, how many of them are empty)
    texts: list[str | None]  # a step, or one for all
    acting: bool
    state: bool


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
    def _read(path: Path, number: int, offset: int, length: int) -> Layout:
        content = read_record(path, number, offset, length)
        numbers, pictures, begin = {}, {}, _address(content)
        for name, feature in features_of(content, _where(path, number)).items():
            if _is_pictures(feature):
                strings = byte_strings(feature)
                places = [(_address(one) - begin + offset if len(one) else offset, len(one)) for one in strings]
                pictures[name] = np.array(places, np.int64)
            else:
                numbers[name] = memoryview(bytes(feature))
        return Layout(numbers, pictures)

    def layout(self, episode: Episode) -> Layout:
        """Where things lie in the record of an episode. Raises BadData."""
        record = episode.source
        return self._layout(episode.video, record.number, record.offset, record.length)

    def num_frames(self, episode: Episode) -> int:
        return episode.source.num_frames

    def frames_from(self, episode: Episode) -> list[Place]:
        record = episode.source
        within = list(self.cameras) if record.count is None else [*self.cameras, record.first, record.count]
        return [Place(episode.video, record.offset, record.length, within)]

    def frames(self, episode: Episode, start: int, count: int | None) -> np.ndarray:
        record, where = episode.source, _where(episode.video, episode.source.number)
        stop = record.num_frames if count is None else start + count
        if not 0 <= start < stop <= record.num_frames:
            got = f"got {record.num_frames} steps, expected frames {start} to {stop - 1} too"
            raise BadClip(f"{where}: {got}; fix: ask for frames that exist")
        pictures, start, stop = self.layout(episode).pictures, start + record.first, stop + record.first

        def view(camera: str) -> np.ndarray:
            places = pictures.get(camera, ())
            if len(places) != record.steps:
                raise BadClip(f"{where}: {camera} has {len(places)} pictures, expected {record.steps}; fix: name another camera=")
            whole = next(step for step in (*range(start, stop), *range(record.steps)) if places[step][1])
            steps = sorted({whole, *(step for step in range(start, stop) if places[step][1])})
            with open(episode.video, "rb") as file:
                images = [os.pread(file.fileno(), int(places[step][1]), int(places[step][0])) for step in steps]
            pictures_THWC = decode_images(images, [f"{where}, {camera} step {step}" for step in steps])
            if len(steps) == stop - start and steps[0] == start:
                return pictures_THWC
            size = (stop - start) * pictures_THWC[0].nbytes
            if size > LIMITS.output_bytes:
                got = f"{where}: got {stop - start} steps of {camera}, {size} bytes with the empty ones"
                raise BadClip(f"{got}, expected at most {LIMITS.output_bytes} at once; fix: ask for fewer frames")
            shown_THWC = np.zeros((stop - start, *pictures_THWC.shape[1:]), np.uint8)  # an empty picture is black
            for step, picture in zip(steps, pictures_THWC, strict=True):
                if start <= step < stop:
                    shown_THWC[step - start] = picture
            return shown_THWC

        return tiled(self.cameras, view, where)

    def actions(self, episode: Episode, schema: ActionSchema) -> np.ndarray:
        where = _where(episode.video, episode.source.number)
        values = _actions(self.layout(episode).numbers, episode.source.steps, where)[episode.source.part][:-1]
        schema.validate(values, where)
        return np.ascontiguousarray(values, np.float32)

    def state(self, episode: Episode) -> dict[str, np.ndarray]:
        where, record = _where(episode.video, episode.source.number), episode.source
        return {name: rows[record.part] for name, rows in _state(self.layout(episode).numbers, record.steps, where).items()}


def open_rlds(path: Path, camera: str | None, fps: float | None, text: str = "first", problems: Problems = None) -> EpisodeSet:
    """A .tfrecord file, or a folder of them. Raises BadData, BadConfig, BadActions.

    text: "first" takes an episode's first that is not empty; "frame" makes an episode of each stretch of steps that have one text: rows
    of training, rollouts and the episodes of every format have one text from end to end. A part ends with the frame that its last
    action leads to, so no step's outcome is lost, or told under the text that came after. A part lacks the frames before the change, as
    a rollout does that begins with one picture and a text.
    """
    files = [path] if path.is_file() else [one for one in files_below(path) if ".tfrecord" in one.name]
    root = path.parent if path.is_file() else path
    if not files:
        raise BadData(f"{path}: holds no regular .tfrecord file, expected one; fix: copy it in")
    for file in files:
        refuse_leading_out(root, file)
    records = list(_found(files, problems))
    cameras = sorted({name for record in records for name in record.cameras})
    if camera in (None, TILE):  # later episodes may have more: one that is not in all of them is shown by name alone
        cameras = next((sorted(record.cameras) for record in records if record.cameras), [])
    if not cameras and records:
        where = _where(records[0].file, records[0].number)
        told = f"got no pictures in {records[0].features[:12]}, expected JPEG or PNG under {OBSERVATION}*"
        problem = BadData(f"{where}: {told}; fix: write encoded images")
        if problems is None:
            raise problem
        problems.append(problem)
    shown, camera_note = choose_cameras(cameras, camera, str(path)) if cameras else ((), "")
    first_shown = next(iter(shown), "")
    found, notes, blank, changing = [], [camera_note] if camera_note else [], dict.fromkeys(shown, 0), []
    for one in records if shown else ():
        with noted(problems):
            steps, empty = one.cameras.get(first_shown, (0, 0))
            if steps == empty:
                raise BadData(f"{_where(one.file, one.number)}: has no pictures of {first_shown}, expected some; fix: name another camera=")
            for name in shown:
                blank[name] += one.cameras.get(name, (0, 0))[1]
            name = f"{one.file.relative_to(root).as_posix()}:{one.number}"
            record = Record(number=one.number, offset=one.offset, length=one.length, steps=steps)
            parts = _stretches(one.texts, steps)
            changing += [[count for _, _, count in parts]] if len(parts) > 1 else []
            if text == "first" or len(parts) == 1:
                found.append((name, name, one.file, record, parts[0][0], one.acting, one.state))
                continue
            for words, first, count in parts:
                part = replace(record, first=first, count=count)
                found.append((f"{name}@{first}", name, one.file, part, words, one.acting, one.state))
    notes += [f"{count} empty pictures of {name} are shown black" for name, count in blank.items() if count]
    if changing and text == "first":
        notes.append(f"texts change in {len(changing)} of {len(records)} episodes: the first is taken (text=frame parts them by text)")
    elif changing:
        lengths = sum(changing, [])
        told = f"{len(lengths)} parts of {min(lengths)} to {max(lengths)} frames with a text each"
        notes.append(f"{len(changing)} of {len(records)} episodes are parted where their texts change (text=frame): {told}")
    told = {name: _file_split(file) for _, name, file, *_ in found}
    known = {name: split for name, split in told.items() if split is not None}
    splits = known if {"train", "val"} <= set(known.values()) and len(known) == len(told) else hashed_splits(list(told))
    rate = fps or DEFAULT_FPS
    episodes = tuple(
        Episode(
            id=own,
            video=file,
            text=words,
            actions=file if acting and record.num_frames > 1 else None,
            state=file if state else None,
            fps=rate,
            split=splits[name],
            source=record,
        )
        for own, name, file, record, words, acting, state in found
    )
    notes += [] if fps else [f"{rate:g} frames a second assumed, the files do not say (fps= sets it)"]
    reader, schema, made = RldsReader(shown), read_schema(root, needed=False), False
    actors = sample([episode for episode in episodes if episode.actions])
    actors = sound(actors, lambda episode: _actions_and_state(reader, episode)[0], problems)
    if actors and schema is None:
        made, pairs = True, [_actions_and_state(reader, episode) for episode in actors]
        states = [state for _, state in pairs if state is not None]
        states = states if len(states) == len(pairs) else None
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
        tiles=max(1, len(shown)),
        view=view_of(cameras, shown),
    )


def _found(files: list[Path], problems: Problems) -> Iterator[Found]:
    for file, number, offset, content in _records(files, problems):
        where = _where(file, number)
        with noted(problems):
            features = features_of(content, where)
            cameras = {}
            for name, feature in features.items():
                if name.startswith(OBSERVATION) and _is_pictures(feature):
                    strings = byte_strings(feature)
                    cameras[name] = (len(strings), sum(not len(one) for one in strings))
            acting = any(name == ACTION or name.startswith(f"{ACTION}/") for name in features)
            state = any(name.startswith(OBSERVATION) and name not in cameras for name in features)
            yield Found(file, number, offset, len(content), sorted(features), cameras, _texts(features, where), acting, state)


def _stretches(texts: list[str | None], steps: int) -> list[tuple[str | None, int, int]]:
    """(text, first step, frames) of each stretch with one text, and the frame that it leads to, which is the next one's first.

    Steps without a text belong to what is before, or, at the start, after.
    """
    if len(texts) != steps or len(set(texts) - {None}) < 2:
        return [(next((text for text in texts if text), None), 0, steps)]
    begins: list[tuple[str, int]] = []
    for step, text in enumerate(texts):
        if text and (not begins or begins[-1][0] != text):
            begins.append((text, step if begins else 0))
    ends = [first + 1 for _, first in begins[1:]] + [steps]
    return [(text, first, end - first) for (text, first), end in zip(begins, ends, strict=True)]


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
    values = _actions(features, record.steps, where)[record.part][:-1]
    if not np.isfinite(values).all():  # damage is told as such
        features = reader.layout(episode).numbers
        values = _actions(features, record.steps, where)[record.part][:-1]
    state = _state(features, record.steps, where).get("state")
    state = None if state is None else state[record.part]
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


def _texts(features: dict[str, memoryview], where: str) -> list[str | None]:
    """The texts of the first feature that has one which is not empty; [] where none has."""
    for name in TEXTS:
        strings = [bytes(one) for one in byte_strings(features.get(name, b""))]
        try:
            known = {one: one.decode().strip() or None for one in set(strings)}
        except UnicodeDecodeError:
            raise BadData(f"{where}: {name} is not UTF-8, expected text; fix: write it so") from None
        if any(known.values()):
            return [known[one] for one in strings]
    return []


def _address(content) -> int:
    """Where bytes lie in memory: the offset of a view in what it was cut from is the difference."""
    return np.frombuffer(content, np.uint8).ctypes.data


def _is_pictures(feature) -> bool:
    """Whether the first value that is not empty begins as a picture: a camera may be empty in the first steps."""
    first = first_string(feature)
    return first is not None and bytes(first[:4]).startswith(_IMAGES)


def _file_split(file: Path) -> str | None:
    """TFDS names its files <set>-<split>.tfrecord-00000-of-00008."""
    words = file.name.partition(".tfrecord")[0].split("-")
    return next((_SPLITS[word] for word in reversed(words) if word in _SPLITS), None)


def _where(path: Path, number: int) -> str:
    return f"{path} record {number}"
