"""The specification of `attention`: fp32 maths, every score materialised. Slow, short, and the judge of the other paths."""

from typing import Any

import torch

from wfm_kernels.attention.masks import CAUSAL, Mask, visible


def attention(
    q_BNTK, k_BHLK, v_BHLK, lengths_B, *, scale=None, max_length=None, mask: Mask = CAUSAL, k_scale_BHL=None, v_scale_BHL=None,
    return_lse: bool = False,
) -> Any:  # fmt: skip
    """softmax(q k^T * scale) v over the cache slots that the mask lets a query see; masks.py says which.

    A query that sees no slot gives zeros (and log-sum-exp -inf). Returns q's dtype, log-sum-exp [B, N, T] in fp32.
    Source: Vaswani et al. 2017 (arXiv 1706.03762), section 3.2.1.
    """
    _, N, T, K = q_BNTK.shape
    _, H, L, _ = k_BHLK.shape
    k_BHLK = k_BHLK.float() if k_scale_BHL is None else k_BHLK.float() * k_scale_BHL[..., None]
    v_BHLK = v_BHLK.float() if v_scale_BHL is None else v_BHLK.float() * v_scale_BHL[..., None]
    visible_BTL = visible(mask, lengths_B, T, L)
    dead_BL = ~visible_BTL.any(dim=1)
    v_BHLK = v_BHLK.masked_fill(dead_BL[:, None, :, None], 0.0)  # dead slots may hold anything, also NaN

    k_BNLK, v_BNLK = k_BHLK.repeat_interleave(N // H, dim=1), v_BHLK.repeat_interleave(N // H, dim=1)
    scores_BNTL = torch.einsum("bntk,bnlk->bntl", q_BNTK.float(), k_BNLK) * (K**-0.5 if scale is None else scale)
    scores_BNTL = scores_BNTL.masked_fill(~visible_BTL[:, None], float("-inf"))
    lse_BNT = scores_BNTL.logsumexp(dim=-1)
    weights_BNTL = scores_BNTL.softmax(dim=-1).nan_to_num(0.0)  # a query that sees nothing: 0/0
    out_BNTK = torch.einsum("bntl,bnlk->bntk", weights_BNTL, v_BNLK).to(q_BNTK.dtype)
    return (out_BNTK, lse_BNT) if return_lse else out_BNTK
