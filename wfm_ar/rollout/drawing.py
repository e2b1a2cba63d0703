"""Drawing the tokens of a latent one after another: by a captured graph on CUDA, by the library elsewhere.

Promises: the same keys and settings give the same tokens either way, and with draft tokens as without.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from wfm_ar.rollout.sampling import SamplingConfig, draws_of_rows, sample
from wfm_ar.world_model.captured_roll import CapturedRoll
from wfm_ar.world_model.kernel_step import KernelStep
from wfm_ar.world_model.steps import GuidedStep, Step

WIDTHS = 4, 64  # tokens of a pass with drafts, at least and at most: twice as many as held in the last one

Keys = Sequence[tuple[int, int, int]]
Ranges = Sequence[tuple[int, int]]
Draft = Callable[[], list[int]]


class Drawn(NamedTuple):
    """Tokens int64 [B, n], the passes behind the one that gave the first logits, and how many drafts were fed and held."""

    ids_Bn: Tensor
    passes: int
    drafted: int = 0
    accepted: int = 0


def drawing_of(steps: Sequence[Step], guidance: float, hidden: int) -> "GraphDrawing | HostDrawing":
    """How the rows of one step are drawn, or of two with and without their condition; the rest as of `GuidedStep`."""
    if isinstance(steps[0], KernelStep):
        return GraphDrawing(cast("Sequence[KernelStep]", steps), guidance, hidden)
    return HostDrawing(steps, guidance, hidden)


class GraphDrawing:
    """On the device alone, nothing read back between two tokens."""

    def __init__(self, steps: Sequence[KernelStep], guidance: float, hidden: int) -> None:
        self._roll = CapturedRoll(steps, guidance, hidden)

    def step(self, ids_BT: Tensor, first: int) -> Tensor:
        """As `DecodeStep.step`, guided if there is guidance."""
        return self._roll.step(ids_BT, first)

    def draw(self, logits_BV: Tensor, keys: Keys, sampling: SamplingConfig, ranges: Ranges, first: int, draft: Draft | None) -> Drawn:
        """A token from each range of ids, the first from `logits_BV`, which `step` gave last; token i is fed as `first` + i of the
        plan, the last one is not."""
        return Drawn(self._roll.roll(keys, sampling.settings, ranges, first), len(ranges) - 1)


class HostDrawing:
    """One pass a token; of a lone row whose step allows it, one for several, as draft tokens hold."""

    def __init__(self, steps: Sequence[Step], guidance: float, hidden: int) -> None:
        self._step: Any = steps[0] if len(steps) == 1 else GuidedStep(steps[0], steps[1], guidance, hidden)

    def step(self, ids_BT: Tensor, first: int) -> Tensor:
        """As `GraphDrawing.step`."""
        return self._step.step(ids_BT, first)

    def draw(self, logits_BV: Tensor, keys: Keys, sampling: SamplingConfig, ranges: Ranges, first: int, draft: Draft | None) -> Drawn:
        """As `GraphDrawing.draw`. draft: what a lone row's tokens may well be, repeated as often as it takes; nothing = no drafts."""
        uniforms_Bn, ids = draws_of_rows(keys, len(ranges)).to(logits_BV.device), []
        if draft is not None and self._step.apart and (drafts := draft()):
            return self._draw_speculatively(logits_BV, uniforms_Bn[0], sampling, ranges, first, drafts)
        for i, allowed in enumerate(ranges):
            ids.append(sample(logits_BV, uniforms_Bn[:, i], sampling, allowed))
            if i + 1 < len(ranges):
                logits_BV = self._step.step(ids[-1].unsqueeze(1), first + i)
        return Drawn(torch.stack(ids, 1), len(ranges) - 1)

    def _draw_speculatively(
        self, logits_1V: Tensor, uniforms_n: Tensor, sampling: SamplingConfig, ranges: Ranges, first: int, drafts: list[int]
    ) -> Drawn:
        """The tokens that `draw` would draw one by one, several a pass: draft tokens hold while they are what is drawn.

        Speculative decoding (Leviathan et al. 2023, arXiv 2211.17192) by Jacobi iteration (Teng et al. 2025, arXiv 2510.24211): what a
        pass draws behind the first wrong draft is the next draft there, before it the token that stood as many places before as
        `drafts` is long. Each token is drawn by its own uniform from the very logits that it would have alone, so not only their
        distribution is the same: the tokens are.
        """
        (least, most), count = WIDTHS, len(ranges)
        known, held = [*drafts, int(sample(logits_1V, uniforms_n[:1], sampling, ranges[0]))], most
        redrawn: dict[int, int] = {}  # place -> what the last pass that came so far drew there
        passes = drafted = accepted = 0
        while (place := len(known) - len(drafts)) < count:
            width = min(max(least, 2 * held), most, count - place)
            fed = [redrawn.get(place + i, known[place + i % len(drafts)]) for i in range(width - 1)]
            logits_1TV = self._step.each(torch.tensor([[known[-1], *fed]]), first + place - 1)
            part = slice(place, place + width)
            drawn = _sampled(logits_1TV[0], uniforms_n[part], sampling, ranges[part])
            held = 1 + next((i for i, token in enumerate(fed) if drawn[i] != token), len(fed))
            redrawn |= {place + i: token for i, token in enumerate(drawn[held:], held)}
            self._step.take_back(width - held)
            known += drawn[:held]
            passes, drafted, accepted = passes + 1, drafted + len(fed), accepted + held - 1
        return Drawn(torch.tensor([known[len(drafts) :]]), passes, drafted, accepted)


def _sampled(logits_TV: Tensor, uniforms_T: Tensor, sampling: SamplingConfig, ranges: Ranges) -> list[int]:
    """A token of each row, from its own range of ids."""
    tokens = [0] * len(ranges)
    for allowed in set(ranges):
        rows = [i for i, own in enumerate(ranges) if own == allowed]
        for i, token in zip(rows, sample(logits_TV[rows], uniforms_T[rows], sampling, allowed).tolist(), strict=True):
            tokens[i] = token
    return tokens
