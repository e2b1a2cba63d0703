"""The one place that knows the order of tokens and whose id is whose.

A row is `[text] BOV latent_0 (actions_1) latent_1 (actions_2) latent_2 ...`: a latent is grid_h * grid_w video tokens in
raster order; actions_k are the r * A tokens (step by step, channel by channel) that lead to the frames of latent k.
Text and actions may be left out, so one model serves text, image, clip and action prompts.

Ids: video [0, Vv) | actions [Vv, Vv + sum(bins)) | text | BOV. The head covers video and actions only.
Hints tell the model what is known of each *next* token before it is predicted, as numbers: its place in the latent (or the
action slot), the codes around that place one latent earlier, and the actions that lead to it. Copying what stands still, and
moving what an action moves, then needs no attention; and codes that are alike have hints that are alike, however rare they are.
"""

import math
from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F

from wfm_ar.errors import BadConfig, BadPrompt
from wfm_ar.sizes import check_sizes

REACH = 2  # places to each side of a hint's neighbourhood: 5 x 5 codes of the previous latent


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

    def __post_init__(self):
        for name in ("video_vocab", "grid_h", "grid_w", "rate", "max_latents"):
            if getattr(self, name) < 1:
                raise BadConfig(f"sequence {name}: got {getattr(self, name)}, expected at least 1")
        if self.levels and math.prod(self.levels) != self.video_vocab:
            raise BadConfig(f"sequence levels: got {self.levels}, expected a product of video_vocab={self.video_vocab}")
        check_sizes(self, "sequence", video_vocab=(1, 1 << 23), grid_h=(1, 4096), grid_w=(1, 4096), rate=(1, 256), action_bins=(1, 1 << 20))
        check_sizes(self, "sequence", text_vocab=(0, 1 << 23), max_text=(0, 1 << 16), max_latents=(1, 1 << 16))


class Piece(NamedTuple):
    """Some tokens in a row: int64 ids [n], positions [n, 3], and float32 hints [n, F] that describe these very tokens."""

    ids: torch.Tensor
    positions: torch.Tensor
    hints: torch.Tensor


class Woven(NamedTuple):
    """A whole row as the transformer takes it: hints[i] describes token i + 1 (or what comes after the end)."""

    ids: torch.Tensor
    positions: torch.Tensor
    hints: torch.Tensor


class Sequence:
    """Builds rows of tokens and takes them apart again, for one SequenceConfig.

    channels: the columns of the action vocabulary that rows have; None = all. In a world of several robots each has its own.
    """

    def __init__(self, config: SequenceConfig, channels: Items[int] | None = None):
        self.config = config
        c = config
        self.channels = tuple(range(len(c.action_bins)) if channels is None else channels)
        self.latent_size = c.grid_h * c.grid_w
        self.action_size = c.rate * len(self.channels)
        self.action_start = c.video_vocab
        self.text_start = c.video_vocab + sum(c.action_bins)
        self.bov = self.text_start + c.text_vocab
        starts = [c.video_vocab + sum(c.action_bins[:i]) for i in self.channels]
        self._action_starts = torch.tensor(starts, dtype=torch.int64)
        # Columns of a hint: the slot, one-hot (0 = nothing known, then latent places, then action slots); a neighbourhood of
        # codes, each `known, c_1 .. c_n, c_1^2 .. c_n^2`; the actions, `known`, then the values, then their squares.
        every_action = c.rate * len(c.action_bins)  # of all robots: each has columns of its own
        self.slots = 1 + self.latent_size + every_action
        self._codes = _code_table(c.video_vocab, c.levels)
        self._around = (2 * REACH + 1) ** 2 * self._codes.shape[1]
        self._acts = self.slots + self._around
        self.hint_width = self._acts + (1 + 2 * every_action if every_action else 0)
        self._none = F.one_hot(torch.tensor(0), self.hint_width).float()
        rows, columns = torch.meshgrid(torch.arange(c.grid_h), torch.arange(c.grid_w), indexing="ij")
        self._places = torch.stack((torch.zeros_like(rows), rows, columns), -1).flatten(0, 1)
        step = torch.arange(c.rate).repeat_interleave(len(self.channels))
        channel = torch.tensor(self.channels, dtype=torch.int64).repeat(c.rate)
        self._action_places = torch.stack((torch.zeros_like(step), c.grid_h + step, channel), -1)
        self._action_slots = 1 + self.latent_size + step * len(c.action_bins) + channel

    def model_vocabularies(self) -> dict[str, int]:
        """vocab, out_vocab and hint_width for the WorldModelConfig that fits this sequence."""
        return {"vocab": self.bov + 1, "out_vocab": self.text_start, "hint_width": self.hint_width}

    @property
    def max_length(self) -> int:
        """Tokens of the longest row of the trained length."""
        return self.length(self.config.max_latents)

    def length(self, latents: int) -> int:
        """Tokens of the longest row of `latents` latents."""
        return self.config.max_text + 1 + latents * self.latent_size + (latents - 1) * self.action_size

    def action_range(self, channel: int) -> tuple[int, int]:
        """[start, stop) of the ids of one of the action channels, counted among `channels`."""
        start = int(self._action_starts[channel])
        return start, start + self.config.action_bins[self.channels[channel]]

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

    def latent_piece(
        self, latent: int, tokens_hw: torch.Tensor, previous_hw: torch.Tensor | None, bins_rA: torch.Tensor | None = None
    ) -> Piece:
        """int64 tokens [h, w] of `latent`, those of the latent before it (None at the first), and the actions in between."""
        return Piece(tokens_hw.flatten(), self._at(self._places, latent), self.video_hints(previous_hw, bins_rA))

    def action_hints(self) -> torch.Tensor:
        """float32 [r * A, F] of the action tokens of any latent."""
        return F.one_hot(self._action_slots, self.hint_width).float()

    def video_hints(self, previous_hw: torch.Tensor | None, bins_rA: torch.Tensor | None = None) -> torch.Tensor:
        """float32 [h * w, F] of the tokens that follow the latent `previous_hw` (None = there is none) and its actions."""
        hints = torch.zeros(1, self.latent_size, self.hint_width)
        self._describe(hints, *(None if known is None else known[None].cpu() for known in (previous_hw, bins_rA)))
        return hints[0]

    def _describe(self, hints_nSF: torch.Tensor, previous_nhw: torch.Tensor | None, bins_nrA: torch.Tensor | None) -> None:
        """Fill the hints, zeros so far, of the tokens of n latents, each after the latent and the actions before it."""
        c, video = self.config, torch.arange(self.latent_size)
        hints_nSF[:, video, 1 + video] = 1
        if previous_nhw is not None:
            hints_nSF[:, :, self.slots : self._acts] = self._codes_around(previous_nhw)
        if bins_nrA is not None and self.action_size:
            top = torch.tensor([c.action_bins[channel] for channel in self.channels]).sub(1).clamp_min(1)
            values = (2 * bins_nrA / top - 1).flatten(1)[:, None]
            columns = self._acts + self._action_slots - self.latent_size  # the slot of action 0 is 1 + latent_size
            hints_nSF[:, :, self._acts] = 1
            hints_nSF[:, :, columns], hints_nSF[:, :, columns + c.rate * len(c.action_bins)] = values, values.square()

    def _codes_around(self, tokens_nhw: torch.Tensor) -> torch.Tensor:
        """float32 [n, h * w, codes]: the codes at and around each place of n latents, as hints have them."""
        padded = F.pad(tokens_nhw, (REACH,) * 4, value=self.config.video_vocab)
        around = padded.unfold(1, 2 * REACH + 1, 1).unfold(2, 2 * REACH + 1, 1).reshape(len(tokens_nhw), self.latent_size, -1)
        return F.embedding(around, self._codes.to(around.device)).flatten(2)

    def repaint(self, ids_BL: torch.Tensor, hints_BLF: torch.Tensor, tokens_Bthw: torch.Tensor, places_BM: torch.Tensor) -> None:
        """Put other video tokens into woven rows, in place: ids, and what the hints say of the latents before.

        places_BM: int64 [B, t * h * w], where in its row each video token stands; rows that end before a place leave it out.
        """
        rows, last = torch.arange(len(ids_BL), device=ids_BL.device)[:, None], ids_BL.shape[1]
        row, token = torch.where(places_BM < last)
        ids_BL[row, places_BM[row, token]] = tokens_Bthw.flatten(1)[row, token]
        codes = self._codes_around(tokens_Bthw[:, :-1].flatten(0, 1)).unflatten(0, (len(ids_BL), -1)).flatten(1, 2)
        hints_BLF[rows, places_BM[:, self.latent_size :] - 1, self.slots : self._acts] = codes.to(hints_BLF.dtype)

    def weave(self, tokens_thw: torch.Tensor, text_ids: list[int] | None = None, bins_tra: torch.Tensor | None = None) -> Woven:
        """Video tokens [n, h, w], text ids, bins [n - 1, r, A] (None = no actions) -> the whole row.

        The last hint is "nothing known"; a caller who goes on predicting puts the next token's hint there.
        """
        text, size, later = self.text_piece(text_ids), self.latent_size, len(tokens_thw) - 1
        acts = self.action_size if bins_tra is not None else 0
        each, places = tokens_thw[1:].flatten(1), self._places
        if acts:
            each = torch.cat(((bins_tra[:later] + self._action_starts).flatten(1), each), 1)
            places = torch.cat((self._action_places, places))
        steps = F.pad(torch.arange(1, later + 1)[:, None, None], (0, 2))
        ids = torch.cat((text.ids, tokens_thw[0].flatten(), each.flatten()))
        positions = torch.cat((text.positions, self._places, (places + steps).flatten(0, 1)))
        hints = torch.zeros(len(ids), self.hint_width)  # filled in place: it is most of a row's bytes
        begin = len(text.ids) - 1  # of the hints of latent 0
        hints[:begin, 0] = hints[-1, 0] = 1
        self._describe(hints[begin : begin + size][None], None, None)
        if later:
            blocks = hints[begin + size : -1].view(later, acts + size, -1)
            if acts:
                blocks[:, :acts] = self.action_hints()
            self._describe(blocks[:, acts:], tokens_thw[:-1].cpu(), bins_tra[:later].cpu() if acts else None)
        return Woven(ids, positions, hints)

    def join(self, pieces: list[Piece], next_hint: torch.Tensor | None = None) -> Woven:
        """Pieces in order -> a row; each token carries the hint of the one after it, the last one `next_hint` [F]."""
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


def _code_table(vocab: int, levels: tuple[int, ...]) -> torch.Tensor:
    """float32 [vocab + 1, 1 + 2 * len(levels)]: `1, codes in [-1, 1], their squares` of each id; the last row, "no token", is 0."""
    ids = torch.arange(vocab)[:, None]
    basis = torch.tensor([math.prod(levels[:i]) for i in range(len(levels))], dtype=torch.int64)
    sizes = torch.tensor(levels, dtype=torch.int64)
    codes = (ids // basis % sizes).float() * 2 / (sizes - 1) - 1 if levels else torch.zeros(vocab, 0)
    table = torch.cat((torch.ones(vocab, 1), codes, codes.square()), 1)
    return F.pad(table, (0, 0, 0, 1))
