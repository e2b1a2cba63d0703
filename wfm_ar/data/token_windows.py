"""Windows of a token store, many at once, in an order that is a pure function of a position.

An epoch visits every window once. A clip of n latents has ceil(n / length) windows. In store order they tile the clip, the
last one moved back so that it ends with the clip; shuffled, window k begins somewhere in the k-th of equal parts of all
possible beginnings, drawn anew each epoch, so that epochs see different cuts of a clip and every part of it equally often.

The shuffled order is a keyed bijection of the window numbers (a Feistel network with cycle walking), not a stored
permutation: any position of any epoch costs the same, takes no memory, and one integer is the whole state of a reader.
"""

from typing import NamedTuple

import numpy as np

from wfm_ar.data.shards import TokenStore
from wfm_ar.errors import BadCheckpoint, BadConfig, BadData

ROUNDS = 6  # of the Feistel network; the tests look for serial correlation
_MIX = np.array([0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0x9E3779B97F4A7C15], dtype=np.uint64)


class TokenWindows(NamedTuple):
    """B windows of at most t latents. What lies beyond a window's length is zero."""

    video_Bthw: np.ndarray  # uint16 or int32, as stored
    bins_BtrA: np.ndarray | None  # int16; bins[:, k] lead to latent k, and bins[:, 0] are zero
    clips_B: np.ndarray  # int64, clip numbers in the store
    starts_B: np.ndarray  # int64, first latent in the clip
    lengths_B: np.ndarray  # int64, latents; less than t for clips that are shorter


class WindowReader:
    """Reads windows of `length` latents by position; holds no state but the store."""

    def __init__(self, store: TokenStore, length: int, *, seed: int = 0, shuffle: bool = True):
        if length < 1:
            raise BadConfig(f"window length: got {length} latents, expected at least 1; fix: give the trained length")
        if len(store) == 0:
            raise BadData(f"{store.root}: holds no clips, expected some to read windows of; fix: give more clips")
        self.store, self.length, self.seed, self.shuffle = store, length, seed, shuffle
        counts = -(-store.latents // length)
        self._ends = np.cumsum(counts)
        self._counts = counts

    def __len__(self) -> int:
        """Windows in an epoch."""
        return int(self._ends[-1])

    def places(self, position: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(clips, starts), int64 [count] each, of the windows at `position` (epoch * len + place) and after it."""
        if position < 0 or count < 1:
            raise BadConfig(f"windows: got position {position} and count {count}, expected >= 0 and >= 1; fix: ask for windows")
        epoch, place = np.divmod(np.arange(position, position + count, dtype=np.int64), len(self))
        if self.shuffle:
            window = np.empty(count, np.int64)
            for number in np.unique(epoch):  # one, or two where an epoch ends inside the batch
                own = epoch == number
                window[own] = permuted(place[own], len(self), (self.seed, int(number)))
        else:
            window = place
        clips = np.searchsorted(self._ends, window, side="right")
        counts, latents = self._counts[clips], self.store.latents[clips]
        part = window - (self._ends[clips] - counts)
        if not self.shuffle:
            return clips, np.maximum(0, np.minimum(part * self.length, latents - self.length))
        beginnings = np.maximum(1, latents - self.length + 1)
        low, high = part * beginnings // counts, (part + 1) * beginnings // counts
        key = _key(self.seed, 1)
        drawn = _mixed(window.astype(np.uint64) * _MIX[2] + _mixed(epoch.astype(np.uint64) ^ key)) >> np.uint64(11)
        return clips, low + (drawn.astype(np.float64) / 2**53 * (high - low)).astype(np.int64)

    def read(self, position: int, count: int) -> TokenWindows:
        """The windows at `position` and after it. Raises BadData for a damaged shard."""
        return self.gather(*self.places(position, count))

    def gather(self, clips_B: np.ndarray, starts_B: np.ndarray) -> TokenWindows:
        """The windows that begin at latents `starts_B` of `clips_B`, whatever order chose them."""
        store, t = self.store, self.length
        lengths_B = np.minimum(t, store.latents[clips_B] - starts_B)
        rows_B = store.first[clips_B] + starts_B
        shards_B = store.shard_of[clips_B]
        first = store.shard(int(shards_B[0]))
        video = np.empty((len(clips_B), t, *first.video.shape[1:]), first.video.dtype)
        bins = None if first.bins is None else np.empty((len(clips_B), t, *first.bins.shape[1:]), first.bins.dtype)
        order = np.argsort(shards_B, kind="stable")
        cuts = np.flatnonzero(np.diff(shards_B[order])) + 1
        for own in np.split(order, cuts):
            shard = store.shard(int(shards_B[own[0]]))
            # a short clip's missing rows repeat its last one until they are blanked below
            rows = rows_B[own, None] + np.minimum(np.arange(t), lengths_B[own, None] - 1)
            everything = len(own) == len(order)
            for out, source in ((video, shard.video), (bins, shard.bins)):
                if out is not None and everything:
                    np.take(source, rows, axis=0, out=out, mode="clip")  # in place; the rows are in range
                elif out is not None:
                    out[own] = source[rows]
        if (lengths_B < t).any():
            beyond = np.arange(t) >= lengths_B[:, None]
            video[beyond] = 0
            if bins is not None:
                bins[beyond] = 0
        if bins is not None:
            bins[:, 0] = 0  # what led to the window's first latent lies before it
        return TokenWindows(video, bins, clips_B, starts_B, lengths_B)


class WindowStream:
    """Batches of windows one after another, with a position that can be written down and taken up exactly."""

    def __init__(self, reader: WindowReader):
        self.reader, self.position = reader, 0

    def next(self, count: int) -> TokenWindows:
        windows = self.reader.read(self.position, count)
        self.position += count
        return windows

    def state(self) -> dict:
        """JSON that `restore` takes."""
        reader = self.reader
        about = {"seed": reader.seed, "shuffle": reader.shuffle, "length": reader.length, "windows": len(reader)}
        return about | {"position": self.position}

    def restore(self, state: dict) -> None:
        """Goes on at a written state; raises BadCheckpoint where it is that of another store, seed or window length."""
        own = self.state() | {"position": state.get("position")}
        position = state.get("position")
        if own != state or isinstance(position, bool) or not isinstance(position, int) or position < 0:
            odd = {key: (state.get(key), own.get(key)) for key in own.keys() | state.keys() if state.get(key) != own.get(key)}
            told = ", ".join(f"{key} {got!r} instead of {expected!r}" for key, (got, expected) in sorted(odd.items())) or f"{position!r}"
            raise BadCheckpoint(f"data position: belongs to other data or settings ({told}); fix: resume with those it was saved with")
        self.position = position


def permuted(places: np.ndarray, size: int, key: tuple[int, int]) -> np.ndarray:
    """int64 [n] places in 0..size-1 -> their images under a bijection of 0..size-1 chosen by `key`."""
    bits = max(2, int(size - 1).bit_length())
    right_bits = np.uint64(bits // 2)
    left_bits = np.uint64(bits) - right_bits
    left_mask, right_mask = (np.uint64((1 << int(n)) - 1) for n in (left_bits, right_bits))
    keys = [_key(*key, number + 2) for number in range(ROUNDS)]

    def once(values: np.ndarray) -> np.ndarray:
        left, right = values >> right_bits, values & right_mask
        for number, round_key in enumerate(keys):  # each half in turn is shifted by a hash of the other: always invertible
            if number % 2:
                right = (right + _mixed(left ^ round_key)) & right_mask
            else:
                left = (left + _mixed(right ^ round_key)) & left_mask
        return left << right_bits | right

    values = once(places.astype(np.uint64))
    beyond = np.flatnonzero(values >= size)
    while len(beyond):  # walk along the cycle until it is back inside; fewer than half are outside each time
        values[beyond] = once(values[beyond])
        beyond = beyond[values[beyond] >= size]
    return values.astype(np.int64)


def _key(*numbers: int) -> np.uint64:
    key = np.zeros(1, np.uint64)
    for number in numbers:
        key = _mixed(key * _MIX[2] + np.uint64(number % 2**64) + _MIX[2])
    return key[0]


def _mixed(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele et al. 2014): uint64 -> uint64, wrapping on purpose."""
    values = (values ^ (values >> np.uint64(30))) * _MIX[0]
    values = (values ^ (values >> np.uint64(27))) * _MIX[1]
    return values ^ (values >> np.uint64(31))
