"""`sample` on CUDA: thresholds are found by counting and by search over the bits of the scores, nothing is sorted.

A row of at most CANDIDATES tokens is one program's, in registers. A longer one takes three launches: a histogram of the scores of each
segment; the bin at or above which is all that greedy, top-k or top-p can keep, and the tokens from there on written out in the order of
the vocabulary; the draw from these, in registers. A float's bits, with all but the sign flipped where it is negative, order like the
float: the largest threshold that leaves at least k tokens (or at least the mass p) is found exactly by fifths of the integer range. A row
whose candidates are too many (a flat one with top-p, ties) is swept once a halving instead, as is one without filters three times.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Of a launch. Left alone, ptxas aims at fewer registers and spills a few. A fused multiply-add rounds otherwise, and may be in one kernel
# only: launches that follow one another must see the same scores, and equal scores must have equal bins.
OPTIONS = dict(num_warps=8, maxnreg=255, enable_fp_fusion=False)
TILE = CANDIDATES = 4096  # tokens of a segment, and that a sweep takes at a time; the most that stay in registers
NARROW = 512  # candidates of most rows with top-k: fewer lanes make the search of the thresholds quicker
BINS = 512  # of the histogram, see _bins
AT_ONCE = 16  # segments whose histograms are loaded together


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
def _reference(logits_ptr, unguided_ptr, vocabulary, inverse_temperature, guidance, GUIDED: tl.constexpr):
    """The highest finite score of 1024 tokens spread over the row, which all segments work out alike; 0 where none is finite."""
    lane_R = tl.arange(0, 1024)
    id_R = (lane_R >> 3) * (vocabulary // 128) + (lane_R & 7)
    score_R = _scores(logits_ptr, unguided_ptr, id_R, vocabulary, inverse_temperature, guidance, GUIDED)
    highest = tl.max(tl.where(score_R < float("inf"), score_R, float("-inf")), 0)  # NaN is not below inf
    return tl.where(highest > float("-inf"), highest, 0.0)


@triton.jit
def _bins(score_V, reference, BINS: tl.constexpr):
    """Bin of each score, the higher for the higher score: fine near the reference, 16 to each doubling of the distance from it.

    The four leading bits of the mantissa of distance + 1/8, and its exponent: whatever rounds, rounds without changing the order.
    -1: no bin, for -inf and NaN.
    """
    away_V = score_V - reference
    step_V = ((tl.abs(away_V) + 0.125).to(tl.int32, bitcast=True) >> 19) - 1984  # 1984: of 1/8
    step_V = tl.minimum(step_V, BINS // 2 - 1)
    return tl.where(score_V > float("-inf"), tl.where(away_V < 0, BINS // 2 - 1 - step_V, BINS // 2 + step_V), -1)


@triton.jit
def _upper_edge(bin_N, BINS: tl.constexpr):
    """Distance from the reference that no score of the bin exceeds (of the highest bin: many do)."""
    step_N = bin_N - (BINS // 2 - 1)
    edge_N = ((1984 + tl.abs(step_N)) << 19).to(tl.float32, bitcast=True) - 0.125
    return tl.where(step_N < 0, -edge_N, edge_N)


@triton.jit
def _whole_row(segment_ptr, segments, BLOCK_S: tl.constexpr):
    """(top, 1 where no score is NaN, mass relative to the top) of a row, from those of its segments."""
    s = tl.arange(0, BLOCK_S)
    top_S = tl.load(segment_ptr + s, mask=s < segments, other=float("-inf"))
    mass_S = tl.load(segment_ptr + segments + s, mask=s < segments, other=0.0)
    numbers = tl.min(tl.load(segment_ptr + 2 * segments + s, mask=s < segments, other=1.0), 0)
    top = tl.max(top_S, 0)
    return top, numbers, tl.sum(tl.where(top_S > float("-inf"), mass_S * tl.exp(top_S - top), 0.0), 0)


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
def _uniform(seed_ptr, row_ptr, step_ptr, row):
    word, _, _, _ = tl.philox(
        tl.load(seed_ptr + row), tl.load(row_ptr + row).to(tl.uint32), tl.load(step_ptr + row).to(tl.uint32),
        tl.zeros([], tl.uint32), tl.zeros([], tl.uint32),
    )  # fmt: skip
    return (word >> 8).to(tl.float32) * 5.9604644775390625e-08  # 2^-24


@triton.jit
def _store(
    token_ptr, logprob_ptr, row, token, top, numbers, mass, logits_ptr, unguided_ptr, vocabulary, inverse_temperature, guidance,
    GUIDED: tl.constexpr,
):  # fmt: skip
    """The token and its log-probability; NaN for a row that is no distribution."""
    tl.store(token_ptr + row, token.to(tl.int64))
    score = _scores(logits_ptr, unguided_ptr, token, vocabulary, inverse_temperature, guidance, GUIDED)
    sound = (numbers == 1) & (top > float("-inf")) & (top < float("inf"))
    tl.store(logprob_ptr + row, tl.where(sound, score - top - tl.log(mass), float("nan")))


@triton.jit
def sample_kernel(
    logits_ptr, unguided_ptr, seed_ptr, row_ptr, step_ptr, token_ptr, logprob_ptr,
    stride_l, stride_u, vocabulary, inverse_temperature, guidance, top_k, top_p, min_p,
    GUIDED: tl.constexpr, GREEDY: tl.constexpr, TOP_K: tl.constexpr, TOP_P: tl.constexpr, BLOCK_V: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Grid (B,). WHOLE: the row is one block; otherwise there is no filter that leaves few."""
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * stride_l
    unguided_ptr += row * stride_u
    uniform = 0.0 if GREEDY else _uniform(seed_ptr, row_ptr, step_ptr, row)
    if WHOLE:
        id_C = tl.arange(0, BLOCK_V)
        score_C = _scores(logits_ptr, unguided_ptr, id_C, vocabulary, inverse_temperature, guidance, GUIDED)
        top, numbers = tl.max(score_C, 0), tl.min((score_C == score_C).to(tl.int32), 0)  # a maximum passes over NaN
        bottom = tl.min(tl.where(score_C > float("-inf"), score_C, float("inf")), 0)
        total = tl.sum(tl.where(score_C > float("-inf"), tl.exp(score_C - top), 0.0), 0)
        token, mass = _draw_of_few(score_C, id_C, bottom, top, uniform, total, top_k, top_p, min_p, vocabulary, GREEDY, TOP_K, TOP_P)
        if GREEDY:
            mass = total
    else:
        top_V, numbers_V = tl.full([BLOCK_V], float("-inf"), tl.float32), tl.full([BLOCK_V], 1, tl.int32)
        for start in tl.range(0, vocabulary, BLOCK_V, num_stages=4):  # each lane keeps its own: no reduction inside the sweep
            id_V = start + tl.arange(0, BLOCK_V)
            score_V = _scores(logits_ptr, unguided_ptr, id_V, vocabulary, inverse_temperature, guidance, GUIDED)
            top_V, numbers_V = tl.maximum(top_V, score_V), tl.minimum(numbers_V, (score_V == score_V).to(tl.int32))
        top, numbers = tl.max(top_V, 0), tl.min(numbers_V, 0)
        token, mass = _draw_of_many(
            logits_ptr, unguided_ptr, vocabulary, inverse_temperature, guidance, top, uniform, top_k, top_p, min_p,
            GUIDED, GREEDY, TOP_K, TOP_P, BLOCK_V,
        )  # fmt: skip
    drawn = token_ptr, logprob_ptr, row, token, top, numbers, mass
    _store(*drawn, logits_ptr, unguided_ptr, vocabulary, inverse_temperature, guidance, GUIDED)


@triton.jit
def histogram_kernel(
    logits_ptr, unguided_ptr, segment_ptr, histogram_ptr, stride_l, stride_u, vocabulary, inverse_temperature, guidance,
    GUIDED: tl.constexpr, BLOCK_V: tl.constexpr, BINS: tl.constexpr,
):  # fmt: skip
    """Grid (B, segments). segment: fp32 [B, 4, segments], top, mass, 1 where no score is NaN, reference; histogram: [B, segments, BINS]."""
    row, s, segments = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    logits_ptr += row * stride_l
    unguided_ptr += row * stride_u
    id_V = s * BLOCK_V + tl.arange(0, BLOCK_V)
    score_V = _scores(logits_ptr, unguided_ptr, id_V, vocabulary, inverse_temperature, guidance, GUIDED)
    reference = _reference(logits_ptr, unguided_ptr, vocabulary, inverse_temperature, guidance, GUIDED)
    bin_V = _bins(score_V, reference, BINS)
    count_N = tl.histogram(tl.maximum(bin_V, 0), BINS, mask=bin_V >= 0)
    tl.store(histogram_ptr + (row * segments + s) * BINS + tl.arange(0, BINS), count_N)
    top = tl.max(score_V, 0)
    segment_ptr += row * segments * 4 + s
    tl.store(segment_ptr, top)
    tl.store(segment_ptr + segments, tl.sum(tl.where(score_V > float("-inf"), tl.exp(score_V - top), 0.0), 0))
    tl.store(segment_ptr + 2 * segments, tl.min((score_V == score_V).to(tl.float32), 0))
    tl.store(segment_ptr + 3 * segments, reference)


@triton.jit
def candidates_kernel(
    logits_ptr, unguided_ptr, segment_ptr, histogram_ptr, number_ptr, few_score_ptr, few_id_ptr,
    stride_l, stride_u, vocabulary, inverse_temperature, guidance, top_k, top_p,
    GUIDED: tl.constexpr, MASS: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_S: tl.constexpr, BINS: tl.constexpr,
    AT_ONCE: tl.constexpr,
):  # fmt: skip
    """Grid (B, segments): write out those tokens of the segment that the row's histogram leaves, ids ascending; their number in the row.

    What is written ends at BLOCK_C, the number does not. MASS: top_p decides, otherwise top_k (1 for greedy).
    """
    row, s, segments = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.num_programs(1)
    logits_ptr += row * stride_l
    unguided_ptr += row * stride_u
    segment_ptr += row * segments * 4
    histogram_ptr += row * segments * BINS
    id_V = s * BLOCK_V + tl.arange(0, BLOCK_V)
    score_V = _scores(logits_ptr, unguided_ptr, id_V, vocabulary, inverse_temperature, guidance, GUIDED)
    reference = tl.load(segment_ptr + 3 * segments)
    bin_N = tl.arange(0, BINS)
    count_N, before_N = tl.zeros([BINS], tl.int32), tl.zeros([BINS], tl.int32)
    for start in range(0, segments, AT_ONCE):
        s_A = start + tl.arange(0, AT_ONCE)
        count_AN = tl.load(histogram_ptr + s_A[:, None] * BINS + bin_N[None, :], mask=s_A[:, None] < segments, other=0)
        count_N += tl.sum(count_AN, 0)
        before_N += tl.sum(tl.where(s_A[:, None] < s, count_AN, 0), 0)
    if MASS:
        # enough is kept where what lies below surely weighs little: rounding of the sums and of the distances is allowed for
        top, _, total = _whole_row(segment_ptr, segments, BLOCK_S)
        edge_N, summit = _upper_edge(bin_N, BINS), top - reference
        mass_N = count_N.to(tl.float32) * tl.exp(tl.minimum(edge_N - summit + 5e-7 * (tl.abs(edge_N) + tl.abs(summit)), 0.0))
        enough_N = tl.cumsum(mass_N, 0) - mass_N <= (1.0 - top_p - 4e-6) * total
    else:
        enough_N = tl.sum(count_N, 0) - tl.cumsum(count_N, 0) + count_N >= top_k
    lowest = tl.max(tl.where(enough_N, bin_N, 0), 0)
    few_V = _bins(score_V, reference, BINS) >= lowest
    place_V = tl.sum(tl.where(bin_N >= lowest, before_N, 0), 0) + tl.cumsum(few_V.to(tl.int32), 0) - 1
    few_V = few_V & (place_V < BLOCK_C)
    tl.store(few_score_ptr + row * BLOCK_C + place_V, score_V, mask=few_V)
    tl.store(few_id_ptr + row * BLOCK_C + place_V, id_V, mask=few_V)
    if s == 0:
        tl.store(number_ptr + row, tl.sum(tl.where(bin_N >= lowest, count_N, 0), 0))


@triton.jit
def _draw_of_candidates(
    few_score_ptr, few_id_ptr, number, top, uniform, total, top_k, top_p, min_p, vocabulary,
    GREEDY: tl.constexpr, TOP_K: tl.constexpr, TOP_P: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    c = tl.arange(0, BLOCK_C)
    score_C = tl.load(few_score_ptr + c, mask=c < number, other=float("-inf"))
    id_C = tl.load(few_id_ptr + c, mask=c < number, other=0)
    bottom = tl.min(tl.where(c < number, score_C, float("inf")), 0)
    return _draw_of_few(score_C, id_C, bottom, top, uniform, total, top_k, top_p, min_p, vocabulary, GREEDY, TOP_K, TOP_P)


@triton.jit
def draw_kernel(
    logits_ptr, unguided_ptr, seed_ptr, row_ptr, step_ptr, token_ptr, logprob_ptr, segment_ptr, number_ptr, few_score_ptr, few_id_ptr,
    stride_l, stride_u, vocabulary, segments, inverse_temperature, guidance, top_k, top_p, min_p,
    GUIDED: tl.constexpr, GREEDY: tl.constexpr, TOP_K: tl.constexpr, TOP_P: tl.constexpr, BLOCK_V: tl.constexpr, BLOCK_C: tl.constexpr,
    NARROW: tl.constexpr, BLOCK_S: tl.constexpr,
):  # fmt: skip
    """Grid (B,): the draw from the candidates, or from the row where they are too many."""
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * stride_l
    unguided_ptr += row * stride_u
    few_score_ptr += row * BLOCK_C
    few_id_ptr += row * BLOCK_C
    uniform = 0.0 if GREEDY else _uniform(seed_ptr, row_ptr, step_ptr, row)
    top, numbers, total = _whole_row(segment_ptr + row * segments * 4, segments, BLOCK_S)
    number = tl.load(number_ptr + row)
    few = few_score_ptr, few_id_ptr, number, top, uniform, total, top_k, top_p, min_p, vocabulary
    if number <= NARROW:
        token, mass = _draw_of_candidates(*few, GREEDY, TOP_K, TOP_P, NARROW)
    elif number <= BLOCK_C:
        token, mass = _draw_of_candidates(*few, GREEDY, TOP_K, TOP_P, BLOCK_C)
    else:
        token, mass = _draw_of_many(
            logits_ptr, unguided_ptr, vocabulary, inverse_temperature, guidance, top, uniform, top_k, top_p, min_p,
            GUIDED, GREEDY, TOP_K, TOP_P, BLOCK_V,
        )  # fmt: skip
    drawn = token_ptr, logprob_ptr, row, token, top, numbers, total if GREEDY else mass
    _store(*drawn, logits_ptr, unguided_ptr, vocabulary, inverse_temperature, guidance, GUIDED)


def candidates(
    logits_BV: Tensor, unguided_BV: Tensor, inverse_temperature: float, guidance: float, top_k: int, top_p: float, guided: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """(segment_B4S, number_B, few_score_BC, few_id_BC), see the kernels. top_k 0: top_p decides."""
    B, V = logits_BV.shape
    segments, device = triton.cdiv(V, TILE), logits_BV.device
    segment_B4S = torch.empty(B, 4, segments, dtype=torch.float32, device=device)
    histogram_BSN = torch.empty(B, segments, BINS, dtype=torch.int32, device=device)
    number_B = torch.empty(B, dtype=torch.int32, device=device)
    few_score_BC = torch.empty(B, CANDIDATES, dtype=torch.float32, device=device)
    few_id_BC = torch.empty(B, CANDIDATES, dtype=torch.int32, device=device)
    first, grid = (logits_BV, unguided_BV, segment_B4S, histogram_BSN), (B, segments)
    sizes = logits_BV.stride(0), unguided_BV.stride(0), V, inverse_temperature, guidance
    blocks = dict(GUIDED=guided, BLOCK_V=TILE, BINS=BINS)
    histogram_kernel[grid](*first, *sizes, **blocks, **OPTIONS)
    candidates_kernel[grid](
        *first, number_B, few_score_BC, few_id_BC, *sizes, float(top_k), top_p,
        **blocks, MASS=top_k == 0, BLOCK_C=CANDIDATES, BLOCK_S=triton.next_power_of_2(segments), AT_ONCE=AT_ONCE, **OPTIONS,
    )  # fmt: skip
    return segment_B4S, number_B, few_score_BC, few_id_BC


@torch.library.custom_op("wfm_kernels::sample", mutates_args=())
def sample_op(
    logits_BV: Tensor, seed_B: Tensor, row_B: Tensor, step_B: Tensor, unguided_BV: Tensor | None,
    temperature: float, top_k: int, top_p: float, min_p: float, guidance: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The launches; top_k 0 keeps all."""
    B, V = logits_BV.shape
    token_B = torch.empty(B, dtype=torch.int64, device=logits_BV.device)
    logprob_B = torch.empty(B, dtype=torch.float32, device=logits_BV.device)
    greedy, guided = temperature == 0.0, unguided_BV is not None
    top_k = top_k if top_k < V and not greedy else 0
    ways = dict(GUIDED=guided, GREEDY=greedy, TOP_K=top_k > 0, TOP_P=not greedy and top_p < 1.0)
    rows = logits_BV, unguided_BV if guided else logits_BV
    keys, drawn = (seed_B, row_B, step_B), (token_B, logprob_B)
    sizes, strength = (*(each.stride(0) for each in rows), V), (1.0 if greedy else 1.0 / temperature, guidance)
    if V <= CANDIDATES or not (greedy or ways["TOP_K"] or ways["TOP_P"]):
        block = dict(BLOCK_V=min(triton.next_power_of_2(V), TILE), WHOLE=V <= CANDIDATES)
        sample_kernel[(B,)](*rows, *keys, *drawn, *sizes, *strength, float(top_k), top_p, min_p, **ways, **block, **OPTIONS)
        return drawn
    found = candidates(*rows, *strength, 1 if greedy else top_k, top_p, guided)
    block_s, blocks = triton.next_power_of_2(triton.cdiv(V, TILE)), dict(BLOCK_V=TILE, BLOCK_C=CANDIDATES, NARROW=NARROW)
    draw_kernel[(B,)](
        *rows, *keys, *drawn, *found, *sizes, triton.cdiv(V, TILE), *strength, float(top_k), top_p, min_p,
        **ways, **blocks, BLOCK_S=block_s, **OPTIONS,
    )  # fmt: skip
    return drawn


@sample_op.register_fake
def _(logits_BV, seed_B, row_B, step_B, unguided_BV, temperature, top_k, top_p, min_p, guidance):
    return seed_B.new_empty(seed_B.shape), torch.empty(seed_B.shape, dtype=torch.float32, device=seed_B.device)


def sample(
    logits_BV, seed_B, row_B, step_B, *, temperature=1.0, top_k=None, top_p=1.0, min_p=0.0, unguided_BV=None, guidance=1.0
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """See reference.py."""
    numbers = float(temperature), top_k or 0, float(top_p), float(min_p), float(guidance)
    return sample_op(logits_BV, seed_B, row_B, step_B, unguided_BV, *numbers)
