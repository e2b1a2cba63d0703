"""RMSNorm: the kernels' op where nothing is learnt, torch's own, which has a gradient everywhere, where something is."""

import torch
from torch import Tensor, nn
from wfm_kernels import rms_norm


class RMSNorm(nn.RMSNorm):
    """Over the last axis; x in any float dtype, computed in fp32 (torch's own under autocast: as it does)."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return super().forward(x)
        return rms_norm(x, self.weight, eps=self.eps)
