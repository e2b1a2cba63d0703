"""Linear layers with weights in 8 bits: half the memory of bf16, each row with a scale of its own; what is computed stays as it was.

Weight-only: a row is rounded to 255 steps of its largest number, and multiplied out in the activations' dtype.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Int8Linear(nn.Module):
    """y = (x W8^T) * scale, no bias."""

    def __init__(self, weight_OI: Tensor, device: torch.device | str, dtype: torch.dtype) -> None:
        """weight_OI: floats [out, in]; the product is in `dtype`."""
        super().__init__()
        scale_O1 = weight_OI.float().abs().amax(1, keepdim=True).clamp_min(1e-12) / 127
        rounded = (weight_OI.float() / scale_O1).round().clamp(-127, 127).to(torch.int8)
        self.register_buffer("weight8", rounded.to(device))
        self.register_buffer("scale", scale_O1.squeeze(1).to(device, dtype))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight8.to(x.dtype)) * self.scale


def quantisable(module: nn.Module) -> list[str]:
    """Names of the linear layers inside a network's blocks; embeddings and heads stay as they are."""
    return [
        name for name, part in module.named_modules() if isinstance(part, nn.Linear) and name.startswith("blocks.") and part.bias is None
    ]


def put_int8(module: nn.Module, name: str, weight_OI: Tensor, device: torch.device | str, dtype: torch.dtype) -> None:
    """Replace the linear layer `name`."""
    place, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(place), leaf, Int8Linear(weight_OI, device, dtype))
