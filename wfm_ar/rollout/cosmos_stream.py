"""A Cosmos rollout driven step by step, one latent at a time; by actions too, where the world was fine-tuned on them."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from copy import copy

import numpy as np
from torch import Tensor

from wfm_ar.rollout.action_codec import ActionCodec
from wfm_ar.rollout.cosmos_roll import CosmosRows
from wfm_ar.rollout.painter import to_uint8
from wfm_ar.tokenizers.video.model import DecodeStream, VideoTokenizer


class CosmosStream:
    """`CosmosWorld.start` makes it. A fork goes on from here on its own, and shares the past's keys and values."""

    def __init__(
        self,
        rows: CosmosRows,
        actions: ActionCodec,
        tokenizer: VideoTokenizer,
        size: tuple[int, int],
        placed: Callable[[str], AbstractContextManager],
    ) -> None:
        """size: pixels (H, W) of a frame. placed: brings a part to where it works, by name, and back."""
        self._rows, self._codec, self._size, self._placed = rows, actions, size, placed
        self._decoding = DecodeStream(tokenizer)
        given = [self._paint(tokens_hw) for tokens_hw in rows.tokens_Bthw[0]]
        self.given_frames = np.concatenate([np.empty((0, *size, 3), np.uint8), *given])

    def step(self, actions: np.ndarray | None = None) -> np.ndarray:
        """The next latent's frames, uint8 [r, H, W, 3] ([1, H, W, 3] where nothing was before), driven by `actions` [r, A].

        Without actions the latent is made without any. Raises BadActions.
        """
        if actions is not None:
            ids_rA = self._codec.encode_step(actions, first=not self._rows.latents)
            if ids_rA is not None:
                self._rows.act(ids_rA)
        with self._placed("world_model"):
            tokens_hw = self._rows.advance()[0]
        return self._paint(tokens_hw)

    @property
    def tokens(self) -> np.ndarray:
        """All so far, int64 [t, h, w]."""
        return self._rows.tokens_Bthw[0].numpy()

    def fork(self, seed: int | None = None) -> "CosmosStream":
        """A second stream at the same point. It meets the same random draws, unless it gets a seed of its own."""
        other = copy(self)
        other._rows = self._rows.fork([self._rows.jobs[0].seed if seed is None else seed])
        other._decoding = DecodeStream(self._decoding.tokenizer)
        other._decoding.memory = dict(self._decoding.memory)  # its tensors are replaced, never changed in place
        return other

    def _paint(self, tokens_hw: Tensor) -> np.ndarray:
        with self._placed("video_tokenizer"):
            device = next(self._decoding.tokenizer.parameters()).device
            frames = to_uint8(self._decoding.push(tokens_hw[None, None].to(device)).float())
        return frames[:, : self._size[0], : self._size[1]]
