"""Accept or refuse drafted tokens so that what comes out is distributed exactly as the target model's own samples."""

import math

import torch
from torch import Tensor

from wfm_kernels.errors import KernelError, check_last_stride, check_tensor
from wfm_kernels.speculative import reference

__all__ = ["speculative_accept"]

OP = "speculative_accept"


def speculative_accept(
    draft_BT: Tensor, draft_probs_BTV: Tensor, target_probs_BSV: Tensor, seed_B: Tensor, row_B: Tensor, step_B: Tensor
) -> tuple[Tensor, Tensor]:
    """draft_BT: int64 tokens, each drawn from its row of draft_probs_BTV (float32, rows sum to 1; filtered as the draft was drawn).

    target_probs_BSV: float32 with S = T + 1: the target's distribution at each drafted place and one beyond.
    seed_B, row_B, step_B: int64 keys as for `sample`; one key gives T + 1 independent draws, none of them `sample`'s own.
    Returns (tokens int64 [B, T + 1], count int64 [B]): the accepted tokens and one newly drawn, 1..T + 1 of them, then -1.
    CPU tensors take reference.py, CUDA tensors triton.py. Raises KernelError for shapes, dtypes, strides, devices, and
    on the CPU for tokens outside the vocabulary and for what cannot be probabilities.
    """
    if draft_probs_BTV.dim() != 3 or min(draft_probs_BTV.shape) < 1:
        raise KernelError(f"{OP}: draft_probs has shape {tuple(draft_probs_BTV.shape)}, expected [B, T, V], all at least 1")
    B, T, V = draft_probs_BTV.shape
    check_tensor(OP, "draft_probs", draft_probs_BTV, (B, T, V), (torch.float32,), draft_probs_BTV)
    check_tensor(OP, "target_probs", target_probs_BSV, (B, T + 1, V), (torch.float32,), draft_probs_BTV)
    check_tensor(OP, "draft", draft_BT, (B, T), (torch.int64,), draft_probs_BTV)
    for name, tensor in (("seed", seed_B), ("row", row_B), ("step", step_B)):
        check_tensor(OP, name, tensor, (B,), (torch.int64,), draft_probs_BTV)
    for name, tensor in (
        ("draft_probs", draft_probs_BTV),
        ("target_probs", target_probs_BSV),
        ("seed", seed_B),
        ("row", row_B),
        ("step", step_B),
    ):
        check_last_stride(OP, name, tensor)
    if draft_probs_BTV.is_cpu:
        if not (0 <= int(draft_BT.min()) and int(draft_BT.max()) < V):
            raise KernelError(f"{OP}: drafted tokens are in {int(draft_BT.min())}..{int(draft_BT.max())}, expected 0..{V - 1}")
        for name, probs in (("draft_probs", draft_probs_BTV), ("target_probs", target_probs_BSV)):
            least, most = (float(x) for x in probs.aminmax())
            if not (least >= 0.0 and most < math.inf):
                raise KernelError(f"{OP}: {name} are in {least}..{most}, expected probabilities")
        path = reference.speculative_accept
    else:
        from wfm_kernels.speculative.triton import speculative_accept as path
    return path(draft_BT, draft_probs_BTV, target_probs_BSV, seed_B, row_B, step_B)
