"""One process at an output, and the output there wholly or not at all: locks, hidden names, and what dead processes left.

Beside an output NAME lie, while it is written and after a kill:

    .lock-NAME       locked by the process that writes; the system frees it when that process ends, however it ends
    .tmp-NAME-PID    a folder that is being filled
    .new-NAME-PID    files that are whole and on their way to their places (.put-NAME-PID: in place of older ones)
    .old-NAME-PID    what was there before, where the system cannot exchange two names in one step

Whoever takes the lock next tidies up: what was half done goes, what was whole is put into its place, what was set aside goes
back where nothing stands instead; a `Note` says so. Knows nothing of what the files hold.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from wfm_ar.data.files import as_wfm_error, fsync, remove_dead_parts, short_name
from wfm_ar.errors import Note, OutputExists

HIDDEN = re.compile(r"\.(tmp|new|put|old)-(.+)-(\d+)", re.DOTALL)
NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}  # what file systems without locks answer
NOREPLACE, EXCHANGE, HERE = 1, 2, -100  # renameat2(2)


@contextmanager
def claim(out: Path) -> Iterator[None]:
    """The sole right to write `out`, from before the work until the output is there; what a dead process left at it is tidied up.

    `out`: a folder or a file; where files go into a folder that may be there, the name of one of them. Folders that are missing
    on the way are made, and go again where they stay empty. Raises OutputExists while another process has the claim, BadData
    where nothing can be written there, NoSpace.
    """
    out, made = Path(out), []
    folder = out.parent
    while not folder.exists() and folder != folder.parent:
        made.append(folder)
        folder = folder.parent
    lock, handle = out.with_name(f".lock-{short_name(out)}"), -1
    try:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            handle = _locked(lock, out)
            _tidy_up(out)
        except OSError as error:
            raise as_wfm_error(error, out) from error
        yield
    finally:
        if handle >= 0:
            lock.unlink(missing_ok=True)
            os.close(handle)
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()


def tidy_up(folder: Path, names: Iterable[str]) -> None:
    """Tidies up behind dead processes at those outputs of a folder that are called `names`; what is being written stays."""
    by_name = {short_name(folder / name): folder / name for name in names}
    left = {found[2] for path in folder.iterdir() if (found := HIDDEN.fullmatch(path.name))} if folder.is_dir() else set()
    for name in left & by_name.keys():
        with contextlib.suppress(OutputExists), claim(by_name[name]):
            pass


@contextmanager
def whole_folder(folder: Path, *, overwrite: bool) -> Iterator[Path]:
    """A new folder under another name, to be filled; when the block ends well, it is synced and takes the place of `folder`.

    Claims `folder` meanwhile. What was there before goes only when the new one stands; after an error it is still there, and the
    new one is gone. Raises OutputExists where something is there and `overwrite` is not set, OSError while it is put in place.
    """
    folder = Path(folder)
    with claim(folder):
        if not overwrite:
            _refuse(folder)
        part, old = (_hidden(folder, kind) for kind in ("tmp", "old"))
        try:
            part.mkdir()
            yield part
            _sync(part)
            if not folder.exists():
                _move(part, folder, replace=False)
            elif not overwrite:
                _refuse(folder)
            elif not _renamed(part, folder, EXCHANGE):
                os.rename(folder, old)
                os.rename(part, folder)
            fsync(folder.absolute().parent)
        finally:
            _remove(part)  # after an exchange: what was there before
            if os.path.lexists(folder):
                _remove(old)
            elif os.path.lexists(old):  # the second of two renames failed
                os.rename(old, folder)


@contextmanager
def whole_files(out: Path, *, overwrite: bool) -> Iterator[Path]:
    """A new folder to be filled with the files of `out`, which is claimed; when the block ends well, they go to its folder.

    Files in folders of the new one go to those. Either all of them get there, if by the next process that claims `out`, or none.
    Raises OutputExists where one is there and `overwrite` is not set, BadData, NoSpace.
    """
    out = Path(out)
    part, whole = _hidden(out, "tmp"), _hidden(out, "put" if overwrite else "new")
    try:
        part.mkdir()
        yield part
        if not overwrite:
            for path in _files(part):
                _refuse(out.parent / path.relative_to(part))
        _sync(part)
        os.rename(part, whole)  # from here on they are there, as soon as somebody moves them
        _put_in_place(whole, out.parent)
    except OSError as error:
        raise as_wfm_error(error, out) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def holds_something(folder: Path, but: str = "") -> bool:
    """Whether there is anything in `folder` but locks and what is called `but`."""
    return any(path.name != but and not path.name.startswith(".lock-") for path in folder.iterdir())


def _locked(lock: Path, out: Path) -> int:
    """An open file that holds the lock."""
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            process = os.pread(handle, 20, 0).decode(errors="replace").strip()
            os.close(handle)
            told = f" ({process})" if process.isdigit() else ""
            raise OutputExists(
                f"{out}: another process{told} is writing it now, expected a free name; fix: wait for it, or choose another name"
            ) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                os.close(handle)
                raise
            warnings.warn(Note(f"{out}: this file system has no locks; do not write it from two processes at once"), stacklevel=4)
        if _is_at(handle, lock):  # its last holder has not removed it meanwhile
            with contextlib.suppress(OSError):  # for the message above; a full disk is told by what fills it
                os.pwrite(handle, str(os.getpid()).encode(), 0)
            return handle
        os.close(handle)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.lstat(path))
    except FileNotFoundError:
        return False


def _hidden(out: Path, kind: str) -> Path:
    return out.with_name(f".{kind}-{short_name(out)}-{os.getpid()}")


def _refuse(path: Path) -> None:
    if os.path.lexists(path):
        raise OutputExists(f"{path}: exists already, expected a free name; fix: choose another name or set overwrite=true")


def _files(folder: Path) -> list[Path]:
    """Those of a folder and its folders; JSON, which says what the others are, comes last."""
    return sorted((path for path in folder.rglob("*") if not path.is_dir()), key=lambda path: (path.suffix == ".json", path))


def _sync(folder: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        fsync(path)


def _put_in_place(whole: Path, into: Path) -> None:
    """Move the files of a `.new-` or `.put-` folder to their places, and remove it. Raises OutputExists, OSError."""
    replace, moved = whole.name.startswith(".put-"), []
    try:
        for path in _files(whole):
            place = into / path.relative_to(whole)
            place.parent.mkdir(parents=True, exist_ok=True)
            _move(path, place, replace)
            moved.append(place)
    except (OutputExists, OSError):  # such as: somebody has put something there since it was looked for. It stays, nothing of ours
        if not replace:
            for place in moved:
                place.unlink(missing_ok=True)
            _remove(whole)
        raise
    for folder in {place.parent for place in moved}:
        fsync(folder)
    shutil.rmtree(whole)


def _move(path: Path, place: Path, replace: bool) -> None:
    if replace:
        os.replace(path, place)
    elif not _renamed(path, place, NOREPLACE):
        _refuse(place)
        os.rename(path, place)


def _renamed(path: Path, place: Path, how: int) -> bool:
    """Whether the system has such a rename and it was possible: NOREPLACE fails where something is, EXCHANGE swaps two names."""
    try:
        rename = ctypes.pythonapi["renameat2"]  # of the C library
    except (AttributeError, ValueError):
        return False
    rename.argtypes = (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint)
    return rename(HERE, os.fsencode(path), HERE, os.fsencode(place), how) == 0


def _remove(path: Path) -> None:
    """A folder with all that is in it, or a link."""
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def _tidy_up(out: Path) -> None:
    """What processes that died left at an output whose claim we hold."""
    left = []
    for path in out.parent.iterdir():
        found = HIDDEN.fullmatch(path.name)
        if found and found[2] == short_name(out):
            left.append((found[1], path))
    notes = []
    for kind, path in sorted(left, key=lambda one: one[0] == "tmp"):  # an older output goes back before what was to replace it is removed
        if kind in ("new", "put"):
            try:
                _put_in_place(path, out.parent)
                notes.append("its files were whole and are in their places now")
            except OutputExists:
                notes.append("its files were whole, but others are in their places, which stay")
        elif kind == "old" and not out.exists():
            os.rename(path, out)
            notes.append("what was there before is back")
        else:
            _remove(path)
            notes.append("what it had not finished is removed")
    if remove_dead_parts(out.parent, short_name(out)):
        notes.append("what it had half written is removed")
    for note in dict.fromkeys(notes):
        warnings.warn(Note(f"{out}: a process that wrote it was stopped; {note}"), stacklevel=5)
