"""Rolling a published world model on: `[BOV] latent_0 (actions_1) latent_1 ...`, one token at a time through the KV cache.

Promises: a row's draws depend on its own seed alone; rows of one past share its prefill, and its keys and values are kept and
read once for all of them; the cache is read up to the live token only; the keys and values of a text are made once. What was
trained is a window of `clip_latents`; when it is full, a row rolls on from its last latents, as the published models are started
from one or two. Rows are batched in plain matrix products, so a weight is read once for all of them, and rounding - and with it,
rarely, a token - may differ with the number of rows. On CUDA the tokens of a latent are replays of one captured graph.
"""

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wfm_ar.rollout.history import History
from wfm_ar.rollout.sampling import SamplingConfig, Stream, draws_of_rows, keys, sample
from wfm_ar.world_model.kernel_step import KernelStep
from wfm_ar.world_model.kv_cache import KVCache
from wfm_ar.world_model.transformer import WorldModel


@dataclass(frozen=True, kw_only=True)
class CosmosJob:
    """One rollout: given tokens int64 [g, h, w] (g may be 0 for a model with BOV), its seed, and the text context [S, C] if any."""

    tokens_ghw: Tensor
    seed: int
    context_SC: Tensor | None = None
    bins_nrA: Tensor | None = None  # int64 bins of the actions before each latent but the first, where the model was tuned on
    # actions; -1 where a latent has none, and there may be fewer than latents


def video_positions(start: int, stop: int, h: int, w: int) -> Tensor:
    """int64 [n, 3] of the tokens of latents start .. stop - 1, raster order."""
    axes = (torch.arange(start, stop), torch.arange(h), torch.arange(w))
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).view(-1, 3)


def action_positions(latent: int, h: int, rate: int, channels: int) -> Tensor:
    """int64 [rate * channels, 3] of the actions that lead to `latent`: rows below its picture, as in our own sequences."""
    step, channel = torch.meshgrid(torch.arange(rate), torch.arange(channels), indexing="ij")
    return torch.stack((torch.full_like(step, latent), h + step, channel), -1).view(-1, 3)


def _acting(bins_nrA: Tensor | None) -> tuple[bool, ...]:
    """Before which latents there are actions."""
    return () if bins_nrA is None else tuple((bins_nrA[:, 0, 0] >= 0).tolist())


class CosmosRows:
    """Rows with equally many latents, rolled together."""

    @torch.inference_mode()
    def __init__(
        self,
        model: WorldModel,
        jobs: Sequence[CosmosJob],
        sampling: SamplingConfig,
        clip_latents: int,
        codebook: int,
        action_starts_A: Tensor | None = None,
        rate: int = 8,
    ) -> None:
        """action_starts_A: int64, the input id of each channel's first bin, where the model knows actions, `rate` a latent.

        The jobs have actions before the same latents.
        """
        assert len({_acting(job.bins_nrA) for job in jobs}) == 1 and (jobs[0].bins_nrA is None or action_starts_A is not None)
        self.action_starts_A, self.rate = action_starts_A, rate
        assert len({tuple(job.tokens_ghw.shape) for job in jobs}) == 1 and clip_latents > 1
        self.model, self.sampling, self.clip_latents = model, sampling, clip_latents
        self.jobs, self.codebook = list(jobs), codebook
        self.begins = bool(model.config.context_dim)  # the models that attend to a text begin with BOV
        given, self.h, self.w = jobs[0].tokens_ghw.shape
        self._tokens = History(torch.stack([job.tokens_ghw for job in jobs], 1))  # int64 [B, h, w] a latent
        acting = _acting(jobs[0].bins_nrA)  # int64 [B, r, A] before a latent, from the second one on; there may be fewer
        self._bins = History(torch.stack([job.bins_nrA[i] for job in jobs]) if acts else None for i, acts in enumerate(acting))
        assert given or self.begins, "a model without BOV goes on from something"
        self.size, self.base = self.h * self.w, 0
        self._cache: KVCache | None = None

    @property
    def tokens_Bthw(self) -> Tensor:
        """All so far, int64."""
        none_Bthw = torch.empty(len(self.jobs), 0, self.h, self.w, dtype=torch.int64)
        return self._tokens.stacked().transpose(0, 1) if self._tokens else none_Bthw

    @property
    def latents(self) -> int:
        """How many there are so far."""
        return len(self._tokens)

    @property
    def keep(self) -> int:
        """Latents that a full window is started anew from."""
        return max(1, self.clip_latents // 2)

    @torch.inference_mode()
    def advance(self) -> Tensor:
        """One latent more in every row -> int64 [B, h, w]."""
        latents = self.latents
        if latents - self.base >= self.clip_latents:
            self.base, self._cache = latents - self.keep, None
        if self._cache is None:
            self._prefill()
        if latents > self.base and self._acts(latents):
            self._act(latents)
        new_Bhw = self._draw(latents).cpu().view(-1, self.h, self.w)
        self._tokens = self._tokens.append(new_Bhw)
        return new_Bhw

    def act(self, bins_rA: Tensor) -> None:
        """The actions that lead to the next latent, of every row: int64 [rate, A]; latents before it that had none keep none."""
        assert self.action_starts_A is not None
        before = self.latents - 1  # latents that had their chance of actions
        bins = self._bins if len(self._bins) <= before else History(self._bins[:before])
        while len(bins) < before:
            bins = bins.append(None)
        self._bins = bins.append(bins_rA.expand(len(self.jobs), -1, -1))

    def fork(self, seeds: Sequence[int]) -> "CosmosRows":
        """A batch of its own: row 0's past, once a seed."""
        other = copy(self)
        other.jobs = [replace(self.jobs[0], seed=seed) for seed in seeds]
        if (len(self.jobs), len(seeds)) != (1, 1):
            copies = [[None if item is None else item[:1].expand(len(seeds), -1, -1) for item in all] for all in (self._tokens, self._bins)]
            other._tokens, other._bins = (History(items) for items in copies)
        if self._cache is not None:
            other._begin(self._cache.fork(torch.zeros(len(seeds), dtype=torch.int64)), self._logits_BV[:1].expand(len(seeds), -1))
        return other

    def _begin(self, cache: KVCache, logits_BV: Tensor) -> None:
        """Go on behind `cache`; logits_BV are the scores of what comes next."""
        self._cache, self._logits_BV, self._step = cache, logits_BV, kernels_for(self.model, cache)
        if self._step is not None:
            self._step.begin(logits_BV)

    def _draw(self, latent: int) -> Tensor:
        """Draw the tokens of `latent` and feed them: int64 [B, h * w]."""
        row_keys = [keys(job.seed, latent, Stream.VIDEO) for job in self.jobs]
        positions_n3 = video_positions(latent - self.base, latent - self.base + 1, self.h, self.w)
        allowed, rows = (0, self.codebook), len(self.jobs)
        if self._step is not None:
            self._step.plan(positions_n3.expand(rows, -1, -1), None)
            ids_Bn = self._step.roll(row_keys, self.sampling.settings, [allowed] * self.size, 0)
            self._logits_BV = self._step.step(ids_Bn[:, -1:], self.size - 1)
            return ids_Bn
        device = self.model.head.weight.device
        uniforms_Bn, made, positions_n3 = draws_of_rows(row_keys, self.size).to(device), [], positions_n3.to(device)
        for i in range(self.size):
            made.append(sample(self._logits_BV, uniforms_Bn[:, i], self.sampling, allowed))
            self._feed(made[-1][:, None], positions_n3[i : i + 1])
        return torch.stack(made, 1)

    def _feed(self, ids_BT: Tensor, positions_T3: Tensor) -> None:
        positions_BT3 = positions_T3.expand(len(ids_BT), -1, -1)
        if self._step is not None:
            self._step.plan(positions_BT3, None)
            self._logits_BV = self._step.step(ids_BT, 0)
        else:
            self._logits_BV = self.model.head(self.model.features(ids_BT, positions_BT3, cache=self._cache)[:, -1]).float()

    def _acts(self, latent: int) -> bool:
        """Whether actions lead to `latent` of the clip."""
        return 0 < latent <= len(self._bins) and self._bins[latent - 1] is not None

    def _act(self, latent: int) -> None:
        """Feed the actions that lead to `latent` of the clip."""
        ids_BL = (self._bins[latent - 1] + self.action_starts_A).flatten(1)
        positions = action_positions(latent - self.base, self.h, *self._bins[latent - 1].shape[1:])
        device = self.model.head.weight.device
        self._feed(ids_BL.to(device), positions.to(device))

    def _window(self, row: int) -> tuple[Tensor, Tensor]:
        """(ids [L], positions [L, 3]) of a row's window so far."""
        ids, positions = [], []
        if self.begins:
            ids, positions = [torch.tensor([self.codebook])], [torch.full((1, 3), -1)]
        for place, tokens_Bhw in enumerate(self._tokens[self.base :]):
            if place and self._acts(self.base + place):
                bins_rA = self._bins[self.base + place - 1][row]
                ids.append((bins_rA + self.action_starts_A).flatten())
                positions.append(action_positions(place, self.h, *bins_rA.shape))
            ids.append(tokens_Bhw[row].flatten())
            positions.append(video_positions(place, place + 1, self.h, self.w))
        return torch.cat(ids), torch.cat(positions)

    def _prefill(self) -> None:
        """Caches of the window so far; rows with the same past and text share the work."""
        first: dict[tuple, int] = {}
        caches, logits, places = [], [], []
        for row, job in enumerate(self.jobs):
            ids, positions = self._window(row)
            text = None if job.context_SC is None else job.context_SC.numpy().tobytes()
            key = (ids.numpy().tobytes(), text)
            if key not in first:
                first[key] = len(caches)
                cache, last = self._prefill_one(ids, positions, job)
                caches.append(cache)
                logits.append(last)
            places.append(first[key])
        if len(caches) == 1:  # one past
            cache = caches[0] if len(self.jobs) == 1 else caches[0].fork(torch.zeros(len(self.jobs), dtype=torch.int64))
        else:
            cache = KVCache.stack([caches[place] for place in places])
        self._begin(cache, torch.cat([logits[place] for place in places]))

    def _prefill_one(self, ids: Tensor, positions: Tensor, job: CosmosJob) -> tuple[KVCache, Tensor]:
        model = self.model
        device, dtype = model.head.weight.device, model.head.weight.dtype
        actions = 0 if self.action_starts_A is None else self.rate * len(self.action_starts_A)
        cache = model.new_cache(1, int(self.begins) + self.clip_latents * (self.size + actions))
        context = None if job.context_SC is None else job.context_SC[None].to(device, dtype)
        # In one pass: behind an empty cache causal attention needs neither a mask nor a matrix of scores.
        hidden = model.features(ids[None].to(device), positions[None].to(device), cache=cache, context=context)
        return cache, model.head(hidden[:, -1]).float()


def kernels_for(model: WorldModel, cache: KVCache) -> KernelStep | None:
    """Kernels and a captured graph on CUDA; elsewhere the model's own forward."""
    return KernelStep(model, cache) if cache.k.is_cuda else None


def roll_cosmos(
    model: WorldModel,
    jobs: Sequence[CosmosJob],
    totals: Sequence[int],
    sampling: SamplingConfig,
    clip_latents: int,
    codebook: int,
    action_starts_A: Tensor | None = None,
    rate: int = 8,
    progress: Callable[[int], None] | None = None,
) -> list[Tensor]:
    """Finish every job: tokens int64 [total, h, w] each. Jobs with equally many given latents and totals run as one batch."""
    finished: dict[int, Tensor] = {}
    groups: dict[tuple, list[int]] = {}
    for i, (job, total) in enumerate(zip(jobs, totals, strict=True)):
        groups.setdefault((tuple(job.tokens_ghw.shape), total, job.bins_nrA is None), []).append(i)
    for (shape, total, _), members in groups.items():
        rows = CosmosRows(model, [jobs[i] for i in members], sampling, clip_latents, codebook, action_starts_A, rate)
        for _ in range(total - shape[0]):
            rows.advance()
            if progress is not None:
                progress(len(members))
        finished |= dict(zip(members, rows.tokens_Bthw, strict=True))
    return [finished[i] for i in range(len(jobs))]
