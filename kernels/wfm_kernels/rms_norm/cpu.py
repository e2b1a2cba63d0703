"""`rms_norm` on the CPU: in fp32 five calls of torch, its own makes more; half precision and compiled graphs take the reference."""

import functools
from typing import overload

import torch
from torch import Tensor

from wfm_kernels.rms_norm import reference


@overload
def rms_norm(x: Tensor, weight_D: Tensor, *, residual: None = None, eps: float = 1e-6) -> Tensor: ...
@overload
def rms_norm(x: Tensor, weight_D: Tensor, *, residual: Tensor, eps: float = 1e-6) -> tuple[Tensor, Tensor]: ...
def rms_norm(x: Tensor, weight_D: Tensor, *, residual: Tensor | None = None, eps: float = 1e-6) -> Tensor | tuple[Tensor, Tensor]:
    """See reference.py. weight_D may have more axes than one, where they fit x's last ones (a weight a head)."""
    if x.dtype != torch.float32 or weight_D.dtype != torch.float32 or torch.compiler.is_compiling():  # which makes one loop of it
        how = {} if residual is None else {"residual": residual}
        return reference.rms_norm(x, weight_D, eps=eps, **how)
    if residual is not None:
        x = x + residual
    length = torch.linalg.vector_norm(x, 2, -1, True)
    out = x * torch.addcmul(_scalar(eps), length, length, value=1.0 / x.shape[-1]).rsqrt_() * weight_D
    return out if residual is None else (out, x)


@functools.lru_cache(maxsize=16)
def _scalar(value: float) -> Tensor:
    with torch.inference_mode(False):  # made once and used in and out of inference mode
        return torch.full((), value)
