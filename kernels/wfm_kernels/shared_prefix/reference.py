"""The specification of `attention_shared_prefix`: give every row its own copy of the past, then plain attention in fp32."""

from typing import Any

import torch
from torch import Tensor

from wfm_kernels.attention.reference import attention


def attention_shared_prefix(
    q_BNTK, prefix_k_HPK, prefix_v_HPK, k_BHLK, v_BHLK, lengths_B, *, prefix_length_1, scale=None,
    prefix_k_scale_HP=None, prefix_v_scale_HP=None, k_scale_BHL=None, v_scale_BHL=None,
) -> Tensor:  # fmt: skip
    """Causal attention over prefix + private suffix: the unshared form. lengths_B counts suffix tokens, the T queries included."""
    P = int(prefix_length_1)
    B = len(q_BNTK)
    k_BHLK = torch.cat([prefix_k_HPK[None, :, :P].expand(B, -1, -1, -1), k_BHLK], dim=2)
    v_BHLK = torch.cat([prefix_v_HPK[None, :, :P].expand(B, -1, -1, -1), v_BHLK], dim=2)
    scales: dict[str, Any] = {}
    if k_scale_BHL is not None:
        pairs = {"k_scale_BHL": (prefix_k_scale_HP, k_scale_BHL), "v_scale_BHL": (prefix_v_scale_HP, v_scale_BHL)}
        scales = {name: torch.cat([past[None, :, :P].expand(B, -1, -1), own], dim=2) for name, (past, own) in pairs.items()}
    return attention(q_BNTK, k_BHLK, v_BHLK, lengths_B + P, scale=scale, **scales)


def merge(out_a_BNTK: Tensor, lse_a_BNT: Tensor, out_b_BNTK: Tensor, lse_b_BNT: Tensor) -> Tensor:
    """Attention over the union of two disjoint sets of keys, from the outputs and log-sum-exps over each."""
    share_BNT1 = torch.sigmoid(lse_a_BNT - lse_b_BNT)[..., None]  # exp(a) / (exp(a) + exp(b))
    share_BNT1 = share_BNT1.nan_to_num(0.0)  # both sets empty: -inf minus -inf
    return torch.lerp(out_b_BNTK.float(), out_a_BNTK.float(), share_BNT1).to(out_a_BNTK.dtype)
