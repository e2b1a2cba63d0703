"""Files and settings of a world's folder, whatever kind of world: written whole or not at all, and checked before they are used.

It knows bytes, hashes, tensors and JSON; world_folder.py and cosmos_folder.py know which files a world has.
"""

import errno
import json
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from wfm_ar.data.claims import claim, whole_folder
from wfm_ar.data.files import sha256_of
from wfm_ar.data.listing import stays_inside
from wfm_ar.errors import BadCheckpoint, BadConfig, NoSpace, OutputExists, nearest
from wfm_ar.rollout.find_world import SETTINGS
from wfm_ar.without_memory import without_memory

_HEADER_BYTES = 16 << 20  # of a safetensors file's table
_OTHER_BYTES = 4 << 30  # of a sample, a card, a text model
_FLOATS = {"F64", "F32", "F16", "BF16"}

Config = TypeVar("Config")


def write_world(
    folder: str | Path, settings: Mapping[str, Any], write: Callable[[Path], None], *, card: str = "", overwrite: bool = False
) -> Path:
    """Write a world folder: whole, or not at all.

    It holds what `write` puts into the folder that it is given, `card` as README.md, and world.json: `settings`, and the size and
    SHA-256 of every other file. Raises OutputExists when `folder` is there and `overwrite` was not asked for, or when it is no world,
    and NoSpace when it cannot be written. What was there before stays until the new one is whole.
    """
    folder = Path(folder)
    if folder.exists():
        with claim(folder):  # what a process that was stopped left there is tidied up before it is looked at
            _refuse_folder(folder, overwrite)
    try:
        with whole_folder(folder, overwrite=overwrite) as temporary:
            write(temporary)
            (temporary / "README.md").write_text(card)
            names = sorted(path.relative_to(temporary).as_posix() for path in temporary.rglob("*") if path.is_file())
            files = {name: {"bytes": (temporary / name).stat().st_size, "sha256": sha256_of(temporary / name)} for name in names}
            (temporary / SETTINGS).write_text(json.dumps({**settings, "files": files}, indent=1))
    except (OSError, SafetensorError) as error:
        kind = "the disk is full" if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) else str(error)
        raise NoSpace(f"world folder {folder}: cannot be written ({kind}); fix: free some space or choose another place") from error
    return folder


def _refuse_folder(folder: Path, overwrite: bool) -> None:
    """Raises OutputExists where a world may not be written."""
    if folder.exists() and not overwrite:
        raise OutputExists(f"world folder {folder}: it is there already, expected a new name; fix: another name, or overwrite=true")
    if folder.exists() and not (folder / SETTINGS).is_file():
        raise OutputExists(f"world folder {folder}: it is there and holds no {SETTINGS}, so it will not be replaced; fix: another name")


def verify_files(folder: Path, files: dict[str, dict[str, Any]]) -> None:
    for name, expected in files.items():
        path = folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise BadCheckpoint(f"{folder / SETTINGS}: file {name!r} lies outside the world, expected a name within; fix: get another copy")
        if not stays_inside(folder, path):
            raise BadCheckpoint(f"{path}: leads out of the world's folder, expected a file inside; fix: copy it in")
        if not path.is_file():
            raise BadCheckpoint(f"{folder}: {name} is missing, expected {expected['bytes']} bytes; fix: copy the world again")
        if path.stat().st_size != expected["bytes"]:
            raise BadCheckpoint(f"{path}: got {path.stat().st_size} bytes, expected {expected['bytes']}; fix: copy the world again")
        if (found := sha256_of(path)) != expected["sha256"]:
            raise BadCheckpoint(f"{path}: got sha256 {found}, expected {expected['sha256']}; fix: copy the world again, it was changed")


def listed_file(folder: Path, name: str, files: dict[str, Any]) -> Path:
    if name not in files:
        raise BadCheckpoint(f"{folder / SETTINGS}: files: {name} is not listed, expected it with its hash; fix: copy the world again")
    return folder / name


def stored_tensors(name: str, module: nn.Module, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    packed = {}
    for key, tensor in module.state_dict().items():
        stored = tensor.detach().cpu().contiguous()
        if stored.is_floating_point():
            stored = stored.to(dtype)
            if not stored.isfinite().all():
                raise BadCheckpoint(
                    f"{name}: tensor {key}: got values that are not finite in {dtype}, expected finite ones; fix: dtype=float32"
                )
        packed[key] = stored
    return packed


class Shape(NamedTuple):
    shape: tuple[int, ...]
    floating: bool


def shapes_of(kind: type[nn.Module], config: Any, where: str) -> dict[str, Shape]:
    """What a network's file must hold, from a network that has no memory for weights."""
    try:
        with without_memory():
            own = kind(config).state_dict()
    except (RuntimeError, ValueError, TypeError, ArithmeticError) as error:  # sizes that torch cannot even name
        raise BadCheckpoint(f"{where}: makes no network ({str(error).splitlines()[0]}); fix: copy the world again") from None
    return {name: Shape(tuple(tensor.shape), tensor.is_floating_point()) for name, tensor in own.items()}


def check_listed_sizes(folder: Path, files: dict[str, dict[str, Any]], networks: dict[str, dict[str, Shape]]) -> None:
    """Raises BadCheckpoint for a file larger than what it is for, before a byte of it is read."""
    for name, listed in files.items():
        most = _OTHER_BYTES
        if name in networks:
            most = _HEADER_BYTES + sum(8 * math.prod(each.shape) for each in networks[name].values())
        if not 0 <= listed["bytes"] <= most:
            raise BadCheckpoint(
                f"{folder / SETTINGS}: {name}: got {listed['bytes']} bytes, expected at most {most}; fix: copy the world again"
            )


@contextmanager
def open_tensors(path: Path, expected: dict[str, Shape]) -> Iterator[Any]:
    """An open safetensors file of the tensors `expected`: missing, extra and misshapen ones are named in one line. Raises BadCheckpoint."""
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}
            found = {name: Shape(tuple(part.get_shape()), part.get_dtype() in _FLOATS) for name, part in slices.items()}
            wrong = [f"{name} is missing" for name in expected.keys() - found.keys()]
            wrong += [f"{name} is not known" for name in found.keys() - expected.keys()]
            for name in expected.keys() & found.keys():
                if expected[name].shape != found[name].shape:
                    wrong.append(f"{name} is {list(found[name].shape)}, expected {list(expected[name].shape)}")
                elif expected[name].floating != found[name].floating:
                    kind = "floats" if expected[name].floating else "whole numbers"
                    wrong.append(f"{name} is {slices[name].get_dtype()}, expected {kind}")
            if wrong:
                shown = "; ".join(sorted(wrong)[:6]) + (f"; and {len(wrong) - 6} more" if len(wrong) > 6 else "")
                raise BadCheckpoint(f"{path}: {shown}; fix: weights and {SETTINGS} must be of one world")
            yield file
    except (OSError, SafetensorError) as error:
        raise BadCheckpoint(f"{path}: cannot be read ({error}), expected safetensors; fix: copy the world again") from None


def read_tensors(path: Path, expected: dict[str, Shape]) -> dict[str, torch.Tensor]:
    """All of a file, as `open_tensors`; values that are not finite are refused too."""
    with open_tensors(path, expected) as file:
        tensors = {name: file.get_tensor(name) for name in expected}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not tensor.float().isfinite().all():
            raise BadCheckpoint(f"{path}: {name} holds values that are not finite, expected numbers; fix: copy the world again")
    return tensors


def config_from(kind: type[Config], values: Any, where: str, earlier: Mapping[str, Any] | None = None) -> Config:
    """A settings dataclass from JSON. Every key must be there: a default that changed later would change the network.

    earlier: what files from before a key came leave unsaid. Raises BadCheckpoint.
    """
    if not isinstance(values, dict):
        raise BadCheckpoint(f"{where}: got {type(values).__name__}, expected an object; fix: copy the world again")
    values, hints = {**(earlier or {}), **values}, typing.get_type_hints(kind)
    whole: Any = kind
    check_keys(values, {field.name for field in fields(whole)}, where)
    try:
        return kind(**{key: _value(hints[key], value, f"{where}: {key}") for key, value in values.items()})
    except BadConfig as error:
        raise BadCheckpoint(error.problem, where=where, fix=error.fix or "copy the world again") from None


def check_keys(values: dict[str, Any], known: set[str], where: str) -> None:
    for key in sorted(values.keys() - known):
        raise BadCheckpoint(f"{where}: unknown key {key!r}{nearest(key, known)}; fix: a wfm-ar that knows it, or remove it")
    for key in sorted(known - values.keys()):
        raise BadCheckpoint(f"{where}: key {key!r} is missing; fix: copy the world again")


def _value(hint: Any, value: Any, where: str) -> Any:
    """A JSON value as the field's type; lists become tuples."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    for option in options:
        if typing.get_origin(option) is tuple and isinstance(value, list):
            items = typing.get_args(option)
            items = items[:1] * len(value) if items[-1] is Ellipsis else items
            if len(items) == len(value):
                return tuple(_value(item, one, where) for item, one in zip(items, value, strict=True))
        elif option is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
        elif isinstance(option, type) and type(value) is option:
            return value
    raise BadCheckpoint(f"{where}: got {value!r}, expected {hint}; fix: copy the world again")
