"""What a session has seen: a tree of steps with their pictures, and marks to go back to, within a bound of memory.

A node is one step of the world: its pictures, the actions that led to it, and a mark. Where marks hold the picture decoder's state (some
megabytes each), only so many keep it, spread evenly over the past: the pictures in between are decoded again from the one before.
When the pictures themselves grow too many, the oldest are forgotten: their nodes stay in the tree, but nobody can go back there.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from wfm_ar.errors import BadPrompt
from wfm_ar.rollout.stream import Mark

NODE_BYTES = 4 << 10  # of a node beside its pictures and decoder state: its mark, numbers and names
NEWEST = 8  # marks that keep their decoder state whatever else
LEAST_STATES = 12  # of a session, however little memory it has


@dataclass(kw_only=True)
class Node:
    """One step of the world."""

    number: int
    parent: int | None
    step: int  # latents since the beginning, given ones included
    frame: int  # frames since the beginning, up to its first picture
    count: int  # of its pictures
    pictures: list[bytes]  # PNG; none once they are forgotten
    actions: np.ndarray | None  # float32 [r, A], those that led to its pictures
    acted: str  # by whom: "given", "imagined" or "absent"
    text: str | None
    given: int = 0  # of its pictures, those that were not imagined
    mark: Mark | None = None  # None: forgotten
    children: list[int] = field(default_factory=list)

    @property
    def size(self) -> int:
        return NODE_BYTES + sum(map(len, self.pictures))


class Timeline:
    """The tree. Numbers of nodes rise and are never used twice."""

    def __init__(self, most_bytes: int) -> None:
        """most_bytes: of pictures and decoder states, half each."""
        self.nodes: dict[int, Node] = {}
        self.most_bytes = most_bytes
        self.forgotten = 0  # steps
        self._next = 0
        self._size = self._state_bytes = 0
        self._stated: list[int] = []  # nodes whose marks hold decoder state, in order
        self._pinned: set[int] = set()

    @property
    def nbytes(self) -> int:
        """What pictures, nodes and decoder states take."""
        return self._size + self._state_bytes

    def add(self, parent: int | None, **about) -> Node:
        """A new node behind `parent`; older ones make room for it."""
        node = Node(number=self._next, parent=parent, **about)
        self._next += 1
        self.nodes[node.number] = node
        if parent is not None:
            self.nodes[parent].children.append(node.number)
        self._size += node.size
        self._hold_state(node)
        self._make_room(node.number)
        return node

    def state_again(self, number: int, mark: Mark) -> None:
        """A node was gone back to: its decoder state is there again, and it is likely that somebody will come back here."""
        node = self.nodes[number]
        if node.mark is not None and node.mark.decoder is None:
            node.mark = mark
            self._hold_state(node)
            self._thin(number)

    def pin(self, numbers: set[int]) -> None:
        """These nodes' pictures are not forgotten, until others are pinned: they are being recorded."""
        self._pinned = numbers

    def path(self, number: int, since: int | None = None) -> list[Node]:
        """The nodes from the beginning, or from `since` where that is on the way, to this one."""
        found = []
        for node in self._upwards(number):
            found.append(node)
            if node.number == since:
                break
        return found[::-1]

    def mark_of(self, number: int) -> tuple[Mark, Mark | None]:
        """(its mark, an earlier one of the same past with decoder state where its own has none). Raises BadPrompt."""
        if number not in self.nodes:
            raise BadPrompt(f"node: got {number}, expected one of this session's steps; fix: choose one of the timeline")
        mark = self.nodes[number].mark
        before = next((one.mark for one in self._upwards(number) if one.mark is not None and one.mark.decoder is not None), None)
        if mark is None or before is None:
            raise BadPrompt(f"node: step {self.nodes[number].step} is forgotten, as the memory was needed; fix: choose a later one")
        return mark, None if before is mark else before

    def _upwards(self, number: int | None) -> Iterator[Node]:
        while number is not None and number in self.nodes:
            yield self.nodes[number]
            number = self.nodes[number].parent

    def _hold_state(self, node: Node) -> None:
        if node.mark is not None and node.mark.nbytes:
            self._stated = sorted([*self._stated, node.number])
            self._state_bytes += node.mark.nbytes

    def _make_room(self, newest: int) -> None:
        self._thin(newest)
        oldest = iter(list(self.nodes))  # in order, as they were added
        while self._size > self.most_bytes // 2 and (number := next(oldest, newest)) < newest - NEWEST:
            if number not in self._pinned and (self.nodes[number].pictures or self.nodes[number].mark is not None):
                self._forget(self.nodes[number])
        self._prune(newest)

    def _thin(self, newest: int) -> None:
        """Takes decoder states away until they fit: where the gap that opens is the smallest, and of equal ones the oldest."""
        while self._state_bytes > self.most_bytes // 2 and len(self._stated) > LEAST_STATES:
            places = range(1, len(self._stated) - NEWEST)
            gaps = [(self._stated[i + 1] - self._stated[i - 1], i) for i in places if self._stated[i] != newest]
            if not gaps:
                return
            self._drop_state(self.nodes[self._stated[min(gaps)[1]]])

    def _drop_state(self, node: Node) -> None:
        if node.mark is not None and node.mark.nbytes:
            self._state_bytes -= node.mark.nbytes
            self._stated.remove(node.number)
            node.mark = node.mark.thinned()

    def _forget(self, node: Node) -> None:
        self._size -= node.size - NODE_BYTES
        self._drop_state(node)
        node.pictures, node.mark = [], None
        self.forgotten += 1

    def _prune(self, newest: int) -> None:
        """A beginning that is forgotten and leads on one way only, and ends of branches that are forgotten, go for good."""
        for number in list(self.nodes):
            node = self.nodes[number]
            if node.mark is not None or number >= newest - NEWEST:
                return
            parent = None if node.parent is None else self.nodes.get(node.parent)
            if (parent is None and len(node.children) <= 1) or not node.children:
                for child in node.children:
                    self.nodes[child].parent = None
                if parent is not None:
                    parent.children.remove(number)
                del self.nodes[number]
                self._size -= NODE_BYTES
