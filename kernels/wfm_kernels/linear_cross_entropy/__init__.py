"""Training loss from hidden states and the vocabulary matrix: only a chunk of the logits exists at any time.

Per chunk of rows: logits by a matrix product, loss and gradient over them in place, two more products for the gradients of
hidden states and matrix. Gradients are made in the forward pass, so logits are computed once. Source: Liger-Kernel's
fused linear cross entropy (arXiv 2410.10989).
"""

import torch
from torch import Tensor

from wfm_kernels.errors import KernelError, check_tensor
from wfm_kernels.linear_cross_entropy import cpu

__all__ = ["linear_cross_entropy"]

OP = "linear_cross_entropy"
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
CHUNK_BYTES = {"cpu": 8 << 20, "cuda": 224 << 20}  # of logits: in cache on a CPU, large products on a GPU
SLICES = 8  # of the vocabulary, for the gradient of a half-precision matrix on a CPU


def linear_cross_entropy(
    hidden_RD: Tensor,
    weight_VD: Tensor,
    targets_R: Tensor,
    *,
    weights_R: Tensor | None = None,
    z_loss: float = 0.0,
    chunk_rows: int | None = None,
    return_hits: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Weighted mean cross-entropy (+ z_loss * log-sum-exp^2) of rows against logits hidden_RD @ weight_VD.T; float32 scalar.

    hidden_RD, weight_VD: one dtype of float32, float16, bfloat16. targets_R: int64 in 0..V-1 (of rows with weight 0 too).
    weights_R: float32 >= 0, default 1 each; 0 leaves a row out; weights that sum to 0 give loss 0. chunk_rows: rows of logits at a
    time, default by memory. With return_hits also bool [R]: is the target a likeliest token of its row?
    Differentiable in hidden_RD and weight_VD. The values of targets and weights are checked on the CPU only.
    CPU tensors take cpu.rows_in_place, CUDA tensors triton.py. Raises KernelError for shapes, dtypes, devices, targets.
    """
    if hidden_RD.dim() != 2 or weight_VD.dim() != 2:
        raise KernelError(f"{OP}: hidden and weight have {hidden_RD.dim()} and {weight_VD.dim()} axes, expected [R, D] and [V, D]")
    (R, D), V = hidden_RD.shape, len(weight_VD)
    if min(D, V) < 1 or (chunk_rows is not None and chunk_rows < 1):
        raise KernelError(f"{OP}: D={D}, V={V}, chunk_rows={chunk_rows}, expected all at least 1")
    check_tensor(OP, "hidden", hidden_RD, (R, D), FLOATS, hidden_RD)
    check_tensor(OP, "weight", weight_VD, (V, D), (hidden_RD.dtype,), hidden_RD)
    check_tensor(OP, "targets", targets_R, (R,), (torch.int64,), hidden_RD)
    if weights_R is None:
        weights_R = torch.ones(R, dtype=torch.float32, device=hidden_RD.device)
    check_tensor(OP, "weights", weights_R, (R,), (torch.float32,), hidden_RD)
    if targets_R.is_cpu and R:
        if not (0 <= int(targets_R.min()) and int(targets_R.max()) < V):
            raise KernelError(f"{OP}: targets are in {int(targets_R.min())}..{int(targets_R.max())}, expected 0..{V - 1}")
        if not float(weights_R.min()) >= 0.0:
            raise KernelError(f"{OP}: the least of the weights is {float(weights_R.min())}, expected at least 0")
    if chunk_rows is None:
        chunk_rows = max(1, CHUNK_BYTES[hidden_RD.device.type] // (V * hidden_RD.element_size()))
    with torch.autocast(hidden_RD.device.type, enabled=False):  # the products are of the dtype given, not of the caller's autocast
        loss, hits_R = _LinearCrossEntropy.apply(hidden_RD, weight_VD, targets_R, weights_R, z_loss, chunk_rows)
    return (loss, hits_R) if return_hits else loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_RD, weight_VD, targets_R, weights_R, z_loss, chunk_rows):
        if hidden_RD.is_cpu:
            rows_in_place = cpu.rows_in_place
        else:
            from wfm_kernels.linear_cross_entropy.triton import rows_in_place
        wants_hidden, wants_weight = ctx.needs_input_grad[:2]
        total = weights_R.sum()
        share_R = weights_R / torch.where(total > 0.0, total, 1.0)
        losses, hits = [hidden_RD.new_zeros(0, dtype=torch.float32)], [targets_R.new_zeros(0, dtype=torch.bool)]
        grad_hidden_RD = torch.empty_like(hidden_RD) if wants_hidden else None
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if wants_weight else None
        for start in range(0, len(hidden_RD), chunk_rows):
            rows = slice(start, start + chunk_rows)
            logits_CV = hidden_RD[rows] @ weight_VD.T
            loss_C, hit_C = rows_in_place(logits_CV, targets_R[rows], share_R[rows], z_loss, wants_hidden or wants_weight)
            losses.append(loss_C)
            hits.append(hit_C)
            if grad_hidden_RD is not None:
                torch.mm(logits_CV, weight_VD, out=grad_hidden_RD[rows])
            if grad_weight_VD is None:
                pass
            elif grad_weight_VD.dtype == logits_CV.dtype:
                grad_weight_VD.addmm_(logits_CV.T, hidden_RD[rows])
            elif logits_CV.is_cuda:  # half factors, float sum, in place
                torch.addmm(grad_weight_VD, logits_CV.T, hidden_RD[rows], beta=min(start, 1), out_dtype=torch.float32, out=grad_weight_VD)
            else:  # a half product and a float sum: slices, so that the product is not a second matrix in memory
                for grad_SD, logits_CS in zip(grad_weight_VD.chunk(SLICES), logits_CV.chunk(SLICES, 1), strict=True):
                    grad_SD += logits_CS.T @ hidden_RD[rows]
                del logits_CS
            del logits_CV  # else two chunks exist while the next one is made
        ctx.save_for_backward(grad_hidden_RD, None if grad_weight_VD is None else grad_weight_VD.to(weight_VD.dtype))
        hits_R = torch.cat(hits)
        ctx.mark_non_differentiable(hits_R)
        return torch.cat(losses).sum(), hits_R

    @staticmethod
    def backward(ctx, grad_loss, _):
        grads = [None if g is None else g * grad_loss.to(g.dtype) for g in ctx.saved_tensors]
        return *grads, None, None, None, None
