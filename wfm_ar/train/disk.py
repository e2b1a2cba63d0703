"""The few file operations that a checkpoint is made of, one by one, so that a test can fail, kill or unplug each of them.

Knows nothing of what is written. What `write` has returned from is on the disk; what `rename` and `remove` did is, once the
folder around it was synced.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from wfm_ar.data.files import fsync

PIECE = 16 * 2**20  # bytes given to the system at once


class Disk:
    """`before` is told of every operation just before it happens; it does nothing here."""

    def before(self, operation: str, path: Path) -> None:
        """operation: mkdir, create, write, fsync, rename, unlink or rmdir; path: what it is done to (a rename: the new name)."""

    def make_folder(self, path: Path) -> None:
        """A new folder in one that exists. Raises OSError."""
        self.before("mkdir", path)
        os.mkdir(path)

    def write(self, path: Path, chunks: Iterable[bytes | memoryview]) -> dict[str, int | str]:
        """A new file with these bytes, synced -> {"bytes": size, "sha256": hex}. Raises OSError."""
        digest, size = hashlib.sha256(), 0
        self.before("create", path)
        with open(path, "xb", buffering=0) as file:
            for chunk in chunks:
                view = memoryview(chunk)
                for first in range(0, len(view), PIECE):
                    piece = view[first : first + PIECE]
                    self.before("write", path)
                    self.put(file, piece)
                    digest.update(piece)
                    size += len(piece)
            self.before("fsync", path)
            os.fsync(file.fileno())
        return {"bytes": size, "sha256": digest.hexdigest()}

    def put(self, file: BinaryIO, piece: memoryview) -> None:
        """All of `piece`: an unbuffered file may take less at once."""
        while len(piece):
            piece = piece[file.write(piece) :]

    def sync(self, path: Path) -> None:
        """Wait until a file's content, or a folder's names, are on the disk. Raises OSError."""
        self.before("fsync", path)
        fsync(path)

    def rename(self, old: Path, new: Path) -> None:
        """`new` must not exist, or be an empty folder. Raises OSError."""
        self.before("rename", new)
        os.rename(old, new)

    def remove(self, folder: Path) -> None:
        """A folder and all in it. Raises OSError."""
        for path in sorted(folder.iterdir()):
            self.before("unlink", path)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        self.before("rmdir", folder)
        folder.rmdir()
