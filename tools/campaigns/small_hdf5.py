"""Small HDF5 files that ask for a lot: arrays that were never written, zeros packed a thousandfold, names by the thousand."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from small_cases import HUGE, Case, edited
from small_sets import FRAMES, SIDE


def _hdf5(edit: Callable[[h5py.File], None]) -> Case:
    def change(root: Path) -> None:
        with h5py.File(root / "set.hdf5", "r+") as file:
            edit(file)

    return edited("hdf5", change)


def _array(name: str, shape: tuple[int, ...], dtype: str, **how) -> Case:
    """An array that is declared; with rows=n, the first n rows are zeros that were written, packed as well as can be."""
    rows = how.pop("rows", 0)

    def edit(file: h5py.File) -> None:
        if name in file:
            del file[name]
        array = file.create_dataset(name, shape=shape, dtype=dtype, **how)
        for at in range(0, rows, 64):
            array[at : at + 64] = np.zeros((min(64, rows - at), *shape[1:]), dtype)

    return _hdf5(edit)


def _names(file: h5py.File, count: int, to: str) -> None:
    for k in range(count):
        file[f"data/demo_{10 + k}"] = file[to]


def hdf5_cases() -> dict[str, Case]:
    demo, gzip = "data/demo_0", {"compression": "gzip", "compression_opts": 9}
    long, picture = HUGE // 8, (SIDE, SIDE, 3)
    return {
        "hdf5: actions never written": _array(f"{demo}/actions", (long // 2, 2), "f8", chunks=(1 << 16, 2)),
        "hdf5: actions without room": _array(f"{demo}/actions", (long // 2, 2), "f8"),
        "hdf5: state never written": _array(f"{demo}/obs/joint", (FRAMES, long // 4), "f8", chunks=(1, 1 << 16)),
        "hdf5: pictures never written": _array(f"{demo}/obs/front_image", (1 << 22, *picture), "u1", chunks=(64, *picture)),
        "hdf5: wide pictures never written": _array(f"{demo}/obs/front_image", (FRAMES, 1 << 15, 1 << 15, 3), "u1", chunks=(1, 64, 64, 3)),
        "hdf5: black pictures packed": _array(
            f"{demo}/obs/front_image", (512, 512, 512, 3), "u1", chunks=(64, 512, 512, 3), rows=512, **gzip
        ),
        "hdf5: zeros packed as actions": _array(f"{demo}/actions", (1024, 1 << 17), "f8", chunks=(64, 1 << 13), rows=512, **gzip),
        "hdf5: zeros packed as state": _array(f"{demo}/obs/joint", (1024, 1 << 17), "f8", chunks=(64, 1 << 13), rows=1024, **gzip),
        "hdf5: a chunk of gigabytes": _array(f"{demo}/obs/joint", (FRAMES, 1 << 27), "f8", chunks=(1, 1 << 27)),
        "hdf5: a mask of a billion names": _array("mask/train", (1 << 30,), "S16", chunks=(1 << 16,)),
        "hdf5: a mask of long names": _array("mask/train", (4,), f"S{1 << 30}", chunks=(1,)),
        "hdf5: thousands of names for a demo": _hdf5(lambda file: _names(file, 40_000, "data/demo_0")),
        "hdf5: a name that is its own group": _hdf5(lambda file: file["data/demo_0/obs"].__setitem__("again", file["data/demo_0/obs"])),
        "hdf5: thousands of empty demos": _hdf5(lambda file: [file.create_group(f"data/demo_{k}") for k in range(2, 8_000)] and None),
        "hdf5: thousands of arrays in a demo": _hdf5(
            lambda file: [file.create_dataset(f"data/demo_0/obs/a{k}", data=np.zeros(1)) for k in range(8_000)] and None
        ),
        "hdf5: no columns, many rows": _array(f"{demo}/obs/joint", (1 << 40, 0), "f8"),
        "hdf5: actions without columns": _array(f"{demo}/actions", (1 << 40, 0), "f8"),
        "hdf5: pictures without rows": _array(f"{demo}/obs/front_image", (0, *picture), "u1"),
        "hdf5: pictures without pixels": _array(f"{demo}/obs/front_image", (1 << 30, 0, 0, 3), "u1"),
    }  # fmt: skip
