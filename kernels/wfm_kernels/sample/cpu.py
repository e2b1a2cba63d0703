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

CANDIDATES = 64  # likeliest tokens looked at first; where they do not suffice eight times as many
SOLE = 0.5000001  # a probability that no second token can have
FEW = 16  # keys up to which Python's integers draw sooner than torch


def uniforms(seed: Tensor, row: Tensor, step: Tensor) -> Tensor:
    """float32 in [0, 1), shaped as the int64 keys: what `sample` draws for each of them."""
    if seed.numel() <= FEW:
        seeds, rows, steps = (x.flatten().tolist() for x in (seed, row, step))
        words = [philox_word(*key, 0) for key in zip(seeds, rows, steps, strict=True)]
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
    token_B, logprob_B = _draw(torch.softmax(scores_BV, -1), uniforms(seed_B, row_B, step_B), top_k, top_p, min_p, logprob=True)
    assert logprob_B is not None, "asked for"
    return token_B, logprob_B


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


def _draw(
    probs_BV: Tensor, uniforms_B: Tensor, top_k: int | None, top_p: float, min_p: float, *, logprob: bool, candidates: int = CANDIDATES
) -> tuple[Tensor, Tensor | None]:
    """By inverse CDF over the kept tokens in the order of the vocabulary, as every path draws."""
    V = probs_BV.shape[-1]
    top_k = V if top_k is None else min(top_k, V)
    if top_k == V and top_p >= 1.0:
        kept_BV = probs_BV if min_p == 0.0 else probs_BV * (probs_BV >= min_p * probs_BV.amax(-1, True))
        return _inverse(kept_BV, uniforms_B, logprob)
    if max(candidates, V // 2) < top_k < V or candidates > V // 2 >= CANDIDATES:  # as soon sorted as searched
        return _inverse(probs_BV * keep_BV(probs_BV.log(), top_k, top_p, min_p), uniforms_B, logprob)
    count = min(V, max(candidates, top_k + 1) if top_k < V else candidates)
    falling_BC, token_BC = probs_BV.topk(count, -1)
    if top_p < 1.0 and all(most >= max(top_p, SOLE) for most in falling_BC[:, 0].tolist()):  # what reaches top_p alone is all that is kept
        return token_BC[:, 0], torch.zeros_like(falling_BC[:, 0]) if logprob else None
    threshold_B1 = _threshold(falling_BC, top_k if top_k < V else None, top_p, min_p)
    token_BC, order_BC = token_BC.sort(-1)
    place_B, logprob_B = _inverse((falling_BC * (falling_BC >= threshold_B1)).gather(-1, order_BC), uniforms_B, logprob)
    token_B = token_BC.gather(-1, place_B.unsqueeze(-1)).squeeze(-1)
    least_B = falling_BC[:, top_k - 1] if top_k < V else threshold_B1[:, 0]
    beyond_B = falling_BC[:, -1] >= least_B  # the last candidate passes, so more may
    if count < V and beyond_B.any():
        token_B[beyond_B], logprob_again_B = _draw(
            probs_BV[beyond_B], uniforms_B[beyond_B], top_k, top_p, min_p, logprob=logprob, candidates=8 * candidates
        )
        if logprob_B is not None and logprob_again_B is not None:
            logprob_B[beyond_B] = logprob_again_B
    return token_B, logprob_B


def _threshold(falling_BC: Tensor, top_k: int | None, top_p: float, min_p: float) -> Tensor:
    """[B, 1]: the least probability that is kept, from the likeliest in falling order. As far as these reach, so the last one may be it."""
    threshold_B1, likely_BC = falling_BC[:, -1:], falling_BC
    if top_k is not None:
        threshold_B1 = falling_BC[:, top_k - 1 : top_k]
        likely_BC = falling_BC * (falling_BC >= threshold_B1)
    if top_p < 1.0:
        mass_BC = likely_BC.cumsum(-1, dtype=torch.float64)
        wanted_B1 = top_p * mass_BC[:, -1:] if top_k is not None else mass_BC.new_full((len(mass_BC), 1), top_p)
        last_B1 = torch.searchsorted(mass_BC, wanted_B1).clamp_(max=mass_BC.shape[1] - 1)  # the first at which the mass is reached
        threshold_B1 = likely_BC.gather(-1, last_B1)
    return threshold_B1 if min_p == 0.0 else threshold_B1.maximum(min_p * falling_BC[:, :1])


def _inverse(kept_BC: Tensor, uniforms_B: Tensor, logprob: bool) -> tuple[Tensor, Tensor | None]:
    """(place of the one drawn, int64 [B], its log-probability among those kept) by inverse CDF; refused ones weigh 0."""
    mass_BC = kept_BC.cumsum(-1, dtype=torch.float64)
    total_B1 = mass_BC[:, -1:]
    _refuse_unless_finite(total_B1)
    place_B1 = torch.searchsorted(mass_BC, uniforms_B.unsqueeze(-1) * total_B1, right=True)
    logprob_B = (kept_BC.gather(-1, place_B1) / total_B1).log().float().squeeze(-1) if logprob else None
    return place_B1.squeeze(-1), logprob_B
