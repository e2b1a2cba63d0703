"""Whole files or none: what is written gets a temporary name, is synced, and renamed. Folders: claims.py.

Knows nothing of what the bytes mean. A full disk raises NoSpace, a path in use raises OutputExists; in both cases whatever
was at the path before is still there.
"""

import contextlib
import errno
import fcntl
import glob
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from wfm_ar.errors import BadData, NoSpace, OutputExists

PIECE = 1 << 20  # bytes that are copied at once
PART = re.compile(r"\..+\.[0-9a-f]{8}\.part", re.DOTALL)  # what a file is called until it is whole


def write_atomic(path: Path, content: bytes, *, overwrite: bool = False, sync: bool = True) -> None:
    """Writes `content` to `path`, wholly or not at all. `sync=False` skips fsync (many small files that can be remade)."""
    path = Path(path)
    refuse_existing(path, overwrite)
    part = path.with_name(f".{short_name(path)}.{secrets.token_hex(4)}.part")
    try:
        with _held(part) as file:
            file.write(content)
            file.flush()
            if sync:
                os.fsync(file.fileno())
            os.replace(part, path)
    except OSError as error:
        raise as_wfm_error(error, path) from error
    finally:
        part.unlink(missing_ok=True)


def copy_atomic(source: Path, path: Path, *, overwrite: bool = False, sync: bool = True) -> None:
    """Copies a file's bytes, a piece at a time, wholly or not at all; where nothing was ever written, the copy has nothing either."""
    refuse_existing(path, overwrite)
    part = path.with_name(f".{short_name(path)}.{secrets.token_hex(4)}.part")
    try:
        with open(source, "rb", buffering=0) as stored, _held(part) as file:
            size = os.fstat(stored.fileno()).st_size
            for begin, end in _written(stored.fileno(), size):
                stored.seek(begin)
                file.seek(begin)
                while (left := end - stored.tell()) > 0 and (piece := stored.read(min(left, PIECE))):
                    file.write(piece)
            file.truncate(size)
            file.flush()
            if sync:
                os.fsync(file.fileno())
            os.replace(part, path)
    except OSError as error:
        raise as_wfm_error(error, path) from error
    finally:
        part.unlink(missing_ok=True)


def _written(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """(begin, end) of each stretch of a file that lies on the disk: a file may be gigabytes long and hold next to nothing."""
    begin = end = 0
    while end < size:
        try:
            begin = os.lseek(fd, end, os.SEEK_DATA)
            end = os.lseek(fd, begin, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing from there on
                return
            begin, end = end, size  # a file system that does not tell
        yield begin, end


@contextmanager
def _held(part: Path) -> Iterator[BinaryIO]:
    """A new file, locked while it is written: `remove_dead_parts` leaves it alone."""
    while True:
        with open(part, "xb") as file:
            with contextlib.suppress(OSError):  # a file system without locks
                fcntl.flock(file, fcntl.LOCK_EX)
            if part.exists():  # it was not taken for a dead one before it was locked
                yield file
                return


def remove_dead_parts(folder: Path, name: str = "*") -> int:
    """Removes what `write_atomic` left half written in `folder` when its process was killed -> how many files.

    `name`: of the file that was to be written, or all; a part that is being written now stays.
    """
    removed = 0
    for part in folder.glob(f".{name if name == '*' else glob.escape(name)}.*.part"):
        if not PART.fullmatch(part.name):
            continue
        with contextlib.suppress(OSError), open(os.open(part, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            part.unlink()
            removed += 1
    return removed


def short_name(path: Path) -> str:
    """A file's name, shortened where a longer one made of it could be too long for a file system."""
    name = path.name
    return name if len(name.encode()) <= 200 else name[:40] + hashlib.sha256(name.encode()).hexdigest()[:16]


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raises OutputExists if something is at `path`, unless it is a file and overwriting was asked for."""
    if os.path.lexists(path) and not (overwrite and path.is_file()):
        fix = "choose another name" if path.is_dir() else "choose another name or set overwrite=true"
        raise OutputExists(f"{path}: exists already, expected a free name; fix: {fix}")


def as_wfm_error(error: OSError, path: Path) -> NoSpace | BadData:
    """The one-line error for an OSError met while writing `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(f"{path}: no space left on the disk; fix: free some space or choose another place, then run again")
    return BadData(f"{path}: cannot be written ({error.strerror or error}); fix: check that the folder exists and is writable")


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file, read in pieces."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Wait until a file's content, or a folder's list of names, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
