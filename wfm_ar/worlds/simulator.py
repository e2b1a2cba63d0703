"""What a simulated world brings so that `wfm data make` makes data sets of it: a class in a file of its own, a line in registry.py."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from wfm_ar.schema import ActionSchema


@dataclass(frozen=True, kw_only=True)
class Recording:
    """One episode: what is seen, told and done, and the true state behind it."""

    frames: np.ndarray  # uint8 [T, H, W, 3]
    text: str
    actions: np.ndarray  # float32 [T-1, A]; row t leads from frame t to t+1
    state: dict[str, np.ndarray]  # by name, [T, ...] each where it goes by frame; what it holds is the simulator's own


class Simulator(Protocol):
    """One simulated world with its renderer, for the life of a worker process."""

    actions: ClassVar[ActionSchema]  # whose rate_hz is the frames a second too
    tasks: ClassVar[Sequence[str]]  # that an episode may be asked to be of
    needs: ClassVar[tuple[str, str]]  # (package that must be importable, the extra of pyproject.toml that brings it)

    def record(self, seed: int, index: int, num_frames: int, task: str | None = None, *, masks: bool = False) -> Recording:
        """Episode `index` of the data set `seed`: the same on one machine, whoever asks and in whatever order.

        Args:
            num_frames: of the episode; it has num_frames - 1 actions.
            task: one of `tasks`; None = the simulator's own mixture.
            masks: the state holds the simulator's segmentation too.
        """
        ...

    def close(self) -> None:
        """Frees what the renderer holds."""
        ...
