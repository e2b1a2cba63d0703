"""HDF5 files in robomimic's layout: `data/demo_0/actions`, `data/demo_0/obs/<camera>_image`, `mask/train`, `mask/valid`.

Needs h5py (the extra [hdf5]). The files are read in a child process (decoding/hdf5_file.py), which takes only what lies in the
file itself. Frames are uint8 [T, H, W, 3] arrays, cut out of the file window by window; other arrays under obs are state.
"""

import importlib.util
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wfm_ar.data.cameras import choose_cameras, tiled, view_of
from wfm_ar.data.episodes import STATE_BYTES, Episode, EpisodeSet, Place
from wfm_ar.data.folder import sample, schema_note
from wfm_ar.data.listing import files_below, refuse_leading_out, refuse_pointer
from wfm_ar.data.problems import Problems, noted, sound
from wfm_ar.data.schema_file import read_schema
from wfm_ar.data.schema_from_data import schema_from_data
from wfm_ar.data.splits import hashed_splits
from wfm_ar.data.views import MAYBE_UPSIDE_DOWN
from wfm_ar.decoding.pool import read_arrays
from wfm_ar.errors import BadActions, BadClip, BadData, MissingDependency
from wfm_ar.extras import how_to_install
from wfm_ar.schema import ActionSchema, check_width, same_rate

SUFFIXES = (".hdf5", ".h5")
DEFAULT_FPS = 20.0  # robosuite's control rate
_EXPECTED = "an HDF5 file"
_LIBERO = ("bddl_file_name", "problem_info")  # attributes that LIBERO writes, whose pictures are stored bottom row first
_MASKS = {"train": "train", "valid": "val", "test": "test"}


class Array(NamedTuple):
    """An array of a demo as its file declares it."""

    dtype: str  # as numpy writes it
    shape: tuple[int, ...]

    @property
    def is_numbers(self) -> bool:
        return self.dtype[:1] in "<>|=" and self.dtype[1:2] in "fiub"

    @property
    def is_camera(self) -> bool:
        return self.dtype == "|u1" and len(self.shape) == 4 and self.shape[3] == 3


@dataclass(frozen=True, kw_only=True)
class Demo:
    """One demo of a file."""

    name: str
    attributes: dict[str, str]
    arrays: dict[str, Array]  # "actions", "obs/<name>"


class Hdf5Reader:
    """Reads episodes of one data set. `demos`: by the file and the source of an episode."""

    def __init__(self, cameras: tuple[str, ...], demos: dict[tuple[Path, str], Demo]) -> None:
        self.cameras, self.demos = cameras, demos

    def num_frames(self, episode: Episode) -> int:
        return self._camera(episode, self.cameras[0]).shape[0]

    def frames_from(self, episode: Episode) -> list[Place]:
        return [Place(episode.video, within=[episode.source, *self.cameras])]

    def frames(self, episode: Episode, start: int, count: int | None) -> np.ndarray:
        def view(camera: str) -> np.ndarray:
            length = self._camera(episode, camera).shape[0]
            stop = length if count is None else start + count
            if not 0 <= start < stop <= length:
                asked = f"frames {start} to {stop - 1}"
                where = f"{episode.video}: {episode.source}/obs/{camera}"
                raise BadClip(f"{where}: got {length} frames, expected {asked} too; fix: ask for frames that exist")
            return _read(episode, [f"obs/{camera}"], start, stop - start)[0]

        return tiled(self.cameras, view, f"{episode.video}: {episode.source}")

    def _camera(self, episode: Episode, camera: str) -> Array:
        array, where = self._arrays(episode).get(f"obs/{camera}"), f"{episode.video}: {episode.source}/obs/{camera}"
        if array is None:
            raise BadData(f"{where} cannot be found, expected an array; fix: write robomimic's layout")
        if not array.is_camera:
            raise BadClip(f"{where} is {array.dtype} {list(array.shape)}, expected uint8 [T, H, W, 3]; fix: write pictures")
        return array

    def _arrays(self, episode: Episode) -> dict[str, Array]:
        return self.demos[episode.video, episode.source].arrays

    def actions(self, episode: Episode, schema: ActionSchema) -> np.ndarray:
        values = self.used_actions(episode)
        schema.validate(values, _where_actions(episode))
        return np.ascontiguousarray(values, np.float32)

    def used_actions(self, episode: Episode) -> np.ndarray:
        """The actions between frames as stored, [frames - 1, A]; what a row beside the last frame holds does not matter."""
        array, frames = self._arrays(episode)["actions"], self.num_frames(episode)
        if len(array.shape) != 2 or not array.is_numbers or array.dtype[1] == "b":
            got = f"{np.dtype(array.dtype).name if array.is_numbers else array.dtype} {list(array.shape)}"
            raise BadActions(f"{_where_actions(episode)} is {got}, expected numbers [T, A]; fix: one row a step")
        if array.shape[0] not in (frames - 1, frames):
            raise BadActions(
                f"{episode.video}: {episode.source} has {array.shape[0]} actions for {frames} frames, expected {frames - 1} or {frames}; "
                "fix: one action between every two frames"
            )
        check_width(array.shape[1], _where_actions(episode))
        return _read(episode, ["actions"])[0][: frames - 1]

    def state(self, episode: Episode) -> dict[str, np.ndarray]:
        arrays = self._arrays(episode)
        names = [name for name, array in arrays.items() if name != "actions" and array.is_numbers and not array.is_camera]
        size = sum(math.prod(arrays[name].shape) * np.dtype(arrays[name].dtype).itemsize for name in names)
        if size > STATE_BYTES:
            where = f"{episode.video}: {episode.source}"
            raise BadData(f"{where}: state of {size} bytes, expected at most {STATE_BYTES}; fix: leave some of it out")
        return dict(zip((name.removeprefix("obs/") for name in names), _read(episode, names), strict=True)) if names else {}


def open_hdf5(path: Path, camera: str | None, fps: float | None, problems: Problems = None) -> EpisodeSet:
    """An .hdf5 file, or a folder of them. Raises BadData, BadConfig, BadActions, MissingDependency."""
    files = [path] if path.is_file() else [one for one in files_below(path) if one.suffix.lower() in SUFFIXES]
    root = path.parent if path.is_file() else path
    if not files:
        raise BadData(f"{path}: holds no regular file that ends in {' or '.join(SUFFIXES)}, expected one; fix: copy it in")
    if importlib.util.find_spec("h5py") is None:
        raise MissingDependency(f"{path}: needs the package h5py, expected it installed; fix: {how_to_install('hdf5')}")
    found, masks, notes, rates, libero = [], {}, [], [], False
    demos: dict[tuple[Path, str], Demo] = {}
    cameras: list[str] = []
    shown: tuple[str, ...] = ()
    for place in files:
        refuse_leading_out(root, place)
        prefix = "" if len(files) == 1 else f"{place.relative_to(root).with_suffix('').as_posix()}/"
        with noted(problems):
            about = _survey(refuse_pointer(place))
            own = sorted(_demos(about, place, problems), key=lambda demo: _natural(demo.name))
            if not shown and own:
                cameras = sorted(name.removeprefix("obs/") for name, array in own[0].arrays.items() if array.is_camera)
                if not cameras:
                    where = f"{place}: data/{own[0].name}/obs"
                    raise BadData(f"{where} holds no uint8 [T, H, W, 3] array, expected pictures; fix: extract images")
                shown, note = choose_cameras(cameras, camera, str(path))
                notes += [note] if note else []
            rates.append(_rate(about["attributes"]))
            libero |= any(name in about["attributes"] for name in _LIBERO)
            for demo in own:
                text, source = _text(demo.attributes, about["attributes"]), f"data/{demo.name}"
                found.append((f"{prefix}{demo.name}", place, source, text, "actions" in demo.arrays))
                demos[place, source] = demo
            masks |= {f"{prefix}{demo}": _MASKS[mask] for mask, names in about["masks"].items() for demo in names}
    rate, told = _one_rate(rates, fps, path)
    if libero or "libero" in str(path).lower():
        notes.append(MAYBE_UPSIDE_DOWN)
    if not told and fps is None:
        notes.append(f"{rate:g} frames a second assumed, the files do not say (fps= sets it)")
    names = [name for name, *_ in found]
    splits = masks if set(names) <= set(masks) and {"train", "val"} <= set(masks.values()) else hashed_splits(names)
    episodes = tuple(
        Episode(id=name, video=file, text=text, actions=file if acting else None, state=file, fps=rate, split=splits[name], source=source)
        for name, file, source, text, acting in found
    )
    schema, made, reader = read_schema(root, needed=False), False, Hdf5Reader(shown, demos)
    actors = sound(sample([episode for episode in episodes if episode.actions]), reader.used_actions, problems)
    if actors and schema is None:
        arrays, places = (reader.used_actions(episode) for episode in actors), [_where_actions(episode) for episode in actors]
        made, schema = True, schema_from_data(arrays, rate, places=places, where=str(path))
        notes.append(schema_note(schema, root))
    return EpisodeSet(
        path=path,
        format="hdf5",
        title="HDF5 in robomimic's layout",
        schema=schema,
        episodes=episodes,
        reader=reader,
        schema_made=made,
        notes=tuple(notes),
        tiles=max(1, len(shown)),
        view=view_of(cameras, shown),
    )


def _survey(path: Path) -> dict[str, Any]:
    """What the file holds, as decoding/hdf5_file.py tells it. Raises BadData."""
    (content,) = read_arrays(path, "hdf5 survey", _EXPECTED)
    return json.loads(content.tobytes())


def _read(episode: Episode, names: list[str], start: int = 0, count: int | None = None) -> list[np.ndarray]:
    """Arrays of a demo, or some rows of them. Raises BadData."""
    place = {"group": episode.source, "names": names, "start": int(start), "count": None if count is None else int(count)}
    return read_arrays(episode.video, "hdf5 arrays", _EXPECTED, **place)


def _demos(about: dict[str, Any], path: Path, problems: Problems) -> list[Demo]:
    out = []
    for demo in about["demos"]:
        with noted(problems):
            if demo["error"]:
                raise BadData(f"{path}: {demo['error']}")
            arrays = {name: Array(dtype, tuple(shape)) for name, (dtype, shape) in demo["arrays"].items()}
            out.append(Demo(name=demo["name"], attributes=demo["attributes"], arrays=arrays))
    return out


def _where_actions(episode: Episode) -> str:
    return f"{episode.video}: {episode.source}/actions"


def _json_attribute(attributes: dict[str, str], name: str) -> dict[str, Any]:
    try:
        data = json.loads(attributes.get(name, "{}"))
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _one_rate(rates: list[float | None], fps: float | None, path: Path) -> tuple[float, bool]:
    """The rate of all files, and whether they say it; those that do not have `fps` frames a second. Raises BadData."""
    known = sorted({rate or fps or DEFAULT_FPS for rate in rates}) or [fps or DEFAULT_FPS]
    if not same_rate(known[0], known[-1]):
        raise BadData(f"{path}: got files of several control rates ({', '.join(f'{rate:g}' for rate in known)}), expected one; "
                      "fix: part them by rate")  # fmt: skip
    return known[0], any(rates)


def _rate(attributes: dict[str, str]) -> float | None:
    arguments = _json_attribute(attributes, "env_args").get("env_kwargs")
    rate = arguments.get("control_freq") if isinstance(arguments, dict) else None
    if not isinstance(rate, (int, float)) or isinstance(rate, bool) or not 0 < rate <= 1e6:
        return None
    return float(rate)


def _text(of_demo: dict[str, str], of_file: dict[str, str]) -> str | None:
    """The instruction of a demo, or of the whole file (LIBERO keeps it in problem_info)."""
    told: list[Any] = [of_demo.get(key) for key in ("language_instruction", "lang", "task")]
    told.append(_json_attribute(of_file, "problem_info").get("language_instruction"))
    told.append(_json_attribute(of_file, "env_args").get("env_lang"))
    return next((value.strip() for value in told if isinstance(value, str) and value.strip()), None)


def _natural(name: str) -> tuple[int, str]:
    """demo_2 before demo_10."""
    digits = name.rpartition("_")[2]
    return (int(digits), name) if digits.isdecimal() else (-1, name)
