"""RMSNorm: the kernels' op where nothing is learnt, torch's own, which has a gradient everywhere, where something is."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wfm_kernels import rms_norm


class RMSNorm(nn.RMSNorm):
    """Over the last axis; x in any float dtype, computed in fp32 (torch's own under autocast: as it does)."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            # the weight in x's dtype: with autocast a mixed pair would leave the fused kernel
            return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)
        assert self.eps is not None
        return rms_norm(x, self.weight, eps=self.eps)
