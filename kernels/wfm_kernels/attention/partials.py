"""Partial results of attention, and how they become a row: a maximum, a sum of weights and the weighted V over some of its keys.

The fold is by rows, in index order and with explicit fused multiply-adds, wherever it happens: in the registers of a block that has all
keys of its rows, in the last of several blocks to finish, or in a launch of its own.
"""

import triton
import triton.language as tl


@triton.jit
def fold(m_M, l_M, acc_MD, chunk_m_M, chunk_l_M, chunk_acc_MD):
    """Merge the partial of the next chunk into the running one. Base-2 logarithms; explicit fma, so that both callers round alike."""
    new_m_M = tl.maximum(m_M, chunk_m_M)
    safe_m_M = tl.where(new_m_M == float("-inf"), 0.0, new_m_M)  # nothing seen yet on either side: avoid -inf minus -inf
    a_M = tl.exp2(m_M - safe_m_M)
    b_M = tl.exp2(chunk_m_M - safe_m_M)
    new_l_M = tl.fma(l_M, a_M, chunk_l_M * b_M)
    new_acc_MD = tl.fma(acc_MD, tl.broadcast_to(a_M[:, None], acc_MD.shape), chunk_acc_MD * b_M[:, None])
    return new_m_M, new_l_M, new_acc_MD


@triton.jit
def store_out(
    out_ptr, lse_ptr, row_M, group_M, token_M, rows, num_tokens, m_M, l_M, acc_MD, stride_on, stride_ot,
    HEAD: tl.constexpr, BLOCK_D: tl.constexpr, LSE: tl.constexpr,
):  # fmt: skip
    """Divide by the weight sum and write out; a query that saw nothing gives zeros and a log-sum-exp of -inf."""
    offset_D = tl.arange(0, BLOCK_D)
    out_MD = acc_MD / tl.where(l_M > 0.0, l_M, 1.0)[:, None]
    pointer_MD = out_ptr + (group_M * stride_on + token_M * stride_ot)[:, None] + offset_D[None, :]
    tl.store(pointer_MD, out_MD.to(out_ptr.dtype.element_ty), mask=(row_M < rows)[:, None] & (offset_D < HEAD)[None, :])
    if LSE:
        lse_M = tl.where(l_M > 0.0, (m_M + tl.log2(l_M)) * 0.6931471805599453, float("-inf"))  # ln 2: base 2 to base e
        tl.store(lse_ptr + group_M * num_tokens + token_M, lse_M, mask=row_M < rows)


@triton.jit
def store_partial(partial_m_ptr, partial_l_ptr, partial_acc_ptr, lane_M, live_M, m_M, l_M, acc_MD, BLOCK_D: tl.constexpr):
    """Leave a partial result for another block to fold, rows at lane_M."""
    tl.store(partial_m_ptr + lane_M, m_M)
    tl.store(partial_l_ptr + lane_M, l_M)
    lane_MD = lane_M[:, None] * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    tl.store(partial_acc_ptr + lane_MD, acc_MD, mask=tl.broadcast_to(live_M[:, None], acc_MD.shape))


@triton.jit
def _load_partial(
    partial_m_ptr, partial_l_ptr, partial_acc_ptr, chunk, num_chunks, lane_M, live_M, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr
):  # fmt: skip
    """Rows lane_M of a stored partial; one that saw nothing, which folds to no change in any bit, beyond the last chunk and row."""
    lane_MD = lane_M[:, None] * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    live_M = live_M & (chunk + lane_M * 0 < num_chunks)
    # .cg: other blocks wrote these; a line this block's L1 may hold from an earlier launch must not be used
    m_M = tl.load(partial_m_ptr + chunk * BLOCK_M + lane_M, mask=live_M, other=float("-inf"), cache_modifier=".cg")
    l_M = tl.load(partial_l_ptr + chunk * BLOCK_M + lane_M, mask=live_M, other=0.0, cache_modifier=".cg")
    acc_MD = tl.load(partial_acc_ptr + chunk * BLOCK_M * BLOCK_D + lane_MD, mask=live_M[:, None], other=0.0, cache_modifier=".cg")
    return m_M, l_M, acc_MD


@triton.jit
def _fold_partials(
    m_M, l_M, acc_MD, partial_m_ptr, partial_l_ptr, partial_acc_ptr, num_chunks, lane_M, live_M,
    BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    """Fold the stored partials 0..num_chunks-1 into the running one in index order, AT_ONCE (1, 2, 4, 8 or 16) of them in flight."""
    partials, live = (partial_m_ptr, partial_l_ptr, partial_acc_ptr), (num_chunks, lane_M, live_M)
    for chunk in range(0, num_chunks, AT_ONCE):
        m0_M, l0_M, acc0_MD = _load_partial(*partials, chunk, *live, BLOCK_M, BLOCK_D)
        if AT_ONCE >= 2:
            m1_M, l1_M, acc1_MD = _load_partial(*partials, chunk + 1, *live, BLOCK_M, BLOCK_D)
        if AT_ONCE >= 4:
            m2_M, l2_M, acc2_MD = _load_partial(*partials, chunk + 2, *live, BLOCK_M, BLOCK_D)
            m3_M, l3_M, acc3_MD = _load_partial(*partials, chunk + 3, *live, BLOCK_M, BLOCK_D)
        if AT_ONCE >= 8:
            m4_M, l4_M, acc4_MD = _load_partial(*partials, chunk + 4, *live, BLOCK_M, BLOCK_D)
            m5_M, l5_M, acc5_MD = _load_partial(*partials, chunk + 5, *live, BLOCK_M, BLOCK_D)
            m6_M, l6_M, acc6_MD = _load_partial(*partials, chunk + 6, *live, BLOCK_M, BLOCK_D)
            m7_M, l7_M, acc7_MD = _load_partial(*partials, chunk + 7, *live, BLOCK_M, BLOCK_D)
        if AT_ONCE >= 16:
            m8_M, l8_M, acc8_MD = _load_partial(*partials, chunk + 8, *live, BLOCK_M, BLOCK_D)
            m9_M, l9_M, acc9_MD = _load_partial(*partials, chunk + 9, *live, BLOCK_M, BLOCK_D)
            m10_M, l10_M, acc10_MD = _load_partial(*partials, chunk + 10, *live, BLOCK_M, BLOCK_D)
            m11_M, l11_M, acc11_MD = _load_partial(*partials, chunk + 11, *live, BLOCK_M, BLOCK_D)
            m12_M, l12_M, acc12_MD = _load_partial(*partials, chunk + 12, *live, BLOCK_M, BLOCK_D)
            m13_M, l13_M, acc13_MD = _load_partial(*partials, chunk + 13, *live, BLOCK_M, BLOCK_D)
            m14_M, l14_M, acc14_MD = _load_partial(*partials, chunk + 14, *live, BLOCK_M, BLOCK_D)
            m15_M, l15_M, acc15_MD = _load_partial(*partials, chunk + 15, *live, BLOCK_M, BLOCK_D)
        m_M, l_M, acc_MD = fold(m_M, l_M, acc_MD, m0_M, l0_M, acc0_MD)
        if AT_ONCE >= 2:
            m_M, l_M, acc_MD = fold(m_M, l_M, acc_MD, m1_M, l1_M, acc1_MD)
        if AT_ONCE >= 4:
            m_M, l_M, acc_MD = fold(m_M, l_M, acc_MD, m2_M, l2_M, acc2_MD)
            m_M, l_M, acc_MD = fold(m_M, l_M, acc_MD, m3_M, l3_M, acc3_MD)
        if AT_ONCE >= 8:
            m_M, l_M, acc_MD = fold(m_M, l_M, acc_MD, m4_M, l4_M, acc4_MD)
            m_M, l_M, acc_MD = fold(m_M, l_M, acc_MD, m5_M, l5_M, acc5_MD)
            m_M, l_M, acc_MD = fold(m_M, l_M, acc_MD, m6_M, l6_M, acc6_MD)
            m_M, l_M, acc_MD = fold(m_M, l_M, acc_MD, m7_M, l7_M, acc7_MD)
        if AT_ONCE >= 16:
            m_M, l_M, acc_MD = fold(m_M, l_M, acc_MD, m8_M, l8_M, acc8_MD)
            m_M, l_M, acc_MD = fold(m_M, l_M, acc_MD, m9_M, l9_M, acc9_MD)
            m_M, l_M, acc_MD = fold(m_M, l_M, acc_MD, m10_M, l10_M, acc10_MD)
            m_M, l_M, acc_MD = fold(m_M, l_M, acc_MD, m11_M, l11_M, acc11_MD)
            m_M, l_M, acc_MD = fold(m_M, l_M, acc_MD, m12_M, l12_M, acc12_MD)
            m_M, l_M, acc_MD = fold(m_M, l_M, acc_MD, m13_M, l13_M, acc13_MD)
            m_M, l_M, acc_MD = fold(m_M, l_M, acc_MD, m14_M, l14_M, acc14_MD)
            m_M, l_M, acc_MD = fold(m_M, l_M, acc_MD, m15_M, l15_M, acc15_MD)
    return m_M, l_M, acc_MD


@triton.jit
def begin(
    past_m_ptr, past_l_ptr, past_acc_ptr, past_length_ptr, past_chunk, past_chunks, past_tiles, batch, head, row_M, rows,
    BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, PAST_M: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    """What a row has seen before its first chunk: nothing, or with PAST_M what the pass over a shared past stored, in tiles of PAST_M rows.

    That pass had the rows of all futures behind one another, `past_tiles` tiles a head, `past_chunks` partials a tile.
    """
    m_M = tl.full([BLOCK_M], float("-inf"), tl.float32)
    l_M = tl.zeros([BLOCK_M], tl.float32)
    acc_MD = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    if PAST_M:
        place = batch * rows  # of the first row among those of all futures; what differs from row to row fits in 32 bits
        first = (head * past_tiles + place // PAST_M) * past_chunks * PAST_M
        place_M = (place % PAST_M).to(tl.int32) + row_M
        lane_M = place_M // PAST_M * past_chunks * PAST_M + place_M % PAST_M
        number = tl.minimum(tl.cdiv(tl.load(past_length_ptr).to(tl.int64), past_chunk), past_chunks)
        past = past_m_ptr + first, past_l_ptr + first, past_acc_ptr + first * BLOCK_D
        m_M, l_M, acc_MD = _fold_partials(m_M, l_M, acc_MD, *past, number, lane_M, row_M < rows, PAST_M, BLOCK_D, AT_ONCE)
    return m_M, l_M, acc_MD


@triton.jit
def fold_and_store(
    out_ptr, lse_ptr, past_m_ptr, past_l_ptr, past_acc_ptr, past_length_ptr, partial_m_ptr, partial_l_ptr, partial_acc_ptr,
    past_chunk, past_chunks, past_tiles, batch, head, tile, num_chunks, num_tokens, stride_on, stride_ot,
    GROUP: tl.constexpr, HEAD: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, LSE: tl.constexpr, PAST_M: tl.constexpr,
    FOLD_M: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    """A tile's rows from its stored partials, FOLD_M rows at a time. Rows do not touch, so their number changes no bit."""
    rows = num_tokens * GROUP
    for first in range(0, tl.minimum(rows - tile * BLOCK_M, BLOCK_M), FOLD_M):
        lane_M = first + tl.arange(0, FOLD_M)
        row_M = tile * BLOCK_M + lane_M
        token_M, group_M = row_M // GROUP, row_M % GROUP
        past = past_m_ptr, past_l_ptr, past_acc_ptr, past_length_ptr, past_chunk, past_chunks, past_tiles
        m_M, l_M, acc_MD = begin(*past, batch, head, row_M, rows, FOLD_M, BLOCK_D, PAST_M, 4)
        m_M, l_M, acc_MD = _fold_partials(
            m_M, l_M, acc_MD, partial_m_ptr, partial_l_ptr, partial_acc_ptr, num_chunks, lane_M, row_M < rows, BLOCK_M, BLOCK_D, AT_ONCE
        )  # fmt: skip
        store_out(out_ptr, lse_ptr, row_M, group_M, token_M, rows, num_tokens, m_M, l_M, acc_MD, stride_on, stride_ot, HEAD, BLOCK_D, LSE)


@triton.jit
def fold_kernel(
    lengths_ptr, out_ptr, lse_ptr, past_m_ptr, past_l_ptr, past_acc_ptr, past_length_ptr, partial_m_ptr, partial_l_ptr, partial_acc_ptr,
    past_chunk, past_chunks, past_tiles, stride_ob, stride_on, stride_ot, num_tokens, kv_heads, slots, chunk_size, max_chunks,
    GROUP: tl.constexpr, HEAD: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr, LSE: tl.constexpr, PAST_M: tl.constexpr,
    FOLD_M: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    """The second launch of the two-launch form. Grid (row tiles, B * H)."""
    tile, batch_head = tl.program_id(0), tl.program_id(1)
    batch, head = (batch_head // kv_heads).to(tl.int64), (batch_head % kv_heads).to(tl.int64)
    slot = (batch_head * tl.num_programs(0) + tile).to(tl.int64)
    partial_m_ptr += slot * max_chunks * BLOCK_M
    partial_l_ptr += slot * max_chunks * BLOCK_M
    partial_acc_ptr += slot * max_chunks * BLOCK_M * BLOCK_D
    live_chunks = tl.cdiv(tl.minimum(tl.load(lengths_ptr + batch).to(tl.int64), slots).to(tl.int32), chunk_size)
    out_ptr += batch * stride_ob + head * GROUP * stride_on
    lse_ptr += (batch * kv_heads + head) * GROUP * num_tokens
    fold_and_store(
        out_ptr, lse_ptr, past_m_ptr, past_l_ptr, past_acc_ptr, past_length_ptr, partial_m_ptr, partial_l_ptr, partial_acc_ptr,
        past_chunk, past_chunks, past_tiles, batch, head, tile, live_chunks, num_tokens, stride_on, stride_ot,
        GROUP, HEAD, BLOCK_M, BLOCK_D, LSE, PAST_M, FOLD_M, AT_ONCE,
    )  # fmt: skip


def fold_shape(rows: int, head: int, block_d: int, num_warps: int) -> tuple[int, int]:
    """(rows, partials of each) that are in registers at a time while partials are folded: 128 numbers a thread, masked ones 64.

    All 16 of a chunked row at once where the rows are few: a lone row waits for nothing else.
    """
    fold_m, numbers = min(triton.next_power_of_2(rows), 16), 128 if head == block_d else 64
    return fold_m, max(1, min(16 if fold_m <= 4 else 8, numbers * 32 * num_warps // (fold_m * block_d)))
