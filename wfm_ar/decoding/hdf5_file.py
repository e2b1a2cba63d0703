"""HDF5 files in robomimic's layout, as the child reads them; the only file that imports h5py.

A name in an HDF5 file may lead anywhere: links to other files, external storage, virtual data sets made of other files' parts.
`reach` is the one way to an object: name by name, over hard links only, to arrays that are stored in this file and wholly written.
Behind it stands a limit of the system: once the file is open, the process cannot open another.

Sizes are held against the size of the file before anything is read. Knows robomimic's names, not what the numbers mean.
"""

# h5py has no types of its own: what is made up for it lacks its low-level modules, and holds every name for one that may be None
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportOptionalOperand=false

import codecs
import math
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

os.environ["HDF5_PLUGIN_PRELOAD"] = "::"  # no filters from libraries that lie about on the disk
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # each thread would take from the limited address space

import h5py
import numpy as np

from wfm_ar.decoding.limits import DecodeLimits, Refused, most_bytes
from wfm_ar.decoding.pictures import Progress

MASKS = ("train", "valid", "test")
TEXTS = ("language_instruction", "lang", "task")  # attributes of a demo that may hold its instruction
MOST_DEMOS, MOST_ARRAYS, MOST_NAMES = 100_000, 256, 1_000_000  # demos of a file, arrays of a demo, names in a mask
NAME_BYTES, ATTRIBUTE_BYTES, CHUNK_BYTES, BLOCK_BYTES = 100, 1 << 20, 256 << 20, 16 << 20
_LAYOUTS = (h5py.h5d.COMPACT, h5py.h5d.CONTIGUOUS, h5py.h5d.CHUNKED)
_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 5: "nbit", 6: "scaleoffset", 32000: "lzf"}
_WORK = 3000  # pixels that looking at one object counts for


def _import_the_rest() -> None:
    """Python and h5py import some of their parts when they first need them, which they cannot where no file may be opened."""
    for encoding in ("ascii", "utf-8", "latin-1"):
        codecs.lookup(encoding)
    with h5py.File("warm-up", "w", driver="core", backing_store=False) as file:
        file["texts"] = np.array([b"a"])
        file["words"] = ["a"]
        file.create_dataset("numbers", data=np.zeros((2, 2), bool), chunks=(1, 2), compression="gzip")
        file.attrs["text"], file.attrs["bytes"] = "a", np.bytes_(b"a")
        for name in file:
            array: Any = file[name]
            _ = str(array.dtype), array[0:1]
        _ = file.attrs["text"], file.attrs["bytes"]


_import_the_rest()


def survey(fd: int, limits: DecodeLimits, progress: Progress) -> dict[str, Any]:
    """What a file holds: {"attributes": {name: text}, "masks": {name: [demo]}, "demos": [{"name", "attributes", "arrays", "error"}]}.

    arrays: {"actions" or "obs/<name>": (dtype, shape)} of those that hold numbers. Where a demo cannot be used, error says why.
    """
    with _open(fd, limits) as file:
        data, demos, seen = reach(file, "data"), [], {}
        if not isinstance(data, h5py.Group):
            raise Refused(f"got {_names(file)[:8]}, expected data/demo_0 ...; fix: write robomimic's layout")
        budget = most_bytes(os.fstat(fd).st_size)
        for name in _names(data, MOST_DEMOS):
            progress(_WORK)
            demo: dict[str, Any] = {"name": name, "attributes": {}, "arrays": {}, "error": None}
            try:
                group = reach(data, name)
                if not isinstance(group, h5py.Group):
                    continue
                demo["attributes"] = _attributes(group, TEXTS)
                demo["arrays"], size = _arrays(group, seen, progress)
            except Refused as refused:
                size, demo["error"] = 0, str(refused)
            demos.append(demo)
            budget -= size
            if budget < 0:
                raise Refused(f"unpacks to more than {most_bytes(os.fstat(fd).st_size)} bytes, expected less of a file of its size; "
                              "fix: leave out what is empty, or part the file")  # fmt: skip
        if not demos:
            raise Refused("data holds no episode, expected demo_0 ...; fix: write robomimic's layout")
        masks = {name: _mask(file, name) for name in MASKS}
        return {"attributes": _attributes(data, None), "masks": masks, "demos": demos}


def read(fd: int, group: str, names: list[str], start: int, count: int | None, target: int, limits: DecodeLimits, progress: Progress):
    """Rows `start` to `start + count` (all for None) of arrays of a group, one after the other in `target` -> [(dtype, shape)]."""
    out, written = [], 0
    os.lseek(target, 0, os.SEEK_SET)
    with _open(fd, limits) as file:
        for name in names:
            array = reach(file, f"{group}/{name}")
            if not isinstance(array, h5py.Dataset) or _number_type(array) is None:
                raise Refused(f"{group}/{name} is no array of numbers, expected one; fix: write robomimic's layout")
            dtype, shape = _number_type(array), array.shape
            assert dtype is not None, "looked at above"
            if shape and (start or count is not None):
                stop = shape[0] if count is None else start + count
                if not 0 <= start < stop <= shape[0]:
                    raise Refused(f"{group}/{name} has {shape[0]} rows, expected {start} to {stop - 1} too; fix: copy the file again")
                shape = (stop - start, *shape[1:])
            written += math.prod(shape) * dtype.itemsize
            if written > min(limits.output_bytes, most_bytes(os.fstat(fd).st_size)):
                raise Refused(f"{group} unpacks to {written} bytes and more, expected less; fix: part the file")
            for block in _blocks(array, start if shape else 0, shape, dtype):
                progress(block.nbytes // 3)
                left = block.data.cast("B")
                while left:
                    left = left[os.write(target, left) :]
            out.append((dtype.str, list(shape)))
    return out


def reach(group: h5py.Group, name: str) -> h5py.Group | h5py.Dataset | None:
    """The group or array of that name, which lies in the group's own file; None where there is none. Raises Refused.

    Nothing is opened that another file has a part in: links are looked at before they are followed, arrays before they are read.
    """
    here: Any = group
    for part in name.split("/"):
        if not isinstance(here, h5py.Group):
            return None
        key, where = _encoded(part), f"{here.name.rstrip('/')}/{part}".lstrip("/")
        if not key or not here.id.links.exists(key):
            return None
        kind = here.id.links.get_info(key).type
        if kind != h5py.h5l.TYPE_HARD:
            leads = "to another file" if kind == h5py.h5l.TYPE_EXTERNAL else "elsewhere (a soft link)"
            raise Refused(f"{where} leads {leads}, expected data inside; fix: copy it in")
        found = h5py.h5o.open(here.id, key)
        if isinstance(found, h5py.h5g.GroupID):
            here = h5py.Group(found)
        elif isinstance(found, h5py.h5d.DatasetID):
            _check_inside(found, where)
            here = h5py.Dataset(found)
        else:
            return None
    return here


def _check_inside(array: h5py.h5d.DatasetID, where: str) -> None:
    """The array's bytes lie in this file, and are undone by filters that every HDF5 has."""
    how = array.get_create_plist()
    if how.get_layout() not in _LAYOUTS or how.get_external_count():
        raise Refused(f"{where} lies in another file, expected it inside; fix: copy it in (h5repack)")
    for i in range(how.get_nfilters()):
        number = how.get_filter(i)[0]
        if number not in _FILTERS:
            raise Refused(
                f"{where} is packed with filter {number}, expected {', '.join(_FILTERS.values())} or none; fix: h5repack -f GZIP=4"
            )


def _arrays(demo: h5py.Group, seen: dict[int, str], progress: Progress) -> tuple[dict[str, tuple], int]:
    """(name -> (dtype, shape), bytes of all when unpacked). `seen`: where each object of the file was met."""
    where = demo.name.lstrip("/")
    _once(demo, where, seen)
    obs = reach(demo, "obs")
    if not isinstance(obs, h5py.Group):
        raise Refused(f"{where} has no obs, expected pictures there; fix: extract observations with images")
    _once(obs, f"{where}/obs", seen)
    names = [*(["actions"] if reach(demo, "actions") is not None else []), *(f"obs/{name}" for name in _names(obs, MOST_ARRAYS))]
    out, size = {}, 0
    for name in names:
        progress(_WORK)
        array = reach(demo, name)
        if not isinstance(array, h5py.Dataset):
            if name == "actions":
                raise Refused(f"{where}/actions is a group, expected an array; fix: write robomimic's layout")
            continue
        dtype = _number_type(array)
        if dtype is None:
            out[name] = (str(array.dtype)[:40], list(array.shape or ()))
            continue
        _once(array, f"{where}/{name}", seen)
        _check_stored(array, f"{where}/{name}", dtype)
        out[name] = (dtype.str, list(array.shape))
        size += math.prod(array.shape) * dtype.itemsize
    return out, size


def _once(thing: h5py.Group | h5py.Dataset, where: str, seen: dict[int, str]) -> None:
    """A file of a thousand names for one array would be a thousand times its size."""
    address = h5py.h5o.get_info(thing.id).addr
    before = seen.setdefault(address, where)
    if before != where:
        raise Refused(f"{where} is {before} under another name, expected data of its own; fix: copy it")


def _check_stored(array: h5py.Dataset, where: str, dtype: np.dtype) -> None:
    """Every row was written: what was not would be made up, in any number, while it is read."""
    how, size = array.id.get_create_plist(), math.prod(array.shape) * dtype.itemsize
    if how.get_layout() == h5py.h5d.CHUNKED:
        chunk = how.get_chunk()
        if math.prod(chunk) * dtype.itemsize > CHUNK_BYTES:
            raise Refused(f"{where} is stored in chunks of {list(chunk)}, expected at most {CHUNK_BYTES} bytes; fix: h5repack -l CHUNK=...")
        needed = math.prod(-(-side // part) for side, part in zip(array.shape, chunk, strict=True))
        stored = array.id.get_num_chunks() if needed else 0
        if stored < needed:
            raise Refused(f"{where} has {stored} of its {needed} chunks, expected all: it was never wholly written; fix: write it again")
    elif array.id.get_storage_size() < size:
        raise Refused(f"{where} has {array.id.get_storage_size()} of its {size} bytes: it was never wholly written; fix: write it again")


def _blocks(array: h5py.Dataset, start: int, shape: tuple[int, ...], dtype: np.dtype) -> Iterator[np.ndarray]:
    """The rows from `start`, some at a time: whole chunks, so that none is unpacked twice."""
    _check_stored(array, array.name.lstrip("/"), dtype)
    row = math.prod(shape[1:]) * dtype.itemsize
    if row > CHUNK_BYTES:
        raise Refused(f"{array.name.lstrip('/')} has rows of {row} bytes, expected at most {CHUNK_BYTES}; fix: part them")
    if not shape:
        yield np.ascontiguousarray(array[()], dtype)
        return
    chunk = array.chunks[0] if array.chunks else 1
    step = max(1, BLOCK_BYTES // max(1, row))
    step = max(chunk, step // chunk * chunk) if chunk * row <= CHUNK_BYTES else step
    done, end = start, start + shape[0]
    while done < end:
        stop = min(end, done // chunk * chunk + step)
        yield np.ascontiguousarray(array[done:stop], dtype)
        done = stop


def _number_type(array: h5py.Dataset) -> np.dtype | None:
    """The type of its numbers in this machine's order of bytes; None for what holds others."""
    if array.shape is None or array.dtype.kind not in "fiub" or array.dtype.shape:
        return None
    return np.dtype(array.dtype.newbyteorder("=").str)


def _names(group: h5py.Group, most: int = MOST_DEMOS) -> list[str]:
    """Raises Refused for too many, and for names that are no text of one line."""
    count, where = group.id.get_num_objs(), group.name.strip("/") or "the file"
    if count > most:
        raise Refused(f"{where} holds {count} objects, expected at most {most}; fix: part the file")
    names = list(group)
    for name in names:
        if not name.isprintable() or len(_encoded(name)) > NAME_BYTES:
            raise Refused(f"{where} holds the name {name[:40]!a}, expected at most {NAME_BYTES} printable bytes; fix: rename it")
    return names


def _encoded(name: str) -> bytes:
    return name.encode(errors="surrogateescape")


def _attributes(thing: h5py.Group, wanted: tuple[str, ...] | None) -> dict[str, str]:
    """Attributes that are text; `wanted` of them, or all. Others may refer to anything and are not read."""
    out = {}
    for name in thing.attrs if wanted is None else wanted:
        if len(out) >= MOST_ARRAYS or name not in thing.attrs:
            continue
        about = thing.attrs.get_id(name)
        if about.get_type().get_class() != h5py.h5t.STRING or about.shape != () or about.get_storage_size() > ATTRIBUTE_BYTES:
            continue
        value = thing.attrs[name]
        value = value.decode(errors="replace") if isinstance(value, bytes) else str(value)
        if len(value) <= ATTRIBUTE_BYTES:
            out[name] = value
    return out


def _mask(file: h5py.File, name: str) -> list[str]:
    """The demos that mask/<name> lists."""
    array = reach(file, f"mask/{name}")
    if not isinstance(array, h5py.Dataset) or array.shape is None:
        return []
    if array.id.get_type().get_class() != h5py.h5t.STRING or array.size > MOST_NAMES or array.dtype.itemsize > NAME_BYTES:
        raise Refused(f"mask/{name} is no list of demos, expected at most {MOST_NAMES} names; fix: write robomimic's layout")
    if array.chunks and array.id.get_num_chunks() < math.prod(
        -(-side // part) for side, part in zip(array.shape, array.chunks, strict=True)
    ):
        raise Refused(f"mask/{name} was never wholly written, expected names; fix: write it again")
    names = np.asarray(array[()]).ravel().tolist()
    return [one.decode(errors="replace")[:NAME_BYTES] if isinstance(one, bytes) else str(one)[:NAME_BYTES] for one in names]


@contextmanager
def _open(fd: int, limits: DecodeLimits) -> Iterator[h5py.File]:
    """The file, for reading; the last that this process can open until the block ends."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    next_one = os.dup(fd)  # the lowest free number, which the file itself will get
    os.close(next_one)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_one + 1, hard))
    try:
        with h5py.File(f"/dev/fd/{fd}", "r", rdcc_nbytes=CHUNK_BYTES) as file:
            yield file
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        raise Refused(f"cannot be read as HDF5 ({_short(error)}), expected a whole file; fix: copy it again") from None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _short(error: Exception) -> str:
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
