"""Small sets of our own format and folders of .npz files that ask for a lot: sparse, packed, or only declared."""

import io
import json
import zipfile
from pathlib import Path

import numpy as np
from small_cases import HUGE, Case, edited, holes, sparse
from small_sets import FRAMES


def _npy_head(shape: tuple[int, ...], dtype: str) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": dtype, "fortran_order": False, "shape": shape})
    return buffer.getvalue()


def _npz(path: Path, shape: tuple[int, ...], dtype: str, written: int, name: str = "actions") -> None:
    """An archive of zeros, packed; the header may promise more than are there."""
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open(f"{name}.npy", "w", force_zip64=True) as file,
    ):
        file.write(_npy_head(shape, dtype))
        for _ in range(written >> 20):
            file.write(bytes(1 << 20))


def _many_lines(root: Path, key: str, count: int) -> None:
    lines = (root / "episodes.jsonl").read_text().splitlines()
    record = json.loads(lines[0])
    more = [json.dumps(record | {"id": f"n{i}"}) for i in range(count)]
    (root / "episodes.jsonl").write_text("\n".join([*lines, *more]) + "\n")


def own_cases() -> dict[str, Case]:
    acts, state, text = "actions/e0.npy", "states/e0.npz", "train/a.txt"
    return {
        "episodes: sparse actions": edited("episodes", lambda root: sparse(root / acts, _npy_head((HUGE // 8, 2), "<f4"), HUGE)),
        "episodes: sparse actions, 1 GiB": edited("episodes", lambda root: sparse(root / acts, _npy_head((1 << 27, 2), "<f4"), 1 << 30)),
        "episodes: actions only declared": edited("episodes", lambda root: (root / acts).write_bytes(_npy_head((HUGE // 8, 2), "<f4"))),
        "episodes: names of a gigabyte": edited("episodes", lambda root: (root / acts).write_bytes(_npy_head((4,), f"<U{1 << 28}"))),
        "episodes: zeros packed as state": edited("episodes", lambda root: _npz(root / state, (FRAMES, 1 << 28), "<f4", 4 << 30)),
        "episodes: a gigabyte of zeros as state": edited("episodes", lambda root: _npz(root / state, (FRAMES, 1 << 25), "<f8", 1 << 30)),
        "episodes: state only declared": edited("episodes", lambda root: _npz(root / state, (FRAMES, HUGE // 16), "<f4", 1 << 20)),
        "episodes: sparse state": holes("episodes", state),
        "episodes: sparse list": holes("episodes", "episodes.jsonl"),
        "episodes: sparse schema": holes("episodes", "actions.json"),
        "episodes: many lines for one video": edited("episodes", lambda root: _many_lines(root, "video", 20_000)),
        "episodes: a schema of many channels": edited("episodes", _many_channels),
        "npz: sparse text": holes("npz", text),
        "npz: a sparse video": holes("npz", "train/a.mp4"),
        "npz: an MP4 of its head alone": edited(
            "npz", lambda root: sparse(root / "val/b.mp4", (root / "val/a.mp4").read_bytes()[:64], HUGE)
        ),
        "npz: an AVI of its head alone": edited("npz", lambda root: sparse(root / "val/b.avi", b"RIFF\0\x10\0\0AVI ", HUGE)),
        "npz: a Matroska of its head alone": edited("npz", lambda root: sparse(root / "val/b.mkv", b"\x1a\x45\xdf\xa3\x80", HUGE)),
        "npz: actions packed": edited("npz", lambda root: _npz(root / "train/a.npz", (HUGE // 16, 2), "<f8", 1 << 30)),
        "npz: actions only declared": edited("npz", lambda root: _npz(root / "train/a.npz", (HUGE // 8, 2), "<f8", 1 << 20)),
        "npz: sparse archive": holes("npz", "train/a.npz"),
        "npz: a hundred thousand names": edited("npz", lambda root: _many_members(root / "train/a.npz", 100_000)),
    }  # fmt: skip


def _many_channels(root: Path) -> None:
    schema = json.loads((root / "actions.json").read_text())
    schema["channels"] = [schema["channels"][0] | {"name": f"c{i}"} for i in range(8_000)]
    (root / "actions.json").write_text(json.dumps(schema))


def _many_members(path: Path, count: int) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(count):
            archive.writestr(f"a{i}.npy", b"")
