"""The residual block of the frame predictor, where it is told of the actions, and of the scene reader."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """x + conv(silu(conv(norm x) + what it is told)), told nothing where `told` is 0."""

    recomputable = True  # see train/recompute.py

    def __init__(self, channels: int, told: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))
        self.told = nn.Linear(told, channels) if told else None
        for weight in self.second.parameters():
            nn.init.zeros_(weight)

    def forward(self, x_BCHW: Tensor, told_BE: Tensor | None) -> Tensor:
        spread = torch.rsqrt(x_BCHW.float().square().mean(1, keepdim=True) + 1e-4).to(x_BCHW.dtype)  # of each place alone
        h = self.first(x_BCHW * spread * self.scale.to(x_BCHW.dtype)[:, None, None])
        if self.told is not None:
            h = h + self.told(told_BE)[..., None, None]
        return x_BCHW + self.second(F.silu(h))
