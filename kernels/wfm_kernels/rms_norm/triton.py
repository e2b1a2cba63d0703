"""`rms_norm` on CUDA: one program a row, one pass over memory, the residual add included."""

from typing import overload

import torch
import triton
import triton.language as tl
from torch import Tensor

from wfm_kernels.errors import KernelError

MAX_WIDTH = 16384  # a row is held in registers: twice as many numbers would spill


@triton.jit
def rms_norm_kernel(
    x_ptr, residual_ptr, weight_ptr, out_ptr, sum_ptr, stride_x, stride_r, width, eps, RESIDUAL: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    offset_D = tl.arange(0, BLOCK_D)
    live_D = offset_D < width
    x_D = tl.load(x_ptr + row * stride_x + offset_D, mask=live_D, other=0.0).to(tl.float32)
    if RESIDUAL:
        x_D += tl.load(residual_ptr + row * stride_r + offset_D, mask=live_D, other=0.0).to(tl.float32)
        tl.store(sum_ptr + row * width + offset_D, x_D.to(sum_ptr.dtype.element_ty), mask=live_D)
    scale = tl.rsqrt(tl.sum(x_D * x_D, 0) / width + eps)
    weight_D = tl.load(weight_ptr + offset_D, mask=live_D, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * width + offset_D, (x_D * scale * weight_D).to(out_ptr.dtype.element_ty), mask=live_D)


@torch.library.custom_op("wfm_kernels::rms_norm", mutates_args=())
def rms_norm_op(x: Tensor, weight_D: Tensor, residual: Tensor | None, eps: float) -> list[Tensor]:
    """[normed], or [normed, x + residual]: opaque to torch.compile, which learns the shapes from the fake below."""
    width = x.shape[-1]
    x_RD = x.reshape(-1, width)
    residual_RD = x_RD if residual is None else residual.reshape(-1, width)
    outputs = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for _ in range(1 if residual is None else 2)]
    block = triton.next_power_of_2(width)
    if len(x_RD):
        rms_norm_kernel[(len(x_RD),)](
            x_RD, residual_RD, weight_D, outputs[0], outputs[-1], x_RD.stride(0), residual_RD.stride(0), width, eps,
            RESIDUAL=residual is not None, BLOCK_D=block, num_warps=warps(block),
        )  # fmt: skip
    return outputs


def warps(block: int) -> int:
    return min(max(block // 512, 1), 8)


@rms_norm_op.register_fake
def _(x, weight_D, residual, eps):
    return [torch.empty(x.shape, dtype=x.dtype, device=x.device) for _ in range(1 if residual is None else 2)]


@overload
def rms_norm(x: Tensor, weight_D: Tensor, *, residual: None = None, eps: float = 1e-6) -> Tensor: ...
@overload
def rms_norm(x: Tensor, weight_D: Tensor, *, residual: Tensor, eps: float = 1e-6) -> tuple[Tensor, Tensor]: ...
def rms_norm(x: Tensor, weight_D: Tensor, *, residual: Tensor | None = None, eps: float = 1e-6) -> Tensor | tuple[Tensor, Tensor]:
    """See reference.py."""
    if x.shape[-1] > MAX_WIDTH:
        raise KernelError(f"rms_norm: x has rows of {x.shape[-1]}, expected at most {MAX_WIDTH} on CUDA")
    outputs = rms_norm_op(x, weight_D, residual, eps)
    return outputs[0] if residual is None else (outputs[0], outputs[1])
