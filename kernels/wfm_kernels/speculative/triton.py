"""`speculative_accept` on CUDA: one program a row, no host read between draft and next step."""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def speculative_kernel(
    draft_ptr, q_ptr, p_ptr, seed_ptr, row_ptr, step_ptr, tokens_ptr, count_ptr, stride_qb, stride_qt, stride_pb, stride_pt,
    num_draft, vocabulary, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Grid (B,)."""
    b = tl.program_id(0).to(tl.int64)
    q_ptr += b * stride_qb
    p_ptr += b * stride_pb
    seed, row, step = tl.load(seed_ptr + b), tl.load(row_ptr + b).to(tl.uint32), tl.load(step_ptr + b).to(tl.uint32)
    zero = tl.zeros([], tl.uint32)
    accepted = 0
    for t in range(0, num_draft):
        token = tl.load(draft_ptr + b * num_draft + t)
        word, _, _, _ = tl.philox(seed, row, step, (zero + 1 + t).to(tl.uint32), zero)
        u = (word >> 8).to(tl.float32) * 5.9604644775390625e-08  # 2^-24
        fits = u * tl.load(q_ptr + t * stride_qt + token) < tl.load(p_ptr + t * stride_pt + token)
        take = (accepted == t) & fits
        tl.store(tokens_ptr + b * (num_draft + 1) + t, tl.where(take, token, -1))
        accepted += take.to(tl.int32)
    p_ptr += accepted * stride_pt
    q_ptr += accepted * stride_qt
    q_limit = tl.where(accepted < num_draft, vocabulary, 0)  # if nothing was refused, q counts as zero
    rest = 0.0
    for start in range(0, vocabulary, BLOCK_V):
        id_V = start + tl.arange(0, BLOCK_V)
        p_V = tl.load(p_ptr + id_V, mask=id_V < vocabulary, other=0.0)
        q_V = tl.load(q_ptr + id_V, mask=id_V < q_limit, other=0.0)
        rest += tl.sum(tl.maximum(p_V - q_V, 0.0), 0)
    q_limit = tl.where(rest > 0.0, q_limit, 0)  # p equals q up to rounding: draw from p
    if rest <= 0.0:
        for start in range(0, vocabulary, BLOCK_V):
            id_V = start + tl.arange(0, BLOCK_V)
            rest += tl.sum(tl.load(p_ptr + id_V, mask=id_V < vocabulary, other=0.0), 0)
    _, word, _, _ = tl.philox(seed, row, step, zero, zero)
    target = (word >> 8).to(tl.float32) * 5.9604644775390625e-08 * rest
    before = 0.0
    token = vocabulary
    last = 0
    for start in range(0, vocabulary, BLOCK_V):
        id_V = start + tl.arange(0, BLOCK_V)
        p_V = tl.load(p_ptr + id_V, mask=id_V < vocabulary, other=0.0)
        q_V = tl.load(q_ptr + id_V, mask=id_V < q_limit, other=0.0)
        weight_V = tl.maximum(p_V - q_V, 0.0)
        reached_V = (weight_V > 0.0) & (before + tl.cumsum(weight_V, 0) > target)
        token = tl.minimum(token, tl.min(tl.where(reached_V, id_V, vocabulary), 0))
        last = tl.maximum(last, tl.max(tl.where(weight_V > 0.0, id_V, 0), 0))
        before += tl.sum(weight_V, 0)
    token = tl.where(token < vocabulary, token, last)
    tl.store(tokens_ptr + b * (num_draft + 1) + num_draft, -1)
    tl.debug_barrier()  # the place may be the one just filled with -1
    tl.store(tokens_ptr + b * (num_draft + 1) + accepted, token.to(tl.int64))
    tl.store(count_ptr + b, (accepted + 1).to(tl.int64))


@torch.library.custom_op("wfm_kernels::speculative_accept", mutates_args=())
def speculative_accept(
    draft_BT: Tensor, draft_probs_BTV: Tensor, target_probs_BSV: Tensor, seed_B: Tensor, row_B: Tensor, step_B: Tensor
) -> tuple[Tensor, Tensor]:
    """See reference.py."""
    B, T, V = draft_probs_BTV.shape
    tokens_BS = torch.empty(B, T + 1, dtype=torch.int64, device=draft_BT.device)
    count_B = torch.empty(B, dtype=torch.int64, device=draft_BT.device)
    speculative_kernel[(B,)](
        draft_BT.contiguous(), draft_probs_BTV, target_probs_BSV, seed_B, row_B, step_B, tokens_BS, count_B,
        *draft_probs_BTV.stride()[:2], *target_probs_BSV.stride()[:2], T, V,
        BLOCK_V=min(triton.next_power_of_2(V), 4096), num_warps=8,
    )  # fmt: skip
    return tokens_BS, count_B


@speculative_accept.register_fake
def _(draft_BT, draft_probs_BTV, target_probs_BSV, seed_B, row_B, step_B):
    B, T = draft_BT.shape
    return draft_BT.new_empty(B, T + 1), draft_BT.new_empty(B)
