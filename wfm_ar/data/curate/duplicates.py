"""Near-duplicates: clips that show the same, whatever their encoding, size or brightness, and at half the frame rate too.

A clip's fingerprint is `MOMENTS` thumbnails spread evenly over it, each with a 256-bit perceptual hash (signs of its low DCT
frequencies against their median, Zauner 2010). Two clips are near-duplicates when their hashes agree moment by moment AND no
cell of the thumbnails differs much once brightness and contrast are taken out. The second condition is what keeps two episodes
of one robot before one fixed camera apart: their pictures agree in all but a small place, and that place is what matters.
On real robot and driving clips, copies in strong compression (crf 32), half the size or 15 % darker differed in at most 0.03 of the
bits and 15 grey levels, every second frame left out in 0.10 and 37; distinct clips in at least 0.28 and 138, the two halves of
one driving clip in 0.07 and 62. Crops, mirrored copies, odd changes of rate and pieces of longer clips are not found.
"""

from typing import NamedTuple

import numpy as np

from wfm_ar.data.curate.looks import SIDE

MOMENTS = 32
LOW = 16  # DCT frequencies an axis -> LOW * LOW bits
STEP = 4  # every 4th moment of one clip is looked for in the other
SLACK = 1  # moments that a match may lie earlier or later
CELL = 40.0  # grey levels that a cell of a matching thumbnail may differ by, median over the moments
COARSE = 2.5  # clips whose hashes at the very same moments differ by more than this times the limit are not looked at closer

_BASIS = np.cos(np.pi * (2 * np.arange(SIDE) + 1)[None] * np.arange(LOW)[:, None] / (2 * SIDE)).astype(np.float32)


class Fingerprint(NamedTuple):
    """What is kept of a clip to recognise it by."""

    thumbs: np.ndarray  # uint8 [MOMENTS, SIDE, SIDE]
    hashes: np.ndarray  # uint8 [MOMENTS, 32]: packed bits


def fingerprint(thumbs_Thw: np.ndarray) -> Fingerprint:
    """Of the thumbnails of a whole clip, float32 [T, SIDE, SIDE]."""
    chosen = ((np.arange(MOMENTS) + 0.5) / MOMENTS * len(thumbs_Thw)).astype(int)
    thumbs = thumbs_Thw[chosen].round().clip(0, 255).astype(np.uint8)
    return Fingerprint(thumbs, hashes_of(thumbs))


def hashes_of(thumbs: np.ndarray) -> np.ndarray:
    """uint8 [n, SIDE, SIDE] -> uint8 [n, 32]."""
    low = (_BASIS @ thumbs.astype(np.float32) @ _BASIS.T).reshape(len(thumbs), -1)
    bits = low > np.median(low[:, 1:], axis=1, keepdims=True)
    bits[:, 0] = False  # the mean brightness says nothing
    return np.packbits(bits, axis=1)


def distance(a: Fingerprint, b: Fingerprint) -> tuple[float, float]:
    """(share of hash bits that differ, grey levels of the worst cell), each a mean or median over moments matched in time."""
    shares, cells = [], []
    for moment in range(STEP // 2, MOMENTS, STEP):
        near = slice(max(0, moment - SLACK), moment + SLACK + 1)
        bits = np.bitwise_count(a.hashes[moment] ^ b.hashes[near]).sum(axis=1, dtype=np.int64)
        best = int(bits.argmin())
        shares.append(bits[best] / (8 * a.hashes.shape[1]))
        cells.append(np.abs(_levelled(a.thumbs[moment]) - _levelled(b.thumbs[near][best])).max())
    return float(np.mean(shares)), float(np.median(cells))


class DuplicateFinder:
    """Remembers clips in order and tells of each new one which earlier clip it repeats."""

    def __init__(self, limit: float):
        """limit: share of hash bits that may differ."""
        self.limit = limit
        self._names: list[str] = []
        self._prints: list[Fingerprint] = []
        self._hashes = np.zeros((0, MOMENTS // STEP, LOW * LOW // 8), np.uint8)

    def find(self, print_: Fingerprint) -> tuple[str, float] | None:
        """(name of the nearest earlier clip, share of bits that differ), or None where none is near enough."""
        count = len(self._names)
        if not count:
            return None
        own = print_.hashes[STEP // 2 :: STEP]
        coarse = np.bitwise_count(self._hashes[:count] ^ own).sum(axis=(1, 2), dtype=np.int64) / (8 * own.size)
        found = None
        for i in np.flatnonzero(coarse <= COARSE * self.limit):
            share = max(distance(print_, self._prints[i]), distance(self._prints[i], print_))
            if share[0] <= self.limit and share[1] <= CELL and (found is None or share[0] < found[1]):
                found = (self._names[i], share[0])
        return found

    def add(self, name: str, print_: Fingerprint) -> None:
        count = len(self._names)
        if count == len(self._hashes):  # room for twice as many
            grown = np.zeros((max(64, 2 * count), *self._hashes.shape[1:]), np.uint8)
            grown[:count] = self._hashes
            self._hashes = grown
        self._hashes[count] = print_.hashes[STEP // 2 :: STEP]
        self._names.append(name)
        self._prints.append(print_)


def _levelled(thumb: np.ndarray) -> np.ndarray:
    """Brightness and contrast taken out: mean 0, and the spread scaled to that of a picture of ordinary contrast."""
    grey = thumb.astype(np.float32)
    grey -= grey.mean()
    return grey * (50.0 / max(float(grey.std()), 5.0))
