"""`sample` on CUDA: thresholds are found by counting and by search over the bits of the scores, nothing is sorted.

A row of at most CANDIDATES tokens is one program's, in registers. A longer one takes three launches: a histogram of
the scores of each segment; the bin at or above which is all that greedy, top-k or top-p can keep, and the tokens from
there on written out in the order of the vocabulary; the draw from these, in registers (draw.py). A row whose
candidates are too many (a flat one with top-p, ties) is swept once a halving instead, as is one without filters
three times.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from wfm_kernels.sample.draw import draw_of_few, draw_of_many, scores

# Of a launch. Left alone, ptxas aims at fewer registers and spills a few. A fused multiply-add rounds otherwise, and may be in one kernel
# only: launches that follow one another must see the same scores, and equal scores must have equal bins.
OPTIONS = dict(num_warps=8, maxnreg=255, enable_fp_fusion=False)
TILE = CANDIDATES = 4096  # tokens of a segment, and that a sweep takes at a time; the most that stay in registers
NARROW = 512  # candidates of most rows with top-k: fewer lanes make the search of the thresholds quicker
BINS = 512  # of the histogram, see _bins
AT_ONCE = 16  # segments whose histograms are loaded together


@triton.jit
def _reference(logits_ptr, unguided_ptr, vocabulary, inverse_temperature, guidance, GUIDED: tl.constexpr):
    """The highest finite score of 1024 tokens spread over the row, which all segments work out alike; 0 where none is finite."""
    lane_R = tl.arange(0, 1024)
    id_R = (lane_R >> 3) * (vocabulary // 128) + (lane_R & 7)
    score_R = scores(logits_ptr, unguided_ptr, id_R, vocabulary, inverse_temperature, guidance, GUIDED)
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
    score = scores(logits_ptr, unguided_ptr, token, vocabulary, inverse_temperature, guidance, GUIDED)
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
        score_C = scores(logits_ptr, unguided_ptr, id_C, vocabulary, inverse_temperature, guidance, GUIDED)
        top, numbers = tl.max(score_C, 0), tl.min((score_C == score_C).to(tl.int32), 0)  # a maximum passes over NaN
        bottom = tl.min(tl.where(score_C > float("-inf"), score_C, float("inf")), 0)
        total = tl.sum(tl.where(score_C > float("-inf"), tl.exp(score_C - top), 0.0), 0)
        token, mass = draw_of_few(score_C, id_C, bottom, top, uniform, total, top_k, top_p, min_p, vocabulary, GREEDY, TOP_K, TOP_P)
        if GREEDY:
            mass = total
    else:
        top_V, numbers_V = tl.full([BLOCK_V], float("-inf"), tl.float32), tl.full([BLOCK_V], 1, tl.int32)
        for start in tl.range(0, vocabulary, BLOCK_V, num_stages=4):  # each lane keeps its own: no reduction inside the sweep
            id_V = start + tl.arange(0, BLOCK_V)
            score_V = scores(logits_ptr, unguided_ptr, id_V, vocabulary, inverse_temperature, guidance, GUIDED)
            top_V, numbers_V = tl.maximum(top_V, score_V), tl.minimum(numbers_V, (score_V == score_V).to(tl.int32))
        top, numbers = tl.max(top_V, 0), tl.min(numbers_V, 0)
        token, mass = draw_of_many(
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
    score_V = scores(logits_ptr, unguided_ptr, id_V, vocabulary, inverse_temperature, guidance, GUIDED)
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
    score_V = scores(logits_ptr, unguided_ptr, id_V, vocabulary, inverse_temperature, guidance, GUIDED)
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
    return draw_of_few(score_C, id_C, bottom, top, uniform, total, top_k, top_p, min_p, vocabulary, GREEDY, TOP_K, TOP_P)


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
        token, mass = draw_of_many(
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
