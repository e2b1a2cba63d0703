"""The row work of `linear_cross_entropy` on CUDA: loss, and gradient written over the logits. The products are the library's."""

import torch
import triton
import triton.language as tl
from torch import Tensor

WARPS, WIDE = 8, 4096  # of a row's program, and logits it takes at once


@triton.jit
def cross_entropy_kernel(
    logits_ptr, target_ptr, share_ptr, loss_ptr, hit_ptr, stride_l, vocabulary, z_loss, GRADIENT: tl.constexpr, BLOCK_V: tl.constexpr
):  # fmt: skip
    """Grid (rows,): one sweep for the log-sum-exp, one for the gradient."""
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * stride_l
    target, share = tl.load(target_ptr + row), tl.load(share_ptr + row)
    m_W = tl.full([BLOCK_V // 8], float("-inf"), tl.float32)
    l_W = tl.zeros([BLOCK_V // 8], tl.float32)
    for start in tl.range(0, vocabulary, BLOCK_V, num_stages=3):
        id_V = start + tl.arange(0, BLOCK_V)
        logit_V = tl.load(logits_ptr + id_V, mask=id_V < vocabulary, other=float("-inf")).to(tl.float32)
        # eight neighbours are one thread's and share a maximum: no reduction between threads, one more exponential for eight
        logit_W8 = tl.reshape(logit_V, (BLOCK_V // 8, 8))
        new_m_W = tl.maximum(m_W, tl.max(logit_W8, 1))
        safe_m_W = tl.where(new_m_W == float("-inf"), 0.0, new_m_W)
        l_W = l_W * tl.exp(m_W - safe_m_W) + tl.sum(tl.exp(logit_W8 - safe_m_W[:, None]), 1)
        m_W = new_m_W
    m = tl.max(m_W, 0)
    lse = m + tl.log(tl.sum(l_W * tl.exp(m_W - m), 0))
    picked = tl.load(logits_ptr + target).to(tl.float32)
    tl.store(hit_ptr + row, (picked >= m).to(hit_ptr.dtype.element_ty))
    tl.store(loss_ptr + row, (lse - picked + z_loss * lse * lse) * share)
    if GRADIENT:
        tl.debug_barrier()  # the target's logit is read before any thread overwrites it
        factor = share * (1.0 + 2.0 * z_loss * lse)
        for start in tl.range(0, vocabulary, BLOCK_V, num_stages=3):
            id_V = start + tl.arange(0, BLOCK_V)
            logit_V = tl.load(logits_ptr + id_V, mask=id_V < vocabulary, other=float("-inf")).to(tl.float32)
            gradient_V = tl.exp(logit_V - lse) * factor - tl.where(id_V == target, share, 0.0)
            tl.store(logits_ptr + id_V, gradient_V.to(logits_ptr.dtype.element_ty), mask=id_V < vocabulary)


@torch.library.custom_op("wfm_kernels::cross_entropy_rows", mutates_args=("logits_CV",))
def rows_in_place(logits_CV: Tensor, targets_C: Tensor, share_C: Tensor, z_loss: float, gradient: bool) -> tuple[Tensor, Tensor]:
    """See cpu.rows_in_place."""
    C, V = logits_CV.shape
    loss_C = torch.empty(C, dtype=torch.float32, device=logits_CV.device)
    hit_C = torch.empty(C, dtype=torch.bool, device=logits_CV.device)
    cross_entropy_kernel[(C,)](
        logits_CV, targets_C.contiguous(), share_C.contiguous(), loss_C, hit_C, logits_CV.stride(0), V, z_loss,
        GRADIENT=gradient, BLOCK_V=max(8, min(triton.next_power_of_2(V), WIDE)), num_warps=WARPS,
    )  # fmt: skip
    return loss_C, hit_C


@rows_in_place.register_fake
def _(logits_CV, targets_C, share_C, z_loss, gradient):
    return share_C.new_empty(share_C.shape), torch.empty(share_C.shape, dtype=torch.bool, device=share_C.device)
