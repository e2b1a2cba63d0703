"""Which files below a folder are data, and which links may be followed to them.

Hidden files and folders, what downloads leave behind, and index files are not data. A link must stay inside the data set, but for
those of a Hugging Face hub cache, whose snapshots are made of links into the `blobs` folder of the same repository. A Git LFS
pointer is told from the file it stands for.
"""

import os
import re
import stat
from pathlib import Path
from typing import overload

from wfm_ar.errors import BadData

_LEFTOVERS = (".incomplete", ".part", ".partial", ".crdownload", ".aria2", ".tmp", ".lock", ".metadata", ".index", ".idx", "~")
LFS_POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/v\d+\n(?:.*\n)*?size (\d{1,20})\n")
_POINTER_BYTES = 1024  # a pointer has about 130
_HUB_REPOSITORY = re.compile(r"(datasets|models|spaces)--.+")


def is_data(name: str) -> bool:
    """Whether a file of this name is meant to be read: not hidden, no leftover of a download, no index."""
    return not name.startswith(".") and not name.lower().endswith(_LEFTOVERS)


def files_below(root: Path) -> list[Path]:
    """The data files at any depth below `root`, sorted; hidden folders and linked folders are left alone."""
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [path for name in names if is_data(name) and (path := Path(folder, name)).is_file()]
    return sorted(found)


def stays_inside(root: Path, path: Path | str) -> bool:
    """Whether `path`, all links on the way followed, lies in `root`, or in the blobs of the hub cache that `root` is a snapshot of."""
    real, target = Path(os.path.realpath(root)), Path(os.path.realpath(path))
    return target.is_relative_to(real) or any(target.is_relative_to(blobs) for blobs in _hub_blobs(real))


@overload
def inside(root: Path, name: str, where: str) -> Path: ...
@overload
def inside(root: Path, name: str | None, where: str) -> Path | None: ...
def inside(root: Path, name: str | None, where: str) -> Path | None:
    """The absolute path of `name`, which must stay inside `root` (or the hub cache it is of) whatever links lie on the way."""
    if name is None:
        return None
    path = os.path.normpath(os.path.join(root, name))
    if os.path.isabs(name) or "\0" in name or not stays_inside(root, path):
        raise BadData(f"{where} is {name!r}, which leads out of the folder, expected a relative path inside; fix: copy it in")
    return Path(os.path.abspath(path))


def refuse_leading_out(root: Path, path: Path) -> None:
    """Raises BadData where `path` leads out of the folder `root`."""
    if not stays_inside(root, path):
        raise BadData(f"{path}: leads out of the folder, expected a file inside; fix: copy it in")


def refuse_pointer(path: Path) -> Path:
    """The path. Raises BadData where the file holds a Git LFS pointer in place of its content; what cannot be read passes."""
    try:
        about = os.stat(path)
        if not stat.S_ISREG(about.st_mode) or about.st_size > _POINTER_BYTES:
            return path
        with open(path, "rb") as file:
            found = LFS_POINTER.match(file.read(_POINTER_BYTES))
    except (OSError, ValueError):
        return path
    if found:
        told = f"is a Git LFS pointer to a file of {int(found[1])} bytes, expected the file itself"
        raise BadData(f"{path}: {told}; fix: run `git lfs pull` in its repository")
    return path


def _hub_blobs(real: Path) -> list[Path]:
    """`<repository>/blobs` where `real` is `<repository>/snapshots/<revision>` or lies below it."""
    return [
        folder.parent / "blobs" for folder in real.parents if folder.name == "snapshots" and _HUB_REPOSITORY.fullmatch(folder.parent.name)
    ]
