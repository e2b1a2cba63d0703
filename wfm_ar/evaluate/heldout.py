"""The held-out clips an evaluation looks at: the first of the split in file order that are long enough, never picked.

Of several robots, each is looked at: the first of its episodes.
"""

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from wfm_ar.data.episodes import Episode, EpisodeSet
from wfm_ar.data.video import resize_crop
from wfm_ar.errors import BadData
from wfm_ar.framing import CENTRE


@dataclass(frozen=True, kw_only=True)
class Clip:
    """The first frames of an episode at the tokenizer's size; what the data set does not have is None."""

    id: str
    text: str | None
    frames: np.ndarray  # uint8 [T, H, W, 3]
    actions: np.ndarray | None  # float32 [T-1, A]
    peg_xy: np.ndarray | None  # float [T, 2] metres; only the tabletop's state has it
    robot: str | None = None  # which one acts, where the data set names it
    names: tuple[str, ...] | None = None  # of the n objects, "red cube"; this and the next two only of the tabletop
    object_xy: np.ndarray | None = None  # float [T, n, 2] metres
    visible: np.ndarray | None = None  # float [T, n], the share of each object that the simulator sees, where the set has masks


class HeldOut:
    """The first `count` episodes of each robot with at least `num_frames` frames (count None: all of them), read when asked for."""

    def __init__(self, episodes: EpisodeSet, *, count: int | None, num_frames: int, height: int, width: int, crop: str = CENTRE) -> None:
        """Raises BadData where no episode is long enough."""
        self.episodes, self.num_frames, self.height, self.width, self.crop = episodes, num_frames, height, width, crop
        self.indices: list[int] = []
        self.too_short = longest = 0
        taken: Counter[str | None] = Counter()
        for i, episode in enumerate(episodes):
            if count is not None and taken[episode.embodiment] == count:
                continue
            frames = episodes.num_frames(i)
            longest = max(longest, frames)
            if frames >= num_frames:
                self.indices.append(i)
                taken[episode.embodiment] += 1
            else:
                self.too_short += 1
        if not self.indices:
            raise BadData(
                f"{episodes.path}: got no held-out episode of {num_frames} frames or more, the longest has {longest}; "
                "fix: set frames lower, or add longer clips"
            )

    def where(self, wanted: Callable[[Episode], bool]) -> "HeldOut":
        """Those of these clips whose episode is wanted; there may be none."""
        chosen = copy.copy(self)
        chosen.indices = [i for i in self.indices if wanted(self.episodes[i])]
        return chosen

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, k: int) -> Clip:
        i = self.indices[k]
        frames = resize_crop(self.episodes.load_frames(i, 0, self.num_frames), self.height, self.width, self.crop, str(self.episodes.path))
        actions, state = self.episodes.load_actions(i), self.episodes.load_state(i)
        if actions is not None and len(actions) < self.num_frames - 1:
            where = self.episodes[i].actions
            raise BadData(f"{where}: got {len(actions)} actions, expected {self.num_frames - 1} or more; fix: run `wfm data check`")
        state = state or {}
        names = tuple(map(str, state["names"])) if "names" in state and "object_xy" in state else None
        return Clip(
            id=self.episodes[i].id,
            text=self.episodes[i].text,
            frames=frames,
            actions=None if actions is None else actions[: self.num_frames - 1],
            peg_xy=self._first(state.get("peg_xy")),
            robot=self.episodes[i].embodiment,
            names=names,
            object_xy=self._first(state["object_xy"]) if names else None,
            visible=self._first(state.get("visible")) if names else None,
        )

    def _first(self, rows: np.ndarray | None) -> np.ndarray | None:
        return None if rows is None else rows[: self.num_frames]

    def __iter__(self) -> Iterator[Clip]:
        return (self[k] for k in range(len(self)))
