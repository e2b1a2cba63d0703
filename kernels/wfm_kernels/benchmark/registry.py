"""The benchmarks: ops, shapes and rivals. A case knows how to make its inputs, what to run, and what must come out.

The one registry, run by `pytest kernels/benchmarks` and by `wfm bench`. timing.py checks the numbers before anything is timed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from wfm_kernels import (
    attention,
    attention_shared_prefix,
    linear_cross_entropy,
    qk_norm_rope_cache,
    rms_norm,
    sample,
    swiglu,
)
from wfm_kernels.attention import reference as attention_reference
from wfm_kernels.benchmark import rivals
from wfm_kernels.linear_cross_entropy import reference as cross_entropy_reference
from wfm_kernels.qk_norm_rope_cache import reference as norm_rope_reference
from wfm_kernels.rms_norm import reference as rms_norm_reference
from wfm_kernels.sample import reference as sample_reference
from wfm_kernels.swiglu import reference as swiglu_reference

TOLERANCE = {torch.float32: 2e-5, torch.float16: 1e-2, torch.bfloat16: 4e-2}  # largest error on outputs of about unit spread


@dataclass(frozen=True, kw_only=True)
class Case:
    """One op at one shape: `ours`, its rivals by name, and `reference`; all take no arguments and return one tensor."""

    name: str
    ours: Callable[[], Tensor]
    reference: Callable[[], Tensor]
    rivals: dict[str, Callable[[], Tensor]]
    bytes_moved: int  # that a perfect implementation would have to
    tolerance: float
    randomised: tuple[str, ...] = ()  # rivals whose numbers cannot be compared: they draw by another generator


def tensor_bytes(*tensors: Tensor) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def decode(device: str, dtype: torch.dtype, B: int, N: int, H: int, L: int, K: int, T: int = 1, cache: torch.dtype | None = None) -> Case:
    """Decode attention over full caches, against the library's; with a quantised `cache` against our own plain one."""
    q, k, v = (torch.randn(B, heads, n, K, device=device, dtype=dtype) for heads, n in ((N, T), (H, L), (H, L)))
    lengths, counters = torch.full((B,), L, device=device), torch.zeros(B * N * T, dtype=torch.int32, device=device)
    if cache is None:
        caches: dict[str, Any] = dict(k_BHLK=k, v_BHLK=v)
    else:
        (k8, k_scale), (v8, v_scale) = quantised(k, cache), quantised(v, cache)
        caches = dict(k_BHLK=k8, v_BHLK=v8, k_scale_BHL=k_scale, v_scale_BHL=v_scale)
    stored = "" if cache is None else f" cache {str(cache)[6:]}"
    others = (
        rivals.decode(q, k, v) if cache is None else {f"own {str(dtype)[6:]} cache": lambda: attention(q, k, v, lengths, counters=counters)}
    )
    return Case(
        name=f"attention B{B} N{N} H{H} L{L} K{K} T{T} {str(dtype)[6:]}{stored}",
        ours=lambda: attention(q, lengths_B=lengths, counters=counters, **caches),
        reference=lambda: attention_reference.attention(q, lengths_B=lengths, **caches),
        rivals=others,
        bytes_moved=tensor_bytes(*caches.values()),
        tolerance=TOLERANCE[dtype],
        randomised=tuple(others) if cache is not None else (),
    )


def quantised(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """(stored, float32 scale a token and head)."""
    largest = 127.0 if dtype == torch.int8 else 448.0
    scale = x.float().abs().amax(-1) / largest
    stored = x.float() / scale[..., None]
    return (stored.round() if dtype == torch.int8 else stored).to(dtype), scale


def shared_prefix(device: str, dtype: torch.dtype, B: int, N: int, H: int, P: int, L: int, K: int) -> Case:
    """B futures of one past, against our own attention with a copy of the past in every row."""
    q, k, v = (torch.randn(B, heads, n, K, device=device, dtype=dtype) for heads, n in ((N, 1), (H, L), (H, L)))
    prefix_k, prefix_v = (torch.randn(H, P, K, device=device, dtype=dtype) for _ in range(2))
    lengths, prefix_length = torch.full((B,), L, device=device), torch.tensor([P], device=device)
    whole_k, whole_v = (torch.cat([p.expand(B, -1, -1, -1), s], dim=2) for p, s in ((prefix_k, k), (prefix_v, v)))
    whole_lengths, counters = lengths + P, torch.zeros(B * N, dtype=torch.int32, device=device)
    return Case(
        name=f"shared_prefix B{B} N{N} H{H} past{P} new{L} K{K} {str(dtype)[6:]}",
        ours=lambda: attention_shared_prefix(q, prefix_k, prefix_v, k, v, lengths, prefix_length_1=prefix_length, counters=counters),
        reference=lambda: attention_reference.attention(q, whole_k, whole_v, whole_lengths),
        rivals={"unshared": lambda: attention(q, whole_k, whole_v, whole_lengths, counters=counters)},
        bytes_moved=tensor_bytes(prefix_k, prefix_v, k, v),
        tolerance=TOLERANCE[dtype],
    )


def norm_and_rope(device: str, dtype: torch.dtype, B: int, T: int, N: int, H: int, L: int, K: int) -> Case:
    """Norm, rotary and cache write behind a QKV product, against the same in torch's operations; the queries are compared."""
    axes = (K // 2 - 2 * (K // 6), K // 6, K // 6)
    qkv = torch.randn(B, T, (N + 2 * H) * K, device=device, dtype=dtype)
    weights = torch.randn(2, K, device=device, dtype=dtype)
    angles = torch.arange(64, device=device)[:, None] * 100.0 ** -(torch.arange(K // 2, device=device) / (K // 2))
    positions = torch.randint(64, (B, T, 3), device=device)
    slots = torch.arange(L - T, L, device=device).expand(B, T).contiguous()
    caches = torch.zeros(2, B, H, L, K, device=device, dtype=dtype)
    arguments = (qkv, *weights, angles.cos(), angles.sin(), positions, slots, *caches)
    return Case(
        name=f"qk_norm_rope_cache B{B} T{T} N{N} H{H} L{L} K{K} {str(dtype)[6:]}",
        ours=lambda: qk_norm_rope_cache(*arguments, heads=N, axes=axes),
        reference=lambda: norm_rope_reference.qk_norm_rope_cache(*arguments, heads=N, axes=axes),
        rivals={"torch": rivals.norm_and_rope(*arguments, heads=N, axes=axes)},
        bytes_moved=2 * tensor_bytes(qkv),
        tolerance=4 * TOLERANCE[dtype],
    )


def norm(device: str, dtype: torch.dtype, R: int, D: int) -> Case:
    x, weight = torch.randn(R, D, device=device, dtype=dtype), torch.randn(D, device=device, dtype=dtype)
    return Case(
        name=f"rms_norm R{R} D{D} {str(dtype)[6:]}",
        ours=lambda: rms_norm(x, weight),
        reference=lambda: rms_norm_reference.rms_norm(x, weight),
        rivals={"torch": lambda: F.rms_norm(x, (D,), weight, 1e-6)},
        bytes_moved=2 * tensor_bytes(x),
        tolerance=4 * TOLERANCE[dtype],
    )


def gate(device: str, dtype: torch.dtype, R: int, D: int) -> Case:
    x, y = torch.randn(R, D, device=device, dtype=dtype), torch.randn(R, D, device=device, dtype=dtype)
    return Case(
        name=f"swiglu R{R} F{D} {str(dtype)[6:]}",
        ours=lambda: swiglu(x, y),
        reference=lambda: swiglu_reference.swiglu(x, y),
        rivals={"torch": lambda: F.silu(x) * y},
        bytes_moved=3 * tensor_bytes(x),
        tolerance=8 * TOLERANCE[dtype],
    )


def draw(device: str, dtype: torch.dtype, B: int, V: int) -> Case:
    """Top-k and top-p sampling, against softmax + sort + multinomial. The check is on the tokens drawn: they must be equal."""
    logits = torch.randn(B, V, device=device, dtype=dtype) * 2
    keys = tuple(torch.arange(B, device=device) + n for n in (0, 5, 9))

    def sort_and_draw():
        probs, ids = logits.float().softmax(-1).sort(dim=-1, descending=True)
        probs = torch.where(probs.cumsum(-1) - probs < 0.9, probs, 0.0)
        return ids.gather(-1, torch.multinomial(probs, 1))

    return Case(
        name=f"sample B{B} V{V} top_k 1000 top_p 0.9 {str(dtype)[6:]}",
        ours=lambda: sample(logits, *keys, top_k=1000, top_p=0.9)[0],
        reference=lambda: sample_reference.sample(logits, *keys, top_k=1000, top_p=0.9)[0],
        rivals={"softmax+sort+multinomial": sort_and_draw},
        bytes_moved=tensor_bytes(logits),
        tolerance=0.0,
        randomised=("softmax+sort+multinomial",),
    )


def vocabulary_loss(device: str, dtype: torch.dtype, R: int, D: int, V: int) -> Case:
    """Loss and both gradients; returns the gradient of the hidden states, scaled to unit spread."""
    hidden = torch.randn(R, D, device=device, dtype=dtype).requires_grad_()
    weight = (torch.randn(V, D, device=device, dtype=dtype) * D**-0.5).requires_grad_()
    targets = torch.randint(0, V, (R,), device=device)
    ones = torch.ones(R, device=device)

    def gradient(loss: Any) -> Tensor:
        return torch.autograd.grad(loss, (hidden, weight))[0] * (R * D**0.5)

    return Case(
        name=f"linear_cross_entropy R{R} D{D} V{V} {str(dtype)[6:]}",
        ours=lambda: gradient(linear_cross_entropy(hidden, weight, targets)),
        reference=lambda: gradient(cross_entropy_reference.linear_cross_entropy(hidden, weight, targets, weights_R=ones)),
        rivals=rivals.cross_entropy(hidden, weight, targets, gradient),
        bytes_moved=2 * tensor_bytes(hidden, weight),
        tolerance=100 * TOLERANCE[dtype],
    )


# (maker, keywords): small shapes that a laptop runs in a second or two, then the shapes the bars are set for on a GPU
CPU_CASES = [
    (decode, dict(B=1, N=8, H=4, L=450, K=32)),
    (decode, dict(B=1, N=8, H=4, L=450, K=32, T=16)),
    (decode, dict(B=16, N=8, H=4, L=512, K=32)),
    (decode, dict(B=1, N=8, H=4, L=450, K=32, cache=torch.int8)),
    (shared_prefix, dict(B=16, N=4, H=4, P=512, L=16, K=32)),
    (shared_prefix, dict(B=64, N=4, H=4, P=512, L=16, K=32)),
    (shared_prefix, dict(B=64, N=8, H=4, P=512, L=16, K=32)),
    (norm_and_rope, dict(B=1, T=1, N=8, H=4, L=450, K=32)),
    (norm, dict(R=1, D=256)),
    (gate, dict(R=1, D=704)),
    (draw, dict(B=1, V=4096)),
    (draw, dict(B=4, V=65536)),
    (vocabulary_loss, dict(R=512, D=128, V=4096)),
]
GPU_CASES = [
    (decode, dict(B=32, N=32, H=8, L=4096, K=128)),
    (decode, dict(B=32, N=32, H=8, L=4096, K=128, T=16)),
    (decode, dict(B=32, N=32, H=8, L=4096, K=128, cache=torch.int8)),
    (decode, dict(B=32, N=32, H=8, L=4096, K=128, cache=torch.float8_e4m3fn)),
    (decode, dict(B=1, N=32, H=8, L=1024, K=128)),
    (decode, dict(B=1, N=32, H=8, L=4096, K=128)),
    (shared_prefix, dict(B=64, N=32, H=8, P=4096, L=256, K=128)),
    (norm_and_rope, dict(B=32, T=1, N=32, H=8, L=4096, K=128)),
    (norm, dict(R=4096, D=4096)),
    (gate, dict(R=4096, D=11008)),
    (draw, dict(B=1, V=65536)),
    (draw, dict(B=64, V=65536)),
    (vocabulary_loss, dict(R=32768, D=1024, V=65536)),
]


def cases(device: str) -> list[tuple[Callable[..., Case], dict]]:
    """(maker, shape) of every case of a device; the maker also takes device and dtype (see `dtype_of`)."""
    if device == "cpu":
        return CPU_CASES
    fp8 = torch.cuda.get_device_capability() >= (8, 9)
    return [(maker, shape) for maker, shape in GPU_CASES if fp8 or shape.get("cache") != torch.float8_e4m3fn]


def case_name(maker: Callable[..., Case], shape: dict) -> str:
    """What a case is called before it is made: "shared_prefix B=16 N=4 ...", for `-k` of pytest and `only` of `wfm bench`."""
    return " ".join([maker.__name__, *(f"{key}={str(value).removeprefix('torch.')}" for key, value in shape.items())])


def dtype_of(device: str) -> torch.dtype:
    return torch.float32 if device == "cpu" else torch.bfloat16
