"""Whether training works in bf16 or in fp32, where `precision=auto` leaves that open.

GPUs take bf16. On a CPU it depends on the chip: with AMX bf16 is several times as fast as fp32, with avx512_bf16 alone 1.6 times on
some chips and half as fast on others. So it is timed, on one convolution and one matrix product. Small networks stay in fp32, as
there is little to gain.
"""

import functools
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

LARGE = 500_000  # parameters of a network for which bf16 is considered on a CPU
FASTER = 1.2  # times as fast that bf16 has to be
TOLERANCE = 0.03  # relative difference of the two losses on the same batch up to which bf16 is trusted


def bf16_by_default(device: torch.device, model: nn.Module) -> bool:
    """Whether `precision=auto` means bf16 for training `model` on `device`."""
    if device.type != "cpu":
        return device.type == "cuda"
    return sum(p.numel() for p in model.parameters()) >= LARGE and bf16_gain() >= FASTER


@functools.cache
def bf16_gain() -> float:
    """How many times as fast bf16 is as fp32 on this CPU with the current number of threads: the smaller of two ratios, each of the
    best of three times of a forward and a backward pass."""
    generator = torch.Generator().manual_seed(0)
    image_BCHW = torch.randn(4, 64, 32, 32, generator=generator)
    kernel_CCHW = torch.randn(64, 64, 3, 3, generator=generator)
    rows_NC, weight_CC = torch.randn(1024, 256, generator=generator), torch.randn(768, 256, generator=generator)
    return min(
        _gain(lambda image, kernel: F.conv2d(image, kernel, padding=1), image_BCHW, kernel_CCHW),
        _gain(F.linear, rows_NC, weight_CC),
    )


def _gain(operation: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], data: torch.Tensor, weight: torch.Tensor) -> float:
    return _seconds(operation, data, weight) / _seconds(operation, data.bfloat16(), weight.bfloat16())


def _seconds(operation: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], data: torch.Tensor, weight: torch.Tensor) -> float:
    data, weight = data.detach().requires_grad_(), weight.detach().requires_grad_()
    times = []
    for _ in range(4):  # the first one is not counted: it compiles the kernels
        start = time.perf_counter()
        operation(data, weight).sum().backward()
        times.append(time.perf_counter() - start)
    return min(times[1:])
