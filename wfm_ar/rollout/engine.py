"""Rows of tokens rolled on together, one latent at a time: prefill what is given, then decode through the KV cache.

Promises: a row's tokens depend on its own prompt, actions, seed and the settings alone, bit for bit, whatever its neighbours
and however many there are; a fork goes on exactly as the original would. Knows tokens only, neither pixels nor text.

When the trained length is full, a row rolls on from its last `max_latents // 2` latents: they are prefilled anew at the
beginning of the context, with the text before them. Memory and cost a latent stay bounded; what was before is forgotten.
"""

from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass, field, replace
from enum import Enum

import numpy as np
import torch
from torch import Tensor

from wfm_ar.rollout.sampling import SamplingConfig, Stream, draws, sample
from wfm_ar.world_model.decode_step import DecodeStep
from wfm_ar.world_model.kv_cache import KVCache
from wfm_ar.world_model.sequence import Piece, Sequence
from wfm_ar.world_model.transformer import WorldModel


class Actions(Enum):
    """What stands between two latents."""

    GIVEN = "given"
    IMAGINED = "imagined"
    ABSENT = "absent"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One rollout so far. `tokens` int64 [h, w] a latent; `bins` int64 [r, A] of the actions that led to it, None where absent."""

    seed: int
    text_ids: list[int] = field(default_factory=list)
    tokens: tuple[Tensor, ...] = ()
    bins: tuple[Tensor | None, ...] = ()  # as long as tokens; bins[0] is None
    base: int = 0  # latent at which the context in the cache begins

    def __post_init__(self) -> None:
        assert len(self.tokens) == len(self.bins) and self.base <= len(self.tokens)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What `roll` makes of a row."""

    row: Row
    num_latents: int  # of the finished row, those given included
    actions: Actions  # before every latent but a first one
    bins_nrA: Tensor | None = None  # int64 [num_latents - 1, r, A] when GIVEN


class Rows:
    """A batch of rollouts and their cache. All methods leave the batch ready for the next latent."""

    @torch.inference_mode()
    def __init__(self, model: WorldModel, sequence: Sequence, rows: Items[Row], sampling: SamplingConfig) -> None:
        """Prefills each row's prompt, each alone. A prompt longer than the trained length keeps its last latents."""
        self.model, self.sequence, self.sampling = model, sequence, sampling
        self.rows = [self._rolled(row) for row in rows]
        self._use(KVCache.stack([self._prefill(row) for row in self.rows]))

    @torch.inference_mode()
    def advance(self, actions: Actions, bins_BrA: Tensor | None = None) -> Tensor:
        """Roll every row on by one latent -> its tokens, int64 [B, h, w], which are also the last of `rows[i].tokens`.

        bins_BrA: int64 [B, r, A], the actions that lead to it when they are GIVEN. Before a row's first latent there are none:
        such rows take ABSENT.
        """
        assert (bins_BrA is not None) == (actions is Actions.GIVEN)
        assert actions is Actions.ABSENT or all(row.tokens for row in self.rows), "no action leads to a first latent"
        self._roll_on()
        num_tokens = self.sequence.latent_size
        if actions is Actions.IMAGINED:
            bins_BrA, logits, fed = self._imagine()
        else:
            ids_BL = self._plan([None] * len(self.rows) if bins_BrA is None else bins_BrA)
            logits, fed = self._step.step(ids_BL, 0), ids_BL.shape[1]

        video_Bn = self._uniforms(Stream.VIDEO, num_tokens)
        tokens = []
        for i in range(num_tokens):
            tokens.append(sample(logits, video_Bn[:, i], self.sampling, (0, self.sequence.config.video_vocab)))
            if i + 1 < num_tokens:  # the last one is fed with the next latent: only then is it known what follows it
                logits = self._step.step(tokens[-1].unsqueeze(1), fed + i)
        grid = (self.sequence.config.grid_h, self.sequence.config.grid_w)
        tokens_Bhw = torch.stack(tokens, 1).cpu().unflatten(1, grid)
        for i, row in enumerate(self.rows):
            bins = None if bins_BrA is None else bins_BrA[i]
            self.rows[i] = replace(row, tokens=(*row.tokens, tokens_Bhw[i]), bins=(*row.bins, bins))
        return tokens_Bhw

    @torch.inference_mode()
    def select(self, indices: Items[int]) -> "Rows":
        """A batch of its own whose row i goes on from here as row `indices[i]` would; a row may occur more than once."""
        other = Rows.__new__(Rows)
        other.model, other.sequence, other.sampling = self.model, self.sequence, self.sampling
        other.rows = [self.rows[i] for i in indices]
        other._use(self._cache.fork(torch.tensor(indices)))
        return other

    @staticmethod
    @torch.inference_mode()
    def stack(batches: Items["Rows"]) -> "Rows":
        """One batch whose rows go on as those of `batches` (of the same model and settings) would, in order."""
        if len(batches) == 1:
            return batches[0]
        other = Rows.__new__(Rows)
        other.model, other.sequence, other.sampling = batches[0].model, batches[0].sequence, batches[0].sampling
        other.rows = [row for batch in batches for row in batch.rows]
        other._use(KVCache.stack([batch._cache.row(i) for batch in batches for i in range(len(batch.rows))]))
        return other

    def _use(self, cache: KVCache) -> None:
        self._cache, self._step = cache, DecodeStep(self.model, cache)

    def _rolled(self, row: Row) -> Row:
        """`row` with a context that has room for one more latent."""
        longest = self.sequence.config.max_latents
        assert longest > 1, "a model of single latents cannot roll on"
        full = len(row.tokens) - row.base >= longest
        return replace(row, base=len(row.tokens) - longest // 2) if full else row

    def _roll_on(self) -> None:
        rolled = [self._rolled(row) for row in self.rows]
        if any(new is not old for new, old in zip(rolled, self.rows, strict=True)):
            pairs = enumerate(zip(rolled, self.rows, strict=True))
            caches = [self._cache.row(i) if new is old else self._prefill(new) for i, (new, old) in pairs]
            self.rows = rolled
            self._use(KVCache.stack(caches))

    def _pieces(self, row: Row) -> list[Piece]:
        """The row's context: text, and the latents from `base` on with their actions, numbered from 0."""
        pieces = [self.sequence.text_piece(row.text_ids)]
        for latent, i in enumerate(range(row.base, len(row.tokens))):
            if latent and row.bins[i] is not None:
                pieces.append(self.sequence.action_piece(latent, row.bins[i]))
            bins_rA = row.bins[i] if latent else None
            pieces.append(self.sequence.latent_piece(latent, row.tokens[i], row.tokens[i - 1] if latent else None, bins_rA))
        return pieces

    def _prefill(self, row: Row) -> KVCache:
        """A cache of one row that holds the context but its last token, in one pass."""
        cache = self.model.new_cache(1, self.sequence.max_length)
        ids, positions, hints = self.sequence.join(self._pieces(row))
        if len(ids) > 1:
            device, step = self.model.head.weight.device, DecodeStep(self.model, cache)
            step.plan(positions[None, :-1].to(device), hints[None, :-1].to(device))
            step.step(ids[None, :-1].to(device), 0)
        return cache

    def _imagine(self) -> tuple[Tensor, Tensor, int]:
        """Draw the coming actions -> (bins [B, r, A], logits of the first video token, how many tokens of the plan were fed)."""
        sequence, channels = self.sequence, len(self.sequence.channels)
        unknown_BrA = torch.zeros(len(self.rows), sequence.config.rate, channels, dtype=torch.int64)
        fed_B1 = self._plan(unknown_BrA, slice(sequence.action_size))[:, :1]
        action_Bn, ids = self._uniforms(Stream.ACTION, sequence.action_size), []
        for i in range(sequence.action_size):
            logits = self._step.step(fed_B1, i)
            ids.append(sample(logits, action_Bn[:, i], self.sampling, sequence.action_range(i % channels)))
            fed_B1 = ids[-1].unsqueeze(1)
        starts_A = torch.tensor([sequence.action_range(c)[0] for c in range(channels)])
        bins_BrA = torch.stack(ids, 1).cpu().unflatten(1, (-1, channels)) - starts_A
        self._plan(bins_BrA, slice(sequence.action_size, None))  # only now is it known what leads to the video tokens
        return bins_BrA, self._step.step(fed_B1, 0), 1

    def _plan(self, bins: Items[Tensor | None], part: slice = slice(None)) -> Tensor:
        """Plan the coming latent's tokens, or a part of them -> the known ones, int64 [B, 1 + r * A or 1]: the pending one, and the
        actions `bins`, one [r, A] or None a row."""
        device = self.model.head.weight.device
        coming = [self._coming(row, bins_rA) for row, bins_rA in zip(self.rows, bins, strict=True)]
        ids_BL, positions_BL3, hints_BLF = (torch.stack(each) for each in zip(*coming, strict=True))
        self._step.plan(positions_BL3[:, part].to(device), hints_BLF[:, part].to(device))
        return ids_BL.to(device)

    def _coming(self, row: Row, bins_rA: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """What is fed for the next latent: (ids of the pending token and the actions, positions [L, 3] of these and of all video
        tokens but the last, hints [L, F] of what follows each)."""
        sequence, config, latent = self.sequence, self.sequence.config, len(row.tokens) - row.base
        previous = row.tokens[-1] if row.tokens else None
        before = sequence.text_piece(row.text_ids) if previous is None else sequence.latent_piece(latent - 1, previous, None)
        video = sequence.latent_piece(latent, torch.zeros(config.grid_h, config.grid_w, dtype=torch.int64), previous, bins_rA)
        pieces = [video] if bins_rA is None else [sequence.action_piece(latent, bins_rA), video]
        ids = torch.cat((before.ids[-1:], *(piece.ids for piece in pieces[:-1])))
        positions = torch.cat((before.positions[-1:], *(piece.positions for piece in pieces)))[:-1]
        return ids, positions, torch.cat([piece.hints for piece in pieces])

    def _uniforms(self, stream: Stream, count: int) -> Tensor:
        """float64 [B, count] for the next latent of each row."""
        uniforms = [draws(row.seed, len(row.tokens), stream, count) for row in self.rows]
        return torch.from_numpy(np.stack(uniforms)).to(self.model.head.weight.device)


def roll(
    model: WorldModel, sequence: Sequence, jobs: Items[Job], sampling: SamplingConfig, progress: Callable[[int], None] | None = None
) -> list[Row]:
    """Finish every job -> its row. Rows with the same kind of actions run as one batch; `progress` hears of latents as they are made."""
    finished: dict[int, Row] = {i: job.row for i, job in enumerate(jobs)}
    for kind in Actions:
        members = [i for i, job in enumerate(jobs) if job.actions is kind and len(job.row.tokens) < job.num_latents]
        batches = []
        begun = [i for i in members if jobs[i].row.tokens]
        if begun:
            batches.append(Rows(model, sequence, [jobs[i].row for i in begun], sampling))
        if fresh := [i for i in members if not jobs[i].row.tokens]:
            batches.append(Rows(model, sequence, [jobs[i].row for i in fresh], sampling))
            _advance(batches[-1], Actions.ABSENT, None, progress)
        members = begun + fresh
        rows = Rows.stack(batches) if batches else None
        while members:
            finished |= {i: row for i, row in zip(members, rows.rows, strict=True)}
            going = [place for place, i in enumerate(members) if len(finished[i].tokens) < jobs[i].num_latents]
            if len(going) < len(members):
                members = [members[place] for place in going]
                rows = rows.select(going) if going else rows
                continue
            bins = [jobs[i].bins_nrA[len(finished[i].tokens) - 1] for i in members] if kind is Actions.GIVEN else None
            _advance(rows, kind, None if bins is None else torch.stack(bins), progress)
    return [finished[i] for i in range(len(jobs))]


def _advance(rows: Rows, kind: Actions, bins_BrA: Tensor | None, progress: Callable[[int], None] | None) -> None:
    rows.advance(kind, bins_BrA)
    if progress is not None:
        progress(len(rows.rows))
