"""`sample` on CUDA: one program a row; thresholds are found by bisection over the bits of the scores, nothing is sorted.

A float's bits, with all but the sign flipped where it is negative, order like the float. The largest threshold that leaves at
least k tokens (or at least the mass p) is found in 32 halvings of the integer range, each a sweep of the row in cache.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

OPTIONS = dict(num_warps=8, maxnreg=128)  # of the launch; left alone, ptxas aims at 64 registers and spills a few


@triton.jit
def _scores(logits_ptr, unguided_ptr, id_V, vocabulary, inverse_temperature, guidance, GUIDED: tl.constexpr):
    """Guided scores over the temperature for one tile of token ids; -inf beyond the vocabulary."""
    score_V = tl.load(logits_ptr + id_V, mask=id_V < vocabulary, other=float("-inf")).to(tl.float32)
    if GUIDED:
        unguided_V = tl.load(unguided_ptr + id_V, mask=id_V < vocabulary, other=0.0).to(tl.float32)
        refused_V = (score_V == float("-inf")) | (unguided_V == float("-inf"))  # -inf minus -inf would be no number
        score_V = tl.where(refused_V, float("-inf"), unguided_V + guidance * (score_V - unguided_V))
    return score_V * inverse_temperature


@triton.jit
def _order(score):
    """int32 that orders like the float."""
    bits = (score + 0.0).to(tl.int32, bitcast=True)  # -0 becomes 0: they are equal
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def _largest_threshold(
    logits_ptr, unguided_ptr, vocabulary, inverse_temperature, guidance, top, floor, wanted,
    GUIDED: tl.constexpr, MASS: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Largest order such that the tokens at or above it, and at or above floor, number (or weigh) at least `wanted`."""
    low = tl.full([], -2147483648, tl.int64)  # always enough
    high = _order(top).to(tl.int64) + 1  # never enough
    while high - low > 1:
        middle = (low + high) >> 1
        amount = 0.0
        for start in range(0, vocabulary, BLOCK_V):
            id_V = start + tl.arange(0, BLOCK_V)
            score_V = _scores(logits_ptr, unguided_ptr, id_V, vocabulary, inverse_temperature, guidance, GUIDED)
            order_V = _order(score_V).to(tl.int64)
            counted_V = (order_V >= middle) & (order_V >= floor) & (id_V < vocabulary)
            amount += tl.sum(tl.where(counted_V, tl.exp(score_V - top) if MASS else 1.0, 0.0), 0)
        if amount >= wanted:
            low = middle
        else:
            high = middle
    return low


@triton.jit
def sample_kernel(
    logits_ptr, unguided_ptr, seed_ptr, row_ptr, step_ptr, token_ptr, logprob_ptr, stride_l, stride_u, vocabulary,
    inverse_temperature, guidance, top_k, top_p, min_p,
    GUIDED: tl.constexpr, GREEDY: tl.constexpr, TOP_K: tl.constexpr, TOP_P: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Grid (B,)."""
    b = tl.program_id(0).to(tl.int64)
    logits_ptr += b * stride_l
    unguided_ptr += b * stride_u
    top = float("-inf")
    numbers = 1
    for start in range(0, vocabulary, BLOCK_V):
        id_V = start + tl.arange(0, BLOCK_V)
        score_V = _scores(logits_ptr, unguided_ptr, id_V, vocabulary, inverse_temperature, guidance, GUIDED)
        top = tl.maximum(top, tl.max(score_V, 0))
        numbers = tl.minimum(numbers, tl.min((score_V == score_V).to(tl.int32), 0))  # a maximum passes over NaN
    floor = tl.full([], -2147483648, tl.int64)
    if GREEDY:
        floor = _order(top).to(tl.int64)
    if TOP_K:
        floor = _largest_threshold(
            logits_ptr, unguided_ptr, vocabulary, inverse_temperature, guidance, top, floor, top_k, GUIDED, False, BLOCK_V
        )  # fmt: skip
    total = 0.0
    for start in range(0, vocabulary, BLOCK_V):
        id_V = start + tl.arange(0, BLOCK_V)
        score_V = _scores(logits_ptr, unguided_ptr, id_V, vocabulary, inverse_temperature, guidance, GUIDED)
        total += tl.sum(tl.where(((_order(score_V).to(tl.int64) >= floor) | GREEDY) & (id_V < vocabulary), tl.exp(score_V - top), 0.0), 0)
    if TOP_P:
        floor = tl.maximum(
            floor,
            _largest_threshold(
                logits_ptr, unguided_ptr, vocabulary, inverse_temperature, guidance, top, floor, top_p * total, GUIDED, True, BLOCK_V
            ),
        )  # fmt: skip

    mass = 0.0
    for start in range(0, vocabulary, BLOCK_V):
        id_V = start + tl.arange(0, BLOCK_V)
        score_V = _scores(logits_ptr, unguided_ptr, id_V, vocabulary, inverse_temperature, guidance, GUIDED)
        weight_V = tl.exp(score_V - top)
        kept_V = (_order(score_V).to(tl.int64) >= floor) & (weight_V >= min_p) & (id_V < vocabulary)
        mass += tl.sum(tl.where(kept_V, weight_V, 0.0), 0)
    word, _, _, _ = tl.philox(
        tl.load(seed_ptr + b), tl.load(row_ptr + b).to(tl.uint32), tl.load(step_ptr + b).to(tl.uint32),
        tl.zeros([], tl.uint32), tl.zeros([], tl.uint32),
    )  # fmt: skip
    target = (word >> 8).to(tl.float32) * 5.9604644775390625e-08 * mass  # 2^-24
    if GREEDY:
        target = 0.0
    before = 0.0
    token = vocabulary
    last_kept = 0
    for start in range(0, vocabulary, BLOCK_V):
        id_V = start + tl.arange(0, BLOCK_V)
        score_V = _scores(logits_ptr, unguided_ptr, id_V, vocabulary, inverse_temperature, guidance, GUIDED)
        weight_V = tl.exp(score_V - top)
        kept_V = (_order(score_V).to(tl.int64) >= floor) & (weight_V >= min_p) & (id_V < vocabulary)
        weight_V = tl.where(kept_V, weight_V, 0.0)
        reached_V = kept_V & (before + tl.cumsum(weight_V, 0) > target)
        token = tl.minimum(token, tl.min(tl.where(reached_V, id_V, vocabulary), 0))
        last_kept = tl.maximum(last_kept, tl.max(tl.where(kept_V, id_V, 0), 0))
        before += tl.sum(weight_V, 0)
    token = tl.where(token < vocabulary, token, last_kept)  # rounding left the target at the very end
    score = _scores(logits_ptr, unguided_ptr, token, vocabulary, inverse_temperature, guidance, GUIDED)
    tl.store(token_ptr + b, token.to(tl.int64))
    sound = (numbers == 1) & (top > float("-inf")) & (top < float("inf"))
    tl.store(logprob_ptr + b, tl.where(sound, score - top - tl.log(total if GREEDY else mass), float("nan")))


@torch.library.custom_op("wfm_kernels::sample", mutates_args=())
def sample_op(
    logits_BV: Tensor, seed_B: Tensor, row_B: Tensor, step_B: Tensor, unguided_BV: Tensor | None,
    temperature: float, top_k: int, top_p: float, min_p: float, guidance: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The launch; top_k 0 keeps all."""
    B, V = logits_BV.shape
    token_B = torch.empty(B, dtype=torch.int64, device=logits_BV.device)
    logprob_B = torch.empty(B, dtype=torch.float32, device=logits_BV.device)
    greedy = temperature == 0.0
    other_BV = logits_BV if unguided_BV is None else unguided_BV
    sample_kernel[(B,)](
        logits_BV, other_BV, seed_B, row_B, step_B, token_B, logprob_B, logits_BV.stride(0), other_BV.stride(0), V,
        1.0 if greedy else 1.0 / temperature, guidance, float(top_k), top_p, min_p,
        GUIDED=unguided_BV is not None, GREEDY=greedy, TOP_K=not greedy and 0 < top_k < V, TOP_P=not greedy and top_p < 1.0,
        BLOCK_V=min(triton.next_power_of_2(V), 2048), **OPTIONS,
    )  # fmt: skip
    return token_B, logprob_B


@sample_op.register_fake
def _(logits_BV, seed_B, row_B, step_B, unguided_BV, temperature, top_k, top_p, min_p, guidance):
    return seed_B.new_empty(seed_B.shape), torch.empty(seed_B.shape, dtype=torch.float32, device=seed_B.device)


def sample(
    logits_BV, seed_B, row_B, step_B, *, temperature=1.0, top_k=None, top_p=1.0, min_p=0.0, unguided_BV=None, guidance=1.0
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """See reference.py."""
    numbers = float(temperature), top_k or 0, float(top_p), float(min_p), float(guidance)
    return sample_op(logits_BV, seed_B, row_B, step_B, unguided_BV, *numbers)
