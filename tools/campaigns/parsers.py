"""The parsers that read files which may be anybody's, each as a function of bytes: for coverage_guided.py, and for tests/fuzz, which
replays what it kept. Each takes its bytes or raises an error of ours, one line with a remedy."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from wfm_ar.config import from_hydra, only_times_resolve
from wfm_ar.config_files import check_text
from wfm_ar.data.episodes_jsonl import parse_line
from wfm_ar.data.json_files import parse_json
from wfm_ar.data.tfrecord import features_of, index_records, values_of
from wfm_ar.decoding import avi, matroska, mp4
from wfm_ar.decoding.limits import Refused
from wfm_ar.errors import WfmError
from wfm_ar.rollout.world_files import Shape, read_tensors
from wfm_ar.train.checkpoint import load_checkpoint, read_manifest

_FOLDER = tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)  # goes with the process
WORK = Path(_FOLDER.name)
FD = os.memfd_create("input") if hasattr(os, "memfd_create") else os.open(WORK / "input", os.O_RDWR | os.O_CREAT)


def configs(content: bytes) -> None:
    text = content.decode("utf-8", "replace")
    check_text(text, "here")
    with only_times_resolve():  # as cli.py does, which takes these errors for what they are
        try:
            config = OmegaConf.create(text)
            if isinstance(config, DictConfig):
                from_hydra(config, "here")
        except (OmegaConfBaseException, YAMLError, ValueError, TypeError, AttributeError, LookupError, AssertionError, RecursionError):
            return


def manifest(content: bytes) -> None:
    parse_line(content, "here line 1", WORK)


def json(content: bytes) -> None:
    try:
        parse_json(content)
    except ValueError:
        return


def checkpoint(content: bytes) -> None:
    (WORK / "MANIFEST.json").write_bytes(content)
    read_manifest(WORK)
    load_checkpoint(WORK)


def shapes(content: bytes) -> None:
    (WORK / "x.safetensors").write_bytes(content)
    read_tensors(WORK / "x.safetensors", {"a": Shape((2, 3), True), "b": Shape((4,), True)})


def tfrecord(content: bytes) -> None:
    (WORK / "x.tfrecord").write_bytes(content)
    try:
        index_records(WORK / "x.tfrecord")
    except WfmError:
        pass
    for name, feature in features_of(content, "here").items():
        values_of(feature, f"here, {name}")


def _file(content: bytes) -> int:
    os.ftruncate(FD, 0)
    os.pwrite(FD, content, 0)
    return FD


TARGETS: dict[str, Callable[[bytes], object]] = {
    "configs": configs,
    "manifest": manifest,
    "json": json,
    "checkpoint": checkpoint,
    "shapes": shapes,
    "tfrecord": tfrecord,
    "mp4": lambda content: [look(_file(content), 1) for look in (mp4.declared, mp4.samples, mp4.matrices)],
    "matroska": lambda content: matroska.stored_frames(_file(content), 0, 1000),
    "avi": lambda content: avi.stored_frames(_file(content), 1000),
}


def seeds(target: str) -> list[bytes]:
    """Sound inputs to begin with."""
    if target in ("mp4", "matroska", "avi"):
        import hostile_videos

        wanted = {"mp4": ("mp4", "mov"), "matroska": ("mkv", "webm"), "avi": ("avi",)}[target]
        return [hostile_videos.make_clip(*how) for name, *how in hostile_videos.KINDS if name.endswith(wanted)]
    if target == "configs":
        return [path.read_bytes() for path in (Path(__file__).parents[2] / "conf").rglob("*.yaml")]
    if target == "shapes":
        import torch
        from safetensors.torch import save

        return [save({"a": torch.ones(2, 3), "b": torch.ones(4)}), save({"a": torch.ones(2, 3).half(), "b": torch.ones(4).half()})]
    if target == "tfrecord":
        example = b"\n\x1f\n\x1d\n\x04text\x12\x15\n\x13\n\x11pick up the block"
        return [
            example,
            b"\n\x12\n\x10\n\x04step\x12\x08\x1a\x06\n\x04\x01\x02\x03\x7f",
            b"\n\x11\n\x0f\n\x01x\x12\n\x12\x08\n\x06" + bytes(8),
        ]
    line = b'{"id": "a", "video": "videos/a.mp4", "fps": 10.0, "split": "train", "text": "go", "actions": "actions/a.npy"}'
    state = b'{"step": 3, "files": {"state.json": {"bytes": 2, "sha256": "' + b"0" * 64 + b'"}}}'
    return [line, state, b'{"a": [1, -2.5e3, null, true, "\\u00e9"]}']


def check(target: str, content: bytes) -> bool:
    """Whether the parser takes it. Anything but an error of one line with a remedy is raised."""
    try:
        TARGETS[target](content)
    except (WfmError, Refused) as error:
        message = str(error)
        assert "\n" not in message and "; fix: " in message and len(message) < 4000, message
        return False
    return True
