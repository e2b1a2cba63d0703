"""The draw from one row inside a kernel of `sample`: guided scores, thresholds of top-k and top-p, and the token.

A float's bits, with all but the sign flipped where it is negative, order like the float: the largest threshold that
leaves at least k tokens (or at least the mass p) is found exactly by search over integers. A row that fits in
registers is searched there by fifths of the range, a longer one is swept once a halving.
"""

import triton
import triton.language as tl


@triton.jit
def scores(logits_ptr, unguided_ptr, id_V, vocabulary, inverse_temperature, guidance, GUIDED: tl.constexpr):
    """Guided scores over the temperature for one tile of token ids; -inf beyond the vocabulary."""
    score_V = tl.load(logits_ptr + id_V, mask=id_V < vocabulary, other=float("-inf")).to(tl.float32)
    if GUIDED:
        unguided_V = tl.load(unguided_ptr + id_V, mask=id_V < vocabulary, other=0.0).to(tl.float32)
        refused_V = (score_V == float("-inf")) | (unguided_V == float("-inf"))  # -inf minus -inf would be no number
        score_V = tl.where(refused_V, float("-inf"), unguided_V + guidance * (score_V - unguided_V))
    return score_V * inverse_temperature


@triton.jit
def order(score):
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
    high = order(top).to(tl.int64) + 1  # never enough
    while high - low > 1:
        middle = (low + high) >> 1
        amount = 0.0
        for start in range(0, vocabulary, BLOCK_V):
            id_V = start + tl.arange(0, BLOCK_V)
            score_V = scores(logits_ptr, unguided_ptr, id_V, vocabulary, inverse_temperature, guidance, GUIDED)
            order_V = order(score_V).to(tl.int64)
            counted_V = (order_V >= middle) & (order_V >= floor) & (id_V < vocabulary)
            amount += tl.sum(tl.where(counted_V, tl.exp(score_V - top) if MASS else 1.0, 0.0), 0)
        if amount >= wanted:
            low = middle
        else:
            high = middle
    return low


@triton.jit
def _threshold_of_few(order_C, amount_C, low, high, wanted):
    """Largest order such that the amounts at or above it sum to at least `wanted`. Held within low (enough) and high (never enough)."""
    lane_4 = tl.arange(0, 4)
    while high - low > 1:
        span = high - low
        middle_4 = (low + span * (lane_4 + 1) // 5).to(tl.int32)
        amount_4 = tl.sum(tl.where(order_C[None, :] >= middle_4[:, None], amount_C[None, :], 0.0), 1)
        enough = tl.sum((amount_4 >= wanted).to(tl.int64), 0)  # amounts fall as thresholds rise: the first ones are enough
        high = tl.where(enough < 4, low + span * (enough + 1) // 5, high)
        low = low + span * enough // 5
    return low


@triton.jit
def draw_of_few(
    score_C, id_C, bottom, top, uniform, total, top_k, top_p, min_p, vocabulary,
    GREEDY: tl.constexpr, TOP_K: tl.constexpr, TOP_P: tl.constexpr,
):  # fmt: skip
    """(token, mass it was drawn from) of a row whose tokens that count are all here, ids ascending; -inf where there is none.

    bottom: no score that counts is lower. total: the mass of the row, for top-p without top-k.
    """
    weight_C = tl.where(score_C > float("-inf"), tl.exp(score_C - top), 0.0)
    order_C = order(score_C)
    kept_C = score_C > float("-inf")
    never, floor = order(top).to(tl.int64) + 1, order(bottom).to(tl.int64)
    if GREEDY:
        kept_C = kept_C & (order_C >= order(top))
    if TOP_K:
        floor = _threshold_of_few(order_C, kept_C.to(tl.float32), floor, never, top_k)
        kept_C = kept_C & (order_C >= floor.to(tl.int32))
        total = tl.sum(tl.where(kept_C, weight_C, 0.0), 0)
    if TOP_P:
        floor = _threshold_of_few(order_C, tl.where(kept_C, weight_C, 0.0), floor, never, top_p * total)
        kept_C = kept_C & (order_C >= floor.to(tl.int32))
    kept_C = kept_C & (weight_C >= min_p)
    weight_C = tl.where(kept_C, weight_C, 0.0)
    sum_C = tl.cumsum(weight_C, 0)
    mass = tl.max(sum_C, 0)
    token = tl.min(tl.where(kept_C & (sum_C > uniform * mass), id_C, vocabulary), 0)
    if token == vocabulary:  # rounding left the target at the very end
        token = tl.max(tl.where(kept_C, id_C, 0), 0)
    return token, mass


@triton.jit
def draw_of_many(
    logits_ptr, unguided_ptr, vocabulary, inverse_temperature, guidance, top, uniform, top_k, top_p, min_p,
    GUIDED: tl.constexpr, GREEDY: tl.constexpr, TOP_K: tl.constexpr, TOP_P: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """As draw_of_few, by sweeps of the whole row."""
    floor = tl.full([], -2147483648, tl.int64)
    if GREEDY:
        floor = order(top).to(tl.int64)
    if TOP_K:
        floor = _largest_threshold(
            logits_ptr, unguided_ptr, vocabulary, inverse_temperature, guidance, top, floor, top_k, GUIDED, False, BLOCK_V
        )  # fmt: skip
    if TOP_P:
        total = 0.0
        for start in range(0, vocabulary, BLOCK_V):
            id_V = start + tl.arange(0, BLOCK_V)
            score_V = scores(logits_ptr, unguided_ptr, id_V, vocabulary, inverse_temperature, guidance, GUIDED)
            total += tl.sum(tl.where((order(score_V).to(tl.int64) >= floor) & (id_V < vocabulary), tl.exp(score_V - top), 0.0), 0)
        floor = tl.maximum(
            floor,
            _largest_threshold(
                logits_ptr, unguided_ptr, vocabulary, inverse_temperature, guidance, top, floor, top_p * total, GUIDED, True, BLOCK_V
            ),
        )  # fmt: skip
    mass = 0.0
    for start in range(0, vocabulary, BLOCK_V):
        id_V = start + tl.arange(0, BLOCK_V)
        score_V = scores(logits_ptr, unguided_ptr, id_V, vocabulary, inverse_temperature, guidance, GUIDED)
        weight_V = tl.exp(score_V - top)
        kept_V = (order(score_V).to(tl.int64) >= floor) & (weight_V >= min_p) & (id_V < vocabulary)
        mass += tl.sum(tl.where(kept_V, weight_V, 0.0), 0)
    before = 0.0
    token = vocabulary
    last_kept = 0
    for start in range(0, vocabulary, BLOCK_V):
        id_V = start + tl.arange(0, BLOCK_V)
        score_V = scores(logits_ptr, unguided_ptr, id_V, vocabulary, inverse_temperature, guidance, GUIDED)
        weight_V = tl.exp(score_V - top)
        kept_V = (order(score_V).to(tl.int64) >= floor) & (weight_V >= min_p) & (id_V < vocabulary)
        weight_V = tl.where(kept_V, weight_V, 0.0)
        reached_V = kept_V & (before + tl.cumsum(weight_V, 0) > uniform * mass)
        token = tl.minimum(token, tl.min(tl.where(reached_V, id_V, vocabulary), 0))
        last_kept = tl.maximum(last_kept, tl.max(tl.where(kept_V, id_V, 0), 0))
        before += tl.sum(weight_V, 0)
    token = tl.where(token < vocabulary, token, last_kept)  # rounding left the target at the very end
    return token, mass
