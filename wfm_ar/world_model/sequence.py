"""The one place that knows the order of tokens and whose id is whose.

A row is `[text] BOV latent_0 (actions_1) latent_1 (actions_2) latent_2 ...`: a latent is grid_h * grid_w video tokens in
raster order; actions_k are the r * A tokens (step by step, channel by channel) that lead to the frames of latent k.
Text and actions may be left out, so one model serves text, image, clip and action prompts.

Ids: video [0, Vv) | actions [Vv, Vv + sum(bins)) | text | BOV. The head covers video and actions only.
Hints tell the model what is known of each *next* token before it is predicted: its place in the latent (or the action slot)
and the nine tokens around that place one latent earlier. Copying what stands still then needs no attention at all.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F

from wfm_ar.errors import BadConfig, BadPrompt
from wfm_ar.sizes import check_sizes

HINTS = 10  # the place, and 3 x 3 tokens of the previous latent


@dataclass(frozen=True, kw_only=True)
class SequenceConfig:
    """The vocabularies and the grid; all of it follows from the tokenizers, the action schema and the clip length."""

    video_vocab: int  # codebook size
    grid_h: int
    grid_w: int
    rate: int  # frames a latent
    action_bins: tuple[int, ...] = ()  # bins of each action channel; empty = a world without actions
    text_vocab: int = 0  # 0 = a world without text
    max_text: int = 32  # text tokens
    max_latents: int = 9  # trained length; longer rollouts roll on from the last latents

    def __post_init__(self):
        for name in ("video_vocab", "grid_h", "grid_w", "rate", "max_latents"):
            if getattr(self, name) < 1:
                raise BadConfig(f"sequence {name}: got {getattr(self, name)}, expected at least 1")
        check_sizes(self, "sequence", video_vocab=(1, 1 << 23), grid_h=(1, 4096), grid_w=(1, 4096), rate=(1, 256), action_bins=(1, 1 << 20))
        check_sizes(self, "sequence", text_vocab=(0, 1 << 23), max_text=(0, 1 << 16), max_latents=(1, 1 << 16))


class Piece(NamedTuple):
    """Some tokens in a row: int64 ids [n], positions [n, 3], and hints [n, HINTS] that describe these very tokens."""

    ids: torch.Tensor
    positions: torch.Tensor
    hints: torch.Tensor


class Woven(NamedTuple):
    """A whole row as the transformer takes it: hints[i] describes token i + 1 (or what comes after the end)."""

    ids: torch.Tensor
    positions: torch.Tensor
    hints: torch.Tensor


class Sequence:
    """Builds rows of tokens and takes them apart again, for one SequenceConfig."""

    def __init__(self, config: SequenceConfig):
        self.config = config
        c = config
        self.latent_size = c.grid_h * c.grid_w
        self.action_size = c.rate * len(c.action_bins)
        self.action_start = c.video_vocab
        self.text_start = c.video_vocab + sum(c.action_bins)
        self.bov = self.text_start + c.text_vocab
        starts = [c.video_vocab + sum(c.action_bins[:i]) for i in range(len(c.action_bins))]
        self._action_starts = torch.tensor(starts, dtype=torch.int64)
        # Hint ids: column 0 is the slot (0 = nothing known, then latent places, then action slots); column 1 + j the
        # neighbour j, whose id Vv means "none". Each column has its own range in the one table.
        self.slots = 1 + self.latent_size + self.action_size
        self._columns = torch.tensor([0] + [self.slots + j * (c.video_vocab + 1) for j in range(9)])
        self._none = torch.tensor([0] + [c.video_vocab] * 9) + self._columns
        rows, columns = torch.meshgrid(torch.arange(c.grid_h), torch.arange(c.grid_w), indexing="ij")
        self._places = torch.stack((torch.zeros_like(rows), rows, columns), -1).flatten(0, 1)
        step = torch.arange(c.rate).repeat_interleave(max(1, len(c.action_bins)))
        channel = torch.arange(max(1, len(c.action_bins))).repeat(c.rate)
        self._action_places = torch.stack((torch.zeros_like(step), c.grid_h + step, channel), -1)[: self.action_size]

    def model_vocabularies(self) -> dict[str, int]:
        """vocab, out_vocab and hint_vocab for the WorldModelConfig that fits this sequence."""
        hint_vocab = self.slots + 9 * (self.config.video_vocab + 1)
        return {"vocab": self.bov + 1, "out_vocab": self.text_start, "hint_vocab": hint_vocab}

    @property
    def max_length(self) -> int:
        """Tokens of the longest row of the trained length."""
        c = self.config
        return c.max_text + 1 + c.max_latents * self.latent_size + (c.max_latents - 1) * self.action_size

    def action_range(self, channel: int) -> tuple[int, int]:
        """[start, stop) of the ids of one action channel."""
        start = int(self._action_starts[channel])
        return start, start + self.config.action_bins[channel]

    def text_piece(self, text_ids: list[int] | None) -> Piece:
        """The text (None or [] = no text) and BOV. Raises BadPrompt when it is longer than max_text."""
        text_ids = text_ids or []
        if len(text_ids) > self.config.max_text:
            raise BadPrompt(f"text: got {len(text_ids)} tokens, expected at most {self.config.max_text}; fix: shorten it")
        ids = torch.tensor([self.text_start + i for i in text_ids] + [self.bov], dtype=torch.int64)
        positions = torch.zeros(len(ids), 3, dtype=torch.int64)
        positions[:, 1] = self.config.grid_h + self.config.rate  # a line of its own below the latent and its actions
        positions[:, 2] = torch.arange(len(ids))
        return Piece(ids, positions, self._none.expand(len(ids), -1))

    def action_piece(self, latent: int, bins: torch.Tensor) -> Piece:
        """int64 bins [r, A] of the actions that lead to `latent` (>= 1)."""
        ids = (bins + self._action_starts).flatten()
        return Piece(ids, self._at(self._action_places, latent), self.action_hints())

    def latent_piece(self, latent: int, tokens_hw: torch.Tensor, previous_hw: torch.Tensor | None) -> Piece:
        """int64 tokens [h, w] of `latent`, and those of the latent before it (None at the first)."""
        return Piece(tokens_hw.flatten(), self._at(self._places, latent), self.video_hints(previous_hw))

    def action_hints(self) -> torch.Tensor:
        """int64 [r * A, HINTS] of the action tokens of any latent."""
        hints = self._none.repeat(self.action_size, 1)
        hints[:, 0] = torch.arange(1 + self.latent_size, 1 + self.latent_size + self.action_size)
        return hints

    def video_hints(self, previous_hw: torch.Tensor | None) -> torch.Tensor:
        """int64 [h * w, HINTS] of the tokens that follow the latent `previous_hw` (None = there is none)."""
        c = self.config
        hints = self._none.repeat(self.latent_size, 1)
        hints[:, 0] = torch.arange(1, 1 + self.latent_size)
        if previous_hw is not None:
            padded = F.pad(previous_hw.cpu(), (1, 1, 1, 1), value=c.video_vocab)
            around = padded.unfold(0, 3, 1).unfold(1, 3, 1).reshape(self.latent_size, 9)
            hints[:, 1:] = around + self._columns[1:]
        return hints

    def weave(self, tokens_thw: torch.Tensor, text_ids: list[int] | None = None, bins_tra: torch.Tensor | None = None) -> Woven:
        """Video tokens [n, h, w], text ids, bins [n - 1, r, A] (None = no actions) -> the whole row.

        The last hint is "nothing known"; a caller who goes on predicting puts the next token's hint there.
        """
        pieces = [self.text_piece(text_ids)]
        for latent, tokens_hw in enumerate(tokens_thw):
            if latent and bins_tra is not None:
                pieces.append(self.action_piece(latent, bins_tra[latent - 1]))
            pieces.append(self.latent_piece(latent, tokens_hw, tokens_thw[latent - 1] if latent else None))
        return self.join(pieces, self._none)

    def join(self, pieces: list[Piece], next_hint: torch.Tensor | None = None) -> Woven:
        """Pieces in order -> a row; each token carries the hint of the one after it, the last one `next_hint` [HINTS]."""
        ids, positions, hints = (torch.cat(parts) for parts in zip(*pieces, strict=True))
        last = self._none if next_hint is None else next_hint
        return Woven(ids, positions, torch.cat((hints[1:], last[None])))

    def unpack(self, ids: torch.Tensor) -> torch.Tensor:
        """A row's ids -> its video tokens [n, h, w], whatever text and actions stand between. BadPrompt on a broken latent."""
        video = ids[ids < self.config.video_vocab]
        if len(video) % self.latent_size:
            raise BadPrompt(f"row: got {len(video)} video tokens, expected a multiple of {self.latent_size}; fix: whole latents only")
        return video.view(-1, self.config.grid_h, self.config.grid_w)

    @staticmethod
    def _at(places: torch.Tensor, latent: int) -> torch.Tensor:
        return places + torch.tensor([latent, 0, 0])
