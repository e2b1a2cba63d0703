"""Everything between the QKV product and attention in one launch: norm, rotary positions, quantise, cache write."""

import torch
from torch import Tensor

from wfm_kernels.errors import KernelError, check_cache_format, check_last_stride, check_tensor
from wfm_kernels.qk_norm_rope_cache import cpu

__all__ = ["qk_norm_rope_cache"]

OP = "qk_norm_rope_cache"
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
QUANTISED = (torch.int8, torch.float8_e4m3fn)


def qk_norm_rope_cache(
    qkv_BTE: Tensor,
    q_weight_K: Tensor,
    k_weight_K: Tensor,
    cos_PF: Tensor,
    sin_PF: Tensor,
    positions_BT3: Tensor,
    slots_BT: Tensor,
    k_cache_BHLK: Tensor,
    v_cache_BHLK: Tensor,
    *,
    heads: int,
    axes: tuple[int, int, int],
    k_scale_BHL: Tensor | None = None,
    v_scale_BHL: Tensor | None = None,
    eps: float = 1e-6,
) -> Tensor:
    """RMS-norm q and k per head, rotate them, write k and v into the cache (in place), return q_BNTK ready for `attention`.

    qkv_BTE: the QKV product, E = (heads + 2 H) * K: all q heads, then k, then v. q_weight_K, k_weight_K: norm weights.
    cos_PF, sin_PF: float32 tables, row = position, column = pair f of K/2. positions_BT3: int64 (t, h, w) of each token, each below
    P; a negative one turns by nothing, as 0 does. axes: pairs that follow t, h and w, summing to K/2.
    slots_BT: int64 cache slot of each token, distinct within a row, or -1 for a token that is not cached.
    k_cache_BHLK, v_cache_BHLK: qkv's dtype, or int8 or float8_e4m3fn with float32 scales
    k_scale_BHL, v_scale_BHL, which are written too. Positions and slots are not read back from the device, so one out of range
    is the caller's fault there; on the CPU it is refused.
    CPU tensors take cpu.py, CUDA tensors triton.py. Raises KernelError for shapes, dtypes, strides, devices.
    """
    if qkv_BTE.dim() != 3 or k_cache_BHLK.dim() != 4 or cos_PF.dim() != 2:
        got = f"{qkv_BTE.dim()}, {k_cache_BHLK.dim()} and {cos_PF.dim()}"
        raise KernelError(f"{OP}: qkv, k_cache and cos have {got} axes, expected [B, T, E], [B, H, L, K] and [P, K/2]")
    B, T, _ = qkv_BTE.shape
    _, H, L, K = k_cache_BHLK.shape
    if heads < 1:
        raise KernelError(f"{OP}: heads is {heads}, expected at least 1")
    if K % 2 or len(axes) != 3 or min(axes) < 0 or sum(axes) != K // 2:
        raise KernelError(f"{OP}: axes {axes} for heads of {K}, expected three numbers of at least 0 summing to {K // 2}")
    cache_dtypes = (qkv_BTE.dtype,) if k_scale_BHL is None else QUANTISED
    check_tensor(OP, "qkv", qkv_BTE, (B, T, (heads + 2 * H) * K), FLOATS, qkv_BTE)
    check_tensor(OP, "k_cache", k_cache_BHLK, (B, H, L, K), cache_dtypes, qkv_BTE)
    check_cache_format(OP, "k_cache", k_cache_BHLK)
    check_tensor(OP, "v_cache", v_cache_BHLK, (B, H, L, K), (k_cache_BHLK.dtype,), qkv_BTE)
    for name, weight_K in (("q_weight", q_weight_K), ("k_weight", k_weight_K)):
        check_tensor(OP, name, weight_K, (K,), FLOATS, qkv_BTE)
        check_last_stride(OP, name, weight_K)
    for name, table_PF in (("cos", cos_PF), ("sin", sin_PF)):
        check_tensor(OP, name, table_PF, (len(cos_PF), K // 2), (torch.float32,), qkv_BTE)
    check_tensor(OP, "positions", positions_BT3, (B, T, 3), (torch.int64,), qkv_BTE)
    check_tensor(OP, "slots", slots_BT, (B, T), (torch.int64,), qkv_BTE)
    if (k_scale_BHL is None) != (v_scale_BHL is None):
        missing = "k_scale" if k_scale_BHL is None else "v_scale"
        raise KernelError(f"{OP}: {missing} is missing, expected float32 ({B}, {H}, {L}) beside the other scale")
    for name, scale_BHL in (("k_scale", k_scale_BHL), ("v_scale", v_scale_BHL)):
        if scale_BHL is not None:
            check_tensor(OP, name, scale_BHL, (B, H, L), (torch.float32,), qkv_BTE)
            check_last_stride(OP, name, scale_BHL)
    for name, tensor in (("positions", positions_BT3), ("slots", slots_BT), ("cos", cos_PF), ("sin", sin_PF)):
        if not tensor.is_contiguous():
            raise KernelError(f"{OP}: {name} has strides {tensor.stride()}, expected contiguous; fix: {name}.contiguous()")
    if k_scale_BHL is not None and v_scale_BHL is not None and k_scale_BHL.stride() != v_scale_BHL.stride():
        raise KernelError(f"{OP}: k_scale and v_scale have strides {k_scale_BHL.stride()} and {v_scale_BHL.stride()}, expected equal ones")
    for name, tensor in (("qkv", qkv_BTE), ("k_cache", k_cache_BHLK), ("v_cache", v_cache_BHLK)):
        check_last_stride(OP, name, tensor)
    if qkv_BTE.is_cpu:
        for name, tensor, end in (("positions", positions_BT3, len(cos_PF)), ("slots", slots_BT, L)):
            if tensor.numel() and int(tensor.max()) >= end:
                raise KernelError(f"{OP}: the highest of {name} is {int(tensor.max())}, expected below {end}")
        path = cpu.qk_norm_rope_cache
    else:
        from wfm_kernels.qk_norm_rope_cache.triton import qk_norm_rope_cache as path
    return path(
        qkv_BTE, q_weight_K, k_weight_K, cos_PF, sin_PF, positions_BT3, slots_BT, k_cache_BHLK, v_cache_BHLK,
        heads=heads, axes=axes, k_scale_BHL=k_scale_BHL, v_scale_BHL=v_scale_BHL, eps=eps,
    )  # fmt: skip
