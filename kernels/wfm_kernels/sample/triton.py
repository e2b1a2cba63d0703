"""`sample` on CUDA: one program a row; thresholds are found by search over the bits of the scores, nothing is sorted.

A few sweeps of the row cut the range of scores into fifths until what is above a cut holds all that top-k or top-p can keep, and is
few: these candidates, in the order of the vocabulary, stay in registers for the rest. A float's bits, with all but the sign flipped where
it is negative, order like the float; the largest threshold that leaves at least k tokens (or at least the mass p) is found exactly by
fifths of the integer range. A row whose candidates are not few (a flat one with top-p, ties) is swept once a halving instead.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

OPTIONS = dict(num_warps=8, maxnreg=255)  # of the launch; left alone, ptxas aims at fewer registers and spills a few
TILE = CANDIDATES = 4096  # tokens a sweep takes at a time; the most that stay in registers
SWEEPS = 6  # that look for the candidates, at most


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
def _above(
    logits_ptr, unguided_ptr, vocabulary, inverse_temperature, guidance, top, a, b, c, d,
    GUIDED: tl.constexpr, MASS: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Number (or with MASS the mass) of the tokens whose score is at least a, b, c and d. One sweep."""
    a_W, b_W = tl.zeros([BLOCK_V // 8], tl.float32), tl.zeros([BLOCK_V // 8], tl.float32)
    c_W, d_W = tl.zeros([BLOCK_V // 8], tl.float32), tl.zeros([BLOCK_V // 8], tl.float32)
    for start in tl.range(0, vocabulary, BLOCK_V, num_stages=4):
        id_V = start + tl.arange(0, BLOCK_V)
        score_V = _scores(logits_ptr, unguided_ptr, id_V, vocabulary, inverse_temperature, guidance, GUIDED)
        amount_V = tl.exp(score_V - top) if MASS else tl.full([BLOCK_V], 1.0, tl.float32)
        # eight neighbours are one thread's: adding them up at once keeps the accumulators small
        a_W += tl.sum(tl.reshape(tl.where(score_V >= a, amount_V, 0.0), (BLOCK_V // 8, 8)), 1)
        b_W += tl.sum(tl.reshape(tl.where(score_V >= b, amount_V, 0.0), (BLOCK_V // 8, 8)), 1)
        c_W += tl.sum(tl.reshape(tl.where(score_V >= c, amount_V, 0.0), (BLOCK_V // 8, 8)), 1)
        d_W += tl.sum(tl.reshape(tl.where(score_V >= d, amount_V, 0.0), (BLOCK_V // 8, 8)), 1)
    return tl.sum(a_W, 0), tl.sum(b_W, 0), tl.sum(c_W, 0), tl.sum(d_W, 0)


@triton.jit
def _ones(byte):
    """Number of bits that are set, of eight."""
    byte = byte - ((byte >> 1) & 0x55)
    byte = (byte & 0x33) + ((byte >> 2) & 0x33)
    return (byte + (byte >> 4)) & 0x0F


@triton.jit
def _write_few(
    logits_ptr, unguided_ptr, few_score_ptr, few_id_ptr, vocabulary, inverse_temperature, guidance, low, GUIDED: tl.constexpr,
    SEGMENTS: tl.constexpr,
):  # fmt: skip
    """Write out the tokens whose score is at least `low`, ids ascending; their number.

    A thread has a segment of the vocabulary to itself and counts before it writes, so that one sum over threads tells all of them
    where to begin; a sum in every tile would make them wait for one another each time.
    """
    length = tl.cdiv(vocabulary, SEGMENTS * 8) * 8
    segment_S, next_8 = tl.arange(0, SEGMENTS), tl.arange(0, 8)
    number_S = tl.zeros([SEGMENTS], tl.int32)
    for start in range(0, length, 8):
        id_S8 = (segment_S * length + start)[:, None] + next_8[None, :]
        score_S8 = _scores(logits_ptr, unguided_ptr, id_S8, vocabulary, inverse_temperature, guidance, GUIDED)
        number_S += tl.sum(((score_S8 >= low) & (score_S8 > float("-inf"))).to(tl.int32), 1)
    place_S = tl.cumsum(number_S, 0) - number_S
    for start in range(0, length, 8):
        id_S8 = (segment_S * length + start)[:, None] + next_8[None, :]
        score_S8 = _scores(logits_ptr, unguided_ptr, id_S8, vocabulary, inverse_temperature, guidance, GUIDED)
        few_S8 = (score_S8 >= low) & (score_S8 > float("-inf"))
        bits_S = tl.sum(few_S8.to(tl.int32) << next_8[None, :], 1)
        place_S8 = place_S[:, None] + _ones(bits_S[:, None] & ((1 << next_8) - 1)[None, :])
        tl.store(few_score_ptr + place_S8, score_S8, mask=few_S8)
        tl.store(few_id_ptr + place_S8, id_S8, mask=few_S8)
        place_S += _ones(bits_S)
    return tl.sum(number_S, 0)


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
def _draw_of_few(
    score_C, id_C, bottom, top, uniform, total, top_k, top_p, min_p, vocabulary,
    GREEDY: tl.constexpr, TOP_K: tl.constexpr, TOP_P: tl.constexpr,
):  # fmt: skip
    """(token, mass it was drawn from) of a row whose tokens that count are all here, ids ascending; -inf where there is none.

    bottom: no score that counts is lower. total: the mass of the row, for top-p without top-k.
    """
    weight_C = tl.where(score_C > float("-inf"), tl.exp(score_C - top), 0.0)
    order_C = _order(score_C)
    kept_C = score_C > float("-inf")
    never, floor = _order(top).to(tl.int64) + 1, _order(bottom).to(tl.int64)
    if GREEDY:
        kept_C = kept_C & (order_C >= _order(top))
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
def _draw_of_many(
    logits_ptr, unguided_ptr, vocabulary, inverse_temperature, guidance, top, uniform, top_k, top_p, min_p,
    GUIDED: tl.constexpr, GREEDY: tl.constexpr, TOP_K: tl.constexpr, TOP_P: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """As _draw_of_few, by sweeps of the whole row."""
    floor = tl.full([], -2147483648, tl.int64)
    if GREEDY:
        floor = _order(top).to(tl.int64)
    if TOP_K:
        floor = _largest_threshold(
            logits_ptr, unguided_ptr, vocabulary, inverse_temperature, guidance, top, floor, top_k, GUIDED, False, BLOCK_V
        )  # fmt: skip
    if TOP_P:
        total = 0.0
        for start in range(0, vocabulary, BLOCK_V):
            id_V = start + tl.arange(0, BLOCK_V)
            score_V = _scores(logits_ptr, unguided_ptr, id_V, vocabulary, inverse_temperature, guidance, GUIDED)
            total += tl.sum(tl.where((_order(score_V).to(tl.int64) >= floor) & (id_V < vocabulary), tl.exp(score_V - top), 0.0), 0)
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
    before = 0.0
    token = vocabulary
    last_kept = 0
    for start in range(0, vocabulary, BLOCK_V):
        id_V = start + tl.arange(0, BLOCK_V)
        score_V = _scores(logits_ptr, unguided_ptr, id_V, vocabulary, inverse_temperature, guidance, GUIDED)
        weight_V = tl.exp(score_V - top)
        kept_V = (_order(score_V).to(tl.int64) >= floor) & (weight_V >= min_p) & (id_V < vocabulary)
        weight_V = tl.where(kept_V, weight_V, 0.0)
        reached_V = kept_V & (before + tl.cumsum(weight_V, 0) > uniform * mass)
        token = tl.minimum(token, tl.min(tl.where(reached_V, id_V, vocabulary), 0))
        last_kept = tl.maximum(last_kept, tl.max(tl.where(kept_V, id_V, 0), 0))
        before += tl.sum(weight_V, 0)
    token = tl.where(token < vocabulary, token, last_kept)  # rounding left the target at the very end
    return token, mass


@triton.jit
def sample_kernel(
    logits_ptr, unguided_ptr, seed_ptr, row_ptr, step_ptr, token_ptr, logprob_ptr, few_score_ptr, few_id_ptr,
    stride_l, stride_u, vocabulary, inverse_temperature, guidance, top_k, top_p, min_p,
    GUIDED: tl.constexpr, GREEDY: tl.constexpr, TOP_K: tl.constexpr, TOP_P: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_C: tl.constexpr,
    SWEEPS: tl.constexpr, SEGMENTS: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Grid (B,). BLOCK_C: candidates; with WHOLE they are the row."""
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * stride_l
    unguided_ptr += row * stride_u
    word, _, _, _ = tl.philox(
        tl.load(seed_ptr + row), tl.load(row_ptr + row).to(tl.uint32), tl.load(step_ptr + row).to(tl.uint32),
        tl.zeros([], tl.uint32), tl.zeros([], tl.uint32),
    )  # fmt: skip
    uniform = (word >> 8).to(tl.float32) * 5.9604644775390625e-08  # 2^-24
    if GREEDY:
        uniform = 0.0
    id_C = tl.arange(0, BLOCK_C)
    if WHOLE:
        score_C = _scores(logits_ptr, unguided_ptr, id_C, vocabulary, inverse_temperature, guidance, GUIDED)
        top, numbers = tl.max(score_C, 0), tl.min((score_C == score_C).to(tl.int32), 0)  # a maximum passes over NaN
        bottom = tl.min(tl.where(score_C > float("-inf"), score_C, float("inf")), 0)
        total = tl.sum(tl.where(score_C > float("-inf"), tl.exp(score_C - top), 0.0), 0)
        token, mass = _draw_of_few(score_C, id_C, bottom, top, uniform, total, top_k, top_p, min_p, vocabulary, GREEDY, TOP_K, TOP_P)
    else:
        top_V, bottom_V = tl.full([BLOCK_V], float("-inf"), tl.float32), tl.full([BLOCK_V], float("inf"), tl.float32)
        numbers_V, finite_V = tl.full([BLOCK_V], 1, tl.int32), tl.zeros([BLOCK_V], tl.float32)
        for start in tl.range(0, vocabulary, BLOCK_V, num_stages=4):  # each lane keeps its own: no reduction inside the sweep
            id_V = start + tl.arange(0, BLOCK_V)
            score_V = _scores(logits_ptr, unguided_ptr, id_V, vocabulary, inverse_temperature, guidance, GUIDED)
            finite = score_V > float("-inf")
            top_V, bottom_V = tl.maximum(top_V, score_V), tl.minimum(bottom_V, tl.where(finite, score_V, float("inf")))
            numbers_V, finite_V = tl.minimum(numbers_V, (score_V == score_V).to(tl.int32)), finite_V + finite.to(tl.float32)
        top, bottom, numbers, count = tl.max(top_V, 0), tl.min(bottom_V, 0), tl.min(numbers_V, 0), tl.sum(finite_V, 0)
        total = 0.0
        if GREEDY or (TOP_P and not TOP_K):
            mass_V = tl.zeros([BLOCK_V], tl.float32)
            for start in range(0, vocabulary, BLOCK_V):
                id_V = start + tl.arange(0, BLOCK_V)
                score_V = _scores(logits_ptr, unguided_ptr, id_V, vocabulary, inverse_temperature, guidance, GUIDED)
                mass_V += tl.where(score_V > float("-inf"), tl.exp(score_V - top), 0.0)
            total = tl.sum(mass_V, 0)
        if TOP_K or TOP_P:
            wanted = top_k if TOP_K else top_p * total
            low, high, tries = bottom, top, 0
            while (count > BLOCK_C) & (tries < SWEEPS):
                fifth = (high - low) * 0.2
                a, b, c, d = low + fifth, low + 2 * fifth, low + 3 * fifth, low + 4 * fifth
                rest = vocabulary, inverse_temperature, guidance, top, a, b, c, d
                a_n, b_n, c_n, d_n = _above(logits_ptr, unguided_ptr, *rest, GUIDED, False, BLOCK_V)
                a_m, b_m, c_m, d_m = a_n, b_n, c_n, d_n
                if not TOP_K:
                    a_m, b_m, c_m, d_m = _above(logits_ptr, unguided_ptr, *rest, GUIDED, True, BLOCK_V)
                # from the lowest up: what is enough raises low, the first that is not is the new high
                high = tl.where(a_m < wanted, a, tl.where(b_m < wanted, b, tl.where(c_m < wanted, c, tl.where(d_m < wanted, d, high))))
                count = tl.where(
                    d_m >= wanted, d_n, tl.where(c_m >= wanted, c_n, tl.where(b_m >= wanted, b_n, tl.where(a_m >= wanted, a_n, count)))
                )
                low = tl.where(d_m >= wanted, d, tl.where(c_m >= wanted, c, tl.where(b_m >= wanted, b, tl.where(a_m >= wanted, a, low))))
                tries += 1
            if count <= BLOCK_C:
                few_score_ptr += row * BLOCK_C
                few_id_ptr += row * BLOCK_C
                held = _write_few(
                    logits_ptr, unguided_ptr, few_score_ptr, few_id_ptr, vocabulary, inverse_temperature, guidance, low, GUIDED, SEGMENTS
                )  # fmt: skip
                tl.debug_barrier()  # written by other threads of this block
                score_C = tl.load(few_score_ptr + id_C, mask=id_C < held, other=float("-inf"))
                id_C = tl.load(few_id_ptr + id_C, mask=id_C < held, other=0)
                token, mass = _draw_of_few(score_C, id_C, low, top, uniform, total, top_k, top_p, min_p, vocabulary, GREEDY, TOP_K, TOP_P)
            else:
                token, mass = _draw_of_many(
                    logits_ptr, unguided_ptr, vocabulary, inverse_temperature, guidance, top, uniform, top_k, top_p, min_p,
                    GUIDED, GREEDY, TOP_K, TOP_P, BLOCK_V,
                )  # fmt: skip
        else:
            token, mass = _draw_of_many(
                logits_ptr, unguided_ptr, vocabulary, inverse_temperature, guidance, top, uniform, top_k, top_p, min_p,
                GUIDED, GREEDY, TOP_K, TOP_P, BLOCK_V,
            )  # fmt: skip
    tl.store(token_ptr + row, token.to(tl.int64))
    score = _scores(logits_ptr, unguided_ptr, token, vocabulary, inverse_temperature, guidance, GUIDED)
    sound = (numbers == 1) & (top > float("-inf")) & (top < float("inf"))
    tl.store(logprob_ptr + row, tl.where(sound, score - top - tl.log(total if GREEDY else mass), float("nan")))


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
    top_k = top_k if top_k < V and not greedy else 0
    whole = triton.next_power_of_2(V)
    block_c = min(whole, CANDIDATES)
    few_score_BC = torch.empty(B, block_c if whole > block_c else 0, dtype=torch.float32, device=logits_BV.device)
    few_id_BC = torch.empty_like(few_score_BC, dtype=torch.int32)
    sample_kernel[(B,)](
        logits_BV, other_BV, seed_B, row_B, step_B, token_B, logprob_B, few_score_BC, few_id_BC, logits_BV.stride(0), other_BV.stride(0), V,
        1.0 if greedy else 1.0 / temperature, guidance, float(top_k), top_p, min_p,
        GUIDED=unguided_BV is not None, GREEDY=greedy, TOP_K=top_k > 0, TOP_P=not greedy and top_p < 1.0,
        BLOCK_V=min(whole, TILE), BLOCK_C=block_c, SWEEPS=SWEEPS, SEGMENTS=32 * OPTIONS["num_warps"], WHOLE=whole == block_c, **OPTIONS,
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
