"""Low-rank updates beside frozen matrices: y = W x + B A x * (alpha / rank). Hu et al. 2021, arXiv 2106.09685.

B begins at zero, so an untrained one changes nothing; `merge_lora` folds the update into the matrix, and the network is plain again.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LAYERS = ("attention.qkv", "attention.out", "cross_attention.q", "cross_attention.kv", "cross_attention.out", "ffn.gate_up", "ffn.down")


class LoRALinear(nn.Module):
    """A frozen linear layer and its update of rank r."""

    def __init__(self, base: nn.Linear, rank: int, alpha: float) -> None:
        super().__init__()
        assert base.bias is None
        self.base, self.scale = base.requires_grad_(False), alpha / rank
        self.down = nn.Parameter(torch.randn(rank, base.in_features, device=base.weight.device) * base.in_features**-0.5)
        self.up = nn.Parameter(torch.zeros(base.out_features, rank, device=base.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + F.linear(F.linear(x, self.down.to(x.dtype)), self.up.to(x.dtype)) * self.scale

    def merged(self) -> nn.Linear:
        """The one linear layer that computes the same."""
        update = (self.up.float() @ self.down.float()) * self.scale
        self.base.weight.data = (self.base.weight.float() + update).to(self.base.weight.dtype)
        return self.base


def add_lora(model: Any, rank: int, alpha: float) -> None:
    """Freeze everything and put an update beside every matrix of every block."""
    model.requires_grad_(False)
    for block in model.blocks:
        for name in LAYERS:
            place, _, leaf = name.rpartition(".")
            parent = getattr(block, place)
            if parent is not None:
                setattr(parent, leaf, LoRALinear(getattr(parent, leaf), rank, alpha))


def merge_lora(model: nn.Module) -> None:
    """Fold every update into its matrix."""
    for parent in list(model.modules()):
        for leaf, child in list(parent.named_children()):
            if isinstance(child, LoRALinear):
                setattr(parent, leaf, child.merged())
