"""The specification of `linear_cross_entropy`: all logits at once, gradients by autograd."""

from torch import Tensor


def linear_cross_entropy(hidden_RD: Tensor, weight_VD: Tensor, targets_R: Tensor, *, weights_R: Tensor, z_loss: float = 0.0) -> Tensor:
    """Weighted mean over rows of lse - logit[target] + z_loss * lse^2, in fp32. Source of the z-loss: PaLM (arXiv 2204.02311)."""
    logits_RV = hidden_RD.float() @ weight_VD.float().T
    lse_R = logits_RV.logsumexp(dim=-1)
    loss_R = lse_R - logits_RV.gather(-1, targets_R[:, None])[:, 0] + z_loss * lse_R.square()
    return (loss_R * weights_R).sum() / weights_R.sum()


def rows_in_place(logits_CV: Tensor, targets_C: Tensor, share_C: Tensor, z_loss: float, gradient: bool) -> Tensor:
    """Loss of each row times its share; with `gradient`, logits_CV is overwritten by the gradient of the sum of those."""
    lse_C = logits_CV.float().logsumexp(dim=-1)
    picked_C = logits_CV.gather(-1, targets_C[:, None])[:, 0].float()
    if gradient:
        logits_CV.sub_(lse_C[:, None]).exp_().mul_((share_C * (1.0 + 2.0 * z_loss * lse_C))[:, None])
        logits_CV.scatter_add_(-1, targets_C[:, None], -share_C[:, None].to(logits_CV.dtype))
    return (lse_C - picked_C + z_loss * lse_C.square()) * share_C
