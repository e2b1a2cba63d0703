"""Logits to a token: temperature, top-k, top-p, min-p, guidance, greedy, and a draw that belongs to the row alone."""

import math
from typing import Any

import torch
from torch import Tensor

from wfm_kernels.errors import KernelError, check_last_stride, check_tensor
from wfm_kernels.sample import cpu

__all__ = ["sample"]

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
COLDEST = 1e-6  # temperature: logits over a lower one may leave fp32


def sample(
    logits_BV: Tensor,
    seed_B: Tensor,
    row_B: Tensor,
    step_B: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float = 1.0,
    min_p: float = 0.0,
    unguided_BV: Tensor | None = None,
    guidance: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """Draw one token a row; the draw is keyed by (seed, row id, step), so it does not depend on the row's neighbours.

    logits_BV: float32, float16 or bfloat16, last axis contiguous. seed_B, row_B, step_B: int64 on the same device (of row and step
    the low 32 bits count). temperature 0 takes the likeliest token (the lowest id of equals), others are 1e-6 or more. Filters apply in the
    order top_k, top_p (mass among those), min_p (share of the likeliest token's probability); ties of the last kept token are kept.
    unguided_BV: second row of logits; scores are unguided + guidance * (logits - unguided), -inf where either is -inf.
    Returns (token int64 [B], log-probability float32 [B]): in the filtered distribution, for temperature 0 in softmax(scores).
    A row with NaN, +inf or only -inf has no distribution: the CPU raises, CUDA gives some token and the log-probability NaN.
    CPU tensors take cpu.py, CUDA tensors triton.py. Raises KernelError for shapes, dtypes, strides, devices, settings.
    """
    if logits_BV.dim() != 2 or logits_BV.shape[1] < 1:
        raise KernelError(f"sample: logits have shape {tuple(logits_BV.shape)}, expected [B, V] with V >= 1")
    if (
        not (temperature == 0.0 or COLDEST <= temperature < math.inf)
        or not (top_k is None or (isinstance(top_k, int) and top_k >= 1))
        or not (0.0 < top_p <= 1.0 and 0.0 <= min_p <= 1.0 and math.isfinite(guidance))
    ):
        got = f"temperature={temperature}, top_k={top_k}, top_p={top_p}, min_p={min_p}, guidance={guidance}"
        expected = f"temperature 0 or >= {COLDEST}, top_k >= 1 or None, 0 < top_p <= 1, 0 <= min_p <= 1, a finite guidance"
        raise KernelError(f"sample: got {got}, expected {expected}")
    check_tensor("sample", "logits", logits_BV, tuple(logits_BV.shape), FLOATS, logits_BV)
    check_last_stride("sample", "logits", logits_BV)
    for name, tensor in (("seed", seed_B), ("row", row_B), ("step", step_B)):
        check_tensor("sample", name, tensor, (len(logits_BV),), (torch.int64,), logits_BV)
        check_last_stride("sample", name, tensor)
    if unguided_BV is not None:
        check_tensor("sample", "unguided", unguided_BV, tuple(logits_BV.shape), FLOATS, logits_BV)
        check_last_stride("sample", "unguided", unguided_BV)
    if logits_BV.is_cpu:
        path = cpu.sample
    else:
        from wfm_kernels.sample.triton import sample as path
    settings: dict[str, Any] = dict(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    settings |= {"unguided_BV": unguided_BV, "guidance": guidance}
    return path(logits_BV, seed_B, row_B, step_B, **settings)
