"""The row work of `linear_cross_entropy` on the CPU: loss, gradient and hits in place over a chunk of logits."""

import torch
from torch import Tensor


def rows_in_place(logits_CV: Tensor, targets_C: Tensor, share_C: Tensor, z_loss: float, gradient: bool) -> tuple[Tensor, Tensor]:
    """(loss of each row times its share, whether its target is a likeliest token). logits_CV is overwritten: with `gradient` by
    the gradient of the sum of those losses."""
    target_C1 = targets_C[:, None]
    picked_C = logits_CV.gather(-1, target_C1)[:, 0].float()
    top_C = logits_CV.amax(-1)
    hit_C = picked_C >= top_C.float()
    weight_CV = logits_CV.sub_(top_C[:, None]).exp_()  # one exponential serves the log-sum-exp and the gradient
    total_C = weight_CV.sum(-1, dtype=torch.float32)
    lse_C = top_C.float() + total_C.log()
    if gradient:
        weight_CV.mul_((share_C * (1.0 + 2.0 * z_loss * lse_C) / total_C)[:, None].to(logits_CV.dtype))
        logits_CV.scatter_add_(-1, target_C1, -share_C[:, None].to(logits_CV.dtype))
    return (lse_C - picked_C + z_loss * lse_C.square()) * share_C, hit_C
