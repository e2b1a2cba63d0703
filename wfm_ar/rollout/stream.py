"""A rollout driven step by step, one latent at a time."""

from copy import copy

import numpy as np

from wfm_ar.rollout.action_codec import ActionCodec
from wfm_ar.rollout.engine import Actions, Rows
from wfm_ar.rollout.painter import Painter
from wfm_ar.rollout.placement import Placement
from wfm_ar.rollout.sampling import Stream, draws


class WorldStream:
    """A rollout driven step by step; `World.start` makes it. A fork goes on from here on its own."""

    def __init__(
        self, rows: Rows, actions: ActionCodec, painter: Painter, imagine: bool, size: tuple[int, int], placement: Placement
    ) -> None:
        """rows: a batch of one. size: pixels (H, W) of a frame. placement: where the world model works."""
        self._rows, self._codec, self._painter, self._placement = rows, actions, painter, placement
        self._imagine = imagine and rows.sequence.predicts_actions
        given = [self._painter.paint(tokens_hw) for tokens_hw in rows.rows[0].tokens]
        self.given_frames = np.concatenate([np.empty((0, *size, 3), np.uint8), *given])

    def step(self, actions: np.ndarray | None = None) -> np.ndarray:
        """The next latent's frames, uint8 [r, H, W, 3] ([1, H, W, 3] where nothing was before), driven by `actions` [r, A].

        Without actions the model imagines them, or leaves them out if the stream was started with imagine=False. Raises BadActions.
        """
        first = not self._rows.rows[0].tokens
        if actions is None:
            kind, ids_rA = Actions.IMAGINED if self._imagine and not first else Actions.ABSENT, None
        else:
            ids_rA = self._codec.encode_step(actions, first)
            kind = Actions.ABSENT if first else Actions.GIVEN
        with self._placement.at_work("world_model"):
            tokens_Bhw = self._rows.advance(kind, None if ids_rA is None else ids_rA[None])
        return self._painter.paint(tokens_Bhw[0])

    @property
    def tokens(self) -> np.ndarray:
        """All so far, those of given frames included: int64 [t, h, w]."""
        config, tokens = self._rows.sequence.config, self._rows.rows[0].tokens
        return tokens.stacked().numpy() if tokens else np.empty((0, config.grid_h, config.grid_w), np.int64)

    @property
    def actions(self) -> np.ndarray | None:
        """All so far as the model saw them, float32 [T - 1, A], NaN where it saw none; None if it saw none at all."""
        return self._codec.decode(self._rows.rows[0].bins)

    def fork(self, seed: int | None = None) -> "WorldStream":
        """A second stream at the same point, which shares the past's keys and values. It meets the same random draws, so that only
        other actions make it differ, unless it gets a seed of its own. Raises BadPrompt for a seed that cannot be."""
        if seed is not None:
            draws(seed, 0, Stream.VIDEO, 0)
        other = copy(self)
        other._rows = self._rows.select([0], None if seed is None else [seed])
        other._painter = self._painter.fork()
        return other
