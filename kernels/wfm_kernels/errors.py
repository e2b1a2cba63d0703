"""The one exception of this package, and the checks every public function shares. Knows nothing of any op."""

import functools

import torch
from torch import Tensor, dtype


class KernelError(ValueError):
    """A tensor that an op cannot take: op, what, got X, expected Y; fix."""


def check_tensor(op: str, name: str, tensor: Tensor, shape: tuple[int, ...], dtypes: tuple[dtype, ...], like: Tensor) -> None:
    """Raise KernelError unless the tensor has this shape, one of these dtypes, and the device of `like`.

    Messages are built only on failure: these checks run once a layer and token on the CPU path.
    """
    if tensor.shape != shape:
        raise KernelError(f"{op}: {name} has shape {tuple(tensor.shape)}, expected {shape}")
    if tensor.dtype not in dtypes:
        raise KernelError(f"{op}: {name} has dtype {tensor.dtype}, expected {' or '.join(map(str, dtypes))}")
    if tensor.device != like.device:
        raise KernelError(f"{op}: {name} is on {tensor.device}, expected {like.device}; fix: {name}.to(device)")


def check_last_stride(op: str, name: str, tensor: Tensor) -> None:
    """Raise KernelError unless the last axis is contiguous (kernels load rows in vectors)."""
    if tensor.stride(-1) != 1 and tensor.shape[-1] > 1:
        raise KernelError(f"{op}: last axis of {name} has stride {tensor.stride(-1)}, expected 1; fix: {name}.contiguous()")


def check_cache_format(op: str, name: str, tensor: Tensor) -> None:
    """Raise KernelError for a cache that this CUDA device's compiler would refuse (in Triton's own, much longer words)."""
    if tensor.dtype == torch.float8_e4m3fn and tensor.is_cuda:
        refuse_fp8_before_sm_89(op, name, _capability(tensor.device))


def refuse_fp8_before_sm_89(op: str, name: str, capability: tuple[int, int]) -> None:
    if capability < (8, 9):
        got = f"sm_{capability[0]}{capability[1]}"
        raise KernelError(f"{op}: {name} is float8_e4m3fn on {got}, expected sm_89 or newer; fix: an int8 cache, which every card takes")


@functools.cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)
