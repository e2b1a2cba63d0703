"""The one place that knows the order of tokens and whose id is whose.

A row is `[text] BOV latent_0 (actions_1) latent_1 (actions_2) latent_2 ...`: a latent is grid_h * grid_w video tokens in
raster order; actions_k are the r * A tokens (step by step, channel by channel) that lead to the frames of latent k.
Text and actions may be left out, so one model serves text, image, clip and action prompts.

Ids: video [0, Vv) | actions [Vv, Vv + sum(bins)) | text | BOV. The head covers video and actions only.
The published Cosmos models have the same order with other ids (`published`): video | BOV and ids without use | actions, the last
ones of the embedding; BOV is at no position, models without cross-attention begin without it, the head covers video only, and
there are neither text tokens nor hints.
"""

from collections.abc import Sequence as Items
from typing import NamedTuple

import torch
import torch.nn.functional as F

from wfm_ar.errors import BadPrompt
from wfm_ar.world_model.hints import NOT_TOLD, TOLD_SCALE, WAVES, HintLayout
from wfm_ar.world_model.scene import Scenes
from wfm_ar.world_model.sequence_config import EARLIER, SequenceConfig, published_sequence

__all__ = [
    "EARLIER",
    "NOT_TOLD",
    "TOLD_SCALE",
    "WAVES",
    "Piece",
    "PackedRows",
    "Sequence",
    "SequenceConfig",
    "Packed",
    "published_sequence",
]


class Piece(NamedTuple):
    """Some tokens in a row: int64 ids [n], positions [n, 3], and float32 hints [n, F] that describe these very tokens.

    follows: int64 [n], the latent that each action follows, counted from the row's first; -1 of other tokens.
    """

    ids: torch.Tensor
    positions: torch.Tensor
    hints: torch.Tensor
    follows: torch.Tensor


class Packed(NamedTuple):
    """A whole row as the transformer takes it: hints[i] and follows[i] describe token i + 1 (or what comes after the end)."""

    ids: torch.Tensor
    positions: torch.Tensor
    hints: torch.Tensor
    follows: torch.Tensor


class PackedRows(NamedTuple):
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
        self.layout = HintLayout(c)
        self.hints, self.hint_width, self.slots = self.layout.of, self.layout.width, self.layout.slots
        self.told_ahead, self.told_digits = self.layout.told_ahead, self.layout.told_digits
        rows, columns = torch.meshgrid(torch.arange(c.grid_h), torch.arange(c.grid_w), indexing="ij")
        self._places = torch.stack((torch.zeros_like(rows), rows, columns), -1).flatten(0, 1)
        step = torch.arange(c.rate).repeat_interleave(len(c.action_bins))
        channel = torch.arange(len(c.action_bins)).repeat(c.rate)
        self._every_action_place = torch.stack((torch.zeros_like(step), c.grid_h + step, channel), -1)
        own = (channel[:, None] == self._channels).any(1)
        self._action_places = self._every_action_place[own]
        self._action_slots = 1 + self.latent_size + own.nonzero()[:, 0]

    def model_vocabularies(self) -> dict[str, int]:
        """What a WorldModelConfig that fits this sequence has: vocabularies, the width of hints, and what a scene reader reads."""
        c = self.config
        sizes = {"vocab": c.vocab or self.bov + 1, "out_vocab": self.text_start, "hint_width": self.hint_width}
        return sizes | {"scene_digits": len(c.levels) if self.predicts_actions and c.hints else 0, "scene_words": c.text_vocab}

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
        return Piece(ids, self._line(len(ids)), self.layout.none.expand(len(ids), -1), torch.full_like(ids, -1))

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
        return Piece(ids, self._at(self._action_places, latent), self.action_hints(), torch.full_like(ids, latent - 1))

    def latent_piece(
        self,
        latent: int,
        tokens_hw: torch.Tensor,
        earlier: Items[torch.Tensor],
        bins: Items[torch.Tensor | None] = (),
        ahead_hwK: torch.Tensor | None = None,
    ) -> Piece:
        """int64 tokens [h, w] of `latent`; the rest as in `video_hints`."""
        ids = tokens_hw.flatten()
        return Piece(ids, self._at(self._places, latent), self.video_hints(earlier, bins, ahead_hwK), torch.full_like(ids, -1))

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

    def pack_rows(
        self, tokens_Bthw: torch.Tensor, texts: Items[list[int] | None], bins_BtrA: torch.Tensor | None = None, length: int | None = None
    ) -> PackedRows:
        """Many rows at once: int64 tokens [B, t, h, w], text ids, bins [B, t - 1, r, A] -> padded to `length` (None: the longest).

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
        return PackedRows(ids[:, :L], positions[:, :L], video_BM, actions_BK)

    def kinds(self, video_BM: torch.Tensor, actions_BK: torch.Tensor, length: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What each token of rows packed to `length` is, int64 [B, length] twice, as `hints` takes it; places as in `PackedRows`."""
        (B, M), row = video_BM.shape, torch.arange(len(video_BM))[:, None]
        video, slots = (torch.full((B, length + 1), -1) for _ in range(2))
        slots[:, :length][torch.arange(length) < video_BM[:, :1]] = 0
        video[row, video_BM] = torch.arange(M)
        action_slots = torch.arange(1 + self.latent_size, self.slots)
        slots[row, actions_BK] = action_slots.repeat(actions_BK.shape[1] // max(1, len(action_slots)))
        return video[:, :length], slots[:, :length]

    def pack(
        self,
        tokens_thw: torch.Tensor,
        text_ids: list[int] | None = None,
        bins_tra: torch.Tensor | None = None,
        ahead_thwK: torch.Tensor | None = None,
    ) -> Packed:
        """Video tokens [n, h, w], text ids, bins [n - 1, r, A] of this sequence's channels (None = no actions), and what a lookahead
        tells [n, h, w, K] (None = nothing) -> the whole row.

        The last hint is "nothing known"; a caller who goes on predicting puts the next token's hint there.
        """
        tokens = tokens_thw[None].cpu()
        bins = self._no_bins(*tokens.shape[:2]) if bins_tra is None else self.of_all_channels(bins_tra[None, : len(tokens_thw) - 1].cpu())
        (ids,), (positions,), video, actions = self.pack_rows(tokens, [text_ids], bins)
        at_video, at_slots = self.kinds(video, actions, len(ids))
        ahead_1thwK = None if ahead_thwK is None else ahead_thwK[None]
        hints = self.hints(tokens, bins, at_video[:, 1:], at_slots[:, 1:], ahead_1thwK)[0]
        return Packed(
            ids, positions, torch.cat((hints, self.layout.none[None])), F.pad(self.follows(actions, len(ids))[0, 1:], (0, 1), value=-1)
        )

    def follows(self, actions_BK: torch.Tensor, length: int) -> torch.Tensor:
        """int64 [B, length]: the latent that each action of rows packed to `length` follows, -1 of other tokens; places as in
        `PackedRows`, beyond the end where a row has no such action."""
        each = self.config.rate * len(self.config.action_bins)
        follows = torch.full((len(actions_BK), length + 1), -1)
        follows[torch.arange(len(actions_BK))[:, None], actions_BK] = torch.arange(actions_BK.shape[1]) // max(1, each)
        return follows[:, :length]

    def words(self, texts: Items[list[int] | None]) -> torch.Tensor:
        """Texts as `scenes` takes them: int64 [B, T], -1 behind each."""
        padded_BT = torch.full((len(texts), max(1, self.config.max_text)), -1)
        for row, ids in enumerate(texts):
            padded_BT[row, : len(ids or [])] = torch.tensor(ids or [], dtype=torch.int64)
        return padded_BT

    def scenes(
        self, tokens_Bthw: torch.Tensor, words_BT: torch.Tensor, follows_BL: torch.Tensor, moves_Bthw: torch.Tensor | None = None
    ) -> Scenes:
        """What a model with a scene reader is told beside the hints: latents of rows int64 [B, t, h, w], their `words`, and the latent
        that the action behind each token follows, -1 where none does. Latents that no action follows are left out, all but one.

        moves_Bthw: in training, bool: where the latent behind each is another one.
        """
        t = tokens_Bthw.shape[1]
        rows = torch.arange(len(follows_BL), device=follows_BL.device)[:, None] * t
        at_BL = torch.where(follows_BL < 0, -1, rows + follows_BL)
        needed_S, found = torch.unique(at_BL[at_BL >= 0], return_inverse=True)
        at_BL[at_BL >= 0] = found
        needed_S = needed_S if len(needed_S) else rows.new_zeros(1)  # every step goes through the network: ranks must agree
        codes_Shwn = self.layout.codes(tokens_Bthw.flatten(0, 1)[needed_S])
        moves_Shw = None if moves_Bthw is None else moves_Bthw.flatten(0, 1)[needed_S]
        return Scenes(codes_Shwn.permute(0, 3, 1, 2), words_BT[needed_S // t], at_BL, moves_Shw)

    def _no_bins(self, rows: int, latents: int) -> torch.Tensor:
        return torch.full((rows, latents - 1, self.config.rate, len(self.config.action_bins)), -1)

    def begun(
        self,
        text_ids: list[int],
        tokens: Items[torch.Tensor],
        bins: Items[torch.Tensor | None],
        ahead: Items[torch.Tensor | None] | None = None,
    ) -> Packed:
        """The row so far, of a rollout: its text, and each latent [h, w] behind the actions [r, A] that led to it, None where none did.

        ahead: what a lookahead told of each latent [h, w, K], None where it told nothing.
        """
        pieces = [self.text_piece(text_ids)]
        for latent, tokens_hw in enumerate(tokens):
            if latent and (own := bins[latent]) is not None:
                pieces.append(self.action_piece(latent, own))
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
    ) -> Packed:
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
        hints, follows = (torch.cat([getattr(piece, name) for piece in pieces]) for name in ("hints", "follows"))
        return Packed(ids, positions, hints, follows)

    def join(self, pieces: list[Piece], next_hint: torch.Tensor | None = None) -> Packed:
        """Pieces in order -> a row; each token carries the hint of the one after it, the last one `next_hint` [F]."""
        ids, positions, hints, follows = (torch.cat(parts) for parts in zip(*pieces, strict=True))
        last = self.layout.none if next_hint is None else next_hint
        return Packed(ids, positions, torch.cat((hints[1:], last[None])), torch.cat((follows[1:], follows.new_tensor([-1]))))

    def unpack(self, ids: torch.Tensor) -> torch.Tensor:
        """A row's ids -> its video tokens [n, h, w], whatever text and actions stand between. BadPrompt on a broken latent."""
        video = ids[ids < self.config.video_vocab]
        if len(video) % self.latent_size:
            raise BadPrompt(f"row: got {len(video)} video tokens, expected a multiple of {self.latent_size}; fix: whole latents only")
        return video.view(-1, self.config.grid_h, self.config.grid_w)

    @staticmethod
    def _at(places: torch.Tensor, latent: int) -> torch.Tensor:
        return places + torch.tensor([latent, 0, 0])
