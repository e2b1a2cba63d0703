"""`attention_shared_prefix` on the CPU, in plain torch: the past goes through one fused call, the short suffix joins its softmax.

The past's result enters the suffix's softmax as one more key: its score is the past's log-sum-exp, its value the past's output.
So nothing is merged afterwards. Promises: a row gives the same bits in any batch, because the query rows of all futures go
through the past in blocks of one size, whatever their number. Source: Hydragen (arXiv 2402.05099).
"""

import torch
from torch import Tensor

from wfm_kernels.attention import sdpa
from wfm_kernels.attention.masks import CAUSAL, Causal, Full, Mask
from wfm_kernels.shared_prefix.reference import merge

BLOCK = 16  # query rows a block: nearly the speed of one call for all (8 % more time for 64 rows), and the same bits in any batch
LONG = 512  # own tokens that no cache holds
WIDE_BLOCK = 32  # with 4 query heads or more a KV head: 8 futures read a past that is larger than the caches once, not twice


def attention_shared_prefix(
    q_BNTK, prefix_k_HPK, prefix_v_HPK, k_BHLK, v_BHLK, lengths_B, *, prefix_length_1, scale=None, max_length=None, mask: Mask = CAUSAL,
    prefix_k_scale_HP=None, prefix_v_scale_HP=None, k_scale_BHL=None, v_scale_BHL=None,
) -> Tensor:  # fmt: skip
    """See reference.py for the maths and the package's `attention_shared_prefix` for the arguments. Lengths are read on the host."""
    B, N, T, K = q_BNTK.shape
    H, past, lengths = k_BHLK.shape[1], int(prefix_length_1), lengths_B.tolist()
    if k_scale_BHL is not None:  # the live slots in q's dtype: the products are those of a plain cache
        longest = max(lengths)
        k_BHLK, v_BHLK = (sdpa.live_slots(x, s, longest, q_BNTK.dtype) for x, s in ((k_BHLK, k_scale_BHL), (v_BHLK, v_scale_BHL)))
        prefix_k_HPK, prefix_v_HPK = (
            sdpa.live_slots(x[None], None if s is None else s[None], past, q_BNTK.dtype)[0]
            for x, s in ((prefix_k_HPK, prefix_k_scale_HP), (prefix_v_HPK, prefix_v_scale_HP))
        )
        max_length = longest
    if past == 0:
        return sdpa.attention(q_BNTK, k_BHLK, v_BHLK, lengths_B, scale=scale, max_length=max_length, mask=mask)
    q_BHRK = q_BNTK.mul(K**-0.5 if scale is None else scale).reshape(B, H, N // H * T, K)
    block = BLOCK if N < 4 * H else WIDE_BLOCK  # from the model's shape alone, so that a row's bits do not follow the batch
    past_BHRK, past_lse_BHR = _past(q_BHRK, _head(prefix_k_HPK, 1, past), _head(prefix_v_HPK, 1, past), block)
    if not isinstance(mask, Causal | Full) or lengths.count(lengths[0]) != B or lengths[0] < T or q_BNTK.dtype != torch.float32:
        out_BNTK, lse_BNT = sdpa.attention(
            q_BNTK, k_BHLK, v_BHLK, lengths_B, scale=scale, max_length=max_length, mask=mask, return_lse=True
        )
        return merge(past_BHRK.reshape(B, N, T, K), past_lse_BHR.reshape(B, N, T), out_BNTK, lse_BNT)
    live = lengths[0]
    causal = T > 1 and isinstance(mask, Causal)
    return _join(q_BHRK, past_BHRK, past_lse_BHR, _rows(k_BHLK, live), _rows(v_BHLK, live), T if causal else 1).view(B, N, T, K)


def _past(q_BHRK: Tensor, k_HPK: Tensor, v_HPK: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Every (scaled) query over the whole past -> (output [B, H, R, K], log-sum-exp [B, H, R])."""
    B, H, R, K = q_BHRK.shape
    rows, blocks = B * R, -(-B * R // block)
    q_HXK = q_BHRK.transpose(0, 1).reshape(H, rows, K)
    if blocks * block != rows:
        q_HXK = torch.constant_pad_nd(q_HXK, (0, 0, 0, blocks * block - rows))
    q = q_HXK.view(H, blocks, block, K).transpose(0, 1)
    k, v = k_HPK.expand(blocks, -1, -1, -1), v_HPK.expand(blocks, -1, -1, -1)
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, scale=1.0)  # in memory [blocks, block, H, *]
    out_XHK = _head(out.transpose(1, 2).reshape(blocks * block, H, K), 0, rows)
    lse_XH = _head(lse.transpose(1, 2).reshape(blocks * block, H), 0, rows)
    return out_XHK.view(B, R, H, K).transpose(1, 2), lse_XH.view(B, R, H).transpose(1, 2)


def _head(x: Tensor, axis: int, count: int) -> Tensor:
    return x if x.shape[axis] == count else x.narrow(axis, 0, count)


def _rows(x_BHLK: Tensor, live: int) -> Tensor:
    """The live slots as [B * H, live, K], without a copy where the strides allow it."""
    B, H, _, K = x_BHLK.shape
    if x_BHLK.stride(0) == H * x_BHLK.stride(1):
        return x_BHLK.as_strided((B * H, live, K), x_BHLK.stride()[1:])
    return x_BHLK.narrow(2, 0, live).flatten(0, 1)


def _join(q_BHRK: Tensor, past_BHRK: Tensor, lse_BHR: Tensor, k_XLK: Tensor, v_XLK: Tensor, T: int) -> Tensor:
    """Softmax over (past, own keys) and the weighted sum: [B * H, R, K]; X = B * H, R = (group, T)."""
    (X, live, K), R = k_XLK.shape, q_BHRK.shape[2]
    q_XRK = q_BHRK.reshape(X, R, K)
    if R >= 4 and live >= LONG:  # keys times queries: read from memory, the other way round takes 1.2 to 1.6 times as long
        own_XRL = torch.bmm(k_XLK, q_XRK.transpose(1, 2)).transpose(1, 2)
    else:
        own_XRL = torch.bmm(q_XRK, k_XLK.transpose(1, 2))  # with out= into a slice it would fall back to a loop
    if T > 1:
        own_XRL += q_BHRK.new_full((T, live), float("-inf")).triu_(live - T + 1).repeat(R // T, 1)
    weight_XRS = torch.softmax(torch.cat((lse_BHR.reshape(X, R, 1), own_XRL), -1), -1)
    past_XR1, own_XRL = weight_XRS.split((1, live), -1)
    return (past_BHRK.reshape(X, R, K) * past_XR1).baddbmm_(own_XRL, v_XLK)
