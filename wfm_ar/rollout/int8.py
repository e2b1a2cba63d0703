"""Linear layers with weights in 8 bits: half the memory of bf16, each row with a scale of its own; what is computed stays as it was.

Weight-only: a row is rounded to 255 steps of its largest number, and multiplied out in the activations' dtype. For the few rows
of decoding the CPU would spend most of its time on turning the whole weight into floats again: there bf16 takes torch's own
product with 8-bit weights, where torch has it, and float32 turns a piece at a time that stays in the CPU's caches.
Measured on AVX512, 7,168 x 1,024, one row: bf16 2.1 ms whole, 0.4 ms so; float32 3.7 ms and 1.2 ms.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEW = 8  # rows up to which that is faster
PIECE = 256  # outputs that are floats at a time
AT_ONCE = 2**17  # numbers that are rounded at a time: larger pieces leave holes between the weights that nothing fills
AT_ONCE_CUDA = 2**24  # there each piece costs ten launches, and the allocator fills the holes


class Int8Linear(nn.Module):
    """y = (x W8^T) * scale, no bias."""

    weight8: Tensor
    scale: Tensor

    def __init__(self, weight_OI: Tensor, device: torch.device | str, dtype: torch.dtype) -> None:
        """weight_OI: floats [out, in], which are rounded where they lie; the product is in `dtype`, on `device`."""
        super().__init__()
        place = weight_OI.device
        weight8, scale = torch.empty(weight_OI.shape, dtype=torch.int8, device=place), torch.empty(len(weight_OI), device=place)
        rows = max(1, (AT_ONCE if weight_OI.is_cpu else AT_ONCE_CUDA) // weight_OI.shape[1])
        for weight, out8, out_scale in zip(weight_OI.split(rows), weight8.split(rows), scale.split(rows), strict=True):
            piece = weight.float()
            out_scale.copy_(piece.abs().amax(1).clamp_min_(1e-12) / 127)
            out8.copy_((piece / out_scale[:, None]).round_().clamp_(-127, 127))
        self.register_buffer("weight8", weight8.to(device))
        self.register_buffer("scale", scale.to(device, dtype))

    def forward(self, x: Tensor) -> Tensor:
        """floats [..., in] -> [..., out] in x's dtype."""
        few = x.is_cpu and x.shape[:-1].numel() <= FEW and not torch.is_grad_enabled()
        if few and x.dtype == torch.float32:
            return torch.cat([F.linear(x, piece.to(x.dtype)) for piece in self.weight8.split(PIECE)], -1) * self.scale
        if few and x.dtype == self.scale.dtype == torch.bfloat16 and _packed_fits(self.weight8):
            flat = x.reshape(-1, x.shape[-1]).contiguous()
            y = torch._weight_int8pack_mm(flat, self.weight8, self.scale)  # pyright: ignore - torch's stubs leave it out
            return y.view(*x.shape[:-1], -1)
        return F.linear(x, self.weight8.to(x.dtype)) * self.scale


def _packed_fits(weight8: Tensor) -> bool:
    """Whether torch has its product with 8-bit weights, which has no public name yet, and it takes this shape."""
    return hasattr(torch, "_weight_int8pack_mm") and not any(size % 32 for size in weight8.shape)


def quantisable(module: nn.Module) -> list[str]:
    """Names of the linear layers inside a network's blocks; embeddings and heads stay as they are."""
    return [
        name for name, part in module.named_modules() if isinstance(part, nn.Linear) and name.startswith("blocks.") and part.bias is None
    ]


def put_int8(module: nn.Module, name: str, weight_OI: Tensor, device: torch.device | str, dtype: torch.dtype) -> None:
    """Replace the linear layer `name`."""
    place, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(place), leaf, Int8Linear(weight_OI, device, dtype))
