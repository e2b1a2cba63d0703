"""A batch of token rows rolled on together, one latent at a time: prefill what is given, then decode through the KV cache.

Promises: a row's draws depend on its own prompt, actions, seed and the settings alone, whatever its neighbours and however many
there are; with DecodeStep (our own worlds on a CPU) its logits do so bit for bit, with the other steps up to rounding. A fork goes
on as the original would. Rows of one past of at least SHARED_FROM tokens, and forks
behind that many, hold and read it once: their logits are a lone row's up to rounding (below 1e-5), so a draw within that of the
edge between two tokens may fall on the other side. Knows tokens only, neither pixels nor text.

When the trained length is full, a row rolls on from its last `max_latents // 2` latents: they are prefilled anew at the
beginning of the context, with the text before them. Memory and cost a latent stay bounded; what was before is forgotten.
"""

from collections.abc import Callable
from collections.abc import Sequence as Items
from copy import copy
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor

from wfm_ar.rollout.drawing import drawing_of
from wfm_ar.rollout.history import History
from wfm_ar.rollout.lookahead import Lookahead, expected_tokens
from wfm_ar.rollout.sampling import SamplingConfig, Stream, keys
from wfm_ar.rollout.threads import on_threads, shared_threads
from wfm_ar.world_model.kv_cache import SHARED_FROM, KVCache
from wfm_ar.world_model.scene import Scenes
from wfm_ar.world_model.sequence import Sequence
from wfm_ar.world_model.steps import guesses, steps_of
from wfm_ar.world_model.transformer import WorldModel

GUESSING = 4  # lone rows with guesses that take as long, one after the other, as a batch of them without


class Actions(Enum):
    """What stands between two latents."""

    GIVEN = "given"
    IMAGINED = "imagined"
    ABSENT = "absent"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One rollout so far. `tokens` int64 [h, w] a latent; `bins` int64 [r, A] of the actions that led to it, None where absent.

    Both may be given as any sequence.
    """

    seed: int
    text_ids: list[int] = field(default_factory=list)
    context_SC: Tensor | None = None  # float [S, C], a text that the model attends to; None of a model that does not
    tokens: Items[Tensor] = ()
    bins: Items[Tensor | None] = ()  # as long as tokens; bins[0] is None
    ahead: Items[Tensor | None] = ()  # what a lookahead told of each latent, int8 [h, w, K]; a batch fills in what is missing
    base: int = 0  # latent at which the context in the cache begins
    passes: int = 0  # through the network, of the latents that were drawn; of a batch's rows each counts all
    drafted: int = 0  # tokens that were fed before they were drawn, as drafts
    accepted: int = 0  # those of them that were drawn

    def __post_init__(self) -> None:
        for name in ("tokens", "bins", "ahead"):
            if not isinstance(getattr(self, name), History):
                object.__setattr__(self, name, History(getattr(self, name)))
        assert len(self.tokens) == len(self.bins) and self.base <= len(self.tokens) and len(self.ahead) <= len(self.tokens)

    def pass_rates(self, latents: int) -> dict[str, float]:
        """What drawing the row's last `latents` latents took: passes a latent, and the share of drafts that held where there were any."""
        rates = {"passes_per_latent": self.passes / latents} if latents else {}
        return rates | ({"draft_acceptance": self.accepted / self.drafted} if self.drafted else {})

    @property
    def has_text(self) -> bool:
        return bool(self.text_ids) or (self.context_SC is not None and bool(self.context_SC.any()))

    def without_text(self) -> "Row":
        """The same row as if nobody had given a text: a model that attends to texts was trained with zeros there."""
        return replace(self, text_ids=[], context_SC=None if self.context_SC is None else torch.zeros_like(self.context_SC))


@dataclass(frozen=True, kw_only=True)
class Request:
    """What `roll` is asked for: a row to go on with, and how far."""

    row: Row
    num_latents: int  # of the finished row, those given included
    actions: Actions  # before every latent but a first one
    bins_nrA: Tensor | None = None  # int64 [num_latents - 1, r, A] when GIVEN


class Batch:
    """A batch of rollouts and their cache. All methods leave the batch ready for the next latent."""

    @torch.inference_mode()
    def __init__(
        self, model: WorldModel, sequence: Sequence, rows: Items[Row], sampling: SamplingConfig, lookahead: Lookahead | None = None
    ) -> None:
        """Prefills each prompt alone, and equal ones once. A prompt longer than the trained length keeps its last latents.

        lookahead: of a sequence that has one.
        """
        assert sequence.config.lookahead == (lookahead is not None), "a sequence with a lookahead, and only that, is asked with it"
        self.model, self.sequence, self.sampling, self._new, self._lookahead = model, sequence, sampling, steps_of(model), lookahead
        self.rows = [self._looked(self._rolled(row)) for row in rows]
        self._ahead: list[Tensor | None] = [None] * len(rows)  # of the latent that is being drawn
        self._passes = self._drafted = self._accepted = 0  # of the latent that is being drawn
        self._without_actions = False
        self._use(*(self._prefilled(each) for each in self._cond_and_uncond()))

    @torch.inference_mode()
    def advance(self, actions: Actions, bins_BrA: Tensor | None = None) -> Tensor:
        """Roll every row on by one latent -> its tokens, int64 [B, h, w], which are also the last of `rows[i].tokens`.

        bins_BrA: int64 [B, r, A], the actions that lead to it when they are GIVEN. Before a row's first latent there are none:
        such rows take ABSENT.
        """
        assert (bins_BrA is not None) == (actions is Actions.GIVEN)
        assert actions is Actions.ABSENT or all(row.tokens for row in self.rows), "no action leads to a first latent"
        self._roll_on()
        self._guide_by_actions(actions is Actions.GIVEN and self.sampling.action_guidance != 1.0)
        if actions is Actions.IMAGINED:
            bins_BrA, logits, fed = self._imagine()
        else:
            ids_BL = self._plan([None] * len(self.rows) if bins_BrA is None else list(bins_BrA))
            logits, fed = self._drawing.step(ids_BL, 0), ids_BL.shape[1]
        ranges = [(0, self.sequence.config.video_vocab)] * self.sequence.latent_size
        # the last token is fed with the next latent: only then is it known what follows it
        ids_Bn = self._draw(logits, Stream.VIDEO, ranges, fed)
        tokens_Bhw = ids_Bn.cpu().unflatten(1, (self.sequence.config.grid_h, self.sequence.config.grid_w))
        for i, row in enumerate(self.rows):
            bins = None if bins_BrA is None else bins_BrA[i]
            counts = {name: getattr(row, name) + getattr(self, f"_{name}") for name in ("passes", "drafted", "accepted")}
            grown: dict[str, Any] = {"tokens": tokens_Bhw[i], "bins": bins, "ahead": self._ahead[i]}
            past = {name: getattr(row, name).append(item) for name, item in grown.items()}  # which are histories here
            self.rows[i] = replace(row, **past, **counts)
        self._passes = self._drafted = self._accepted = 0
        return tokens_Bhw

    @torch.inference_mode()
    def select(self, indices: Items[int], seeds: Items[int] | None = None) -> "Batch":
        """A batch of its own whose row i goes on from here as row `indices[i]` would; a row may occur more than once.

        seeds: of the rows from here on; None keeps those they have.
        """
        other = copy(self)
        other.rows = [self.rows[i] for i in indices]
        if seeds is not None:
            other.rows = [replace(row, seed=seed) for row, seed in zip(other.rows, seeds, strict=True)]
        other._use(*(cache.fork(torch.tensor(indices)) for cache in self._caches[: len(other._cond_and_uncond())]))
        return other

    def begun_anew(self, rows: Items[Row], sampling: SamplingConfig) -> "Batch":
        """A batch of other rows of the same model, prefilled."""
        return Batch(self.model, self.sequence, rows, sampling, self._lookahead)

    @staticmethod
    @torch.inference_mode()
    def stack(batches: Items["Batch"]) -> "Batch":
        """One batch whose rows go on as those of `batches` (of the same model and settings) would, in order."""
        if len(batches) == 1:
            return batches[0]
        other = copy(batches[0])
        other.rows = [row for batch in batches for row in batch.rows]
        other._without_actions = all(batch._without_actions for batch in batches)
        each = [[batch._caches[min(k, len(batch._caches) - 1)] for batch in batches] for k in range(len(other._cond_and_uncond()))]
        other._use(*(KVCache.stack([cache.row(i) for cache in caches for i in range(len(cache.lengths_B))]) for caches in each))
        return other

    @torch.inference_mode()
    def split(self) -> list["Batch"]:
        """A batch for each row, with a copy of its cache."""
        parts = []
        for i, row in enumerate(self.rows):
            part = copy(self)
            part.rows = [row]
            part._use(*(KVCache.stack([cache.row(i)]) for cache in self._caches))
            parts.append(part)
        return parts

    @property
    def alike(self) -> tuple:
        """Equal for batches that `stack` may join."""
        return id(self.model), self.sampling, len(self._caches), self._without_actions, self.sequence.latent_size

    @property
    def fewest_together(self) -> int:
        """Lone rows that are sooner done in one pass than one after the other: alone a row has most of its tokens guessed."""
        if not guesses(self.model):
            return 2
        return GUESSING if self._lookahead is None else 2**31

    def _use(self, *caches: KVCache) -> None:
        self._caches = caches
        self._steps = [self._new.token(cache) for cache in caches]
        guidance = self.sampling.action_guidance if self._without_actions else self.sampling.text_guidance
        self._drawing = drawing_of(self._steps, guidance, self._hidden)

    def _guide_by_actions(self, guided: bool) -> None:
        """Begin or end the passes without actions beside those with them."""
        if guided != self._without_actions:
            self._without_actions = guided
            self._use(self._caches[0], *(self._prefilled(uncond) for uncond in self._cond_and_uncond()[1:]))

    @property
    def _hidden(self) -> int:
        """Tokens of a latent's plan, behind the pending one, that the second pass does not see."""
        return self.sequence.action_size if self._without_actions else 0

    def _cond_and_uncond(self) -> list[list[Row]]:
        """The rows as the model is to see them: with their condition, and where texts or actions guide it without that too."""
        if self._without_actions:
            missing = [History.missing(len(row.bins)) for row in self.rows]
            return [self.rows, [replace(row, bins=none, ahead=none) for row, none in zip(self.rows, missing, strict=True)]]
        guided = self.sampling.text_guidance != 1.0 and any(row.has_text for row in self.rows)
        return [self.rows, [row.without_text() for row in self.rows]] if guided else [self.rows]

    def _prefilled(self, rows: Items[Row]) -> KVCache:
        """One cache of all rows; an equal past is worked out once, and if it is that of all, read once."""
        pasts = [_past(row) for row in rows]
        caches = {past: self._prefill(row) for past, row in dict(zip(pasts, rows, strict=True)).items()}
        if len(caches) > 1:
            return KVCache.stack([caches[past] for past in pasts])
        (cache,) = caches.values()
        return cache if len(pasts) == 1 else cache.fork(torch.zeros(len(pasts), dtype=torch.int64))

    def _rolled(self, row: Row) -> Row:
        """`row` with a context that has room for one more latent."""
        longest = self.sequence.config.max_latents
        assert longest > 1, "a model of single latents cannot roll on"
        full = len(row.tokens) - row.base >= longest
        return replace(row, base=len(row.tokens) - longest // 2) if full else row

    def _roll_on(self) -> None:
        rolled = [self._rolled(row) for row in self.rows]
        kept = [new is old for new, old in zip(rolled, self.rows, strict=True)]
        if all(kept):
            return
        self.rows = rolled
        pairs = zip(self._caches, self._cond_and_uncond(), strict=True)
        each = ([cache.row(i) if kept[i] else self._prefill(row) for i, row in enumerate(rows)] for cache, rows in pairs)
        self._use(*(KVCache.stack(caches) for caches in each))

    def _prefill(self, row: Row) -> KVCache:
        """A cache of one row that holds the context but its last token, in one pass."""
        cache = self.model.new_cache(1, self.sequence.max_length)
        if row.context_SC is not None:
            self.model.read_context(cache, row.context_SC[None])
        begin = row.base
        ids, positions, hints, follows = self.sequence.begun(row.text_ids, row.tokens[begin:], row.bins[begin:], row.ahead[begin:])
        assert len(ids), "a model without BOV goes on from something"
        if len(ids) > 1:
            device, step = self.model.head.weight.device, self._new.prompt(cache)
            step.plan(positions[None, :-1], self._hints(hints[None, :-1]), self._scenes([row], [row.tokens[begin:]], follows[None, :-1]))
            step.step(ids[None, :-1].to(device), 0)
        return cache

    def _hints(self, hints_BLF: Tensor) -> Tensor | None:
        """As a step takes them: None for a model that knows none."""
        return hints_BLF if self.sequence.hint_width else None

    def _scenes(self, rows: Items[Row], shown: Items[Items[Tensor]], follows_BL: Tensor) -> Scenes | None:
        """What a model with a scene reader is told of rows that show these latents; None where no action is due."""
        if self.model.scene is None or not bool((follows_BL >= 0).any()):
            return None
        tokens_Bthw = torch.stack([torch.stack(list(tokens)) for tokens in shown])
        return self.sequence.scenes(tokens_Bthw, self.sequence.words([row.text_ids for row in rows]), follows_BL)

    def _imagine(self) -> tuple[Tensor, Tensor, int]:
        """Draw the coming actions -> (bins [B, r, A], logits of the first video token, how many tokens of the plan were fed)."""
        sequence, channels = self.sequence, len(self.sequence.channels)
        unknown_BrA = torch.zeros(len(self.rows), sequence.config.rate, channels, dtype=torch.int64)
        pending_B1 = self._plan(list(unknown_BrA), slice(sequence.action_size))[:, :1]
        ranges = [sequence.action_range(i % channels) for i in range(sequence.action_size)]
        ids_Bn = self._draw(self._drawing.step(pending_B1, 0), Stream.ACTION, ranges, 1)
        starts_A = torch.tensor([sequence.action_range(c)[0] for c in range(channels)])
        bins_BrA = ids_Bn.cpu().unflatten(1, (-1, channels)) - starts_A
        self._plan(list(bins_BrA), slice(sequence.action_size, None))  # only now is it known what leads to the video tokens
        return bins_BrA, self._drawing.step(ids_Bn[:, -1:], 0), 1

    def _plan(self, bins: Items[Tensor | None], part: slice = slice(None)) -> Tensor:
        """Plan the coming latent's tokens, or a part of them -> the known ones, int64 [B, 1 + r * A or 1]: the pending one, and the
        actions `bins`, one [r, A] or None a row."""
        ahead = [None] * len(self.rows)
        if part != slice(self.sequence.action_size):  # with video tokens in it
            ahead = self._ahead = self._look_ahead(bins)
        for step, rows in zip(self._steps, self._cond_and_uncond(), strict=True):
            uncond = self._without_actions and step is not self._steps[0]
            led_by = [(None, None)] * len(rows) if uncond else zip(bins, ahead, strict=True)
            coming = [
                self.sequence.coming(row.text_ids, row.tokens[row.base :], row.bins[row.base :], bins_rA, ahead_hwK)
                for row, (bins_rA, ahead_hwK) in zip(rows, led_by, strict=True)
            ]
            ids_BL, positions_BL3, hints_BLF, follows_BL = (torch.stack(each) for each in zip(*coming, strict=True))
            if uncond:  # the video tokens have the same place in both plans
                positions_BL3, hints_BLF = (
                    torch.cat((x[:, :1].expand(-1, 1 + self._hidden, -1), x[:, 1:]), 1) for x in (positions_BL3, hints_BLF)
                )
            else:
                known_BL = ids_BL
            # an action follows the last latent, which alone is shown
            follows_BL = follows_BL[:, part].clamp_max(0)
            scenes = None if uncond else self._scenes(rows, [row.tokens[-1:] for row in rows], follows_BL)
            step.plan(positions_BL3[:, part], self._hints(hints_BLF[:, part]), scenes)
        return known_BL.to(self.model.head.weight.device)

    def _look_ahead(self, bins: Items[Tensor | None]) -> list[Tensor | None]:
        """What the lookahead tells of every row's coming latent, which the actions `bins`, one [r, A] or None a row, lead to."""
        asked = [i for i, row in enumerate(self.rows) if self._can_look(row, len(row.tokens), bins[i])]
        ahead: list[Tensor | None] = [None] * len(self.rows)
        if asked:
            for i, told_hwK in zip(asked, self._look([(self.rows[i], bins[i]) for i in asked]), strict=True):
                ahead[i] = told_hwK
        return ahead

    def _looked(self, row: Row) -> Row:
        """`row` with what the lookahead tells of each latent of its context, where it has not been asked yet."""
        ahead: list[Tensor | None] = [None] * len(row.tokens)
        if self._lookahead is None or len(row.ahead) == len(row.tokens):
            return row if self._lookahead is not None else replace(row, ahead=ahead)
        begin = max(0, row.base - self._lookahead.history)  # what the first latent of the context was predicted from
        bins_tA = self._bins_of(row.bins[begin + 1 :]) if len(row.tokens) > begin + 1 and self.sequence.config.action_bins else None
        told_thwK = self._lookahead.along(torch.stack(list(row.tokens[begin:])), bins_tA)
        for i in range(begin, len(row.tokens)):
            ahead[i] = told_thwK[i - begin] if self._can_look(row, i, row.bins[i]) else None
        return replace(row, ahead=ahead)

    def _can_look(self, row: Row, latent: int, bins_rA: Tensor | None) -> bool:
        """Whether there is a frame before, and the actions that lead on are known, if the world has any."""
        return self._lookahead is not None and latent > 0 and (bins_rA is not None or not self.sequence.config.action_bins)

    def _look(self, rows: Items[tuple[Row, Tensor | None]]) -> Tensor:
        """What the lookahead tells of the coming latent of rows, which these actions [r, A] lead to, int8 [n, h, w, K]."""
        assert self._lookahead is not None, "asked only where there is one"
        seen, led = [], []
        for row, bins_rA in rows:
            places = self._lookahead.before(len(row.tokens))
            seen.append(torch.stack([row.tokens[max(0, i)] for i in places]))
            if self.sequence.config.action_bins:
                led.append(self._bins_of([row.bins[i + 1] if i >= 0 else None for i in places[1:-1]] + [bins_rA]))
        return self._lookahead(torch.stack(seen), torch.stack(led) if led else None)

    def _bins_of(self, bins: Items[Tensor | None]) -> Tensor:
        """Actions [r, A] of latents of a frame each, or None -> int64 [n, all columns], -1 where there are none."""
        none_rA = torch.full((self.sequence.config.rate, len(self.sequence.channels)), -1)
        return self.sequence.of_all_channels(torch.stack([none_rA if bins_rA is None else bins_rA for bins_rA in bins]))[:, 0]

    def _draw(self, logits_BV: Tensor, stream: Stream, ranges: Items[tuple[int, int]], first: int) -> Tensor:
        """A token from each range of ids, int64 [B, n]; token i is fed as `first` + i of the plan, the last one is not."""
        row_keys = [keys(row.seed, len(row.tokens), stream) for row in self.rows]
        draft = partial(self._draft, stream) if len(self.rows) == 1 else None
        drawn = self._drawing.draw(logits_BV, row_keys, self.sampling.of(stream, image=not self.rows[0].tokens), ranges, first, draft)
        self._passes += 1 + drawn.passes  # and the one that gave logits_BV
        self._drafted, self._accepted = self._drafted + drawn.drafted, self._accepted + drawn.accepted
        return drawn.ids_Bn

    def _draft(self, stream: Stream) -> list[int]:
        """What a lone row's tokens may well be: what the lookahead expects or the tokens of its last latent, or the last action over and
        over; nothing where it has none."""
        (row,) = self.rows
        if stream is Stream.VIDEO and self._ahead[0] is not None:
            return expected_tokens(self._ahead[0], row.tokens[-1], self.sequence.config.levels).flatten().tolist()
        if stream is Stream.VIDEO:
            return row.tokens[-1].flatten().tolist() if row.tokens else []
        last = row.bins[-1]
        return [] if last is None else self.sequence.action_piece(0, last).ids[-len(self.sequence.channels) :].tolist()


def _past(row: Row) -> tuple:
    """What the context of a row consists of; equal for rows whose caches would be."""
    begin, context = row.base, None if row.context_SC is None else row.context_SC.numpy().tobytes()
    bins, ahead = (tuple(None if x is None else x.numpy().tobytes() for x in each[begin + 1 :]) for each in (row.bins, row.ahead))
    return tuple(row.text_ids), context, tuple(tokens.numpy().tobytes() for tokens in row.tokens[begin:]), bins, ahead


def _batches(sequence: Sequence, requests: Items[Request], members: list[int]) -> list[list[int]]:
    """`members` in batches: those of one long past together, so that they share it, and all others in one."""
    groups: dict[tuple, list[int]] = {}
    for i in members:
        groups.setdefault(_past(requests[i].row), []).append(i)
    shared, rest = [], []
    for group in groups.values():
        shares = len(group) > 1 and len(requests[group[0]].row.tokens) * sequence.latent_size >= SHARED_FROM
        shared, rest = (shared + [group], rest) if shares else (shared, rest + group)
    return shared + ([sorted(rest)] if rest else [])


def roll(
    model: WorldModel,
    sequence: Sequence,
    requests: Items[Request],
    sampling: SamplingConfig,
    made: Callable[[int, Tensor], None] | None = None,
    lookahead: Lookahead | None = None,
) -> list[Row]:
    """Finish every request -> its row. Rows with the same kind of actions run as one batch, but with a lookahead alone where that guesses
    tokens; `made` is given (request, tokens int64 [h, w]) of every latent as it is made.

    On a CPU it takes the first part of `shared_threads`.
    """
    finished: dict[int, Row] = {i: request.row for i, request in enumerate(requests)}
    with on_threads(shared_threads(model, len(requests))[0]):
        # alone a row has most tokens of a latent guessed: a pass holds more of them than a batch has rows
        alone = lookahead is not None and guesses(model)
        for kind in Actions:
            waiting = [i for i, request in enumerate(requests) if request.actions is kind and len(request.row.tokens) < request.num_latents]
            for members in [[i] for i in waiting] if alone else _batches(sequence, requests, waiting):
                finished |= _roll_batch(model, sequence, requests, members, kind, sampling, made, lookahead)
    return [finished[i] for i in range(len(requests))]


def _roll_batch(model, sequence, requests: Items[Request], members: list[int], kind: Actions, sampling, made, lookahead) -> dict[int, Row]:
    """Finish the requests `members` as one batch -> {index: row}."""

    def tell(members: list[int], tokens_Bhw: Tensor) -> None:
        if made is not None:
            for i, tokens_hw in zip(members, tokens_Bhw, strict=True):
                made(i, tokens_hw)

    finished: dict[int, Row] = {}
    begun, fresh = ([i for i in members if bool(requests[i].row.tokens) is has] for has in (True, False))
    batches = [Batch(model, sequence, [requests[i].row for i in part], sampling, lookahead) for part in (begun, fresh) if part]
    if fresh:
        tell(fresh, batches[-1].advance(Actions.ABSENT))
    members, batch = begun + fresh, Batch.stack(batches)
    while members:
        finished |= {i: row for i, row in zip(members, batch.rows, strict=True)}
        going = [place for place, i in enumerate(members) if len(finished[i].tokens) < requests[i].num_latents]
        if len(going) < len(members):  # the finished ones leave
            members = [members[place] for place in going]
            batch = batch.select(going) if going else batch
            continue
        bins = [cast("Any", requests[i].bins_nrA)[len(finished[i].tokens) - 1] for i in members] if kind is Actions.GIVEN else None
        tell(members, batch.advance(kind, None if bins is None else torch.stack(bins)))
    return finished
