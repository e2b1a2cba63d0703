"""`sample` on the CPU: the likeliest few tokens settle the thresholds, so that a row is sorted only where they do not suffice.

`pick` is `sample` with the uniforms given: Philox in plain torch costs more calls than the rest, so a caller who knows the
coming steps draws for all of them at once (`uniforms`). Promises: the tokens of reference.py (up to rounding at a threshold), and
the same for a row in any batch.
"""

import math

import torch
from torch import Tensor

from wfm_kernels.errors import KernelError
from wfm_kernels.sample.philox import philox, philox_word, uniform
from wfm_kernels.sample.reference import guided_BV, keep_BV

CANDIDATES = 256  # likeliest tokens looked at first
SOLE = 0.5000001  # a probability that no second token can have
FEW = 16  # keys up to which Python's integers draw sooner than torch


def uniforms(seed: Tensor, row: Tensor, step: Tensor) -> Tensor:
    """float32 in [0, 1), shaped as the int64 keys: what `sample` draws for each of them."""
    if seed.numel() <= FEW:
        words = [philox_word(*key, 0) for key in zip(*(x.flatten().tolist() for x in (seed, row, step)), strict=True)]
        return uniform(torch.tensor(words, dtype=torch.int64)).view(seed.shape)
    return uniform(philox(seed, row, step, 0)[0])


def sample(
    logits_BV, seed_B, row_B, step_B, *, temperature=1.0, top_k=None, top_p=1.0, min_p=0.0, unguided_BV=None, guidance=1.0
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """See reference.py."""
    scores_BV = _scores(logits_BV, temperature, unguided_BV, guidance)
    if temperature == 0.0:
        token_B = _likeliest(scores_BV)
        return token_B, scores_BV.log_softmax(-1).gather(-1, token_B[:, None])[:, 0]
    return _draw(torch.softmax(scores_BV, -1), uniforms(seed_B, row_B, step_B), top_k, top_p, min_p, logprob=True)


def pick(logits_BV, uniforms_B, *, temperature=1.0, top_k=None, top_p=1.0, min_p=0.0, unguided_BV=None, guidance=1.0) -> Tensor:
    """The token alone, with the uniforms given (float32 or float64 [B]; not read at temperature 0). KernelError as `sample`."""
    scores_BV = _scores(logits_BV, temperature, unguided_BV, guidance)
    if temperature == 0.0:
        return _likeliest(scores_BV)
    return _draw(torch.softmax(scores_BV, -1), uniforms_B, top_k, top_p, min_p, logprob=False)[0]


def _scores(logits_BV: Tensor, temperature: float, unguided_BV: Tensor | None, guidance: float) -> Tensor:
    scores_BV = logits_BV.float() if unguided_BV is None else guided_BV(logits_BV, unguided_BV, guidance)
    return scores_BV if temperature in (0.0, 1.0) else scores_BV / temperature


def _likeliest(scores_BV: Tensor) -> Tensor:
    token_B = scores_BV.argmax(-1)  # of a row with NaN, the NaN
    _refuse_unless_finite(scores_BV.gather(-1, token_B.unsqueeze(-1)))
    return token_B


def _refuse_unless_finite(number_B1: Tensor) -> None:
    """One number a row that is finite where the row has a likeliest token. Else the search below would end beyond the vocabulary."""
    finite = list(map(math.isfinite, number_B1.flatten().tolist()))
    if not all(finite):
        row = finite.index(False)
        raise KernelError(f"sample: row {row} of the logits has NaN, +inf or only -inf, expected finite numbers (-inf refuses a token)")


def _draw(probs_BV: Tensor, uniforms_B: Tensor, top_k, top_p, min_p, *, logprob: bool) -> tuple[Tensor, Tensor | None]:
    """By inverse CDF over the kept tokens in the order of the vocabulary, as every path draws."""
    if top_p < 1.0:
        most_B, token_B = probs_BV.max(-1)
        if all(most >= max(top_p, SOLE) for most in most_B.tolist()):  # what reaches top_p alone is all that is kept
            return token_B, torch.zeros_like(most_B) if logprob else None
    kept_BV = _kept(probs_BV, top_k, top_p, min_p)
    mass_BV = kept_BV.cumsum(-1, dtype=torch.float64)
    total_B1 = mass_BV[:, -1:]
    _refuse_unless_finite(total_B1)
    token_B1 = torch.searchsorted(mass_BV, uniforms_B.unsqueeze(-1) * total_B1, right=True)
    logprob_B = (kept_BV.gather(-1, token_B1) / total_B1).log().float().squeeze(-1) if logprob else None
    return token_B1.squeeze(-1), logprob_B


def _kept(probs_BV: Tensor, top_k: int | None, top_p: float, min_p: float) -> Tensor:
    """The probabilities with those of refused tokens 0."""
    V = probs_BV.shape[-1]
    top_k = V if top_k is None else min(top_k, V)
    if top_k == V and top_p >= 1.0:
        return probs_BV if min_p == 0.0 else probs_BV * (probs_BV >= min_p * probs_BV.amax(-1, True))
    if max(CANDIDATES, V // 2) < top_k < V:
        return probs_BV * keep_BV(probs_BV.log(), top_k, top_p, min_p)
    count = min(V, max(CANDIDATES, top_k + 1) if top_k < V else CANDIDATES)
    falling_BC = probs_BV.topk(count, -1).values
    likely_BC = falling_BC
    if top_k < V:
        threshold_B1 = falling_BC[:, top_k - 1 : top_k]
        likely_BC = falling_BC * (falling_BC >= threshold_B1)
    if top_p < 1.0:
        mass_BC = likely_BC.cumsum(-1, dtype=torch.float64)
        wanted_B1 = top_p * mass_BC[:, -1:] if top_k < V else mass_BC.new_full((len(mass_BC), 1), top_p)
        last_B1 = torch.searchsorted(mass_BC, wanted_B1).clamp_(max=count - 1)  # the first at which the mass is reached
        threshold_B1 = likely_BC.gather(-1, last_B1)
    if min_p > 0.0:
        threshold_B1 = threshold_B1.maximum(min_p * falling_BC[:, :1])
    kept_BV = probs_BV * (probs_BV >= threshold_B1)
    if count < V:
        beyond_B1 = falling_BC[:, -1:] >= threshold_B1  # the last candidate is kept, so more may be: sort those rows
        if beyond_B1.any():
            for row in beyond_B1.flatten().nonzero().flatten().tolist():
                whole_1V = probs_BV[row : row + 1]
                kept_BV[row] = (whole_1V * keep_BV(whole_1V.log(), top_k, top_p, min_p))[0]
    return kept_BV
