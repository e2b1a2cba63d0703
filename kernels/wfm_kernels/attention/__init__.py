"""Attention of T query tokens a row against a KV cache of ragged rows: the heart of decoding."""

from typing import Any, Literal, overload

import torch
from torch import Tensor

from wfm_kernels.attention import sdpa
from wfm_kernels.attention.masks import CAUSAL, FULL, Causal, Full, Mask, RingWindow, Slots, Tree, check_mask
from wfm_kernels.errors import KernelError, check_cache_format, check_last_stride, check_tensor

__all__ = ["CAUSAL", "FULL", "Causal", "Full", "RingWindow", "Slots", "Tree", "attention"]

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
QUANTISED = (torch.int8, torch.float8_e4m3fn)


@overload
def attention(
    q_BNTK: Tensor,
    k_BHLK: Tensor,
    v_BHLK: Tensor,
    lengths_B: Tensor,
    *,
    scale: float | None = None,
    max_length: int | None = None,
    mask: Mask = CAUSAL,
    k_scale_BHL: Tensor | None = None,
    v_scale_BHL: Tensor | None = None,
    return_lse: Literal[False] = False,
    counters: Tensor | None = None,
) -> Tensor: ...
@overload
def attention(
    q_BNTK: Tensor,
    k_BHLK: Tensor,
    v_BHLK: Tensor,
    lengths_B: Tensor,
    *,
    scale: float | None = None,
    max_length: int | None = None,
    mask: Mask = CAUSAL,
    k_scale_BHL: Tensor | None = None,
    v_scale_BHL: Tensor | None = None,
    return_lse: Literal[True],
    counters: Tensor | None = None,
) -> tuple[Tensor, Tensor]: ...
def attention(
    q_BNTK: Tensor,
    k_BHLK: Tensor,
    v_BHLK: Tensor,
    lengths_B: Tensor,
    *,
    scale: float | None = None,
    max_length: int | None = None,
    mask: Mask = CAUSAL,
    k_scale_BHL: Tensor | None = None,
    v_scale_BHL: Tensor | None = None,
    return_lse: bool = False,
    counters: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of the newest T tokens of each row against its cache, which already holds their keys and values.

    q_BNTK: queries, float32, float16 or bfloat16; N a multiple of H: kv head j serves query heads j*N/H .. (j+1)*N/H - 1.
    K at most 256 on CUDA.
    k_BHLK, v_BHLK: cache of L slots, any strides but the last, which is 1; q's dtype, or int8 or float8_e4m3fn (CUDA: sm_89 on)
    with float32 scales k_scale_BHL and v_scale_BHL (value = stored * scale). Slots that hold nothing live are never read.
    lengths_B: int32 or int64, tokens of each row so far, its T queries included: 0..L (any number over a RingWindow).
    scale: of the scores, default K**-0.5. max_length: host-known bound on lengths_B (default L); sets the CUDA launch's shape.
    counters: int32 zeros, B*N*T of them, that a launch counts its blocks in and leaves zero: given, a launch on CUDA is one node of a
    graph; not given, they are made and filled each time. One set serves launches that follow one another, not two streams at once.
    mask: CAUSAL, FULL (a frame decoded in parallel; a text context of lengths_B tokens), Tree, Slots (a text context
    whose mask may have holes) or RingWindow: see masks.py.
    Returns out_BNTK in q's dtype, zeros for a query that sees nothing; with return_lse also the natural log-sum-exp of the
    scaled scores, float32 [B, N, T]. Bitwise the same whatever the row's neighbours.
    CPU tensors take sdpa.py; CUDA tensors take triton.py, which reads nothing back to the host (lengths are not checked there).
    Raises KernelError for shapes, dtypes, strides, devices, masks that do not fit, and on the CPU for lengths out of range.
    """
    _check(q_BNTK, k_BHLK, v_BHLK, lengths_B, max_length, mask, k_scale_BHL, v_scale_BHL, counters)
    launch: dict[str, Any] = {}
    if q_BNTK.is_cpu:
        path = sdpa.attention
    elif q_BNTK.is_cuda:
        from wfm_kernels.attention.triton import attention as path

        launch = {"counters": counters}
    else:
        raise KernelError(f"attention: no path for device {q_BNTK.device}, expected cpu or cuda")
    return path(
        q_BNTK, k_BHLK, v_BHLK, lengths_B, scale=scale, max_length=max_length, mask=mask, k_scale_BHL=k_scale_BHL, v_scale_BHL=v_scale_BHL,
        return_lse=return_lse, **launch,
    )  # fmt: skip


def _check(q_BNTK, k_BHLK, v_BHLK, lengths_B, max_length, mask, k_scale_BHL, v_scale_BHL, counters=None) -> None:
    if q_BNTK.dim() != 4 or k_BHLK.dim() != 4:
        raise KernelError(f"attention: q and k have {q_BNTK.dim()} and {k_BHLK.dim()} axes, expected [B, N, T, K] and [B, H, L, K]")
    B, N, T, K = q_BNTK.shape
    _, H, L, _ = k_BHLK.shape
    if min(B, N, T, K, H, L) < 1:
        raise KernelError(f"attention: B={B}, N={N}, T={T}, K={K}, H={H}, L={L}, expected all at least 1")
    if N % H:
        raise KernelError(f"attention: {N} query heads over {H} kv heads, expected a multiple")
    check_tensor("attention", "q", q_BNTK, (B, N, T, K), FLOATS, q_BNTK)
    if k_BHLK.dtype in QUANTISED:
        if k_scale_BHL is None or v_scale_BHL is None:
            raise KernelError(f"attention: k is {k_BHLK.dtype} without k_scale and v_scale, expected float32 ({B}, {H}, {L}) for both")
        check_tensor("attention", "k_scale", k_scale_BHL, (B, H, L), (torch.float32,), q_BNTK)
        check_tensor("attention", "v_scale", v_scale_BHL, (B, H, L), (torch.float32,), q_BNTK)
        cache_dtypes = (k_BHLK.dtype,)
        check_cache_format("attention", "k", k_BHLK)
    else:
        if k_scale_BHL is not None or v_scale_BHL is not None:
            raise KernelError(f"attention: k_scale or v_scale given for a {k_BHLK.dtype} cache, expected int8 or float8_e4m3fn")
        cache_dtypes = (q_BNTK.dtype,)
    check_tensor("attention", "k", k_BHLK, (B, H, L, K), cache_dtypes, q_BNTK)
    check_tensor("attention", "v", v_BHLK, (B, H, L, K), cache_dtypes, q_BNTK)
    check_tensor("attention", "lengths", lengths_B, (B,), (torch.int32, torch.int64), q_BNTK)
    check_last_stride("attention", "q", q_BNTK)
    check_last_stride("attention", "k", k_BHLK)
    check_last_stride("attention", "v", v_BHLK)
    if mask is not CAUSAL:
        check_mask(mask, B, T, L, q_BNTK.device)
    if counters is not None:
        check_tensor("attention", "counters", counters, tuple(counters.shape), (torch.int32,), q_BNTK)
        if counters.numel() < B * N * T or not counters.is_contiguous():
            raise KernelError(f"attention: counters are {tuple(counters.shape)}, expected {B * N * T} numbers or more, contiguous")
    if max_length is not None and not 1 <= max_length <= L:
        raise KernelError(f"attention: max_length is {max_length}, expected 1..{L} (the capacity of the cache)")
    if lengths_B.is_cpu:
        lengths, bound = lengths_B.tolist(), L if max_length is None else max_length
        if min(lengths) < 0 or (max(lengths) > bound and not isinstance(mask, RingWindow)):
            raise KernelError(f"attention: lengths are {lengths}, expected each in 0..{bound}")
