"""The latents or actions of a rollout so far, in one array that grows.

A small tensor a latent, kept for as long as a rollout lasts, would lie between the large ones that a latent's work takes and
gives back, and the allocator could never join the gaps: a stream grew by 0.2 MiB a latent for 4 KiB of tokens.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

LEAST = 16  # items that the first array has room for


class History(Sequence[Tensor | None]):
    """Equally large tensors of whole numbers, or None where one is missing. Never changes: `append` gives another history.

    A history and those made from it share one array as long as only one of them is appended to; forks that both go on part there.
    """

    def __init__(self, items: Iterable[Tensor | None] = ()) -> None:
        items = list(items)
        self._array, self._count = _Array(len(items)), len(items)
        for i, item in enumerate(items):
            self._array.write(i, item)
        self._array.free[self._count] = True

    @staticmethod
    def missing(count: int) -> "History":
        """`count` times None."""
        return History([None] * count)

    def append(self, item: Tensor | None) -> "History":
        """This history and one item more."""
        array, count = self._array, self._count
        if not array.free.pop(count, False):  # one step that no other thread can come between
            array = array.copy(count, array.room)
        if count == array.room:
            array = array.copy(count, 2 * count)
        array.write(count, item)
        array.free[count + 1] = True
        other = History.__new__(History)
        other._array, other._count = array, count + 1
        return other

    def stacked(self) -> Tensor:
        """All items as one tensor of the caller's own, [n, ...]; there must be some, and none missing."""
        assert self._array.values is not None and all(self._array.known[: self._count]), "nothing to stack, or items are missing"
        return torch.from_numpy(self._array.values[: self._count].copy())

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index):
        """An item, or a list of those of a slice; they are views, and not to be written to."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        place = range(self._count)[index]
        values = self._array.values
        return torch.from_numpy(values[place]) if values is not None and self._array.known[place] else None


class _Array:
    """What histories share. `free`: the place that may be written next, unless somebody has taken it."""

    def __init__(self, room: int) -> None:
        self.room = max(room, LEAST)
        self.values: np.ndarray | None = None  # [room, ...], from the first item on that is not missing
        self.known = bytearray(self.room)
        self.free: dict[int, bool] = {}

    def write(self, place: int, item: Tensor | None) -> None:
        if item is None:
            return
        if self.values is None:
            self.values = np.empty((self.room, *item.shape), item.numpy().dtype)
        assert item.shape == self.values.shape[1:], f"{list(item.shape)} behind {list(self.values.shape[1:])}"
        self.values[place] = item.numpy()
        self.known[place] = True

    def copy(self, count: int, room: int) -> "_Array":
        """The first `count` items, with room for more."""
        other = _Array(room)
        other.known[:count] = self.known[:count]
        if self.values is not None:
            other.values = np.empty((other.room, *self.values.shape[1:]), self.values.dtype)
            other.values[:count] = self.values[:count]
        return other
