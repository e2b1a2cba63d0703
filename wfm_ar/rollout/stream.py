"""A rollout driven step by step, one latent at a time."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from wfm_ar.errors import BadActions
from wfm_ar.rollout.engine import Actions, Row, Rows
from wfm_ar.rollout.painter import Painter
from wfm_ar.rollout.sampling import SamplingConfig

if TYPE_CHECKING:
    from wfm_ar.rollout.world import World


class WorldStream:
    """A rollout driven step by step; `World.start` makes it. A fork goes on from here on its own."""

    def __init__(self, world: "World", row: Row, sampling: SamplingConfig, painter: Painter, imagine: bool) -> None:
        self.world, self._painter, self._imagine = world, painter, imagine
        self._rows = Rows(world.parts.world_model, world.sequence, [row], sampling)
        shape = (0, world.height, world.width, 3)
        self.given_frames = np.concatenate([np.empty(shape, np.uint8), *(self._painter.paint(tokens) for tokens in row.tokens)])

    def step(self, actions: np.ndarray | None = None) -> np.ndarray:
        """The next latent's frames, uint8 [r, H, W, 3] ([1, H, W, 3] where nothing was before), driven by `actions` [r, A].

        Without actions the model imagines them, or leaves them out if the stream was started with imagine=False. Raises BadActions.
        """
        world, first = self.world, not self._rows.rows[0].tokens
        if actions is None:
            kind = Actions.IMAGINED if self._imagine and world.action_tokenizer and not first else Actions.ABSENT
            tokens_Bhw = self._rows.advance(kind)
        else:
            bins_NA, _ = world.bins_of(actions)
            if len(bins_NA) != (0 if first else world.rate):
                expected = "none before the first frame" if first else f"{world.rate}, one a frame of the next latent"
                raise BadActions(f"actions: got {len(bins_NA)}, expected {expected}; fix: give that many rows a step")
            tokens_Bhw = self._rows.advance(Actions.ABSENT) if first else self._rows.advance(Actions.GIVEN, bins_NA[None])
        return self._painter.paint(tokens_Bhw[0])

    @property
    def tokens(self) -> np.ndarray:
        """All so far, those of given frames included: int64 [t, h, w]."""
        config, tokens = self.world.parts.sequence, self._rows.rows[0].tokens
        return torch.stack(tokens).numpy() if tokens else np.empty((0, config.grid_h, config.grid_w), np.int64)

    @property
    def actions(self) -> np.ndarray | None:
        """All so far as the model saw them, float32 [T - 1, A], NaN where it saw none; None if it saw none at all."""
        return self.world.actions_of(self._rows.rows[0])

    def fork(self) -> "WorldStream":
        """A second stream at the same point. It meets the same random draws: other actions are what makes it differ."""
        other = WorldStream.__new__(WorldStream)
        other.__dict__.update(self.__dict__)
        other._rows, other._painter = self._rows.select([0]), self._painter.fork()
        return other
