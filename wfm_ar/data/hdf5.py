"""HDF5 files in robomimic's layout: `data/demo_0/actions`, `data/demo_0/obs/<camera>_image`, `mask/train`, `mask/valid`.

Needs h5py (the extra [hdf5]). Only plain arrays and attributes are read: links that lead to other files are refused. Frames are
uint8 [T, H, W, 3] arrays, cut out of the file window by window; other arrays under obs are state.
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from wfm_ar.data.cameras import choose_cameras, tiled, view_of
from wfm_ar.data.episodes import Episode, EpisodeSet, Place, hashed_splits, read_schema
from wfm_ar.data.folder import sample, schema_note
from wfm_ar.data.problems import Problems, noted, sound
from wfm_ar.data.schema_from_data import schema_from_data
from wfm_ar.errors import BadActions, BadClip, BadData, MissingDependency
from wfm_ar.schema import ActionSchema

SUFFIXES = (".hdf5", ".h5")
DEFAULT_FPS = 20.0  # robosuite's control rate
_MASKS = {"train": "train", "valid": "val", "test": "test"}


class Hdf5Reader:
    """Reads episodes of one data set; a file is opened for each look, so that threads do not share a handle."""

    def __init__(self, cameras: tuple[str, ...]) -> None:
        self.cameras = cameras

    def num_frames(self, episode: Episode) -> int:
        with _open(episode.video) as file:
            return _array(file, f"{episode.source}/obs/{self.cameras[0]}", episode.video).shape[0]

    def frames_from(self, episode: Episode) -> list[Place]:
        return [Place(episode.video, within=[episode.source, *self.cameras])]

    def frames(self, episode: Episode, start: int, count: int | None) -> np.ndarray:
        with _open(episode.video) as file:

            def view(camera: str) -> np.ndarray:
                array = _array(file, f"{episode.source}/obs/{camera}", episode.video)
                stop = len(array) if count is None else start + count
                if not 0 <= start < stop <= len(array):
                    asked = f"frames {start} to {stop - 1}"
                    where = f"{episode.video}: {array.name}"
                    raise BadClip(f"{where}: got {len(array)} frames, expected {asked} too; fix: ask for frames that exist")
                return _read(array, episode.video, slice(start, stop))

            return tiled(self.cameras, view, f"{episode.video}: {episode.source}")

    def actions(self, episode: Episode, schema: ActionSchema) -> np.ndarray:
        values = _actions(episode)
        schema.validate(values, f"{episode.video}: {episode.source}/actions")
        frames = self.num_frames(episode)
        if len(values) not in (frames - 1, frames):
            raise BadActions(
                f"{episode.video}: {episode.source} has {len(values)} actions for {frames} frames, expected {frames - 1} or {frames}; "
                "fix: one action between every two frames"
            )
        return np.ascontiguousarray(values[: frames - 1], np.float32)

    def state(self, episode: Episode) -> dict[str, np.ndarray]:
        with _open(episode.video) as file:
            group = file[f"{episode.source}/obs"]
            arrays = {name: array for name, array in group.items() if not _is_camera(array) and hasattr(array, "dtype")}
            return {name: _read(array, episode.video) for name, array in arrays.items() if array.dtype.kind in "fiub"}


def open_hdf5(path: Path, camera: str | None, fps: float | None, problems: Problems = None) -> EpisodeSet:
    """An .hdf5 file, or a folder of them. Raises BadData, BadConfig, BadActions, MissingDependency."""
    files = [path] if path.is_file() else sorted(one for one in path.rglob("*") if one.suffix.lower() in SUFFIXES and one.is_file())
    root = path.parent if path.is_file() else path
    found, masks, notes, rates, told = [], {}, [], set(), False
    cameras: list[str] = []
    shown: tuple[str, ...] = ()
    for place in files:
        if not place.resolve().is_relative_to(root.resolve()):
            raise BadData(f"{place}: leads out of the folder, expected a file inside; fix: copy it in")
        prefix = "" if len(files) == 1 else f"{place.relative_to(root).with_suffix('').as_posix()}/"
        with noted(problems), _open(place) as file:
            demos = sorted(_demos(file, place, problems), key=_natural)
            if not shown and demos:
                cameras = sorted(name for name, array in file[f"data/{demos[0]}/obs"].items() if _is_camera(array))
                if not cameras:
                    raise BadData(f"{place}: data/{demos[0]}/obs holds no uint8 [T, H, W, 3] array, expected pictures; fix: extract images")
                shown, note = choose_cameras(cameras, camera, str(path))
                notes += [note] if note else []
            rates.add(fps or _rate(file["data"]))
            told = rates != {None}
            for demo in demos:
                group = file[f"data/{demo}"]
                found.append((f"{prefix}{demo}", place, f"data/{demo}", _text(group, file["data"]), "actions" in group))
            masks |= {f"{prefix}{demo}": split for demo, split in _masked(file).items()}
    if len(rates) > 1:
        raise BadData(f"{path}: got files of several control rates ({rates}), expected one; fix: part them by rate, or set fps=")
    rate = (rates.pop() if rates else None) or DEFAULT_FPS
    if not told:
        notes.append(f"{rate:g} frames a second assumed, the files do not say (fps= sets it)")
    names = [name for name, *_ in found]
    splits = masks if set(names) <= set(masks) and {"train", "val"} <= set(masks.values()) else hashed_splits(names)
    episodes = tuple(
        Episode(id=name, video=file, text=text, actions=file if acting else None, state=file, fps=rate, split=splits[name], source=source)
        for name, file, source, text, acting in found
    )
    schema, made = read_schema(root, needed=False), False
    actors = sound(sample([episode for episode in episodes if episode.actions]), _actions, problems)
    if actors and schema is None:
        made, schema = True, schema_from_data([_actions(episode) for episode in actors], rate, where=str(path))
        notes.append(schema_note(schema, root))
    return EpisodeSet(
        path=path,
        format="hdf5",
        title="HDF5 in robomimic's layout",
        schema=schema,
        episodes=episodes,
        reader=Hdf5Reader(shown),
        schema_made=made,
        notes=tuple(notes),
        view=view_of(cameras, shown),
    )


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    """The file, read-only; whatever h5py makes of damage becomes one line. Raises BadData, MissingDependency."""
    try:
        import h5py
    except ImportError:
        raise MissingDependency(f"{path}: needs the package h5py, expected it installed; fix: pip install 'wfm-ar[hdf5]'") from None
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, KeyError, RuntimeError) as error:
        raise BadData(f"{path}: cannot be read as HDF5 ({_short(error)}), expected a whole file; fix: copy it again") from None


def _array(file, name: str, path: Path):
    """A data set of the file, whose content lies in the file itself. Raises BadData."""
    try:
        array = file[name]
    except (KeyError, ValueError, OSError, RuntimeError) as error:
        raise BadData(f"{path}: {name} cannot be found ({_short(error)}), expected an array; fix: write robomimic's layout") from None
    if not hasattr(array, "dtype"):
        raise BadData(f"{path}: {name} is a group, expected an array; fix: write robomimic's layout")
    if array.file.filename != file.filename or array.external or array.is_virtual:
        raise BadData(f"{path}: {name} lies in another file, expected it inside; fix: copy it in (h5repack)")
    return array


def _read(array, path: Path, part=()) -> np.ndarray:
    try:
        return array[part]
    except (OSError, RuntimeError, ValueError) as error:  # damaged chunks, unknown filters
        raise BadData(f"{path}: {array.name} cannot be read ({_short(error)}), expected a whole array; fix: copy the file again") from None


def _demos(file, path: Path, problems: Problems) -> list[str]:
    _refuse_links(file, path)
    if "data" not in file or not hasattr(file["data"], "keys"):
        raise BadData(f"{path}: got groups {sorted(file)[:8]}, expected data/demo_0 ...; fix: write robomimic's layout")
    _refuse_links(file["data"], path)
    demos = [name for name in file["data"] if hasattr(file["data"][name], "keys")]
    if not demos:
        raise BadData(f"{path}: data holds no episode, expected demo_0 ...; fix: write robomimic's layout")
    out = []
    for demo in demos:
        with noted(problems):
            _refuse_links(file[f"data/{demo}"], path)
            if "obs" not in file[f"data/{demo}"] or not hasattr(file[f"data/{demo}/obs"], "keys"):
                raise BadData(f"{path}: data/{demo} has no obs, expected pictures there; fix: extract observations with images")
            _refuse_links(file[f"data/{demo}/obs"], path)
            out.append(demo)
    return out


def _refuse_links(group, path: Path) -> None:
    """No link of the group may lead to another file: following it would open that."""
    for name in group:
        if type(group.get(name, getlink=True)).__name__ == "ExternalLink":
            raise BadData(f"{path}: {group.name.rstrip('/')}/{name} leads to another file, expected data inside; fix: copy it in")


def _actions(episode: Episode) -> np.ndarray:
    with _open(episode.video) as file:
        array = _array(file, f"{episode.source}/actions", episode.video)
        if array.ndim != 2 or array.dtype.kind not in "fiu":
            got = f"{array.dtype} {list(array.shape)}"
            raise BadActions(f"{episode.video}: {episode.source}/actions is {got}, expected numbers [T, A]; fix: one row a step")
        return _read(array, episode.video)


def _is_camera(array) -> bool:
    return getattr(array, "ndim", 0) == 4 and array.dtype == np.uint8 and array.shape[3] == 3


def _masked(file) -> dict[str, str]:
    """demo -> split, from mask/train, mask/valid, mask/test."""
    out = {}
    for mask, split in _MASKS.items():
        names = file.get(f"mask/{mask}")
        if names is not None and hasattr(names, "dtype"):
            out |= {
                name.decode(errors="replace") if isinstance(name, bytes) else str(name): split
                for name in np.asarray(names[()]).ravel().tolist()
            }
    return out


def _json_attribute(group, name: str) -> dict[str, Any]:
    value = group.attrs.get(name)
    try:
        data = json.loads(value) if isinstance(value, (str, bytes)) else {}
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _rate(data) -> float | None:
    arguments = _json_attribute(data, "env_args").get("env_kwargs")
    rate = arguments.get("control_freq") if isinstance(arguments, dict) else None
    told = isinstance(rate, (int, float)) and not isinstance(rate, bool) and math.isfinite(rate) and rate > 0
    return float(rate) if told else None


def _text(group, data) -> str | None:
    """The instruction of a demo, or of the whole file (LIBERO keeps it in problem_info)."""
    told = [group.attrs.get(key) for key in ("language_instruction", "lang", "task")]
    told.append(_json_attribute(data, "problem_info").get("language_instruction"))
    told.append(_json_attribute(data, "env_args").get("env_lang"))
    for value in told:
        value = value.decode(errors="replace") if isinstance(value, bytes) else value
        if isinstance(value, str) and value.strip():
            return value.strip()
    return None


def _natural(name: str) -> tuple[int, str]:
    """demo_2 before demo_10."""
    digits = name.rpartition("_")[2]
    return (int(digits), name) if digits.isdecimal() else (-1, name)


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
