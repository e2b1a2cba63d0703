"""`qk_norm_rope_cache` on the CPU, and its parts for a caller who knows the coming positions and writes the cache himself.

A decode step of a few million parameters is bound by the number of calls, so a caller gathers the turns of all coming tokens
once (`turns`) and norms and turns q and k together (`norm_and_turn`). `turn` is also what training uses: it has a gradient.
"""

import functools

import torch
from torch import Tensor

from wfm_kernels.qk_norm_rope_cache import reference
from wfm_kernels.rms_norm.cpu import rms_norm


def turn(x: Tensor, cos_K: Tensor, sin_K: Tensor) -> Tensor:
    """Rotate the pairs (i, i + K/2) of the last axis; cos and sin as `turns` gives them, broadcast against x."""
    half = x.shape[-1] // 2
    if x.requires_grad:
        return x * cos_K + x.roll(half, -1) * sin_K
    swapped = torch.cat((x, x), -1).narrow(-1, half, 2 * half)  # halves exchanged; for a few tokens cheaper than roll
    return torch.addcmul(x * cos_K, swapped, sin_K)


def turns(cos_PF: Tensor, sin_PF: Tensor, positions_BT3: Tensor, axes: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """Rows of the tables for `turn`: cos and sin [B, T, 1, K], each value twice, the first half of sin negated."""
    row_BTF, pair_F = positions_BT3[..., _axis_of_pair(axes)].clamp_min(0), torch.arange(cos_PF.shape[1])
    cos_BT1F, sin_BT1F = cos_PF[row_BTF, pair_F].unsqueeze(2), sin_PF[row_BTF, pair_F].unsqueeze(2)
    return torch.cat((cos_BT1F, cos_BT1F), -1), torch.cat((-sin_BT1F, sin_BT1F), -1)


def norm_and_turn(x_BTSK: Tensor, weight_SK: Tensor, cos_BT1K: Tensor, sin_BT1K: Tensor, eps: float) -> Tensor:
    """RMS-norm every head with its own weights, then turn: q and k in one go (S query and key heads)."""
    return turn(rms_norm(x_BTSK, weight_SK, eps=eps), cos_BT1K, sin_BT1K)


def qk_norm_rope_cache(
    qkv_BTE, q_weight_K, k_weight_K, cos_PF, sin_PF, positions_BT3, slots_BT, k_cache_BHLK, v_cache_BHLK,
    *, heads, axes, k_scale_BHL=None, v_scale_BHL=None, eps=1e-6,
) -> Tensor:  # fmt: skip
    """See reference.py, which a quantised cache and half precision take."""
    arguments = qkv_BTE, q_weight_K, k_weight_K, cos_PF, sin_PF, positions_BT3, slots_BT, k_cache_BHLK, v_cache_BHLK
    if k_scale_BHL is not None or qkv_BTE.dtype != torch.float32:
        scales = dict(k_scale_BHL=k_scale_BHL, v_scale_BHL=v_scale_BHL)
        return reference.qk_norm_rope_cache(*arguments, heads=heads, axes=axes, eps=eps, **scales)
    H, K = k_cache_BHLK.shape[1], k_cache_BHLK.shape[3]
    x_BTSK = qkv_BTE.unflatten(-1, (heads + 2 * H, K))
    weight_SK = torch.cat((q_weight_K.float().expand(heads, -1), k_weight_K.float().expand(H, -1)))
    qk_BTSK = norm_and_turn(x_BTSK.narrow(2, 0, heads + H), weight_SK, *turns(cos_PF, sin_PF, positions_BT3, axes), eps)
    batch, token = (slots_BT >= 0).nonzero(as_tuple=True)
    slot = slots_BT[batch, token]
    k_cache_BHLK[batch, :, slot] = qk_BTSK[batch, token, heads:]
    v_cache_BHLK[batch, :, slot] = x_BTSK[batch, token, heads + H :]
    return qk_BTSK.narrow(2, 0, heads).transpose(1, 2).contiguous()


@functools.lru_cache(maxsize=16)
def _axis_of_pair(axes: tuple[int, int, int]) -> Tensor:
    with torch.inference_mode(False):
        return torch.repeat_interleave(torch.arange(3), torch.tensor(axes))
