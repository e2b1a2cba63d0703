"""A Cosmos rollout driven step by step, one latent at a time; by actions too, where the world was fine-tuned on them."""

from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from wfm_ar.errors import BadActions
from wfm_ar.rollout.cosmos_roll import CosmosRows
from wfm_ar.rollout.painter import to_uint8
from wfm_ar.tokenizers.video.model import DecodeStream

if TYPE_CHECKING:
    from wfm_ar.rollout.cosmos_world import CosmosWorld


class CosmosStream:
    """`CosmosWorld.start` makes it. A fork goes on from here on its own, and shares the past's keys and values."""

    def __init__(self, world: "CosmosWorld", rows: CosmosRows, size: tuple[int, int]) -> None:
        self.world, self._rows, self._size = world, rows, size
        self._decoding = DecodeStream(world.modules["video_tokenizer"])
        given = [self._paint(tokens_hw) for tokens_hw in rows.tokens_Bthw[0]]
        self.given_frames = np.concatenate([np.empty((0, *size, 3), np.uint8), *given])

    def step(self, actions: np.ndarray | None = None) -> np.ndarray:
        """The next latent's frames, uint8 [r, H, W, 3] ([1, H, W, 3] where nothing was before), driven by `actions` [r, A].

        Without actions the latent is made without any. Raises BadActions.
        """
        if actions is not None:
            world, bins_NA = self.world, self.world.bins_of(actions)[0]
            first = not self._rows.tokens_Bthw.shape[1]
            if len(bins_NA) != (0 if first else world.rate):
                expected = "none before the first frame" if first else f"{world.rate}, one a frame of the next latent"
                raise BadActions(f"actions: got {len(bins_NA)}, expected {expected}; fix: give that many rows a step")
            if not first:
                self._rows.act(bins_NA)
        with self.world._placed("world_model"):
            tokens_hw = self._rows.advance()[0]
        return self._paint(tokens_hw)

    @property
    def tokens(self) -> np.ndarray:
        """All so far, int64 [t, h, w]."""
        return self._rows.tokens_Bthw[0].numpy()

    def fork(self, seed: int | None = None) -> "CosmosStream":
        """A second stream at the same point. It meets the same random draws, unless it gets a seed of its own."""
        other = CosmosStream.__new__(CosmosStream)
        other.__dict__.update(self.__dict__)
        other._rows = self._rows.fork([self._rows.jobs[0].seed if seed is None else seed])
        other._decoding = DecodeStream(self._decoding.tokenizer)
        other._decoding.memory = dict(self._decoding.memory)  # its tensors are replaced, never changed in place
        return other

    def _paint(self, tokens_hw: Tensor) -> np.ndarray:
        with self.world._placed("video_tokenizer"):
            device = next(self._decoding.tokenizer.parameters()).device
            frames = to_uint8(self._decoding.push(tokens_hw[None, None].to(device)).float())
        return frames[:, : self._size[0], : self._size[1]]
