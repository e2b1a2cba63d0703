"""Checkpoints that are whole or do not exist.

A checkpoint is a folder `step-000123/` of safetensors and JSON files and a MANIFEST.json with the size and SHA-256 of each.
It is written under a temporary name, every file synced, and renamed at the end; a folder without a verifying manifest is not
a checkpoint. A step written again sets the old folder aside as `step-000123.old` until the new one is safe, so that at no
moment there is neither. Retention counts verified folders only and never removes the newest one.

What must not happen whatever the moment of a crash, a kill, a power cut or a full disk: that a checkpoint once reported is
lost, or that a broken one is taken for whole. tests/train/test_disk.py tries every moment.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from wfm_ar.data.files import fsync, remove_dead_parts, sha256_of
from wfm_ar.data.json_files import read_json
from wfm_ar.errors import BadCheckpoint, NoSpace, WfmError
from wfm_ar.train.disk import Disk
from wfm_ar.train.distributed import Ranks, local
from wfm_ar.train.sharded_checkpoint import is_sharded, load_shards, placed_like, save_shards
from wfm_ar.train.tensor_file import first_not_finite, tensor_chunks

MANIFEST, STATE, ASIDE = "MANIFEST.json", "state.json", ".old"
MANIFEST_LIMIT, STATE_LIMIT = 2**22, 2**26  # bytes: they are read whole, so a size is refused before it is read


def save_checkpoint(
    run: Path, step: int, tensors: dict[str, dict[str, torch.Tensor]], state: dict, keep: int, disk: Disk | None = None
) -> Path:
    """Write `run/step-<step>/` with one safetensors file a group and state.json; then drop all but the newest `keep`.

    Raises NoSpace when the disk is full (what was there before stays), BadCheckpoint for values that are not finite.
    """
    for name, group in tensors.items():
        if (bad := first_not_finite(group)) is not None:
            raise BadCheckpoint(f"{run}: step {step}: {name} {bad} is not finite, so it is not saved; fix: go on from the last checkpoint")
    disk = disk or Disk()
    with writing(run, step, state, keep, disk) as (temporary, files):
        for name, group in tensors.items():
            files[f"{name}.safetensors"] = disk.write(temporary / f"{name}.safetensors", tensor_chunks(group))
    return run / _name(step)


def save_sharded(
    run: Path, step: int, tensors: dict[str, dict[str, torch.Tensor]], state: dict, keep: int, ranks: Ranks, disk: Disk | None = None
) -> Path:
    """Like `save_checkpoint`, called by all ranks with what each holds; every rank writes its own shards, rank 0 the rest.

    Raises on all ranks alike.
    """
    disk, error, begun = disk or Disk(), None, False
    bad = first_not_finite({f"{group} {name}": local(t) for group, named in tensors.items() for name, t in named.items()})
    if ranks.any(bad is not None):
        raise BadCheckpoint(f"{run}: step {step}: {bad or 'a shard of another rank'} is not finite, so it is not saved; fix: resume=auto")
    elsewhere = contextlib.nullcontext((_temporary(run, step, ranks.from_first(os.getpid())), {}))
    try:
        with writing(run, step, state, keep, disk) if ranks.first else elsewhere as (temporary, files):
            begun = True
            if ranks.any(False):
                raise OSError("rank 0 could not make the folder")
            save_shards(temporary, tensors)
            if ranks.first:
                for path in sorted(temporary.iterdir()):
                    disk.sync(path)
                    files[path.name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    except (OSError, NoSpace) as caught:
        error = caught
        if not begun:
            ranks.any(True)  # answers the question the others ask inside
    if ranks.any(error is not None):
        if isinstance(error, NoSpace):
            raise error
        raise NoSpace(f"checkpoint {run / _name(step)}: cannot be written ({error or 'on rank 0'}); fix: free some space") from error
    return run / _name(step)


@contextlib.contextmanager
def writing(run: Path, step: int, state: dict, keep: int, disk: Disk) -> Iterator[tuple[Path, dict[str, dict]]]:
    """-> (temporary folder to fill, {file name: {"bytes", "sha256"}} to fill along). At the end it becomes the checkpoint of `step`.

    Raises NoSpace.
    """
    final, temporary = run / _name(step), _temporary(run, step, os.getpid())
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        run.mkdir(parents=True, exist_ok=True)
        disk.make_folder(temporary)
        files: dict[str, dict] = {}
        yield temporary, files
        files[STATE] = disk.write(temporary / STATE, [json.dumps(state, indent=1).encode()])
        disk.write(temporary / MANIFEST, [json.dumps({"step": step, "files": files}, indent=1).encode()])
        disk.sync(temporary)
        _replace(temporary, final, disk)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise NoSpace(f"checkpoint {final}: cannot be written ({error}); fix: free some space; older checkpoints are untouched") from error
    with contextlib.suppress(OSError):  # what is left over goes with the next save, or at the next start
        for old in verified_checkpoints(run)[: -max(keep, 1)]:
            if old != final:
                _drop(old, disk)


def _replace(temporary: Path, final: Path, disk: Disk) -> None:
    aside = final.with_name(final.name + ASIDE)
    if aside.exists():  # an earlier try failed between its two renames
        settle(final.parent, disk)
    if final.exists():  # the same step again, after a resume
        disk.rename(final, aside)
    try:
        disk.rename(temporary, final)
    except OSError:
        if aside.exists():
            os.rename(aside, final)
        raise
    disk.sync(final.parent)
    if aside.exists():
        _drop(aside, disk)


def _drop(folder: Path, disk: Disk) -> None:
    """Away in one rename, so that half a folder never bears a checkpoint's name; then file by file."""
    going = folder.with_name(f".tmp-drop-{folder.name}-{os.getpid()}")
    disk.rename(folder, going)
    disk.remove(going)


def settle(run: Path, disk: Disk | None = None) -> None:
    """Puts a run folder in order after a crash: temporary folders go, of a step and its `.old` the whole one stays.

    For the holder of the lock only.
    """
    disk = disk or Disk()
    for aside in run.glob(f"step-*{ASIDE}"):
        final = aside.with_name(aside.name.removesuffix(ASIDE))
        if _is_whole(final) or not _is_whole(aside):
            if final.exists():
                _drop(aside, disk)
            continue
        if final.exists():
            _drop(final, disk)
        disk.rename(aside, final)
        disk.sync(run)
    for folder in (run, run / "pictures"):
        remove_dead_parts(folder)
    for stale in run.glob(".tmp-*"):
        if stale.is_dir() and not stale.is_symlink():
            shutil.rmtree(stale, ignore_errors=True)


class Manifest(NamedTuple):
    """MANIFEST.json: the step, and size and SHA-256 of every file."""

    step: int
    files: dict[str, tuple[int, str]]


def read_manifest(folder: Path) -> Manifest:
    """Strictly read, nothing of the files looked at. Raises BadCheckpoint."""
    data = _read_json(folder / MANIFEST, MANIFEST_LIMIT)
    files: dict[str, tuple[int, str]] = {}
    try:
        _need(isinstance(data, dict) and data.keys() == {"step", "files"} and type(data["step"]) is int and data["step"] >= 0)
        for name, about in data["files"].items():
            _need(re.fullmatch(r"\w[\w.-]{0,200}", name) and name != MANIFEST and about.keys() == {"bytes", "sha256"})
            _need(type(about["bytes"]) is int and about["bytes"] >= 0 and re.fullmatch(r"[0-9a-f]{64}", about["sha256"]))
            files[name] = (about["bytes"], about["sha256"])
        _need(STATE in files)
    except (ValueError, AttributeError, TypeError) as error:
        raise BadCheckpoint(f"{folder}: {MANIFEST} is not one of ours; fix: use another checkpoint") from error
    return Manifest(data["step"], files)


def verify_checkpoint(folder: Path) -> Manifest:
    """Raise BadCheckpoint unless the manifest is there and every file has its size and hash: regular files, none beside them."""
    manifest = read_manifest(folder)
    try:
        found = {path.name: path.lstat() for path in folder.iterdir()}
        for name, (size, digest) in manifest.files.items():
            if name not in found or not stat.S_ISREG(found[name].st_mode):
                raise BadCheckpoint(f"{folder}: {name} is missing; fix: use another checkpoint")
            if found[name].st_size != size or sha256_of(folder / name) != digest:
                raise BadCheckpoint(f"{folder / name}: content differs from the manifest; fix: use another checkpoint")
    except OSError as error:
        raise BadCheckpoint(f"{folder}: cannot be read ({error}); fix: use another checkpoint") from error
    for name in found.keys() - manifest.files.keys():
        if name.endswith(".safetensors"):
            raise BadCheckpoint(f"{folder}: {name} is not in the manifest; fix: remove it, or use another checkpoint")
    return manifest


def verified_checkpoints(run: Path) -> list[Path]:
    """The folders of `run` that verify, oldest first."""
    return list(_whole_from_newest(run))[::-1]


def newest_checkpoint(run: Path) -> Path | None:
    """The newest folder of `run` that verifies; older ones are not looked at."""
    return next(_whole_from_newest(run), None)


def step_of(folder: Path) -> int:
    """The step in a checkpoint folder's name."""
    return int(folder.name.removesuffix(ASIDE).rpartition("-")[2])


def load_checkpoint(folder: Path, groups: tuple[str, ...] | None = None) -> tuple[dict[str, dict[str, torch.Tensor]], dict]:
    """-> ({group: tensors}, state) of a verified checkpoint, whole or in shards; `groups` loads only those. Raises BadCheckpoint."""
    manifest = verify_checkpoint(folder)
    state = _read_json(folder / STATE, STATE_LIMIT)
    if not isinstance(state, dict) or state.get("step", manifest.step) != manifest.step:
        raise BadCheckpoint(f"{folder}: state.json and {MANIFEST} are of different steps; fix: use another checkpoint")
    files = [folder / name for name in sorted(manifest.files) if name.endswith(".safetensors")]
    try:
        if is_sharded(files):
            tensors = load_shards(folder, files, groups)
        else:
            tensors = {path.stem: load_file(path) for path in files if groups is None or path.stem in groups}
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise BadCheckpoint(f"{folder}: cannot be read ({error}); fix: use another checkpoint") from error
    for name, group in tensors.items():
        if (bad := first_not_finite(group)) is not None:
            raise BadCheckpoint(f"{folder}: {name} {bad} is not finite; fix: use another checkpoint")
    return tensors, state


def load_weights(module: torch.nn.Module, tensors: dict[str, torch.Tensor], where: str) -> None:
    """Strict load: missing, extra and misshapen tensors are named in one message (BadCheckpoint)."""
    own = module.state_dict()
    check_tensors({name: (tuple(t.shape), t.dtype) for name, t in own.items()}, tensors, where)
    module.load_state_dict({name: placed_like(tensor, own[name]) for name, tensor in tensors.items()})


def check_tensors(expected: dict[str, tuple[tuple[int, ...], torch.dtype]], tensors: dict[str, torch.Tensor], where: str) -> None:
    """Raise BadCheckpoint unless `tensors` has these names, shapes and types and no others."""
    wrong = [f"missing {n}" for n in expected.keys() - tensors.keys()] + [f"extra {n}" for n in tensors.keys() - expected.keys()]
    for name in expected.keys() & tensors.keys():
        shape, dtype = expected[name]
        if tuple(tensors[name].shape) != shape:
            wrong.append(f"{name} is {tuple(tensors[name].shape)}, expected {shape}")
        elif tensors[name].dtype != dtype:
            wrong.append(f"{name} is {tensors[name].dtype}, expected {dtype}")
    if wrong:
        shown = "; ".join(sorted(wrong)[:8]) + (f"; and {len(wrong) - 8} more" if len(wrong) > 8 else "")
        raise BadCheckpoint(f"{where}: does not fit the network: {shown}; fix: use the configuration it was trained with")


class RunLock:
    """An exclusive lock on a run folder, so that two runs never write into one; the kernel frees it with the process."""

    def __init__(self, run: Path):
        missing = [folder for folder in (run, *run.parents) if not folder.exists()]
        run.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            fsync(folder.parent)
        self.handle = open(run / ".lock", "w")  # noqa: SIM115 - held for the life of the run
        try:
            fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.handle.close()
            raise WfmError(f"{run}: another run is training here; fix: stop it or choose run=<another folder>") from None
        settle(run)  # of a run that died: we hold the lock, so nobody is writing

    def __enter__(self) -> "RunLock":
        return self

    def __exit__(self, *exception) -> None:
        self.handle.close()


def _name(step: int) -> str:
    return f"step-{step:06d}"


def _temporary(run: Path, step: int, pid: int) -> Path:
    return run / f".tmp-{_name(step)}-{pid}"


def _whole_from_newest(run: Path) -> Iterator[Path]:
    """Of each step, newest first: its folder if that verifies, else the one set aside if that does."""
    steps = {int(found[1]) for path in run.glob("step-*") if (found := re.fullmatch(rf"step-(\d{{6,18}})({re.escape(ASIDE)})?", path.name))}
    for step in sorted(steps, reverse=True):
        for folder in (run / _name(step), run / (_name(step) + ASIDE)):
            if _is_whole(folder):
                yield folder
                break


def _is_whole(folder: Path) -> bool:
    try:
        verify_checkpoint(folder)
    except BadCheckpoint:
        return False
    return True


def _read_json(path: Path, limit: int) -> Any:
    try:
        if path.is_symlink():
            raise ValueError("it is a link")
        return read_json(path, limit)
    except (OSError, ValueError) as error:
        raise BadCheckpoint(f"{path.parent}: no readable {path.name} ({error}); fix: use another checkpoint") from error


def _need(holds: object) -> None:
    if not holds:
        raise ValueError
