"""`swiglu` on the CPU: torch's silu in fp32; half precision takes the reference, which rounds once."""

import torch
import torch.nn.functional as F
from torch import Tensor

from wfm_kernels.swiglu import reference


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """See reference.py."""
    return F.silu(gate) * up if gate.dtype == torch.float32 else reference.swiglu(gate, up)
