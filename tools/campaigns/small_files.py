"""Small files that ask for a lot: what is packed a thousandfold, never written, sparse, or only declared.

Run `python tools/campaigns/small_files.py` from the checkout. Each is part of a data set of at most some megabytes on the disk, which
is checked, opened, read whole and converted with 2 GiB of address space to grow into. No verb may want more, or take a minute.
"""

import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import h5py
import hostile
import numpy as np
import pyarrow
import pyarrow.parquet
import small_sets
from small_sets import FRAMES, SIDE, message

from wfm_ar.data.check import check_data
from wfm_ar.data.convert import convert_set
from wfm_ar.data.formats import open_episodes
from wfm_ar.data.tfrecord import crc32c, masked
from wfm_ar.data.video import write_image
from wfm_ar.decoding import pool
from wfm_ar.errors import WfmError

MEMORY, SECONDS, DISK = 2 << 30, 60.0, 10 << 20
HUGE = 1 << 33  # bytes that a case asks for

Case = Callable[[Path], None]  # makes a set in the folder


def _edited(format: str, edit: Callable[[Path], None]) -> Case:
    def make(root: Path) -> None:
        small_sets.MAKERS[format](root)
        edit(root)

    return make


def _hdf5(edit: Callable[[h5py.File], None]) -> Case:
    def change(root: Path) -> None:
        with h5py.File(root / "set.hdf5", "r+") as file:
            edit(file)

    return _edited("hdf5", change)


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


def _sparse(path: Path, head: bytes, size: int) -> None:
    """A file of `size` bytes of which only the first are on the disk."""
    path.write_bytes(head)
    os.truncate(path, size)


def _holes(format: str, name: str) -> Case:
    """A file of a sound set that goes on for gigabytes, of which nothing is on the disk."""
    return _edited(format, lambda root: _sparse(root / name, (root / name).read_bytes(), HUGE))


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
        "episodes: sparse actions": _edited("episodes", lambda root: _sparse(root / acts, _npy_head((HUGE // 8, 2), "<f4"), HUGE)),
        "episodes: sparse actions, 1 GiB": _edited("episodes", lambda root: _sparse(root / acts, _npy_head((1 << 27, 2), "<f4"), 1 << 30)),
        "episodes: actions only declared": _edited("episodes", lambda root: (root / acts).write_bytes(_npy_head((HUGE // 8, 2), "<f4"))),
        "episodes: names of a gigabyte": _edited("episodes", lambda root: (root / acts).write_bytes(_npy_head((4,), f"<U{1 << 28}"))),
        "episodes: zeros packed as state": _edited("episodes", lambda root: _npz(root / state, (FRAMES, 1 << 28), "<f4", 4 << 30)),
        "episodes: a gigabyte of zeros as state": _edited("episodes", lambda root: _npz(root / state, (FRAMES, 1 << 25), "<f8", 1 << 30)),
        "episodes: state only declared": _edited("episodes", lambda root: _npz(root / state, (FRAMES, HUGE // 16), "<f4", 1 << 20)),
        "episodes: sparse state": _holes("episodes", state),
        "episodes: sparse list": _holes("episodes", "episodes.jsonl"),
        "episodes: sparse schema": _holes("episodes", "actions.json"),
        "episodes: many lines for one video": _edited("episodes", lambda root: _many_lines(root, "video", 20_000)),
        "episodes: a schema of many channels": _edited("episodes", _many_channels),
        "npz: sparse text": _holes("npz", text),
        "npz: a sparse video": _holes("npz", "train/a.mp4"),
        "npz: an MP4 of its head alone": _edited(
            "npz", lambda root: _sparse(root / "val/b.mp4", (root / "val/a.mp4").read_bytes()[:64], HUGE)
        ),
        "npz: an AVI of its head alone": _edited("npz", lambda root: _sparse(root / "val/b.avi", b"RIFF\0\x10\0\0AVI ", HUGE)),
        "npz: a Matroska of its head alone": _edited("npz", lambda root: _sparse(root / "val/b.mkv", b"\x1a\x45\xdf\xa3\x80", HUGE)),
        "npz: actions packed": _edited("npz", lambda root: _npz(root / "train/a.npz", (HUGE // 16, 2), "<f8", 1 << 30)),
        "npz: actions only declared": _edited("npz", lambda root: _npz(root / "train/a.npz", (HUGE // 8, 2), "<f8", 1 << 20)),
        "npz: sparse archive": _holes("npz", "train/a.npz"),
        "npz: a hundred thousand names": _edited("npz", lambda root: _many_members(root / "train/a.npz", 100_000)),
    }  # fmt: skip


def _many_channels(root: Path) -> None:
    schema = json.loads((root / "actions.json").read_text())
    schema["channels"] = [schema["channels"][0] | {"name": f"c{i}"} for i in range(8_000)]
    (root / "actions.json").write_text(json.dumps(schema))


def _many_members(path: Path, count: int) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(count):
            archive.writestr(f"a{i}.npy", b"")


def _table(root: Path, name: str, **changes) -> None:
    """A Parquet file written anew with these columns, whose values are all alike and take no room."""
    path = root / name
    table = pyarrow.parquet.read_table(path)
    rows = max((len(values) for values in changes.values()), default=len(table))
    same = {key: _Repeated(table[key][0].as_py(), rows, table.schema.field(key).type) for key in table.column_names}
    columns = {key: values.made() if isinstance(values, _Repeated) else values for key, values in (same | changes).items()}
    pyarrow.parquet.write_table(pyarrow.table(columns), path, compression="zstd")


def _columns(name: str, **changes) -> Case:
    return _edited("lerobot", lambda root: _table(root, name, **changes))


@dataclass(frozen=True)
class _Repeated:
    """A column that is made when it is written: it takes up to a gigabyte."""

    value: object
    rows: int
    kind: pyarrow.DataType

    def __len__(self) -> int:
        return self.rows

    def made(self) -> pyarrow.Array:
        return pyarrow.repeat(pyarrow.scalar(self.value, self.kind), self.rows)


def lerobot_cases() -> dict[str, Case]:
    data, meta = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"
    float_list = pyarrow.list_(pyarrow.float64())
    return {
        "lerobot: rows that are all alike": _columns(data, episode_index=_Repeated(0, 1 << 22, pyarrow.int64())),
        "lerobot: wide rows that are all alike": _columns(
            data, **{"observation.joint": _Repeated([0.0] * 4096, 1 << 14, float_list)}
        ),
        "lerobot: episodes that are all alike": _columns(meta, episode_index=_Repeated(0, 1 << 19, pyarrow.int64())),
        "lerobot: an episode of a billion frames": _columns(meta, length=pyarrow.array([1 << 30, 1 << 30])),
        "lerobot: an episode of 2^62 frames": _columns(meta, length=pyarrow.array([1 << 62, 4])),
        "lerobot: an episode that begins late": _columns(
            meta, **{"videos/observation.images.main/from_timestamp": pyarrow.array([1e9, 0.0])}
        ),
        "lerobot: texts of a gigabyte": _columns("meta/tasks.parquet", task=_Repeated("a" * (1 << 20), 1 << 10, pyarrow.string())),
        "lerobot: sparse list of features": _holes("lerobot", "meta/info.json"),
        "lerobot: sparse table": _holes("lerobot", data),
        "lerobot: a hundred thousand features": _edited("lerobot", _many_features),
        "lerobot_v2: sparse lines": _holes("lerobot_v2", "meta/episodes.jsonl"),
        "lerobot_v2: a hundred thousand lines": _edited("lerobot_v2", lambda root: _more_lines(root, 100_000)),
        "lerobot_v2: an episode of a billion frames": _edited("lerobot_v2", lambda root: _long_line(root, 10**9)),
        "lerobot_v2: an episode of 400 digits": _edited("lerobot_v2", lambda root: _long_line(root, 10**400)),
    }  # fmt: skip


def _many_features(root: Path) -> None:
    info = json.loads((root / "meta/info.json").read_text())
    info["features"] |= {f"observation.x{i}": {"dtype": "float32", "shape": [1]} for i in range(100_000)}
    (root / "meta/info.json").write_text(json.dumps(info))


def _more_lines(root: Path, count: int) -> None:
    (root / "meta/episodes.jsonl").write_text("".join(f'{{"episode_index": {k}, "length": {FRAMES}}}\n' for k in range(count)))


def _long_line(root: Path, length: int) -> None:
    (root / "meta/episodes.jsonl").write_text(f'{{"episode_index": 0, "length": {length}}}\n{{"episode_index": 1, "length": 4}}\n')


def _records(root: Path, *records: bytes) -> None:
    sizes = [len(one).to_bytes(8, "little") for one in records]
    content = [n + masked(crc32c(n)) + one + masked(crc32c(one)) for n, one in zip(sizes, records, strict=True)]
    (root / "set-train.tfrecord-00000-of-00001").write_bytes(b"".join(content))


def _record(**features: bytes) -> bytes:
    entries = [message(1, message(1, f"steps/{name}".encode()) + message(2, value)) for name, value in features.items()]
    return message(1, b"".join(entries))


def _picture(root: Path, height: int, width: int) -> bytes:
    write_image(root / "black.png", np.zeros((height, width, 3), np.uint8))
    content = (root / "black.png").read_bytes()
    (root / "black.png").unlink()
    return content


def rlds_cases() -> dict[str, Case]:
    def large(root: Path, count: int, size: int) -> None:
        one = message(1, _picture(root, size, size))
        _records(root, _record(**{"observation/image": message(1, one * count), "action": message(2, message(1, bytes(8 * count)))}))

    def odd(root: Path, **features: bytes) -> None:
        pictures = message(1, message(1, _picture(root, SIDE, SIDE)) * FRAMES)
        _records(root, _record(**{"observation/image": pictures, "action": message(2, message(1, bytes(8 * FRAMES)))} | features))

    mega = 8 << 20
    return {
        "rlds: many large black pictures": lambda root: large(root, 60, 4096),
        "rlds: many black pictures": lambda root: large(root, 3000, 512),
        "rlds: millions of small numbers": lambda root: odd(root, action=message(3, message(1, bytes(mega)))),
        "rlds: millions of single numbers": lambda root: odd(root, action=message(3, b"\x08\x00" * (mega // 2))),
        "rlds: millions of single floats": lambda root: odd(root, action=message(2, b"\x0d\x00\x00\x00\x00" * (mega // 5))),
        "rlds: millions of empty texts": lambda root: odd(root, language_instruction=message(1, b"\x0a\x00" * (mega // 2))),
        "rlds: millions of empty pictures": lambda root: odd(
            root, **{"observation/image": message(1, message(1, _picture(root, SIDE, SIDE)) + b"\x0a\x00" * (mega // 2))}
        ),
        "rlds: millions of features": lambda root: _records(root, message(1, b"\x0a\x04\x0a\x00\x12\x00" * (mega // 6))),
        "rlds: millions of unknown fields": lambda root: _records(root, b"\x18\x00" * (mega // 2)),
        "rlds: zeros": lambda root: _records(root, bytes(mega)),
        "rlds: a sparse record": _sparse_record,
    }


def _sparse_record(root: Path) -> None:
    size = ((1 << 30) - 16).to_bytes(8, "little")
    _sparse(root / "set-train.tfrecord-00000-of-00001", size + masked(crc32c(size)), (1 << 30) + 12 - 16 + 4)


def cases() -> dict[str, Case]:
    return {**hdf5_cases(), **own_cases(), **lerobot_cases(), **rlds_cases()}


def use(root: Path, out: Path) -> float:
    """What the verbs do with a set -> seconds of the slowest. Refusals are fine, but not those of a machine that is too small."""
    slowest = 0.0

    def verb(call: Callable[[], object]) -> object:
        nonlocal slowest
        began = time.monotonic()
        try:
            return call()
        except WfmError as error:
            hostile.one_line(error)
            if "Unable to allocate" in str(error) or "emoryError" in str(error):
                raise hostile.Failure(f"wanted more memory: {error}") from None
            return None
        finally:
            slowest = max(slowest, time.monotonic() - began)

    told = verb(lambda: check_data(root, decode=True)) or []
    if any("Unable to allocate" in str(one) for one in told):
        raise hostile.Failure(f"wanted more memory: {told[0]}")
    episodes = verb(lambda: open_episodes(root))
    if episodes is not None:
        for format in ("episodes", "lerobot"):
            verb(lambda format=format: convert_set(episodes, out / format, format))
    return slowest


def _peak(pid: int | str) -> int:
    """The resident peak of a process in MiB; 0 of one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM:")), 0)


def _work(folder: Path, channel) -> None:
    """Uses one set after the other as their folders come, and says what became of them."""
    small_sets.MAKERS["episodes"](_new(folder / "warm"))  # what is imported once is no case's doing
    use(folder / "warm", _new(folder / "warm-out"))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    while root := channel.recv():
        try:
            slowest, told, bug = use(root, _new(folder / "out")), "stayed small", False
        except Exception as error:
            slowest, told, bug = 0.0, f"{type(error).__name__}: {str(error)[:300]}", hostile.is_bug(error)
        channel.send((told, slowest, bug, (_peak("self"), max(map(_peak, pool.child_ids()), default=0))))
    pool.close()


def _new(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def run(count: int, seed: int, folder: Path) -> hostile.Report:
    """`count` of the cases, drawn by the seed: made here, as that takes memory too, and used in a worker.

    A worker that waits too long, or is killed for its memory, is replaced.
    """
    makers = cases()
    names = list(makers) if count >= len(makers) else random.Random(seed).sample(list(makers), count)
    report, began = hostile.Report("small files", peaks_mib=(0, 0)), time.monotonic()
    context, worker = multiprocessing.get_context("spawn"), None
    for name in names:
        root = _new(folder / "set")
        makers[name](root)
        on_disk = sum(path.stat().st_blocks * 512 for path in root.rglob("*") if path.is_file())
        if worker is None:
            ours, theirs = context.Pipe()
            worker = context.Process(target=_work, args=(folder / "work", theirs))
            worker.start()
            theirs.close()
        try:
            ours.send(root)
            if not ours.poll(5 * SECONDS):
                raise EOFError("no answer")
            told, slowest, bug, peaks = ours.recv()
        except (EOFError, OSError):
            worker.kill()
            worker.join()
            told, slowest, bug, peaks = f"the process did not come back (exit code {worker.exitcode})", 0.0, False, (0, 0)
            worker = None
        report.slowest, report.bugs = max(report.slowest, (slowest, name)), report.bugs + bug
        report.peaks_mib = tuple(map(max, report.peaks_mib, peaks))
        if slowest > SECONDS:
            told = f"a verb took {slowest:.0f} s"
        if on_disk > DISK:
            told = f"is {on_disk} bytes large itself"
        if told == "stayed small":
            report.outcomes[told] += 1
        else:
            report.failures.append(f"FAILED {name}: {told}")
    if worker is not None:
        ours.send(None)
        worker.join()
    report.seconds = time.monotonic() - began
    return report


if __name__ == "__main__":
    hostile.main(run, 1000, __doc__)
