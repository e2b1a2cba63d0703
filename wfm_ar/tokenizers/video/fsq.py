"""Finite scalar quantisation (Mentzer et al. 2023, arXiv 2309.15505): each channel rounds to a few levels of its own.

Promises: codes <-> token ids is a bijection over the whole codebook, and the gradient passes the rounding unchanged.
The first level is the least significant digit of the id, as in the Cosmos tokenizers.
"""

import math

import torch
from torch import nn


class FSQ(nn.Module):
    """levels L_1..L_c -> a codebook of prod(L) ids. Codes are float in [-1, 1], channel-first; ids int64."""

    _levels: torch.Tensor  # [1, c, 1, 1, 1], as all of them
    _basis: torch.Tensor
    _half: torch.Tensor
    _offset: torch.Tensor
    _shift: torch.Tensor

    def __init__(self, levels: tuple[int, ...]):
        super().__init__()
        self.levels, self.codebook_size = levels, math.prod(levels)
        basis = [math.prod(levels[:i]) for i in range(len(levels))]
        shape, where = (1, len(levels), 1, 1, 1), torch.get_default_device()
        with torch.device("cpu"):  # arithmetic on the meta device makes torch import its compiler, a second and more
            half = (torch.tensor(levels, dtype=torch.float64) - 1) * (1 + 1e-3) / 2
            offset = torch.tensor([0.5 if level % 2 == 0 else 0.0 for level in levels], dtype=torch.float64)
            tables = {"_levels": torch.tensor(levels), "_basis": torch.tensor(basis)}
            tables |= {"_half": half.float(), "_offset": offset.float(), "_shift": (offset / half).atanh().float()}
        for name, table in tables.items():
            self.register_buffer(name, table.view(shape).to(where), persistent=False)

    def bound(self, z_Bcthw: torch.Tensor) -> torch.Tensor:
        """Squash to the open range of each channel's levels: tanh(z + shift) * half - offset, in fp32."""
        return (z_Bcthw.float() + self._shift).tanh() * self._half - self._offset

    def forward(self, z_Bcthw: torch.Tensor) -> torch.Tensor:
        """Latents of about unit spread -> codes in [-1, 1], of z's dtype, straight-through gradient."""
        bounded = self.bound(z_Bcthw)
        rounded = bounded + (bounded.round() - bounded).detach()
        return (rounded / (self._levels // 2)).to(z_Bcthw.dtype)

    def codes_to_ids(self, codes_Bcthw: torch.Tensor) -> torch.Tensor:
        """[B, c, t, h, w] codes -> int64 ids [B, t, h, w] in [0, codebook_size)."""
        half = self._levels // 2
        digits = (codes_Bcthw.float() * half).round().long() + half
        return (digits * self._basis).sum(1)

    def ids_to_codes(self, ids_Bthw: torch.Tensor) -> torch.Tensor:
        """int64 ids [B, t, h, w] -> float32 codes [B, c, t, h, w] (exact in bf16 for the published levels)."""
        half = self._levels // 2
        digits = (ids_Bthw.unsqueeze(1) // self._basis) % self._levels
        return (digits - half).float() / half
