"""The specification of `linear_cross_entropy`: all logits at once, gradients by autograd."""

from torch import Tensor


def linear_cross_entropy(hidden_RD: Tensor, weight_VD: Tensor, targets_R: Tensor, *, weights_R: Tensor, z_loss: float = 0.0) -> Tensor:
    """Weighted mean over rows of lse - logit[target] + z_loss * lse^2, in fp32. Source of the z-loss: PaLM (arXiv 2204.02311)."""
    logits_RV = hidden_RD.float() @ weight_VD.float().T
    lse_R = logits_RV.logsumexp(dim=-1)
    loss_R = lse_R - logits_RV.gather(-1, targets_R[:, None])[:, 0] + z_loss * lse_R.square()
    return (loss_R * weights_R).sum() / weights_R.sum()
