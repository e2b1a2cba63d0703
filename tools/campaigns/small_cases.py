"""How a small file that asks for a lot is made: a sound set, one of whose files is then changed or goes on for gigabytes."""

import os
from collections.abc import Callable
from pathlib import Path

import small_sets

HUGE = 1 << 33  # bytes that a case asks for
Case = Callable[[Path], None]  # makes a set in the folder


def edited(format: str, edit: Callable[[Path], None]) -> Case:
    """A sound set of this format, to which `edit` is then done."""

    def make(root: Path) -> None:
        small_sets.MAKERS[format](root)
        edit(root)

    return make


def sparse(path: Path, head: bytes, size: int) -> None:
    """A file of `size` bytes of which only the first are on the disk."""
    path.write_bytes(head)
    os.truncate(path, size)


def holes(format: str, name: str) -> Case:
    """A file of a sound set that goes on for gigabytes, of which nothing is on the disk."""
    return edited(format, lambda root: sparse(root / name, (root / name).read_bytes(), HUGE))
