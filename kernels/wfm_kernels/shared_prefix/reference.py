"""The specification of `attention_shared_prefix`: give every row its own copy of the past, then plain attention in fp32."""

import torch
from torch import Tensor

from wfm_kernels.attention.reference import attention


def attention_shared_prefix(q_BNTK, prefix_k_HPK, prefix_v_HPK, k_BHLK, v_BHLK, lengths_B, *, prefix_length_1, scale=None) -> Tensor:
    """Causal attention over prefix + private suffix: the unshared form. lengths_B counts suffix tokens, the T queries included."""
    P = int(prefix_length_1)
    B = len(q_BNTK)
    k_BHLK = torch.cat([prefix_k_HPK[None, :, :P].expand(B, -1, -1, -1), k_BHLK], dim=2)
    v_BHLK = torch.cat([prefix_v_HPK[None, :, :P].expand(B, -1, -1, -1), v_BHLK], dim=2)
    return attention(q_BNTK, k_BHLK, v_BHLK, lengths_B + P, scale=scale)


def merge(out_a_BNTK: Tensor, lse_a_BNT: Tensor, out_b_BNTK: Tensor, lse_b_BNT: Tensor) -> Tensor:
    """Attention over the union of two disjoint sets of keys, from the outputs and log-sum-exps over each."""
    share_BNT1 = torch.sigmoid(lse_a_BNT - lse_b_BNT)[..., None]  # exp(a) / (exp(a) + exp(b))
    share_BNT1 = share_BNT1.nan_to_num(0.0)  # both sets empty: -inf minus -inf
    return torch.lerp(out_b_BNTK.float(), out_a_BNTK.float(), share_BNT1).to(out_a_BNTK.dtype)
