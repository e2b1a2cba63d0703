"""Checkpoints that are whole or do not exist.

A checkpoint is a folder `step-000123/` of safetensors and JSON files and a MANIFEST.json with the size and SHA-256 of each.
It is written under a temporary name, every file fsynced, and renamed at the end; a folder without a verifying manifest is
not a checkpoint. Retention counts verified folders only and never removes the newest one.
"""

import fcntl
import json
import os
import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from wfm_ar.data.files import fsync, sha256_of
from wfm_ar.data.json_files import read_json
from wfm_ar.errors import BadCheckpoint, NoSpace, WfmError

MANIFEST = "MANIFEST.json"
STATE_BYTES = 256 << 20  # of state.json, which holds histories


def save_checkpoint(run: Path, step: int, tensors: dict[str, dict[str, torch.Tensor]], state: dict, keep: int) -> Path:
    """Write `run/step-<step>/` with one safetensors file a group and state.json; then drop all but the newest `keep`.

    Raises NoSpace when the disk is full; what was there before stays.
    """
    final, temporary = run / f"step-{step:06d}", run / f".tmp-step-{step:06d}-{os.getpid()}"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        for name, group in tensors.items():
            save_file({k: v.detach().contiguous().cpu() for k, v in group.items()}, temporary / f"{name}.safetensors")
        (temporary / "state.json").write_text(json.dumps(state, indent=1))
        files = {p.name: {"bytes": p.stat().st_size, "sha256": sha256_of(p)} for p in sorted(temporary.iterdir())}
        (temporary / MANIFEST).write_text(json.dumps({"step": step, "files": files}, indent=1))
        for path in temporary.iterdir():
            fsync(path)
        fsync(temporary)
        if final.exists():  # the same step again, after a resume
            shutil.rmtree(final)
        os.rename(temporary, final)
        fsync(run)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise NoSpace(f"checkpoint {final}: cannot be written ({error}); fix: free some space; older checkpoints are untouched") from error
    for old in verified_checkpoints(run)[:-keep]:
        shutil.rmtree(old)
    return final


def verify_checkpoint(folder: Path) -> None:
    """Raise BadCheckpoint unless the manifest is there and every file has its size and hash."""
    try:
        manifest = read_json(folder / MANIFEST)
        files = {str(name): (int(f["bytes"]), str(f["sha256"])) for name, f in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadCheckpoint(f"{folder}: no readable {MANIFEST} ({error}); fix: use another checkpoint") from error
    for name, (size, digest) in files.items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise BadCheckpoint(f"{folder}: {name} is missing; fix: use another checkpoint")
        if path.stat().st_size != size or sha256_of(path) != digest:
            raise BadCheckpoint(f"{path}: content differs from the manifest; fix: use another checkpoint")


def verified_checkpoints(run: Path) -> list[Path]:
    """The folders of `run` that verify, oldest first."""
    found = []
    for folder in sorted(run.glob("step-*")):
        try:
            verify_checkpoint(folder)
            found.append(folder)
        except BadCheckpoint:
            continue
    return found


def load_checkpoint(folder: Path) -> tuple[dict[str, dict[str, torch.Tensor]], dict]:
    """-> ({group: tensors}, state) of a verified checkpoint. Raises BadCheckpoint."""
    verify_checkpoint(folder)
    try:
        tensors = {p.stem: load_file(p) for p in sorted(folder.glob("*.safetensors"))}
        return tensors, read_json(folder / "state.json", STATE_BYTES)
    except (OSError, ValueError, SafetensorError) as error:
        raise BadCheckpoint(f"{folder}: cannot be read ({error}); fix: use another checkpoint") from error


def load_weights(module: torch.nn.Module, tensors: dict[str, torch.Tensor], where: str) -> None:
    """Strict load: missing, extra and misshapen tensors are named in one message (BadCheckpoint)."""
    own = module.state_dict()
    wrong = [f"missing {n}" for n in own.keys() - tensors.keys()] + [f"extra {n}" for n in tensors.keys() - own.keys()]
    for name in own.keys() & tensors.keys():
        if own[name].shape != tensors[name].shape:
            wrong.append(f"{name} is {tuple(tensors[name].shape)}, expected {tuple(own[name].shape)}")
    if wrong:
        shown = "; ".join(sorted(wrong)[:8]) + (f"; and {len(wrong) - 8} more" if len(wrong) > 8 else "")
        raise BadCheckpoint(f"{where}: does not fit the network: {shown}; fix: use the configuration it was trained with")
    module.load_state_dict(tensors)


class RunLock:
    """An exclusive lock on a run folder, so that two runs never write into one; the kernel frees it with the process."""

    def __init__(self, run: Path):
        run.mkdir(parents=True, exist_ok=True)
        self.handle = open(run / ".lock", "w")  # noqa: SIM115 - held for the life of the run
        try:
            fcntl.flock(self.handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.handle.close()
            raise WfmError(f"{run}: another run is training here; fix: stop it or choose run=<another folder>") from None
        for stale in run.glob(".tmp-*"):  # of a run that died: we hold the lock, so nobody is writing it
            shutil.rmtree(stale, ignore_errors=True)

    def __enter__(self) -> "RunLock":
        return self

    def __exit__(self, *exception) -> None:
        self.handle.close()
