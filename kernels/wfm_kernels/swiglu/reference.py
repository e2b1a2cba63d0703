"""The specification of `swiglu`. Source: Shazeer 2020 (arXiv 2002.05202)."""

from torch import Tensor


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, in fp32, returned in gate's dtype."""
    gate_fp32 = gate.float()
    return (gate_fp32 * gate_fp32.sigmoid() * up.float()).to(gate.dtype)
