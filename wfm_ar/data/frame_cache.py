"""Frames that were decoded and resized once, kept on disk: large video costs its decoding once, not at every step.

Frames are kept as they are, in files of BLOCK frames of one clip, so that reading a window is one `pread` a block. A clip is known by a
key that says what its frames were made from (fingerprint.py, size and crop), so that a cache outlives the run that filled it, and
frames of data that changed are never found. Files are written whole or not at all. When the cache has its `most` bytes, or the disk is
full, what is there is used and everything else is decoded as if there were no cache; that is said once.
"""

import os
import threading
from collections import Counter
from collections.abc import Callable, Container
from pathlib import Path

import numpy as np

from wfm_ar.data.files import write_atomic
from wfm_ar.errors import BadData, NoSpace

BLOCK = 16  # frames a file
SPARE = 0.5  # share of the free disk that a cache takes at most


class FrameCache:
    """A folder of decoded frames. Threads share one; processes may share the folder."""

    def __init__(self, root: Path, most: float, sharers: int = 1):
        """most: bytes; `sharers` processes that fill the folder at the same time get a part each."""
        self.root, self.sharers, self._lock, self._told = Path(root), sharers, threading.Lock(), False
        self.root.mkdir(parents=True, exist_ok=True)
        self.held: Counter[str] = Counter()  # bytes of each clip, but for what other processes add
        for entry in self._files():
            self.held[_key_of(entry)] += entry.stat().st_size
        self.used = self.held.total()
        free = os.statvfs(self.root)
        self.most = self.used + max(0.0, min(most - self.used, SPARE * free.f_bavail * free.f_frsize)) / sharers

    def load(
        self, key: str, size: tuple[int, int], total: int, start: int, count: int, decode: Callable[[int, int], np.ndarray]
    ) -> np.ndarray:
        """Frames `start` to `start + count` of the clip `key` of `total` frames, uint8 [count, H, W, 3] with (H, W) = size.

        decode(start, count) makes those that are not here. Raises what it raises.
        """
        frames, bytes_a_frame = np.empty((count, *size, 3), np.uint8), size[0] * size[1] * 3
        missing: list[int] = []
        for block in range(start // BLOCK, (start + count - 1) // BLOCK + 1):
            begin, end = max(start, block * BLOCK), min(start + count, (block + 1) * BLOCK)
            into = frames[begin - start : end - start].data.cast("B")
            if not self._read(
                self._path(key, block), (begin - block * BLOCK) * bytes_a_frame, into, self._size(block, total, bytes_a_frame)
            ):
                missing.append(block)
        for first, last in _runs(missing):
            at, stop = first * BLOCK, min(total, (last + 1) * BLOCK)
            if not self._has_room((stop - at) * bytes_a_frame):  # then no more than is asked for
                at, stop = max(start, at), min(start + count, stop)
            made = decode(at, stop - at)
            begin, end = max(start, at), min(start + count, stop)
            frames[begin - start : end - start] = made[begin - at : end - at]
            for block in range(first, last + 1):
                if block * BLOCK >= at and min(total, (block + 1) * BLOCK) <= stop:
                    self._write(self._path(key, block), made[block * BLOCK - at : (block + 1) * BLOCK - at])
        return frames

    def drop_others(self, keys: Container[str]) -> int:
        """Deletes the frames of all other clips -> bytes that were freed."""
        freed = 0
        for entry in self._files():
            if (key := _key_of(entry)) not in keys:
                freed += entry.stat().st_size
                entry.unlink(missing_ok=True)
                self.held.pop(key, None)
        self.used -= freed
        return freed

    def _files(self) -> list[Path]:
        return [path for path in self.root.glob("??/*") if path.is_file()]

    def _path(self, key: str, block: int) -> Path:
        return self.root / key[:2] / f"{key}.{block}"

    @staticmethod
    def _size(block: int, total: int, bytes_a_frame: int) -> int:
        return (min(total, (block + 1) * BLOCK) - block * BLOCK) * bytes_a_frame

    @staticmethod
    def _read(path: Path, offset: int, into: memoryview, size: int) -> bool:
        """Whether the file is there, whole, and its bytes from `offset` are now in `into`."""
        try:
            handle = os.open(path, os.O_RDONLY)
        except OSError:
            return False
        try:
            return os.fstat(handle).st_size == size and os.preadv(handle, [into], offset) == len(into)
        finally:
            os.close(handle)

    def _has_room(self, size: int) -> bool:
        with self._lock:
            if self.used + size <= self.most:
                return True
        self._tell(f"is full at {self.used / 1e9:.1f} GB; frames that are not in it are decoded at every use (frame_cache= sets its size)")
        return False

    def _write(self, path: Path, frames_THWC: np.ndarray) -> None:
        try:
            path.parent.mkdir(exist_ok=True)
            write_atomic(path, frames_THWC.tobytes(), overwrite=True)
        except (NoSpace, BadData, OSError) as error:
            self.most = 0.0
            self._tell(f"takes no more frames, which are decoded at every use ({error})")
            return
        with self._lock:
            self.used += frames_THWC.nbytes
            self.held[_key_of(path)] += frames_THWC.nbytes

    def _tell(self, line: str) -> None:
        with self._lock:
            told, self._told = self._told, True
        if not told:
            print(f"note: {self.root}: {line}", flush=True)


def _key_of(path: Path) -> str:
    return path.name.partition(".")[0]


def _runs(blocks: list[int]) -> list[tuple[int, int]]:
    """Neighbouring numbers as (first, last)."""
    runs: list[tuple[int, int]] = []
    for block in blocks:
        runs = [*runs[:-1], (runs[-1][0], block)] if runs and runs[-1][1] == block - 1 else [*runs, (block, block)]
    return runs
