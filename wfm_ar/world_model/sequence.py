"""The one place that knows the order of tokens and whose id is whose.

A row is `[text] BOV latent_0 (actions_1) latent_1 (actions_2) latent_2 ...`: a latent is grid_h * grid_w video tokens in
raster order; actions_k are the r * A tokens (step by step, channel by channel) that lead to the frames of latent k.
Text and actions may be left out, so one model serves text, image, clip and action prompts.

Ids: video [0, Vv) | actions [Vv, Vv + sum(bins)) | text | BOV. The head covers video and actions only.
The published Cosmos models have the same order with other ids (`published`): video | BOV and ids without use | actions, the last
ones of the embedding; BOV is at no position, models without cross-attention begin without it, the head covers video only, and
there are neither text tokens nor hints.

Hints tell the model what is known of each *next* token before it is predicted, as numbers: its place in the latent (or the
action slot), the codes around that place in the latent before, or in the last `hint_latents`, the actions that lead to it, and
their sum since the row's first latent. Copying what stands still, and moving what an action moves, then needs no attention; and
codes that are alike have hints that are alike, however rare they are. The sum does not drift as a picture drawn after a drawn
picture does.
"""

import math
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F

from wfm_ar.errors import BadConfig, BadPrompt
from wfm_ar.sizes import check_sizes

NOT_TOLD = -128  # of a lookahead that was not asked
TOLD_SCALE = 100  # of what a lookahead tells, which is kept in 8 bits
REACH = 2  # places to each side of a hint's neighbourhood: 5 x 5 codes of the previous latent
WAVES = (2, 4, 8, 16, 32, 64)  # periods of the sines of a sum of actions, in steps at full deflection

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


class Rows(NamedTuple):
    """Rows of equally many latents, padded at the end to one length L, and the place of each of their tokens in its row.

    ids int64 [B, L], positions int64 [B, L, 3], video int64 [B, t * h * w], actions int64 [B, (t - 1) * r * A]: L where a row does not
    have that token.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    video: torch.Tensor
    actions: torch.Tensor


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
        actions = sum(c.action_bins)
        self.action_start = c.vocab - actions if c.published else c.video_vocab
        self.text_start = c.video_vocab if c.published else c.video_vocab + actions
        self.bov = self.text_start + c.text_vocab
        first_ids = [self.action_start + sum(c.action_bins[:i]) for i in range(len(c.action_bins))]
        self._every_start, self._channels = (torch.tensor(each, dtype=torch.int64) for each in (first_ids, self.channels))
        self._action_starts = self._every_start[self._channels]
        # Columns of a hint: the slot, one-hot (0 = nothing known, then latent places, then action slots); a neighbourhood of
        # codes, each `known, c_1 .. c_n, c_1^2 .. c_n^2`; the actions, `known`, then the values, then their squares; and with
        # action_sums `known`, then of each channel the sum and its sines and cosines; last what a lookahead tells: `known`, how near
        # each level of each digit is, and the numbers of the 3 x 3 places around.
        every_action = c.rate * len(c.action_bins)  # of all robots: each has columns of its own
        self.slots = 1 + self.latent_size + every_action
        self._codes = _code_table(c.video_vocab if c.hints else 0, c.levels)
        self._around = (2 * REACH + 1) ** 2 * self._codes.shape[1]
        self._acts = self.slots + c.hint_latents * self._around
        sums = 1 + (1 + 2 * len(WAVES)) * len(c.action_bins) if c.action_sums else 0
        self._ahead = self._acts + (1 + 2 * every_action + sums if every_action else 0)
        ahead = 1 + sum(c.levels) + 9 * self.told_ahead if c.lookahead else 0
        self.hint_width = self._ahead + ahead if c.hints else 0
        self._none = F.one_hot(torch.tensor(0), self.hint_width).float() if c.hints else torch.zeros(0)
        rows, columns = torch.meshgrid(torch.arange(c.grid_h), torch.arange(c.grid_w), indexing="ij")
        self._places = torch.stack((torch.zeros_like(rows), rows, columns), -1).flatten(0, 1)
        step = torch.arange(c.rate).repeat_interleave(len(c.action_bins))
        channel = torch.arange(len(c.action_bins)).repeat(c.rate)
        self._every_action_place = torch.stack((torch.zeros_like(step), c.grid_h + step, channel), -1)
        own = (channel[:, None] == self._channels).any(1)
        self._action_places = self._every_action_place[own]
        self._action_slots = 1 + self.latent_size + own.nonzero()[:, 0]

    def model_vocabularies(self) -> dict[str, int]:
        """vocab, out_vocab and hint_width for the WorldModelConfig that fits this sequence."""
        return {"vocab": self.config.vocab or self.bov + 1, "out_vocab": self.text_start, "hint_width": self.hint_width}

    @property
    def told_ahead(self) -> int:
        """Numbers that a lookahead tells of each place, 0 without one."""
        return len(self.config.levels) + 1 if self.config.lookahead else 0

    @property
    def told_digits(self) -> range:
        """The columns of a hint that tell how near each level of each digit is, in the order of the levels; none without a lookahead."""
        return range(self._ahead + 1, self._ahead + 1 + sum(self.config.levels)) if self.config.lookahead else range(0)

    @property
    def predicts_actions(self) -> bool:
        """Whether the model can say what the next actions are."""
        return bool(self.channels) and self.action_start < self.text_start

    @property
    def max_length(self) -> int:
        """Tokens of the longest row of the trained length."""
        return self.length(self.config.max_latents)

    def length(self, latents: int) -> int:
        """Tokens of the longest row of `latents` latents."""
        return self.config.max_text + self.config.bov + latents * self.latent_size + (latents - 1) * self.action_size

    def action_range(self, channel: int) -> tuple[int, int]:
        """[start, stop) of the ids of one of the action channels, counted among `channels`."""
        start = int(self._action_starts[channel])
        return start, start + self.config.action_bins[self.channels[channel]]

    def text_piece(self, text_ids: list[int] | None) -> Piece:
        """The text (None or [] = no text) and BOV. Raises BadPrompt when it is longer than max_text."""
        ids = self._text_ids(text_ids)
        return Piece(ids, self._line(len(ids)), self._none.expand(len(ids), -1))

    def _line(self, count: int) -> torch.Tensor:
        """int64 [count, 3], the positions of what stands before the first latent."""
        if self.config.published:
            return torch.full((count, 3), -1)  # none
        positions = torch.zeros(count, 3, dtype=torch.int64)
        positions[:, 1] = self.config.grid_h + self.config.rate  # a line of its own below the latent and its actions
        positions[:, 2] = torch.arange(count)
        return positions

    def _text_ids(self, text_ids: list[int] | None) -> torch.Tensor:
        text_ids = text_ids or []
        if len(text_ids) > self.config.max_text:
            raise BadPrompt(f"text: got {len(text_ids)} tokens, expected at most {self.config.max_text}; fix: shorten it")
        return torch.tensor([self.text_start + i for i in text_ids] + [self.bov] * self.config.bov, dtype=torch.int64)

    def action_piece(self, latent: int, bins: torch.Tensor) -> Piece:
        """int64 bins [r, A] of the actions that lead to `latent` (>= 1)."""
        ids = (bins + self._action_starts).flatten()
        return Piece(ids, self._at(self._action_places, latent), self.action_hints())

    def latent_piece(
        self,
        latent: int,
        tokens_hw: torch.Tensor,
        earlier: Items[torch.Tensor],
        bins: Items[torch.Tensor | None] = (),
        ahead_hwK: torch.Tensor | None = None,
    ) -> Piece:
        """int64 tokens [h, w] of `latent`; the rest as in `video_hints`."""
        return Piece(tokens_hw.flatten(), self._at(self._places, latent), self.video_hints(earlier, bins, ahead_hwK))

    def action_hints(self) -> torch.Tensor:
        """float32 [r * A, F] of the action tokens of any latent."""
        if not self.config.hints:
            return torch.zeros(self.action_size, 0)
        return F.one_hot(self._action_slots, self.hint_width).float()

    def video_hints(
        self, earlier: Items[torch.Tensor], bins: Items[torch.Tensor | None] = (), ahead_hwK: torch.Tensor | None = None
    ) -> torch.Tensor:
        """float32 [h * w, F] of the tokens that follow the latents `earlier`, int64 [h, w] each, the newest last; only the
        last `hint_latents` count.

        bins: int64 [r, A] of the actions that led to each latent since the row's first, the coming one included; None where there
        were none. Without action_sums the last one is enough.
        ahead_hwK: what a lookahead tells of these tokens; None where it was not asked.
        """
        c, t = self.config, len(earlier) + 1
        if not c.hints:
            return torch.zeros(self.latent_size, 0)
        tokens_1thw = torch.stack([*(tokens_hw.cpu() for tokens_hw in earlier), torch.zeros(c.grid_h, c.grid_w, dtype=torch.int64)])[None]
        bins_1trA = self._no_bins(1, t)
        if t > 1 and len(bins) and c.action_bins:
            none = torch.full((c.rate, len(self.channels)), -1)
            known_1tra = torch.stack([none if each is None else each.cpu() for each in bins])[None]
            bins_1trA[:, -len(bins) :] = self.of_all_channels(known_1tra)
        video_1S = ((t - 1) * self.latent_size + torch.arange(self.latent_size))[None]
        ahead_1thwK = None
        if ahead_hwK is not None:
            ahead_1thwK = torch.full((1, t, *ahead_hwK.shape), NOT_TOLD, dtype=torch.int8)
            ahead_1thwK[0, -1] = ahead_hwK
        return self.hints(tokens_1thw, bins_1trA, video_1S, torch.full_like(video_1S, -1), ahead_1thwK)[0]

    def of_all_channels(self, bins_btra: torch.Tensor) -> torch.Tensor:
        """Bins of this sequence's channels as columns of the whole action vocabulary, -1 in the others."""
        every = bins_btra.new_full((*bins_btra.shape[:-1], len(self.config.action_bins)), -1)
        every[..., self._channels.to(every.device)] = bins_btra
        return every

    def _of_actions(self, bins_BtrA: torch.Tensor) -> torch.Tensor:
        """float32 [B, t, columns]: what hints say of the actions that lead to each of t latents; bins below 0 are not there."""
        top_A = torch.tensor(self.config.action_bins, device=bins_BtrA.device).sub(1).clamp_min(1)
        there_BtrA = bins_BtrA >= 0
        values_BtrA = torch.where(there_BtrA, 2 * bins_BtrA / top_A - 1, 0.0)
        known_Bt1 = there_BtrA.flatten(2).any(2, keepdim=True).float()
        parts = [known_Bt1, values_BtrA.flatten(2), values_BtrA.flatten(2).square()]
        if self.config.action_sums:
            known_Bt1 = known_Bt1.cumprod(1)  # a latent whose actions are not known may have moved anything
            sums_BtA1 = values_BtrA.sum(2).cumsum(1)[..., None]
            angles_BtAw = sums_BtA1 * (2 * math.pi / torch.tensor(WAVES, device=bins_BtrA.device))
            of_each_BtAf = torch.cat((sums_BtA1 / self.config.rate, angles_BtAw.sin(), angles_BtAw.cos()), -1)
            of_each_BtAf = of_each_BtAf * (there_BtrA.any(2) * known_Bt1)[..., None]
            parts += [known_Bt1, of_each_BtAf.flatten(2)]
        return torch.cat(parts, 2)

    def weave_rows(
        self, tokens_Bthw: torch.Tensor, texts: Items[list[int] | None], bins_BtrA: torch.Tensor | None = None, length: int | None = None
    ) -> Rows:
        """Many rows at once: int64 tokens [B, t, h, w], text ids, bins [B, t - 1, r, A] -> Rows, padded to `length` (None: the longest).

        bins: a column for each channel of the whole action vocabulary, below 0 where a row has no such action; None = none at all.
        """
        B, t = tokens_Bthw.shape[:2]
        bins_BtrA = self._no_bins(B, t) if bins_BtrA is None else bins_BtrA
        text = [self._text_ids(ids) for ids in texts]
        begin_B1 = torch.tensor([len(ids) for ids in text])[:, None]
        there_BtK = (bins_BtrA >= 0).flatten(2).long()
        count_Bt = there_BtK.sum(2)
        start_Bt = begin_B1 + torch.arange(t) * self.latent_size + F.pad(count_Bt.cumsum(1), (1, 0))
        L = int(start_Bt.max()) + self.latent_size if length is None else length
        video_BM = (start_Bt[..., None] + torch.arange(self.latent_size)).flatten(1)
        actions_BtK = (start_Bt[:, 1:] - count_Bt)[..., None] + there_BtK.cumsum(2) - 1
        actions_BK = torch.where(there_BtK > 0, actions_BtK, L).flatten(1)
        row, ids = torch.arange(B)[:, None], torch.zeros(B, L + 1, dtype=torch.int64)
        padded = torch.nn.utils.rnn.pad_sequence(text, batch_first=True)
        ids[:, : padded.shape[1]] = padded
        ids[row, video_BM], ids[row, actions_BK] = tokens_Bthw.flatten(1), (bins_BtrA + self._every_start).flatten(1)
        positions = torch.zeros(B, L + 1, 3, dtype=torch.int64)
        positions = torch.where((torch.arange(L + 1) < begin_B1)[..., None], self._line(L + 1), positions)
        latent = F.pad(torch.arange(t)[:, None, None], (0, 2))
        positions[row, video_BM] = (self._places + latent).flatten(0, 1)
        positions[row, actions_BK] = (self._every_action_place + latent[1:]).flatten(0, 1)
        return Rows(ids[:, :L], positions[:, :L], video_BM, actions_BK)

    def kinds(self, video_BM: torch.Tensor, actions_BK: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What each token of rows woven to `length` is, int64 [B, length] twice, as `hints` takes it; places as in `Rows`."""
        (B, M), row = video_BM.shape, torch.arange(len(video_BM))[:, None]
        video, slots = (torch.full((B, length + 1), -1) for _ in range(2))
        slots[:, :length][torch.arange(length) < video_BM[:, :1]] = 0
        video[row, video_BM] = torch.arange(M)
        action_slots = torch.arange(1 + self.latent_size, self.slots)
        slots[row, actions_BK] = action_slots.repeat(actions_BK.shape[1] // max(1, len(action_slots)))
        return video[:, :length], slots[:, :length]

    def hints(
        self,
        tokens_Bthw: torch.Tensor,
        bins_BtrA: torch.Tensor,
        video_BK: torch.Tensor,
        slots_BK: torch.Tensor,
        ahead_BthwK: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """float32 [B, K, F] of chosen tokens of rows of the tokens [B, t, h, w] and the bins [B, t - 1, r, A]; made where these are.

        video_BK: int64, latent * h * w + place of a video token, -1 where it is none; slots_BK: the action slot of an action
        token, 0 where nothing is known, -1 where it is a video token or padding.
        ahead_BthwK: int8 [B, t, h, w, K], what a lookahead tells of each latent, NOT_TOLD where it tells nothing; None = nowhere.
        """
        c, t, device = self.config, tokens_Bthw.shape[1], tokens_Bthw.device
        hints = torch.zeros(*video_BK.shape, self.hint_width, device=device)
        if not c.hints:
            return hints
        row, column = torch.where(slots_BK >= 0)
        hints[row, column, slots_BK[row, column]] = 1
        row, column = torch.where(video_BK >= 0)
        at = video_BK[row, column]
        latent, place = at // self.latent_size, at % self.latent_size
        described = torch.zeros(len(at), self.hint_width, device=device)
        described[torch.arange(len(at), device=device), 1 + place] = 1
        padded_BtP = F.pad(tokens_Bthw, (REACH,) * 4, value=c.video_vocab).flatten(2)
        width, side = c.grid_w + 2 * REACH, torch.arange(2 * REACH + 1, device=device)
        around = (side[:, None] * width + side).flatten()
        corner = (place // c.grid_w) * width + place % c.grid_w
        table = self._codes.to(device)
        for i in range(c.hint_latents):
            there = latent > i
            ids = padded_BtP[row[there, None], latent[there, None] - 1 - i, corner[there, None] + around]
            start = self.slots + i * self._around
            described[there, start : start + self._around] = F.embedding(ids, table).flatten(1)
        if c.action_bins and t > 1:
            later = latent > 0
            described[later, self._acts : self._ahead] = self._of_actions(bins_BtrA)[row[later], latent[later] - 1]
        if c.lookahead and ahead_BthwK is not None:
            described[:, self._ahead :] = self._of_ahead(ahead_BthwK, row, latent, place)
        hints[row, column] = described
        return hints

    def _of_ahead(self, ahead_BthwK: torch.Tensor, row: torch.Tensor, latent: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
        """float32 [n, columns] of the n places (row, latent, place): what hints say of a lookahead."""
        width, side = self.config.grid_w + 2, torch.arange(3, device=ahead_BthwK.device)
        padded_BtPK = F.pad(ahead_BthwK, (0, 0, 1, 1, 1, 1), value=0).flatten(2, 3)
        corner = (place // self.config.grid_w) * width + place % self.config.grid_w
        around_n9K = padded_BtPK[row[:, None], latent[:, None], corner[:, None] + (side[:, None] * width + side).flatten()]
        known_n1 = around_n9K[:, 4, :1] != NOT_TOLD
        around_n9K = around_n9K.float() / TOLD_SCALE
        parts = [torch.ones_like(known_n1, dtype=torch.float32)]
        for digit, levels in enumerate(self.config.levels):
            at_n1 = around_n9K[:, 4, digit, None] * (levels - 1)
            parts.append((1 - (at_n1 - torch.arange(levels, device=at_n1.device)).abs()).clamp_min(0))
        return torch.cat((*parts, around_n9K.flatten(1)), 1) * known_n1

    def weave(
        self,
        tokens_thw: torch.Tensor,
        text_ids: list[int] | None = None,
        bins_tra: torch.Tensor | None = None,
        ahead_thwK: torch.Tensor | None = None,
    ) -> Woven:
        """Video tokens [n, h, w], text ids, bins [n - 1, r, A] of this sequence's channels (None = no actions), and what a lookahead
        tells [n, h, w, K] (None = nothing) -> the whole row.

        The last hint is "nothing known"; a caller who goes on predicting puts the next token's hint there.
        """
        tokens = tokens_thw[None].cpu()
        bins = self._no_bins(*tokens.shape[:2]) if bins_tra is None else self.of_all_channels(bins_tra[None, : len(tokens_thw) - 1].cpu())
        (ids,), (positions,), video, actions = self.weave_rows(tokens, [text_ids], bins)
        at_video, at_slots = self.kinds(video, actions, len(ids))
        ahead_1thwK = None if ahead_thwK is None else ahead_thwK[None]
        hints = self.hints(tokens, bins, at_video[:, 1:], at_slots[:, 1:], ahead_1thwK)[0]
        return Woven(ids, positions, torch.cat((hints, self._none[None])))

    def _no_bins(self, rows: int, latents: int) -> torch.Tensor:
        return torch.full((rows, latents - 1, self.config.rate, len(self.config.action_bins)), -1)

    def begun(
        self,
        text_ids: list[int],
        tokens: Items[torch.Tensor],
        bins: Items[torch.Tensor | None],
        ahead: Items[torch.Tensor | None] | None = None,
    ) -> Woven:
        """The row so far, of a rollout: its text, and each latent [h, w] behind the actions [r, A] that led to it, None where none did.

        ahead: what a lookahead told of each latent [h, w, K], None where it told nothing.
        """
        pieces = [self.text_piece(text_ids)]
        for latent, tokens_hw in enumerate(tokens):
            if latent and bins[latent] is not None:
                pieces.append(self.action_piece(latent, bins[latent]))
            told = ahead[latent] if ahead is not None and latent else None
            pieces.append(self.latent_piece(latent, tokens_hw, tokens[:latent], bins[1 : latent + 1], told))
        return self.join(pieces)

    def coming(
        self,
        text_ids: list[int],
        tokens: Items[torch.Tensor],
        bins: Items[torch.Tensor | None],
        coming_rA: torch.Tensor | None,
        ahead_hwK: torch.Tensor | None = None,
    ) -> Woven:
        """What is fed behind a row that is `begun`, but for its last token, to predict its next latent, which `coming_rA` leads to.

        ids: that last token and the actions; positions of these and of all video tokens but the last; hints of what follows each.
        """
        latent, c = len(tokens), self.config
        before = self.latent_piece(latent - 1, tokens[-1], ()) if latent else self.text_piece(text_ids)
        led_by = (*bins[1:], coming_rA) if latent else ()
        video = self.latent_piece(latent, torch.zeros(c.grid_h, c.grid_w, dtype=torch.int64), tokens, led_by, ahead_hwK)
        pieces = [video] if coming_rA is None else [self.action_piece(latent, coming_rA), video]
        ids = torch.cat((before.ids[-1:], *(piece.ids for piece in pieces[:-1])))
        positions = torch.cat((before.positions[-1:], *(piece.positions for piece in pieces)))[:-1]
        return Woven(ids, positions, torch.cat([piece.hints for piece in pieces]))

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
