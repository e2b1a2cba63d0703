"""Whole files and folders or none: what is written gets a temporary name, is synced, and renamed.

Knows nothing of what the bytes mean. A full disk raises NoSpace, a path in use raises OutputExists; in both cases whatever
was at the path before is still there.
"""

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wfm_ar.errors import BadData, NoSpace, OutputExists


def write_atomic(path: Path, content: bytes, *, overwrite: bool = False, sync: bool = True) -> None:
    """Writes `content` to `path`, wholly or not at all. `sync=False` skips fsync (many small files that can be remade)."""
    path = Path(path)
    refuse_existing(path, overwrite)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "xb") as file:
            file.write(content)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise as_wfm_error(error, path) from error
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder under another name, to be filled; when the block ends well, it is synced and takes the place of `folder`.

    What was there before goes only when the new one stands; after an error it is still there, and the new one is gone. Raises OSError.
    """
    part, old = (folder.with_name(f".{kind}-{folder.name}-{os.getpid()}") for kind in ("tmp", "old"))
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        yield part
        for path in [*part.rglob("*"), part]:
            fsync(path)
        if folder.exists():
            os.rename(folder, old)
        os.rename(part, folder)
        fsync(folder.absolute().parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


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
