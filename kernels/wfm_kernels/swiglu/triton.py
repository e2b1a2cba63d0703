"""`swiglu` on CUDA: one program a row and block of columns; gate and up may be the two halves of one product."""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def swiglu_kernel(gate_ptr, up_ptr, out_ptr, stride_g, stride_u, width, BLOCK_D: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    offset_D = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    live_D = offset_D < width
    gate_D = tl.load(gate_ptr + row * stride_g + offset_D, mask=live_D, other=0.0).to(tl.float32)
    up_D = tl.load(up_ptr + row * stride_u + offset_D, mask=live_D, other=0.0).to(tl.float32)
    out_D = gate_D * tl.sigmoid(gate_D) * up_D
    tl.store(out_ptr + row * width + offset_D, out_D.to(out_ptr.dtype.element_ty), mask=live_D)


@torch.library.custom_op("wfm_kernels::swiglu", mutates_args=())
def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """See reference.py."""
    width = gate.shape[-1]
    gate_RD, up_RD = gate.reshape(-1, width), up.reshape(-1, width)
    out = torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
    block = min(triton.next_power_of_2(width), 1024)
    if len(gate_RD):
        grid = (len(gate_RD), triton.cdiv(width, block))
        swiglu_kernel[grid](gate_RD, up_RD, out, gate_RD.stride(0), up_RD.stride(0), width, BLOCK_D=block, num_warps=4)
    return out


@swiglu.register_fake
def _(gate, up):
    return torch.empty(gate.shape, dtype=gate.dtype, device=gate.device)
