"""numpy's files, .npy and .npz, from anybody: what they hold is held against their size before memory is taken for it.

Refused are pipes, sparse files that declare gigabytes, archives that unpack a thousandfold, headers that promise more than follows,
and arrays of objects, which would be pickles. Raises BadData in one line with the file.
"""

import io
import math
import os
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wfm_ar.data.listing import refuse_pointer
from wfm_ar.decoding.limits import most_bytes
from wfm_ar.errors import BadData

ARRAY_BYTES, ACTION_BYTES = 256 << 20, 128 << 20  # of one .npy; of the actions of an episode
ARCHIVE_BYTES = 1 << 30  # of an .npz, unpacked
GROWTH = 20  # times the size of its file that an archive may unpack to
MOST_ARRAYS = 1000  # in an archive
_HEADER_CHARACTERS = 10_000


def read_npy(path: Path, most: int = ARRAY_BYTES) -> np.ndarray:
    """The array of an .npy file of at most `most` bytes. Raises BadData."""
    with _opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        if file.read(2) == b"PK":
            raise BadData(f"{path}: got an archive of arrays, expected one array; fix: save it with np.save")
        file.seek(0)
        return _array(file, size, str(path), most)


def read_npz(path: Path, most: int | None = None) -> dict[str, np.ndarray]:
    """The arrays of an .npz by name; unpacked at most `most` bytes (ARCHIVE_BYTES), or what a file of its size may. Raises BadData."""
    with _opened(path) as file:
        packed = os.fstat(file.fileno()).st_size
        most = min(ARCHIVE_BYTES if most is None else most, most_bytes(packed, GROWTH))
        if file.read(6) == b"\x93NUMPY":
            raise BadData(f"{path}: got a single array, expected an .npz of named arrays; fix: save it with np.savez")
        try:
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                if len(members) > MOST_ARRAYS:
                    raise BadData(f"{path}: got {len(members)} arrays, expected at most {MOST_ARRAYS}; fix: make it again")
                size = sum(member.file_size for member in members)
                if size > most:  # compressed a thousandfold, a small file could fill the memory
                    raise BadData(f"{path}: unpacks to {size} bytes, expected at most {most}; fix: make it again")
                out = {}
                for member in members:
                    with archive.open(member) as content:
                        name = member.filename.removesuffix(".npy")
                        out[name] = _array(content, member.file_size, f"{path}: {name}", most)
                return out
        except BadData:
            raise
        except Exception as error:  # zipfile raises a dozen kinds for damaged archives
            raise BadData(f"{path}: cannot be read ({_first(error)}), expected a whole .npz; fix: make it again") from None


def npy_bytes(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def npz_bytes(arrays: Mapping[str, np.ndarray], *, packed: bool = False) -> bytes:
    """As np.savez (packed: np.savez_compressed) writes them, whatever their names: those take an array called `file` for an argument."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
    return buffer.getvalue()


def _opened(path: Path) -> io.BufferedReader:
    """A regular file. Not blocking: a pipe that nobody writes to would hold us for ever."""
    try:
        fd = os.open(refuse_pointer(path), os.O_RDONLY | os.O_NONBLOCK)
    except (OSError, ValueError):
        fd = -1
    if fd < 0 or not stat.S_ISREG(os.fstat(fd).st_mode):
        if fd >= 0:
            os.close(fd)
        raise BadData(f"{path}: does not exist or is not a regular file, expected an array; fix: see the path, or restore the file")
    return open(fd, "rb")


def _array(file: Any, size: int, where: str, most: int) -> np.ndarray:
    """The array in the `size` bytes of a file from its beginning."""
    counted: Any = _Counted(file)  # of a file it has what numpy calls
    try:
        version = np.lib.format.read_magic(counted)
        read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, by_columns, dtype = read_header(counted, max_header_size=_HEADER_CHARACTERS)
    except Exception as error:  # numpy raises a dozen kinds for damaged headers
        raise BadData(f"{where}: cannot be read ({_first(error)}), expected a numpy file; fix: make it again") from None
    if dtype.hasobject:
        raise BadData(f"{where}: cannot be read (it holds objects), expected numbers or text; fix: make it again without them")
    needed = math.prod(shape) * dtype.itemsize
    if max(needed, *shape, 0) > most:
        raise BadData(f"{where}: got {list(shape)} values, {needed} bytes, expected at most {most}; fix: make it again")
    if counted.count + needed > size:
        held = f"got {size - counted.count} bytes for {list(shape)} values of {dtype}"
        raise BadData(f"{where}: cannot be read ({held}), expected {needed}; fix: make it again")
    content = bytearray(needed)
    try:
        done = counted.readinto(content)
    except Exception as error:  # a damaged archive
        raise BadData(f"{where}: cannot be read ({_first(error)}), expected a whole array; fix: make it again") from None
    if done < needed:
        raise BadData(f"{where}: cannot be read (got {done} bytes), expected {needed}; fix: make it again")
    array = np.frombuffer(content, dtype, math.prod(shape)) if needed else np.empty(math.prod(shape), dtype)
    return array.reshape(shape, order="F" if by_columns else "C")


class _Counted:
    """A file that knows how many bytes were read from it."""

    def __init__(self, file: Any) -> None:
        self.file, self.count = file, 0

    def read(self, size: int) -> bytes:
        content = self.file.read(size)
        self.count += len(content)
        return content

    def readinto(self, target: bytearray) -> int:
        view, done = memoryview(target), 0
        while done < len(view):
            got = self.file.readinto(view[done : done + (1 << 24)])
            if not got:
                break
            done += got
        return done


def _first(error: Exception) -> str:
    return str(error).splitlines()[0][:160] if str(error) else type(error).__name__
