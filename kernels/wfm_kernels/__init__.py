"""Triton kernels of a token world model, importable on their own: torch and triton only, no knowledge of any model.

One folder an op: `reference.py` is the specification (fp32 maths), `triton.py` the kernel and its launcher, `__init__.py` the
public function (checks, then dispatch by device). Triton is imported only when a CUDA tensor arrives, so the CPU paths work
on platforms without it. The plain attribute `wfm_kernels.attention` is the function; the modules of an op are reached with
the from form, as in `from wfm_kernels.attention.reference import attention`.
"""

from wfm_kernels.attention import CAUSAL, FULL, Causal, Full, RingWindow, Slots, Tree, attention
from wfm_kernels.errors import KernelError
from wfm_kernels.linear_cross_entropy import linear_cross_entropy
from wfm_kernels.qk_norm_rope_cache import qk_norm_rope_cache
from wfm_kernels.rms_norm import rms_norm
from wfm_kernels.sample import sample
from wfm_kernels.shared_prefix import attention_shared_prefix
from wfm_kernels.swiglu import swiglu

__all__ = [
    "CAUSAL",
    "FULL",
    "Causal",
    "Full",
    "KernelError",
    "RingWindow",
    "Slots",
    "Tree",
    "attention",
    "attention_shared_prefix",
    "linear_cross_entropy",
    "qk_norm_rope_cache",
    "rms_norm",
    "sample",
    "swiglu",
]
