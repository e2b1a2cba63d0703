"""The specification of `qk_norm_rope_cache`: what happens between the QKV product and attention, in fp32."""

import torch
from torch import Tensor


def qk_norm_rope_cache(
    qkv_BTE, q_weight_K, k_weight_K, cos_PF, sin_PF, positions_BT3, slots_BT, k_cache_BHLK, v_cache_BHLK,
    *, heads, axes, k_scale_BHL=None, v_scale_BHL=None, eps=1e-6,
) -> Tensor:  # fmt: skip
    """Norm q and k per head, rotate them by the three-axis position, write k and v into their slots, return q_BNTK.

    Pair f of a head is (x[f], x[f + K/2]); it turns by the table row of its axis's position: the first axes[0] pairs follow the
    time, then axes[1] the row, axes[2] the column. Source: RoFormer (arXiv 2104.09864), axes as in M-RoPE.
    """
    H, K = k_cache_BHLK.shape[1], k_cache_BHLK.shape[3]
    q_BTNK, k_BTHK, v_BTHK = qkv_BTE.float().unflatten(-1, (heads + 2 * H, K)).split([heads, H, H], dim=2)
    axis_F = torch.repeat_interleave(torch.arange(3), torch.tensor(axes)).to(qkv_BTE.device)
    row_BTF = positions_BT3[..., axis_F].clamp_min(0)  # negative: no position, no turn
    pair_F = torch.arange(K // 2, device=qkv_BTE.device)
    cos_BT1F, sin_BT1F = cos_PF[row_BTF, pair_F][:, :, None], sin_PF[row_BTF, pair_F][:, :, None]

    def norm_and_turn(x, weight_K):
        x = x * (x.square().mean(dim=-1, keepdim=True) + eps).rsqrt() * weight_K.float()
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos_BT1F - second * sin_BT1F, second * cos_BT1F + first * sin_BT1F], dim=-1)

    batch, token = (slots_BT >= 0).nonzero(as_tuple=True)
    slot = slots_BT[batch, token]
    for x_BTHK, cache, scales in ((norm_and_turn(k_BTHK, k_weight_K), k_cache_BHLK, k_scale_BHL), (v_BTHK, v_cache_BHLK, v_scale_BHL)):
        x = x_BTHK[batch, token]
        if scales is not None:
            largest = 127.0 if cache.dtype == torch.int8 else 448.0
            scale = x.abs().amax(dim=-1).clamp(min=1e-12) / largest
            scales[batch, :, slot] = scale
            x = (x / scale[..., None]).clamp(-largest, largest)
            x = x.round() if cache.dtype == torch.int8 else x
        cache[batch, :, slot] = x.to(cache.dtype)
    return norm_and_turn(q_BTNK, q_weight_K).to(qkv_BTE.dtype).transpose(1, 2).contiguous()
