"""`attention` on the CPU: torch's fused SDPA on the live part of the cache.

Promises: dead cache slots are never read; a row gives the same bits whatever its neighbours; when all rows are equally long
the work is one SDPA call, and for T == 1 two slices and no mask. Reads lengths_B on the host, so it is not for CUDA.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wfm_kernels.attention.masks import CAUSAL, Causal, Full, Mask, RingWindow, Slots, Tree, rows_of, visible


def attention(
    q_BNTK, k_BHLK, v_BHLK, lengths_B, *, scale=None, max_length=None, mask: Mask = CAUSAL, k_scale_BHL=None, v_scale_BHL=None,
    return_lse: bool = False,
) -> Any:  # fmt: skip
    """See reference.py for the maths and the package's `attention` for the arguments."""
    lengths = lengths_B.tolist()
    length = lengths[0]
    if len(lengths) == 1 or lengths.count(length) == len(lengths):
        return _equal_lengths(q_BNTK, k_BHLK, v_BHLK, length, scale, mask, k_scale_BHL, v_scale_BHL, return_lse)
    rows = []
    for b, n in enumerate(lengths):
        row = slice(b, b + 1)
        k_scale, v_scale = (None if s is None else s[row] for s in (k_scale_BHL, v_scale_BHL))
        rows.append(_equal_lengths(q_BNTK[row], k_BHLK[row], v_BHLK[row], n, scale, rows_of(mask, row), k_scale, v_scale, return_lse))
    if not return_lse:
        return torch.cat(rows)
    outs, lses = zip(*rows, strict=True)
    return torch.cat(outs), torch.cat(lses)


def _equal_lengths(q_BNTK, k_BHLK, v_BHLK, length: int, scale, mask: Mask, k_scale_BHL, v_scale_BHL, return_lse: bool):
    """All rows hold `length` tokens, the last T of them the queries."""
    B, N, T, K = q_BNTK.shape
    _, H, L, _ = k_BHLK.shape
    live = min(length, mask.slots) if isinstance(mask, RingWindow) else length
    if live == 0:
        out_BNTK = torch.zeros_like(q_BNTK)
        return (out_BNTK, out_BNTK.new_full((B, N, T), float("-inf"), dtype=torch.float32)) if return_lse else out_BNTK
    k_BHLK = live_slots(k_BHLK, k_scale_BHL, live, q_BNTK.dtype)
    v_BHLK = live_slots(v_BHLK, v_scale_BHL, live, q_BNTK.dtype)
    if T == live and isinstance(mask, Causal) and not return_lse:  # a prefill
        return F.scaled_dot_product_attention(q_BNTK, k_BHLK, v_BHLK, is_causal=True, scale=scale, enable_gqa=N != H)

    # The query heads of a group become rows of one tile: K and V are read once and never repeated.
    q_BHRK = q_BNTK.reshape(B, H, N // H * T, K)
    bias = _bias(mask, length, live, B, T, N // H, q_BNTK)
    lse_BHR = None
    if return_lse:
        out_BHRK, lse_BHR = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q_BHRK, k_BHLK, v_BHLK, attn_mask=bias, scale=scale)
    else:
        out_BHRK = F.scaled_dot_product_attention(q_BHRK, k_BHLK, v_BHLK, attn_mask=bias, scale=scale)
    if bias is not None and (T > length or isinstance(mask, Tree | Slots)):  # only then can a query see nothing
        blind_BHR = (bias == float("-inf")).all(dim=-1).expand(B, H, -1)
        out_BHRK = out_BHRK.masked_fill(blind_BHR[..., None], 0.0)
        lse_BHR = None if lse_BHR is None else lse_BHR.masked_fill(blind_BHR, float("-inf"))
    out_BNTK = out_BHRK.reshape(B, N, T, K)
    return out_BNTK if lse_BHR is None else (out_BNTK, lse_BHR.reshape(B, N, T))


def live_slots(x_BHLK: Tensor, scale_BHL: Tensor | None, live: int, dtype: torch.dtype) -> Tensor:
    """The live slots, dequantised where there is a scale."""
    x_BHLK = x_BHLK.narrow(2, 0, live)
    return x_BHLK if scale_BHL is None else (x_BHLK.float() * scale_BHL[:, :, :live, None]).to(dtype)


def _bias(mask: Mask, length: int, live: int, B: int, T: int, group: int, q: Tensor) -> Tensor | None:
    """Additive mask over the live slots for rows (group, T), cheaper than a boolean one that SDPA would convert; None: all seen."""
    if isinstance(mask, Full) or (T == 1 and isinstance(mask, Causal)):
        return None
    if isinstance(mask, Causal):
        bias_1RL = torch.full((T, live), float("-inf"), dtype=q.dtype).triu_(length - T + 1)
        return bias_1RL if group == 1 else bias_1RL.repeat(group, 1)
    lengths_B = torch.full((B if isinstance(mask, Tree | Slots) else 1,), length)
    hidden_BTL = ~visible(mask, lengths_B, T, live)
    bias_BTL = torch.zeros(hidden_BTL.shape, dtype=q.dtype).masked_fill_(hidden_BTL, float("-inf"))
    return bias_BTL.repeat(1, group, 1)[:, None]
