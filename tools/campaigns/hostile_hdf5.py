"""Corrupt HDF5 files: every byte of a small robomimic file may be wrong, in each of the forms that HDF5 stores things in.

Run `python tools/campaigns/hostile_hdf5.py` from the checkout. Each file must be taken, or refused in one line that names it. The
child may crash or be stopped on it; this process may not.
"""

import io
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import hostile
import numpy as np

from wfm_ar.data.check import check_data
from wfm_ar.data.formats import open_episodes
from wfm_ar.decoding import pool
from wfm_ar.errors import WfmError

SECONDS = 60.0  # of wall clock for one file
LIKE = {  # how a file is laid out -> (version of the format, how its pictures are stored)
    "old": ("earliest", {}),
    "new": ("latest", {}),
    "chunks": ("earliest", {"chunks": (2, 8, 8, 3), "compression": "gzip", "shuffle": True, "fletcher32": True}),
    "new chunks": ("latest", {"chunks": (1, 8, 8, 3), "compression": "lzf"}),
    "can grow": ("latest", {"chunks": (1, 8, 8, 3), "maxshape": (None, 8, 8, 3)}),
}


def make_file(version: str, pictures: dict) -> bytes:
    buffer, rng = io.BytesIO(), np.random.default_rng(0)
    with h5py.File(buffer, "w", libver=version) as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": 12}})
        for k in range(2):
            demo = data.create_group(f"demo_{k}")
            demo.attrs["lang"] = "lift the cube"
            demo["actions"] = rng.normal(size=(4, 2)).astype(np.float32)
            demo.create_dataset("obs/front_image", data=rng.integers(0, 255, (4, 8, 8, 3), dtype=np.uint8), **pictures)
            demo["obs/joint"], demo["obs/open"] = rng.normal(size=(4, 2)), np.zeros(4, bool)
        file["mask/train"], file["mask/valid"] = ["demo_0"], np.array([b"demo_1"])
    return buffer.getvalue()


def cases(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    files = {name: make_file(*how) for name, how in LIKE.items()}
    for i in range(count):
        rng = random.Random(f"{seed}-{i}")
        name = rng.choice(list(files))
        content, told = files[name], []
        for _ in range(rng.choice((1, 1, 1, 2, 5))):
            label, content = hostile.mangled(content, rng)
            told.append(label)
        yield f"{name}: {', '.join(told)} [{seed}-{i}]", content


def use(path: Path) -> str:
    """What becomes of a file that is opened, read whole and checked."""
    for defect in check_data(path):
        if "\n" in str(defect) or "; fix: " not in str(defect):
            raise hostile.Failure(f"expected one line with a remedy, got {defect}")
    try:
        episodes = open_episodes(path)
        for i in range(len(episodes)):
            episodes.load_frames(i)
            episodes.load_actions(i)
            episodes.load_state(i)
        return "taken"
    except WfmError as error:
        hostile.one_line(error)
        if not str(error).startswith(str(path)):
            raise hostile.Failure(f"the file is not named: {error}") from None
        return "the child died" if "crashed" in str(error) or "was stopped" in str(error) else "refused"


def run(count: int, seed: int, folder: Path) -> hostile.Report:
    path = folder / "set.hdf5"

    def check(content: bytes) -> str:
        path.write_bytes(content)
        began = time.monotonic()
        outcome = use(path)
        if time.monotonic() - began > SECONDS:
            raise hostile.Failure(f"took {time.monotonic() - began:.0f} s, expected at most {SECONDS:g}")
        return outcome

    def keep(label: str, content: bytes) -> None:
        (folder / f"{label.rpartition('[')[2].strip(']')}.hdf5").write_bytes(content)

    report = hostile.run_cases("hostile HDF5", cases(count, seed), check, hostile.cpu_seconds, keep)
    pool.close()
    return report


if __name__ == "__main__":
    hostile.main(run, 5_000, __doc__)
