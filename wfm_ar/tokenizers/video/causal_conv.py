"""Convolutions, norms and resampling that never look at a later frame.

Promises: output t of every module depends on inputs up to t only, and a clip fed in pieces through a `Memory` gives what
the whole clip gives. Each module that needs the past keeps its own tail in the memory, so nobody has to plumb it.

Large float32 networks on the CPU run at the speed of its multiplications, so in inference they do fewer: taps that meet the same
input are added up first. Frame 0 repeated before a clip's beginning meets two or three taps in time; each place of a picture that
is doubled meets four taps of nine. Same numbers up to rounding.
"""

import torch
import torch.nn.functional as F
from torch import nn

from wfm_ar.tokenizers.video.winograd import conv3x3

Memory = dict[nn.Module, torch.Tensor]  # what a stream carries from chunk to chunk: module -> the tail it needs
TILED = 2**9  # places of a picture below which transforming the weights costs more than it saves
WINOGRAD = 2**17  # weights of a convolution below which torch's own is faster
LARGE = 3 * 2**14  # weights of a convolution below which adding taps up, and the calls it takes, do not pay


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

    bias: nn.Parameter  # never left out

    def __init__(self, c_in: int, c_out: int, time: int = 1, space: int = 1, stride: int = 1):
        super().__init__(c_in, c_out, (time, space, space), stride=(stride, 1, 1), padding=(0, space // 2, space // 2))

    def forward(self, x: torch.Tensor, memory: Memory | None = None) -> torch.Tensor:
        if self.stride[0] == 1 and multiplies_fast(self, x):
            channels_last = self.weight.stride(1) == 1
            if self.kernel_size == (1, 1, 1):
                return self._product(x)
            if self.kernel_size == (3, 1, 1) and (channels_last or self.weight.numel() >= LARGE):
                return self._in_products(x, memory)
            if self.kernel_size == (1, 3, 3) and self.weight.numel() >= WINOGRAD and tiled(x):
                return self._in_tiles(x)
            if self.kernel_size == (1, 3, 3) and channels_last:
                return _conv_of_pictures(x, self.weight, self.bias, 1)
        past = self.kernel_size[0] - 1
        if self.stride[0] > 1:  # a downsampling conv: its caller has put one frame before the clip already
            past -= self.stride[0] - 1
        return super().forward(with_past(self, x, past, memory))

    def _in_tiles(self, x: torch.Tensor) -> torch.Tensor:
        """Kernel (1, 3, 3) by winograd.py."""
        B, C, T, H, W = x.shape
        pictures = x.permute(0, 2, 3, 4, 1).reshape(B * T, H, W, C)
        return conv3x3(pictures, self.weight[:, :, 0], self.bias).view(B, T, H, W, -1).permute(0, 4, 1, 2, 3)

    def _product(self, x: torch.Tensor) -> torch.Tensor:
        """Kernel (1, 1, 1), where channels lie last; torch's own would lay them first and back."""
        return F.linear(x.permute(0, 2, 3, 4, 1), self.weight.flatten(1), self.bias).permute(0, 4, 1, 2, 3)

    def _in_products(self, x: torch.Tensor, memory: Memory | None) -> torch.Tensor:
        """Kernel (3, 1, 1) as products of frames with taps: output t is w2 x[t] + w1 x[t-1] + w0 x[t-2], and frame 0 stands for
        what is before it. The memory holds the frames that there were, so that a chunk adds up what the whole clip does."""
        T = x.shape[2]
        if memory is not None:
            x = torch.cat((memory[self], x), 2) if self in memory else x
            memory[self] = x[:, :, -2:].clone()
        B, C, S, H, W = x.shape
        skip = S - T  # frames of the past: their outputs are made
        x_BSPC = x.permute(0, 2, 3, 4, 1).reshape(B, S, H * W, C)  # a view where channels lie last
        w0, w1, w2 = self.weight.flatten(2).permute(2, 0, 1).contiguous()  # [out, in]
        out = x.new_empty(B, T, H * W, self.out_channels)
        for frames_SPC, made in zip(x_BSPC, out, strict=True):
            if skip == 0:
                torch.addmm(self.bias, frames_SPC[0], (w0 + w1 + w2).T, out=made[0])
            if skip <= 1 < S:
                torch.addmm(self.bias, frames_SPC[1], w2.T, out=made[1 - skip]).addmm_(frames_SPC[0], (w0 + w1).T)
            if S > 2:
                whole = made[2 - skip :].flatten(0, 1)
                torch.addmm(self.bias, frames_SPC[2:].flatten(0, 1), w2.T, out=whole)
                whole.addmm_(frames_SPC[1:-1].flatten(0, 1), w1.T).addmm_(frames_SPC[:-2].flatten(0, 1), w0.T)
        return out.view(B, T, H, W, -1).permute(0, 4, 1, 2, 3)


def _conv_of_pictures(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, padding: int) -> torch.Tensor:
    """A convolution with kernel (1, s, s) by torch's for pictures, which knows channels last."""
    pictures = F.conv2d(x.transpose(1, 2).flatten(0, 1), weight[:, :, 0], bias, padding=padding)
    return pictures.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


def multiplies_fast(conv: nn.Conv3d, x: torch.Tensor) -> bool:
    """Whether there are faster ways than torch's for volumes: float32 on the CPU, where nothing is learnt or traced."""
    if not x.is_cpu or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    return x.dtype == conv.weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")


def bound_by_multiplying(conv: nn.Conv3d, x: torch.Tensor) -> bool:
    """Whether fewer multiplications are worth more calls."""
    return conv.weight.numel() >= LARGE and multiplies_fast(conv, x)


def tiled(x: torch.Tensor) -> bool:
    """Whether pictures are large enough to pay for the weights' transform, and of an even size."""
    H, W = x.shape[3:]
    return H % 2 == W % 2 == 0 and H * W >= TILED


class FactorisedConv(nn.Sequential):
    """(1, 3, 3) then (time, 1, 1): space first, then time, with no norm between. time=1: space alone."""

    def __init__(self, c_in: int, c_out: int, time: int = 3):
        super().__init__(CausalConv3d(c_in, c_out, space=3))
        if time > 1:
            self.append(CausalConv3d(c_out, c_out, time=time))

    def forward(self, x: torch.Tensor, memory: Memory | None = None) -> torch.Tensor:
        x = self[0](x)
        return self[1](x, memory) if len(self) > 1 else x


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


def _means(x: torch.Tensor, block: tuple[int, int, int], conv: nn.Conv3d) -> torch.Tensor:
    """The means of blocks of places, which go beside `conv`. On the CPU torch has them in single precision alone, channels first."""
    if bound_by_multiplying(conv, x):
        for axis, size in enumerate(block, 2):
            if size == 2:
                count = x.shape[axis] // 2
                first, second = (x.narrow(axis, place, 2 * count - 1)[(slice(None),) * axis + (slice(None, None, 2),)] for place in (0, 1))
                x = (first + second).mul_(0.5)
        return x
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
            x = self.conv1(padded) + _means(padded, (1, 2, 2), self.conv1)
        if self.time:
            # Pairs are (0, 0), (1, 2), (3, 4) ...: only the clip's first frame is doubled, a stream's chunk is not.
            begins = memory is None or self.conv2 not in memory
            padded = torch.cat((x[:, :, :1], x), 2) if begins else x
            x = self.conv2(padded, memory) + _means(padded, (2, 1, 1), self.conv2)
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
            if bound_by_multiplying(self.conv2, x):
                x = self._doubled(x)
            else:
                x = x.repeat_interleave(2, 3).repeat_interleave(2, 4)
                x = x + self.conv2(x)
        return self.conv3(x)

    def _doubled(self, x: torch.Tensor) -> torch.Tensor:
        """The doubled picture and its (1, 3, 3) convolution, from the picture itself: each of the four places that a place becomes
        sees two by two of its neighbours, by sums of taps."""
        B, C, T, H, W = x.shape
        weight_OTHWI = self.conv2.weight.permute(0, 2, 3, 4, 1)
        out = x.new_empty(B, T, 2 * H, 2 * W, C).permute(0, 4, 1, 2, 3)
        for row in range(2):
            rows = _pairs(weight_OTHWI, 2, row)
            for column in range(2):
                around = F.pad(x, (1 - column, column, 1 - row, row))
                taps = _pairs(rows, 3, column).permute(0, 4, 1, 2, 3)
                out[:, :, :, row::2, column::2] = _conv_of_pictures(around, taps, self.conv2.bias, 0).add_(x)
        return out


def _pairs(weight: torch.Tensor, axis: int, place: int) -> torch.Tensor:
    """Three taps on a doubled axis as two on the axis itself, for the first (0) or second (1) place of a pair."""
    first, middle, last = weight.unbind(axis)
    return torch.stack((first + middle, last) if place else (first, middle + last), axis)
