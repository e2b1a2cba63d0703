"""The specification of `rms_norm`. Source: Zhang and Sennrich 2019 (arXiv 1910.07467)."""

from typing import overload

from torch import Tensor


@overload
def rms_norm(x: Tensor, weight_D: Tensor, *, residual: None = None, eps: float = 1e-6) -> Tensor: ...
@overload
def rms_norm(x: Tensor, weight_D: Tensor, *, residual: Tensor, eps: float = 1e-6) -> tuple[Tensor, Tensor]: ...
def rms_norm(x: Tensor, weight_D: Tensor, *, residual: Tensor | None = None, eps: float = 1e-6) -> Tensor | tuple[Tensor, Tensor]:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, in fp32; with a residual, of x + residual, which is returned too."""
    dtype = x.dtype
    x = x.float() if residual is None else x.float() + residual.float()
    out = (x * (x.square().mean(dim=-1, keepdim=True) + eps).rsqrt() * weight_D.float()).to(dtype)
    return out if residual is None else (out, x.to(dtype))
