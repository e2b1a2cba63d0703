"""The specification of `sample`: filters by sorting, draws by inverse CDF over the kept tokens in the order of the vocabulary."""

import torch
from torch import Tensor

from wfm_kernels.sample.philox import philox, uniform


def keep_BV(scores_BV: Tensor, top_k: int | None, top_p: float, min_p: float, ties: bool = True) -> Tensor:
    """Bool [B, V]: the tokens that survive top-k, then top-p among those, then min-p.

    Ties of the last one kept are kept too; with `ties` False those of top-p only as far as the mass needs them, lower ids first.
    """
    sorted_BV, ids_BV = scores_BV.sort(dim=-1, descending=True, stable=True)
    kth_B1 = sorted_BV[:, [min(top_k or scores_BV.shape[-1], scores_BV.shape[-1]) - 1]]
    kept_BV = scores_BV >= kth_B1
    mass_BV = torch.where(sorted_BV >= kth_B1, (sorted_BV - sorted_BV[:, :1]).exp(), 0.0).double()
    needed_BV = mass_BV.cumsum(-1) - mass_BV < top_p * mass_BV.sum(-1, keepdim=True)  # the tokens before this one are too few
    if ties:
        kept_BV &= scores_BV >= sorted_BV.gather(-1, needed_BV.sum(-1, keepdim=True) - 1)
    else:
        kept_BV &= torch.zeros_like(needed_BV).scatter(-1, ids_BV, needed_BV)
    return kept_BV & ((scores_BV - sorted_BV[:, :1]).exp() >= min_p)


def guided_BV(logits_BV: Tensor, unguided_BV: Tensor, guidance: float) -> Tensor:
    """unguided + guidance * (logits - unguided) in fp32; a token that either row refuses (-inf) stays refused."""
    logits_BV, unguided_BV = logits_BV.float(), unguided_BV.float()
    refused_BV = (logits_BV == float("-inf")) | (unguided_BV == float("-inf"))  # -inf minus -inf would be no number
    return (unguided_BV + guidance * (logits_BV - unguided_BV)).masked_fill_(refused_BV, float("-inf"))


def sample(
    logits_BV, seed_B, row_B, step_B, *, temperature=1.0, top_k=None, top_p=1.0, min_p=0.0, unguided_BV=None, guidance=1.0
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(token int64 [B], its log-probability float32 [B] in the distribution drawn from; for temperature 0 in softmax(scores))."""
    scores_BV = logits_BV.float() if unguided_BV is None else guided_BV(logits_BV, unguided_BV, guidance)
    if temperature == 0.0:
        token_B = scores_BV.argmax(-1)
        return token_B, scores_BV.log_softmax(-1).gather(-1, token_B[:, None])[:, 0]
    scores_BV = scores_BV / temperature
    kept_BV = keep_BV(scores_BV, top_k, top_p, min_p)
    logprob_BV = scores_BV.masked_fill(~kept_BV, float("-inf")).log_softmax(-1)
    weight_BV = torch.where(kept_BV, (scores_BV - scores_BV.amax(-1, keepdim=True)).exp(), 0.0)
    cumulative_BV = weight_BV.double().cumsum(-1)
    target_B1 = uniform(philox(seed_B, row_B, step_B, 0)[0]).double()[:, None] * cumulative_BV[:, -1:]
    token_B = (cumulative_BV > target_B1).int().argmax(-1)
    return token_B, logprob_BV.gather(-1, token_B[:, None])[:, 0]
