"""Data sets that lead to files outside themselves: links, external storage, virtual data sets, templates, pipes.

Run `python tools/campaigns/routes_outside.py` from the checkout. Each set is checked, opened, read whole and converted. Nothing outside
its folder may be opened (the kernel tells: h5py opens files in C, where an audit hook sees nothing), waited for, or turn up in
what was written. A set may be refused, or opened without the part that leads out.
"""

import ctypes
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import hostile
import numpy as np
import small_sets
from small_sets import FRAMES

from wfm_ar.data.check import check_data
from wfm_ar.data.convert import convert_set
from wfm_ar.data.formats import open_episodes
from wfm_ar.decoding import pool
from wfm_ar.errors import WfmError

SECRET = b"CANARY-7f3a" * 400
SECONDS = 60.0  # for one set, after which it is taken to wait for ever

Route = Callable[[Path, Path], None]  # makes a set in the first folder that leads into the second


class Watch:
    """Which files of a folder any process opens, by the kernel's own account (inotify)."""

    OPENED, NOT_WAITING = 0x20, 0o4000

    def __init__(self, folder: Path) -> None:
        self.fd = ctypes.CDLL(None, use_errno=True).inotify_init1(self.NOT_WAITING)
        for path in (folder, *folder.rglob("*")):
            ctypes.CDLL(None).inotify_add_watch(self.fd, os.fsencode(path), self.OPENED)

    def opened(self) -> int:
        """How often since the last look."""
        try:
            return len(os.read(self.fd, 1 << 20))
        except BlockingIOError:
            return 0


def secrets(outside: Path) -> None:
    """What no set may reach: bytes, an HDF5 file of the right shapes, a pipe, a sound set of each format."""
    outside.mkdir()
    for format, make in small_sets.MAKERS.items():
        (outside / format).mkdir()
        make(outside / format)
    (outside / "canary").write_bytes(SECRET)
    with h5py.File(outside / "canary.hdf5", "w") as file:
        small_sets.fill_hdf5(file)
        file["bytes"] = np.frombuffer(SECRET, np.uint8)
    os.mkfifo(outside / "pipe")


PLACES = {
    "obs/joint": ("data/demo_0/obs/joint", (FRAMES, 64), "u1"),
    "actions": ("data/demo_0/actions", (FRAMES, 2), "f4"),
    "pictures": ("data/demo_1/obs/front_image", (FRAMES, 8, 8, 3), "u1"),
    "mask": ("mask/train", (4,), "S8"),
}


def _hdf5(edit: Callable[[h5py.File, Path], None]) -> Route:
    def make(root: Path, outside: Path) -> None:
        with h5py.File(root / "set.hdf5", "w") as file:
            small_sets.fill_hdf5(file)
            edit(file, outside)

    return make


def _stored(place: str, target: str) -> Route:
    """External storage: the array's bytes are those of any file."""
    name, shape, dtype = PLACES[place]

    def edit(file: h5py.File, outside: Path) -> None:
        del file[name]
        file.create_dataset(name, shape=shape, dtype=dtype, external=[(str(outside / target), 0, h5py.h5f.UNLIMITED)])

    return _hdf5(edit)


def _virtual(place: str, target: str, *, unlimited: bool = False) -> Route:
    """A virtual data set: the array is made of parts of other files' arrays."""
    name, shape, dtype = PLACES[place]

    def edit(file: h5py.File, outside: Path) -> None:
        del file[name]
        most = (None, *shape[1:]) if unlimited else None
        layout = h5py.VirtualLayout(shape=shape, dtype=dtype, maxshape=most)
        source = h5py.VirtualSource(str(outside / target), name, shape=shape, dtype=dtype, maxshape=most)
        part = np.s_[: h5py.h5s.UNLIMITED] if unlimited else np.s_[:]
        layout[part] = source[part]
        file.create_virtual_dataset(name, layout)

    return _hdf5(edit)


def _linked(name: str, target: str = "canary.hdf5", *, soft: bool = False) -> Route:
    """A link to another file, or a soft link that ends in one."""

    def edit(file: h5py.File, outside: Path) -> None:
        if name in file:
            del file[name]
        link = h5py.ExternalLink(str(outside / target), "/" if soft else name)
        file["elsewhere" if soft else name] = link
        if soft:
            file[name] = h5py.SoftLink(f"/elsewhere/{name}")

    return _hdf5(edit)


def _whole_file(target: str) -> Route:
    def make(root: Path, outside: Path) -> None:
        (root / "set.hdf5").symlink_to(outside / target)

    return make


def hdf5_routes() -> Iterator[tuple[str, Route]]:
    for place in PLACES:
        yield f"external storage under {place}", _stored(place, "canary")
        yield f"virtual data set under {place}", _virtual(place, "canary.hdf5")
    yield "external storage in a pipe", _stored("obs/joint", "pipe")
    yield "virtual data set of a pipe", _virtual("obs/joint", "pipe")
    yield "virtual data set that grows with a pipe", _virtual("obs/joint", "pipe", unlimited=True)
    for name in ("data", "data/demo_0", "data/demo_0/obs", "data/demo_0/obs/joint", "data/demo_0/actions", "mask", "mask/valid"):
        yield f"external link at {name}", _linked(name)
    yield "external link to a pipe", _linked("data/demo_0/obs/joint", "pipe")
    yield "external link to a pipe at mask", _linked("mask", "pipe")
    for name in ("data/demo_0", "data/demo_0/obs", "data/demo_0/obs/joint", "mask"):
        yield f"soft link into another file at {name}", _linked(name, soft=True)
    yield "the file is a link", _whole_file("canary.hdf5")
    yield "the file is a link to a pipe", _whole_file("pipe")


FILES = {  # format -> files of its small set, one of each kind, and lists that a set may have beside
    "episodes": ("episodes.jsonl", "actions.json", "videos/e0.mp4", "actions/e0.npy", "states/e0.npz", "videos"),
    "lerobot": (
        *("meta/info.json", "meta/tasks.parquet", "meta/episodes/chunk-000/file-000.parquet", "data/chunk-000/file-000.parquet"),
        *("videos/observation.images.main/chunk-000/file-000.mp4", "actions.json", "data"),
    ),
    "lerobot_v2": ("meta/tasks.jsonl", "meta/episodes.jsonl", "data/chunk-000/episode_000001.parquet"),
    "rlds": ("set-train.tfrecord-00000-of-00001",),
    "npz": ("train/a.mp4", "train/a.npz", "train/a.txt", "train"),
}


def _instead(format: str, name: str, target: str = "") -> Route:
    """A link where a file was: to its like in a sound set outside, or to `target`."""

    def make(root: Path, outside: Path) -> None:
        small_sets.MAKERS[format](root)
        path = root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        path.symlink_to(outside / (target or f"{format}/{name}"))

    return make


def _pipe(format: str, name: str) -> Route:
    """A pipe that nobody writes to where a file was."""

    def make(root: Path, outside: Path) -> None:
        small_sets.MAKERS[format](root)
        (root / name).unlink()
        os.mkfifo(root / name)

    return make


def _written_to(format: str, name: str, old: str, new: str) -> Route:
    """A list of files that names one outside."""

    def make(root: Path, outside: Path) -> None:
        small_sets.MAKERS[format](root)
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new.format(outside=outside)))

    return make


def file_routes() -> Iterator[tuple[str, Route]]:
    for format, names in FILES.items():
        for name in names:
            yield f"{format}: {name} is a link", _instead(format, name)
            if "." in name:
                yield f"{format}: {name} is a link to a pipe", _instead(format, name, "pipe")
                yield f"{format}: {name} is a pipe", _pipe(format, name)
    for what, new in (("relative", "../outside/episodes/videos/e0.mp4"), ("absolute", "{outside}/episodes/videos/e0.mp4")):
        yield f"episodes: {what} path", _written_to("episodes", "episodes.jsonl", "videos/e0.mp4", new)
    for what, new in (("relative", "../outside/lerobot/data/"), ("absolute", "{outside}/lerobot/data/")):
        yield f"lerobot: {what} template", _written_to("lerobot", "meta/info.json", '"data/', f'"{new}')


def routes() -> list[tuple[str, Route]]:
    return [*hdf5_routes(), *file_routes()]


def use(root: Path, out: Path) -> None:
    """What the verbs do with a set; refusals are fine."""
    for path in {root, next(root.glob("*.hdf5"), root)}:
        try:
            check_data(path, decode=True)
            episodes = open_episodes(path)
        except WfmError as error:
            hostile.one_line(error)
            continue
        for i in range(len(episodes)):
            for load in (episodes.load_frames, episodes.load_actions, episodes.load_state):
                try:
                    load(i)
                except WfmError as error:
                    hostile.one_line(error)
        for format in ("episodes", "lerobot"):
            try:
                convert_set(episodes, out / f"{path.name}-{format}", format)
            except WfmError as error:
                hostile.one_line(error)


def _written(out: Path) -> bool:
    """Whether any of the secret is in what was written, as bytes or as numbers made of them."""
    whole = np.frombuffer(SECRET, np.uint8)
    for path in out.rglob("*.npz"):
        with np.load(path) as arrays:
            for name in arrays:
                values = np.asarray(arrays[name]).ravel()
                if values.size >= 16 and values.dtype.kind in "fiu" and np.array_equal(values[:16].astype(np.float64), whole[:16]):
                    return True
    return any(SECRET[:11] in path.read_bytes() for path in out.rglob("*") if path.is_file())


def _work(names: list[str], folder: Path, channel) -> None:
    outside = folder / "outside"
    secrets(outside)
    makers = dict(routes())
    for name in names:
        root, out = folder / "set", folder / "out"
        for place in (root, out):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
        makers[name](root, outside)
        channel.send(("began", name, False))
        watch, began = Watch(outside), time.monotonic()
        try:
            use(root, out)
            told, bug = "opened it" if watch.opened() else "wrote it" if _written(out) else "stayed inside", False
        except Exception as error:
            told, bug = f"{type(error).__name__}: {error}", hostile.is_bug(error)
        os.close(watch.fd)
        channel.send((told, time.monotonic() - began, bug))
    pool.close()
    channel.send(("end", "", False))


def run(count: int, seed: int, folder: Path) -> hostile.Report:
    """`count` of the routes in turn; `seed` says where to begin."""
    every = [name for name, _ in routes()]
    names = [every[(seed + i) % len(every)] for i in range(min(count, len(every)))]
    report, began = hostile.Report("routes outside"), time.monotonic()
    while names:
        done = _run_some(names, folder / str(len(names)), report)
        names = names[done:]
    report.seconds = time.monotonic() - began
    return report


def _run_some(names: list[str], folder: Path, report: hostile.Report) -> int:
    """How many routes a worker process went through: all, or those up to one that waits for ever."""
    folder.mkdir()
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()
    worker = context.Process(target=_work, args=(names, folder, theirs))
    worker.start()
    done = 0
    while ours.poll(SECONDS):
        told, about, bug = ours.recv()
        if told == "end":
            break
        if told == "began":
            continue
        name, done = names[done], done + 1
        report.slowest, report.bugs = max(report.slowest, (about, name)), report.bugs + bug
        if told == "stayed inside":
            report.outcomes[told] += 1
        else:
            report.failures.append(f"FAILED {name}: {told}")
    else:
        report.failures.append(f"FAILED {names[done]}: still waiting after {SECONDS:g} s")
        done += 1
    worker.kill()
    worker.join()
    return done


if __name__ == "__main__":
    hostile.main(run, 100, __doc__)
