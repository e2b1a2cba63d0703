"""B futures that branch off one past: the past is stored once and read once, not once a future.

A prefix pass takes the queries of all rows as one long row over the shared keys; a suffix pass takes each row's private keys;
log-sum-exps merge the two. Forking a cache therefore copies no prefix. On CUDA these are two launches of the decode kernel, the
second of which merges; the CPU path (cpu.py) lets the past join the suffix's softmax. Source: Hydragen (arXiv 2402.05099),
FlashInfer's cascade.
"""

from typing import Any

import torch
from torch import Tensor

from wfm_kernels.attention import CAUSAL, Mask
from wfm_kernels.attention import _check as check_attention
from wfm_kernels.errors import KernelError, check_last_stride, check_tensor
from wfm_kernels.shared_prefix import cpu

OP = "attention_shared_prefix"

__all__ = ["attention_shared_prefix"]


def attention_shared_prefix(
    q_BNTK: Tensor,
    prefix_k_HPK: Tensor,
    prefix_v_HPK: Tensor,
    k_BHLK: Tensor,
    v_BHLK: Tensor,
    lengths_B: Tensor,
    *,
    prefix_length_1: Tensor,
    scale: float | None = None,
    max_length: int | None = None,
    mask: Mask = CAUSAL,
    prefix_k_scale_HP: Tensor | None = None,
    prefix_v_scale_HP: Tensor | None = None,
    k_scale_BHL: Tensor | None = None,
    v_scale_BHL: Tensor | None = None,
    counters: Tensor | None = None,
) -> Tensor:
    """Attention of the newest T tokens of each row against one shared past and the row's own later tokens.

    prefix_k_HPK, prefix_v_HPK: the past of capacity P, of which the first prefix_length_1 (int tensor [1]) slots are live; every
    query sees all of them. k_BHLK, v_BHLK, lengths_B, max_length, mask, counters: the private suffix, as for `attention`; lengths_B counts
    suffix tokens only, the T queries included. Past and suffix have one format: q's dtype, or int8 or float8_e4m3fn with float32
    scales for both, as `attention` takes them. Returns out_BNTK in q's dtype. Raises KernelError as `attention` does.
    """
    if prefix_k_HPK.dim() != 3 or q_BNTK.dim() != 4 or k_BHLK.dim() != 4:
        got = f"{q_BNTK.dim()}, {prefix_k_HPK.dim()} and {k_BHLK.dim()}"
        raise KernelError(f"{OP}: q, prefix_k and k have {got} axes, expected [B, N, T, K], [H, P, K] and [B, H, L, K]")
    K = q_BNTK.shape[-1]
    H, P = k_BHLK.shape[1], prefix_k_HPK.shape[1]
    check_attention(q_BNTK, k_BHLK, v_BHLK, lengths_B, max_length, mask, k_scale_BHL, v_scale_BHL, counters)
    for name, tensor in (("prefix_k", prefix_k_HPK), ("prefix_v", prefix_v_HPK)):
        check_tensor(OP, name, tensor, (H, P, K), (k_BHLK.dtype,), q_BNTK)
        check_last_stride(OP, name, tensor)
    for name, scale_HP in (("prefix_k_scale", prefix_k_scale_HP), ("prefix_v_scale", prefix_v_scale_HP)):
        if (scale_HP is None) != (k_scale_BHL is None):
            raise KernelError(f"{OP}: {name} is {'missing' if scale_HP is None else 'given'} for a {k_BHLK.dtype} cache")
        if scale_HP is not None:
            check_tensor(OP, name, scale_HP, (H, P), (torch.float32,), q_BNTK)
    check_tensor(OP, "prefix_length", prefix_length_1, (1,), (torch.int32, torch.int64), q_BNTK)
    launch: dict[str, Any] = {}
    if q_BNTK.is_cpu:
        if not 0 <= int(prefix_length_1) <= P:
            raise KernelError(f"{OP}: prefix_length is {int(prefix_length_1)}, expected 0..{P}, the capacity of the prefix")
        path = cpu.attention_shared_prefix
    else:
        from wfm_kernels.shared_prefix.triton import attention_shared_prefix as path

        launch = {"counters": counters}
    return path(
        q_BNTK, prefix_k_HPK, prefix_v_HPK, k_BHLK, v_BHLK, lengths_B,
        prefix_length_1=prefix_length_1, scale=scale, max_length=max_length, mask=mask, prefix_k_scale_HP=prefix_k_scale_HP,
        prefix_v_scale_HP=prefix_v_scale_HP, k_scale_BHL=k_scale_BHL, v_scale_BHL=v_scale_BHL, **launch,
    )  # fmt: skip
