"""Root-mean-square norm of the last axis, with the residual add before it where one is given."""

from typing import overload

import torch
from torch import Tensor

from wfm_kernels.errors import KernelError, check_last_stride, check_tensor
from wfm_kernels.rms_norm import cpu

__all__ = ["rms_norm"]

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


@overload
def rms_norm(x: Tensor, weight_D: Tensor, *, residual: None = None, eps: float = 1e-6) -> Tensor: ...
@overload
def rms_norm(x: Tensor, weight_D: Tensor, *, residual: Tensor, eps: float = 1e-6) -> tuple[Tensor, Tensor]: ...
def rms_norm(x: Tensor, weight_D: Tensor, *, residual: Tensor | None = None, eps: float = 1e-6) -> Tensor | tuple[Tensor, Tensor]:
    """x: [..., D] float32, float16 or bfloat16, last axis contiguous, on CUDA D <= 16384; weight_D: any of these; residual: like x.

    Returns the normed tensor in x's dtype; with a residual (normed x + residual, x + residual). Computed in fp32. No gradient
    on CUDA. CPU tensors take cpu.py, CUDA tensors triton.py. Raises KernelError for shapes, dtypes, strides, devices.
    """
    if x.dim() < 1 or x.shape[-1] < 1:
        raise KernelError(f"rms_norm: x has shape {tuple(x.shape)}, expected [..., D] with D >= 1")
    check_tensor("rms_norm", "x", x, tuple(x.shape), FLOATS, x)
    check_tensor("rms_norm", "weight", weight_D, (x.shape[-1],), FLOATS, x)
    check_last_stride("rms_norm", "x", x)
    check_last_stride("rms_norm", "weight", weight_D)
    if residual is not None:
        check_tensor("rms_norm", "residual", residual, tuple(x.shape), (x.dtype,), x)
        check_last_stride("rms_norm", "residual", residual)
    if x.is_cpu:
        path = cpu.rms_norm
    else:
        from wfm_kernels.rms_norm.triton import rms_norm as path
    return path(x, weight_D, eps=eps) if residual is None else path(x, weight_D, residual=residual, eps=eps)
