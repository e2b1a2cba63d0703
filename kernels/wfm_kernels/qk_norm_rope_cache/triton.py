"""`qk_norm_rope_cache` on CUDA: one launch, one program a token and head; positions and slots stay on the device."""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _quantise(first_F, second_F, LARGEST: tl.constexpr, INTEGER: tl.constexpr):
    """(first, second, scale): the largest value becomes LARGEST; integers are rounded to nearest even."""
    scale = tl.maximum(tl.maximum(tl.max(tl.abs(first_F), 0), tl.max(tl.abs(second_F), 0)), 1e-12) / LARGEST
    first_F = tl.clamp(first_F / scale, -LARGEST, LARGEST)  # rounding must not push the largest over the edge: e4m3 has no infinity
    second_F = tl.clamp(second_F / scale, -LARGEST, LARGEST)
    if INTEGER:
        first_F, second_F = (first_F + 12582912.0) - 12582912.0, (second_F + 12582912.0) - 12582912.0  # 1.5 * 2^23: rounds in fp32
    return first_F, second_F, scale


@triton.jit
def qk_norm_rope_cache_kernel(
    qkv_ptr, q_weight_ptr, k_weight_ptr, cos_ptr, sin_ptr, position_ptr, slot_ptr, k_ptr, v_ptr, k_scale_ptr, v_scale_ptr, q_ptr,
    stride_xb, stride_xt, stride_kb, stride_kh, stride_kl, stride_vb, stride_vh, stride_vl, stride_sb, stride_sh, num_tokens, eps,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, PAIRS: tl.constexpr, PAIRS_T: tl.constexpr, PAIRS_TH: tl.constexpr,
    BLOCK_F: tl.constexpr, LARGEST: tl.constexpr, INTEGER: tl.constexpr,
):  # fmt: skip
    """Grid (B * T, N + 2 H). A program holds one head of one token as its two halves. LARGEST 0: the cache is not quantised."""
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    batch, token = row // num_tokens, row % num_tokens
    pair_F = tl.arange(0, BLOCK_F)
    live_F = pair_F < PAIRS
    x_ptr = qkv_ptr + batch * stride_xb + token * stride_xt + head * (2 * PAIRS)
    first_F = tl.load(x_ptr + pair_F, mask=live_F, other=0.0).to(tl.float32)
    second_F = tl.load(x_ptr + PAIRS + pair_F, mask=live_F, other=0.0).to(tl.float32)
    if head < HEADS + KV_HEADS:  # q or k: norm and turn
        weight_ptr = q_weight_ptr if head < HEADS else k_weight_ptr
        scale = tl.rsqrt((tl.sum(first_F * first_F, 0) + tl.sum(second_F * second_F, 0)) / (2 * PAIRS) + eps)
        first_F *= scale * tl.load(weight_ptr + pair_F, mask=live_F, other=0.0).to(tl.float32)
        second_F *= scale * tl.load(weight_ptr + PAIRS + pair_F, mask=live_F, other=0.0).to(tl.float32)
        axis_F = (pair_F >= PAIRS_T).to(tl.int32) + (pair_F >= PAIRS_TH).to(tl.int32)
        place_F = tl.maximum(tl.load(position_ptr + row * 3 + axis_F, mask=live_F, other=0), 0)
        cos_F = tl.load(cos_ptr + place_F * PAIRS + pair_F, mask=live_F, other=0.0)
        sin_F = tl.load(sin_ptr + place_F * PAIRS + pair_F, mask=live_F, other=0.0)
        first_F, second_F = first_F * cos_F - second_F * sin_F, second_F * cos_F + first_F * sin_F
    if head < HEADS:
        out_ptr = q_ptr + ((batch * HEADS + head) * num_tokens + token) * (2 * PAIRS)
        tl.store(out_ptr + pair_F, first_F.to(q_ptr.dtype.element_ty), mask=live_F)
        tl.store(out_ptr + PAIRS + pair_F, second_F.to(q_ptr.dtype.element_ty), mask=live_F)
    else:
        slot = tl.load(slot_ptr + row)
        if slot >= 0:
            if head < HEADS + KV_HEADS:
                cache_ptr = k_ptr + batch * stride_kb + (head - HEADS) * stride_kh + slot * stride_kl
            else:
                cache_ptr = v_ptr + batch * stride_vb + (head - HEADS - KV_HEADS) * stride_vh + slot * stride_vl
            if LARGEST > 0:
                first_F, second_F, scale = _quantise(first_F, second_F, LARGEST, INTEGER)
                if head < HEADS + KV_HEADS:
                    tl.store(k_scale_ptr + batch * stride_sb + (head - HEADS) * stride_sh + slot, scale)
                else:
                    tl.store(v_scale_ptr + batch * stride_sb + (head - HEADS - KV_HEADS) * stride_sh + slot, scale)
            tl.store(cache_ptr + pair_F, first_F.to(k_ptr.dtype.element_ty), mask=live_F)
            tl.store(cache_ptr + PAIRS + pair_F, second_F.to(k_ptr.dtype.element_ty), mask=live_F)


@torch.library.custom_op("wfm_kernels::qk_norm_rope_cache", mutates_args=("k_cache_BHLK", "v_cache_BHLK", "k_scale_BHL", "v_scale_BHL"))
def qk_norm_rope_cache_op(
    qkv_BTE: Tensor, q_weight_K: Tensor, k_weight_K: Tensor, cos_PF: Tensor, sin_PF: Tensor, positions_BT3: Tensor, slots_BT: Tensor,
    k_cache_BHLK: Tensor, v_cache_BHLK: Tensor, heads: int, axes: list[int],
    k_scale_BHL: Tensor | None, v_scale_BHL: Tensor | None, eps: float,
) -> Tensor:  # fmt: skip
    """The launch."""
    B, T, _ = qkv_BTE.shape
    H, K = k_cache_BHLK.shape[1], k_cache_BHLK.shape[3]
    q_BNTK = torch.empty(B, heads, T, K, dtype=qkv_BTE.dtype, device=qkv_BTE.device)
    largest = 0.0 if k_scale_BHL is None else 127.0 if k_cache_BHLK.dtype == torch.int8 else 448.0
    k_scale_BHL, v_scale_BHL = (q_BNTK, q_BNTK) if k_scale_BHL is None else (k_scale_BHL, v_scale_BHL)
    qk_norm_rope_cache_kernel[(B * T, heads + 2 * H)](
        qkv_BTE, q_weight_K, k_weight_K, cos_PF, sin_PF, positions_BT3, slots_BT, k_cache_BHLK, v_cache_BHLK,
        k_scale_BHL, v_scale_BHL, q_BNTK,
        *qkv_BTE.stride()[:2], *k_cache_BHLK.stride()[:3], *v_cache_BHLK.stride()[:3], *k_scale_BHL.stride()[:2], T, eps,
        HEADS=heads, KV_HEADS=H, PAIRS=K // 2, PAIRS_T=axes[0], PAIRS_TH=axes[0] + axes[1], BLOCK_F=triton.next_power_of_2(K // 2),
        LARGEST=largest, INTEGER=k_cache_BHLK.dtype == torch.int8, num_warps=1,
    )  # fmt: skip
    return q_BNTK


@qk_norm_rope_cache_op.register_fake
def _(
    qkv_BTE, q_weight_K, k_weight_K, cos_PF, sin_PF, positions_BT3, slots_BT, k_cache_BHLK, v_cache_BHLK,
    heads, axes, k_scale_BHL, v_scale_BHL, eps,
):  # fmt: skip
    return qkv_BTE.new_empty(qkv_BTE.shape[0], heads, qkv_BTE.shape[1], k_cache_BHLK.shape[3])


def qk_norm_rope_cache(
    qkv_BTE, q_weight_K, k_weight_K, cos_PF, sin_PF, positions_BT3, slots_BT, k_cache_BHLK, v_cache_BHLK,
    *, heads, axes, k_scale_BHL=None, v_scale_BHL=None, eps=1e-6,
) -> Tensor:  # fmt: skip
    """See reference.py."""
    tables = cos_PF, sin_PF, positions_BT3, slots_BT
    caches = k_cache_BHLK, v_cache_BHLK, heads, list(axes), k_scale_BHL, v_scale_BHL
    return qk_norm_rope_cache_op(qkv_BTE, q_weight_K, k_weight_K, *tables, *caches, eps)
