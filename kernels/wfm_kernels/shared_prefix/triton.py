"""`attention_shared_prefix` on CUDA: the decode kernel over the past for all rows, again over each row's own tokens, and a merge."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from wfm_kernels.attention.masks import CAUSAL, FULL
from wfm_kernels.attention.triton import attention

TILE_ROWS = 64  # of the pass over the past


@triton.jit
def merge_kernel(a_ptr, lse_a_ptr, b_ptr, lse_b_ptr, out_ptr, rows, HEAD: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr):
    """Rows of [rows, HEAD], all contiguous."""
    row_M = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    offset_D = tl.arange(0, BLOCK_D)
    live_M = row_M < rows
    lse_a_M = tl.load(lse_a_ptr + row_M, mask=live_M, other=float("-inf"))
    lse_b_M = tl.load(lse_b_ptr + row_M, mask=live_M, other=float("-inf"))
    top_M = tl.maximum(lse_a_M, lse_b_M)
    top_M = tl.where(top_M == float("-inf"), 0.0, top_M)
    weight_a_M, weight_b_M = tl.exp(lse_a_M - top_M), tl.exp(lse_b_M - top_M)
    total_M = weight_a_M + weight_b_M
    total_M = tl.where(total_M > 0.0, total_M, 1.0)
    mask_MD = live_M[:, None] & (offset_D < HEAD)[None, :]
    pointer_MD = row_M.to(tl.int64)[:, None] * HEAD + offset_D[None, :]
    a_MD = tl.load(a_ptr + pointer_MD, mask=mask_MD, other=0.0).to(tl.float32)
    b_MD = tl.load(b_ptr + pointer_MD, mask=mask_MD, other=0.0).to(tl.float32)
    out_MD = a_MD * (weight_a_M / total_M)[:, None] + b_MD * (weight_b_M / total_M)[:, None]
    tl.store(out_ptr + pointer_MD, out_MD.to(out_ptr.dtype.element_ty), mask=mask_MD)


@torch.library.custom_op("wfm_kernels::merge_attention", mutates_args=())
def merge(out_a_BNTK: Tensor, lse_a_BNT: Tensor, out_b_BNTK: Tensor, lse_b_BNT: Tensor) -> Tensor:
    """See reference.merge."""
    out_a_BNTK, lse_a_BNT = out_a_BNTK.contiguous(), lse_a_BNT.contiguous()
    out_b_BNTK, lse_b_BNT = out_b_BNTK.contiguous(), lse_b_BNT.contiguous()
    out_BNTK = torch.empty_like(out_a_BNTK)
    rows, head = lse_a_BNT.numel(), out_a_BNTK.shape[-1]
    merge_kernel[(triton.cdiv(rows, 16),)](
        out_a_BNTK, lse_a_BNT, out_b_BNTK, lse_b_BNT, out_BNTK, rows, HEAD=head, BLOCK_M=16, BLOCK_D=triton.next_power_of_2(head)
    )
    return out_BNTK


@merge.register_fake
def _(out_a_BNTK, lse_a_BNT, out_b_BNTK, lse_b_BNT):
    return torch.empty(out_a_BNTK.shape, dtype=out_a_BNTK.dtype, device=out_a_BNTK.device)


def attention_shared_prefix(
    q_BNTK, prefix_k_HPK, prefix_v_HPK, k_BHLK, v_BHLK, lengths_B, *, prefix_length_1, scale=None, max_length=None, mask=CAUSAL,
    prefix_k_scale_HP=None, prefix_v_scale_HP=None, k_scale_BHL=None, v_scale_BHL=None,
) -> Tensor:  # fmt: skip
    """See reference.py. Reads nothing back to the host. A row has the same bits whatever its neighbours."""
    B, N, T, K = q_BNTK.shape
    q_1NRK = q_BNTK.transpose(0, 1).reshape(1, N, B * T, K)
    past = prefix_k_HPK[None], prefix_v_HPK[None], prefix_length_1
    scales = {"k_scale_BHL": k_scale_BHL, "v_scale_BHL": v_scale_BHL}
    if k_scale_BHL is None:
        past_scales = scales
    else:
        past_scales = {"k_scale_BHL": prefix_k_scale_HP[None], "v_scale_BHL": prefix_v_scale_HP[None]}
    # one tile whatever the number of futures: a smaller tile has other instructions, so a row's bits would follow the batch
    past_1NRK, past_lse_1NR = attention(q_1NRK, *past, scale=scale, mask=FULL, return_lse=True, tile_rows=TILE_ROWS, **past_scales)
    own = {"scale": scale, "max_length": max_length, "mask": mask, "return_lse": True}
    out_BNTK, lse_BNT = attention(q_BNTK, k_BHLK, v_BHLK, lengths_B, **own, **scales)
    past_BNTK = past_1NRK.view(N, B, T, K).transpose(0, 1)
    return merge(past_BNTK, past_lse_1NR.view(N, B, T).transpose(0, 1), out_BNTK, lse_BNT)
