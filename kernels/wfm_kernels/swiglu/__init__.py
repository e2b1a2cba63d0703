"""The gated activation of the feed-forward layer."""

import torch
from torch import Tensor

from wfm_kernels.errors import KernelError, check_last_stride, check_tensor
from wfm_kernels.swiglu import cpu

__all__ = ["swiglu"]

FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up. gate, up: [..., F] of one shape and dtype, last axes contiguous (the two halves of one product will do).

    Returns gate's dtype, computed in fp32. No gradient on CUDA. CPU tensors take cpu.py, CUDA tensors triton.py.
    Raises KernelError for shapes, dtypes, strides, devices.
    """
    if gate.dim() < 1 or gate.shape[-1] < 1:
        raise KernelError(f"swiglu: gate has shape {tuple(gate.shape)}, expected [..., F] with F >= 1")
    check_tensor("swiglu", "gate", gate, tuple(gate.shape), FLOATS, gate)
    check_tensor("swiglu", "up", up, tuple(gate.shape), (gate.dtype,), gate)
    check_last_stride("swiglu", "gate", gate)
    check_last_stride("swiglu", "up", up)
    if gate.is_cpu:
        return cpu.swiglu(gate, up)
    from wfm_kernels.swiglu import triton as triton_path

    return triton_path.swiglu(gate, up)
