"""The vocabularies and the grid of a world's rows of tokens: ours, and those of the published Cosmos models."""

import math
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace

from wfm_ar.errors import BadConfig
from wfm_ar.sizes import check_sizes

# Of a SequenceConfig: what files from before a setting came leave unsaid.
EARLIER = {"action_sums": False, "hint_latents": 1, "lookahead": False, "hints": True, "bov": True, "published": False, "vocab": 0}


@dataclass(frozen=True, kw_only=True)
class SequenceConfig:
    """The vocabularies and the grid; all of it follows from the tokenizers, the action schema and the clip length."""

    video_vocab: int  # codebook size
    levels: tuple[int, ...] = ()  # FSQ levels behind the ids, least significant first; empty = hints without codes
    grid_h: int
    grid_w: int
    rate: int  # frames a latent
    action_bins: tuple[int, ...] = ()  # bins of each action channel; empty = a world without actions
    text_vocab: int = 0  # 0 = a world without text
    max_text: int = 32  # text tokens
    max_latents: int = 9  # trained length; longer rollouts roll on from the last latents
    action_sums: bool = False  # hints hold the sum of the actions since the row's first latent
    hint_latents: int = 1  # earlier latents whose codes hints hold: with two, how fast things move is known
    lookahead: bool = False  # hints hold what a frame predictor expects of the coming latent (wfm_ar/frame_predictor)
    hints: bool = True  # the model is told what is known of each next token
    bov: bool = True  # rows begin with BOV
    published: bool = False  # ids and the position of BOV as in the published Cosmos models
    vocab: int = 0  # ids of a published model in all, those of the actions last

    def __post_init__(self):
        for name in ("video_vocab", "grid_h", "grid_w", "rate", "max_latents"):
            if getattr(self, name) < 1:
                raise BadConfig(f"sequence {name}: got {getattr(self, name)}, expected at least 1")
        if self.levels and math.prod(self.levels) != self.video_vocab:
            raise BadConfig(f"sequence levels: got {self.levels}, expected a product of video_vocab={self.video_vocab}")
        check_sizes(self, "sequence", video_vocab=(1, 1 << 23), grid_h=(1, 4096), grid_w=(1, 4096), rate=(1, 256), action_bins=(1, 1 << 20))
        check_sizes(self, "sequence", text_vocab=(0, 1 << 23), max_text=(0, 1 << 16), max_latents=(1, 1 << 16), vocab=(0, 1 << 24))
        check_sizes(self, "sequence", hint_latents=(1, 8))
        if self.lookahead and (not self.levels or not self.hints or self.rate > 1):
            raise BadConfig("sequence lookahead: got true, expected false without hints or levels, or with more than one frame a latent")
        if self.published and (self.hints or self.text_vocab):
            raise BadConfig("sequence published: got hints or text tokens, expected neither in a published model")
        least = self.video_vocab + self.bov + sum(self.action_bins) if self.published else 0
        if self.vocab < least or bool(self.vocab) != self.published:
            raise BadConfig(f"sequence vocab: got {self.vocab}, expected {f'at least {least}' if least else '0 unless published'}")

    def at(self, grid: tuple[int, int]) -> "SequenceConfig":
        """The same for pictures of another grid (h, w)."""
        return self if grid == (self.grid_h, self.grid_w) else replace(self, grid_h=grid[0], grid_w=grid[1])


def published_sequence(
    *, video_vocab: int, vocab: int, bov: bool, grid: tuple[int, int], rate: int, max_latents: int, action_bins: Items[int] = ()
) -> SequenceConfig:
    """The order of tokens of a published Cosmos model with `vocab` input ids; action_bins: of one that was fine-tuned on actions."""
    return SequenceConfig(
        video_vocab=video_vocab,
        grid_h=grid[0],
        grid_w=grid[1],
        rate=rate,
        action_bins=tuple(action_bins),
        max_text=0,
        max_latents=max_latents,
        hints=False,
        bov=bov,
        published=True,
        vocab=vocab,
    )
