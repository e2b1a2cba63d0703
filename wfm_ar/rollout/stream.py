"""A rollout driven step by step, one latent at a time, and points of it to come back to."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wfm_ar.rollout.action_codec import ActionCodec
from wfm_ar.rollout.engine import Actions, Batch, Row
from wfm_ar.rollout.frame_decoder import FrameDecoder
from wfm_ar.rollout.placement import Placement
from wfm_ar.rollout.sampling import SamplingConfig, Stream, draws


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A point of a stream to come back to: what was drawn so far, not what was computed on the way. It takes a few kilobytes, and
    for the state of the picture decoder `nbytes` more (none in worlds of single frames)."""

    row: Row
    sampling: SamplingConfig
    decoder: FrameDecoder | None  # None: the pictures since an earlier mark are decoded again

    @property
    def latents(self) -> int:
        """How many there were, given ones included."""
        return len(self.row.tokens)

    @property
    def nbytes(self) -> int:
        return 0 if self.decoder is None else self.decoder.state_bytes

    def thinned(self) -> "Mark":
        """The same point without the state of the picture decoder."""
        return replace(self, decoder=None)


class WorldStream:
    """A rollout driven step by step; `World.start` makes it. A fork goes on from here on its own."""

    def __init__(
        self, rows: Batch, actions: ActionCodec, decoder: FrameDecoder, imagine: bool, size: tuple[int, int], placement: Placement
    ) -> None:
        """rows: a batch of one. size: pixels (H, W) of a frame. placement: where the world model works."""
        self._rows, self._codec, self._decoder, self._placement = rows, actions, decoder, placement
        self._imagine = imagine and rows.sequence.predicts_actions
        given = [self._decoder.frames(tokens_hw) for tokens_hw in rows.rows[0].tokens]
        self.given_frames = np.concatenate([np.empty((0, *size, 3), np.uint8), *given])

    def step(self, actions: np.ndarray | None = None) -> np.ndarray:
        """The next latent's frames, uint8 [r, H, W, 3] ([1, H, W, 3] where nothing was before), driven by `actions` [r, A].

        Without actions the model imagines them, or leaves them out if the stream was started with imagine=False. Raises BadActions.
        """
        kind, ids_rA = self._coming(actions)
        with self._placement.at_work("world_model"):
            tokens_Bhw = self._rows.advance(kind, None if ids_rA is None else ids_rA[None])
        return self._decoder.frames(tokens_Bhw[0])

    def _coming(self, actions: np.ndarray | None) -> tuple[Actions, Tensor | None]:
        """What leads to the next latent, and the ids [r, A] of actions that are given. Raises BadActions."""
        first = not self._rows.rows[0].tokens
        if actions is None:
            return Actions.IMAGINED if self._imagine and not first else Actions.ABSENT, None
        ids_rA = self._codec.encode_step(actions, first)
        return Actions.ABSENT if first else Actions.GIVEN, ids_rA

    @property
    def tokens(self) -> np.ndarray:
        """All so far, those of given frames included: int64 [t, h, w]."""
        config = self._rows.sequence.config
        tokens: Any = self._rows.rows[0].tokens  # a History
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
        other._decoder = self._decoder.fork()
        return other

    def mark(self) -> Mark:
        """This point, to come back to with `resume`."""
        return Mark(row=self._rows.rows[0], sampling=self._rows.sampling, decoder=self._decoder.fork())

    def resume(
        self, mark: Mark, before: Mark | None = None, *, row: Row | None = None, sampling: SamplingConfig | None = None
    ) -> "WorldStream":
        """A stream that goes on from a mark of this one, or of one that it was forked or resumed from. Keys and values of the context
        are computed anew in one pass, so logits may differ by rounding from those of a stream that never stopped.

        before: of a thinned mark, an earlier one of the same past that is not. row: the mark's own, with another text or seed.
        sampling: other settings from here on.
        """
        anchor = mark if mark.decoder is not None else before
        assert anchor is not None and anchor.decoder is not None and anchor.latents <= mark.latents, "no decoder state to go on from"
        other = copy(self)
        with self._placement.at_work("world_model"):
            other._rows = self._rows.begun_anew([mark.row if row is None else row], sampling or mark.sampling)
        other._decoder = anchor.decoder.fork()
        for tokens_hw in mark.row.tokens[anchor.latents :]:
            other._decoder.frames(tokens_hw)
        return other


def step_together(streams: Sequence[WorldStream], actions: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """One `step` of each stream, all different ones of one world: those that have the same kind of actions and settings in one pass, where
    that is quicker. The frames are those that each would have alone (engine.py says how nearly).

    actions: [r, A] or None for each. Raises BadActions, before any is stepped.
    """
    coming = [stream._coming(one) for stream, one in zip(streams, actions, strict=True)]
    groups: dict[tuple, list[int]] = {}
    for i, (stream, (kind, _)) in enumerate(zip(streams, coming, strict=True)):
        groups.setdefault((kind, bool(stream._rows.rows[0].tokens), stream._rows.alike), []).append(i)
    frames: dict[int, np.ndarray] = {}
    for (kind, _, _), members in groups.items():
        together = len(members) >= streams[members[0]]._rows.fewest_together
        for batch in [members] if together else [[i] for i in members]:
            ids = [one for i in batch if (one := coming[i][1]) is not None]  # those of a batch all act, or none does
            rows = Batch.stack([streams[i]._rows for i in batch])
            with streams[batch[0]]._placement.at_work("world_model"):
                tokens_Bhw = rows.advance(kind, torch.stack(ids) if ids else None)
            if len(batch) > 1:
                for i, own in zip(batch, rows.split(), strict=True):
                    streams[i]._rows = own
            frames |= {i: streams[i]._decoder.frames(tokens_hw) for i, tokens_hw in zip(batch, tokens_Bhw, strict=True)}
    return [frames[i] for i in range(len(streams))]
