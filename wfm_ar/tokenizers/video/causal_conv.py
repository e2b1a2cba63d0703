"""Convolutions, norms and resampling that never look at a later frame.

Promises: output t of every module depends on inputs up to t only, and a clip fed in pieces through a `Memory` gives what
the whole clip gives. Each module that needs the past keeps its own tail in the memory, so nobody has to plumb it.
"""

import torch
import torch.nn.functional as F
from torch import nn

Memory = dict[nn.Module, torch.Tensor]  # what a stream carries from chunk to chunk: module -> the tail it needs


def with_past(module: nn.Module, x: torch.Tensor, count: int, memory: Memory | None) -> torch.Tensor:
    """Put `count` earlier frames before x [B, C, T, H, W]: the stream's own, or frame 0 repeated at a clip's beginning."""
    if count == 0:
        return x
    past = None if memory is None else memory.get(module)
    if past is None:
        past = x[:, :, :1].expand(-1, -1, count, -1, -1)
    x = torch.cat((past, x), 2)
    if memory is not None:
        memory[module] = x[:, :, -count:].clone()
    return x


class CausalConv3d(nn.Conv3d):
    """Conv3d with kernel (t, s, s): spatial zero padding, the past in time. Input and output float [B, C, T, H, W]."""

    def __init__(self, c_in: int, c_out: int, time: int = 1, space: int = 1, stride: int = 1):
        super().__init__(c_in, c_out, (time, space, space), stride=(stride, 1, 1), padding=(0, space // 2, space // 2))

    def forward(self, x: torch.Tensor, memory: Memory | None = None) -> torch.Tensor:
        past = self.kernel_size[0] - 1
        if self.stride[0] > 1:  # a downsampling conv: its caller has put one frame before the clip already
            past -= self.stride[0] - 1
        return super().forward(with_past(self, x, past, memory))


class FactorisedConv(nn.Sequential):
    """(1, 3, 3) then (3, 1, 1): space first, then time, with no norm between."""

    def __init__(self, c_in: int, c_out: int):
        super().__init__(CausalConv3d(c_in, c_out, space=3), CausalConv3d(c_out, c_out, time=3))

    def forward(self, x: torch.Tensor, memory: Memory | None = None) -> torch.Tensor:
        return self[1](self[0](x), memory)


class FrameNorm(nn.GroupNorm):
    """GroupNorm with one group over each frame by itself (eps 1e-6): the published tokenizers' causal norm."""

    def __init__(self, channels: int):
        super().__init__(1, channels, eps=1e-6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        frames = x.transpose(1, 2).flatten(0, 1)
        return super().forward(frames).unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


class PlaceNorm(nn.Module):
    """RMS norm over the channels of each place of each frame (eps 1e-6).

    Nothing at one place depends on another: a still region keeps its codes whatever moves elsewhere, and a network
    trained on crops sees the same numbers on the whole picture.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # the weight in x's dtype: with autocast a mixed pair would leave the fused kernel
        return F.rms_norm(x.movedim(1, -1), self.weight.shape, self.weight.to(x.dtype), 1e-6).movedim(-1, 1)


NORMS = {"frame": FrameNorm, "place": PlaceNorm}


def _means(x: torch.Tensor, block: tuple[int, int, int]) -> torch.Tensor:
    """The means of blocks of places. On the CPU torch has them in single precision alone."""
    if x.is_cpu and x.dtype in (torch.bfloat16, torch.float16):
        return F.avg_pool3d(x.float(), block).to(x.dtype)
    return F.avg_pool3d(x, block)


class Downsample(nn.Module):
    """Halve space, or time, or both: strided conv plus average pool, then 1x1x1. [B, C, T, H, W]; T = 1 + 2n -> 1 + n."""

    def __init__(self, channels: int, time: bool, space: bool):
        super().__init__()
        self.time, self.space = time, space
        if space:
            self.conv1 = nn.Conv3d(channels, channels, (1, 3, 3), stride=(1, 2, 2))
        if time:
            self.conv2 = CausalConv3d(channels, channels, time=3, stride=2)
        self.conv3 = CausalConv3d(channels, channels)

    def forward(self, x: torch.Tensor, memory: Memory | None = None) -> torch.Tensor:
        if self.space:
            padded = F.pad(x, (0, 1, 0, 1))
            x = self.conv1(padded) + _means(padded, (1, 2, 2))
        if self.time:
            # Pairs are (0, 0), (1, 2), (3, 4) ...: only the clip's first frame is doubled, a stream's chunk is not.
            begins = memory is None or self.conv2 not in memory
            padded = torch.cat((x[:, :, :1], x), 2) if begins else x
            x = self.conv2(padded, memory) + _means(padded, (2, 1, 1))
        return self.conv3(x)


class Upsample(nn.Module):
    """Double space, or time, or both: nearest neighbour plus conv residual, then 1x1x1. T = 1 + n -> 1 + 2n."""

    def __init__(self, channels: int, time: bool, space: bool):
        super().__init__()
        self.time, self.space = time, space
        if time:
            self.conv1 = CausalConv3d(channels, channels, time=3)
        if space:
            self.conv2 = CausalConv3d(channels, channels, space=3)
        self.conv3 = CausalConv3d(channels, channels)

    def forward(self, x: torch.Tensor, memory: Memory | None = None) -> torch.Tensor:
        if self.time:
            begins = memory is None or self.conv1 not in memory
            x = x.repeat_interleave(2, 2)[:, :, 1 if begins else 0 :]
            x = x + self.conv1(x, memory)
        if self.space:
            x = x.repeat_interleave(2, 3).repeat_interleave(2, 4)
            x = x + self.conv2(x)
        return self.conv3(x)
