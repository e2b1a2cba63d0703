"""`attention` on CUDA: split-KV decoding with the query heads of a group in one tile, so that K and V are read once.

The keys are cut into fixed chunks whose size depends on the host-known max_length alone. A chunk's partial result (maximum,
weight sum, weighted V) never depends on who computes it, and partials are folded in index order, so the bits do not depend on
the number of splits, hence not on the batch: row i alone == row i in any batch, run after run. With one split the fold happens
in registers; with several, partials go to memory and the last block to finish folds them (or a second launch does: the check).
Nothing is read back to the host, and lengths are device tensors, so a captured graph serves every step.
Source: Flash-Decoding (Dao et al. 2023); the packing of query heads follows vLLM's unified attention (arXiv 2511.11581).
"""

import math
from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from wfm_kernels.attention.masks import CAUSAL, FULL, Mask, Slots, Tree
from wfm_kernels.attention.partials import begin, fold, fold_and_store, fold_kernel, fold_shape, store_out, store_partial
from wfm_kernels.attention.splits import multiprocessors, number_of_splits
from wfm_kernels.attention.tile import SLOTS_FORM, TREE_FORM, add_tile, mask_numbers, row_length
from wfm_kernels.errors import KernelError

MAX_CHUNKS = 16  # the fold is sequential: more chunks help a lone row little and cost the fold
MAX_HEAD = 256
FARTHEST = 1 << 24  # numbers from slot to slot: 128 of them are one tile's 32-bit offsets
LOG2E = math.log2(math.e)


@triton.jit
def decode_kernel(
    q_ptr, k_ptr, v_ptr, k_scale_ptr, v_scale_ptr, lengths_ptr, bits_ptr, out_ptr, lse_ptr,
    past_m_ptr, past_l_ptr, past_acc_ptr, past_length_ptr, partial_m_ptr, partial_l_ptr, partial_acc_ptr, counter_ptr,
    stride_qb, stride_qn, stride_qt, stride_kb, stride_kh, stride_kl, stride_vb, stride_vh, stride_vl, stride_ob, stride_on, stride_ot,
    stride_sb, stride_sh, past_chunk, past_chunks, past_tiles, scale_log2, num_tokens, kv_heads, slots, chunk_size, max_chunks,
    sink, frame, ring, window,
    GROUP: tl.constexpr, HEAD: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
    FORM: tl.constexpr, QUANTISED: tl.constexpr, ALIKE: tl.constexpr, LSE: tl.constexpr, PAST_M: tl.constexpr,
    SPLITS: tl.constexpr, PARTIALS: tl.constexpr, LAST_BLOCK_FOLDS: tl.constexpr, FOLD_M: tl.constexpr, AT_ONCE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (row tiles, B * H, SPLITS). Row r of a tile is query head r % GROUP of token r // GROUP. ALIKE: K and V have one slot stride.

    bits_ptr: of a tree int64 [B, T], of seen slots bool [B, frame] (`frame` is the cache's capacity then). The past: see partials.begin.
    PARTIALS: store partial results and fold none of them, but with one split, whose block has them all: then the fold alone.
    """
    row_tile, batch_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    batch, head = (batch_head // kv_heads).to(tl.int64), (batch_head % kv_heads).to(tl.int64)
    length = row_length(lengths_ptr, batch, slots, frame, ring, FORM)
    rows = num_tokens * GROUP
    row_M = row_tile * BLOCK_M + tl.arange(0, BLOCK_M)
    token_M, group_M = row_M // GROUP, row_M % GROUP
    offset_D = tl.arange(0, BLOCK_D)
    q_ptr += batch * stride_qb + head * GROUP * stride_qn
    q_pointer_MD = q_ptr + (group_M * stride_qn + token_M * stride_qt)[:, None] + offset_D[None, :]
    q_MD = tl.load(q_pointer_MD, mask=(row_M < rows)[:, None] & (offset_D < HEAD)[None, :], other=0.0)
    scale_M = tl.full([BLOCK_M], scale_log2, tl.float32)
    if QUANTISED and q_ptr.dtype.element_ty != tl.float32:  # int8 and e4m3 are exact in fp16; a row whose largest is 1 fits there as well
        largest_M = tl.max(tl.abs(q_MD.to(tl.float32)), 1)
        largest_M = tl.where(largest_M > 0.0, largest_M, 1.0)
        q_MD, scale_M = (q_MD.to(tl.float32) / largest_M[:, None]).to(tl.float16), scale_M * largest_M
    k_ptr += batch * stride_kb + head * stride_kh
    v_ptr += batch * stride_vb + head * stride_vh
    if QUANTISED:
        k_scale_ptr += batch * stride_sb + head * stride_sh
        v_scale_ptr += batch * stride_sb + head * stride_sh
    place_M = length - num_tokens + token_M
    bits_M = place_M.to(tl.int64)
    if FORM == TREE_FORM:
        bits_M = tl.load(bits_ptr + batch * num_tokens + token_M, mask=row_M < rows, other=0)
    if FORM == SLOTS_FORM:
        bits_ptr += batch * frame
    live = tl.minimum(length, slots)

    # Chunks are shared out over the live length, which changes no bit: only a chunk's bounds matter to its partial result.
    live_chunks = tl.cdiv(live, chunk_size)
    chunks_per_split = tl.cdiv(live_chunks, SPLITS)
    first = split * chunks_per_split
    last = tl.minimum(first + chunks_per_split, live_chunks)

    slot = (batch_head * tl.num_programs(0) + row_tile).to(tl.int64)
    partial_m_ptr += slot * max_chunks * BLOCK_M
    partial_l_ptr += slot * max_chunks * BLOCK_M
    partial_acc_ptr += slot * max_chunks * BLOCK_M * BLOCK_D
    lane_M = tl.arange(0, BLOCK_M)
    past = past_m_ptr, past_l_ptr, past_acc_ptr, past_length_ptr, past_chunk, past_chunks, past_tiles
    if SPLITS == 1:
        at_once: tl.constexpr = 2 if FORM == SLOTS_FORM else 4  # that mask leaves fewer registers
        m_M, l_M, acc_MD = begin(*past, batch, head, row_M, rows, BLOCK_M, BLOCK_D, PAST_M, at_once)
    chunk_m_M = tl.full([BLOCK_M], float("-inf"), tl.float32)
    chunk_l_M = tl.zeros([BLOCK_M], tl.float32)
    chunk_acc_MD = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    # one loop over tiles, not one of chunks with one of tiles within: the pipeline of loads runs on over the edges of chunks
    stop = tl.minimum(last * chunk_size, live)
    for tile in range(first * chunk_size, stop, BLOCK_N):
        chunk_m_M, chunk_l_M, chunk_acc_MD = add_tile(
            chunk_m_M, chunk_l_M, chunk_acc_MD, q_MD, place_M, bits_M, bits_ptr, k_ptr, v_ptr, k_scale_ptr, v_scale_ptr, tile, live,
            stride_kl, stride_vl, scale_M, length, num_tokens, sink, frame, ring, window,
            HEAD, BLOCK_N, BLOCK_D, FORM, QUANTISED, ALIKE, PRECISION,
        )  # fmt: skip
        if (tile + BLOCK_N) % chunk_size == 0 or tile + BLOCK_N >= stop:
            if SPLITS == 1:
                m_M, l_M, acc_MD = fold(m_M, l_M, acc_MD, chunk_m_M, chunk_l_M, chunk_acc_MD)
            else:
                partial = tile // chunk_size * BLOCK_M + lane_M
                store_partial(
                    partial_m_ptr, partial_l_ptr, partial_acc_ptr, partial, row_M < rows, chunk_m_M, chunk_l_M, chunk_acc_MD, BLOCK_D
                )
            chunk_m_M = tl.full([BLOCK_M], float("-inf"), tl.float32)
            chunk_l_M = tl.zeros([BLOCK_M], tl.float32)
            chunk_acc_MD = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)

    out_ptr += batch * stride_ob + head * GROUP * stride_on
    lse_ptr += (batch * kv_heads + head) * GROUP * num_tokens
    if PARTIALS:
        if SPLITS == 1:
            store_partial(partial_m_ptr, partial_l_ptr, partial_acc_ptr, lane_M, row_M < rows, m_M, l_M, acc_MD, BLOCK_D)
    elif SPLITS == 1:
        store_out(out_ptr, lse_ptr, row_M, group_M, token_M, rows, num_tokens, m_M, l_M, acc_MD, stride_on, stride_ot, HEAD, BLOCK_D, LSE)
    elif LAST_BLOCK_FOLDS:
        tl.debug_barrier()  # every thread's partial is written before one thread counts the block as done
        done = tl.atomic_add(counter_ptr + slot, 1, sem="acq_rel")
        if done == SPLITS - 1:
            fold_and_store(
                out_ptr, lse_ptr, past_m_ptr, past_l_ptr, past_acc_ptr, past_length_ptr, partial_m_ptr, partial_l_ptr, partial_acc_ptr,
                past_chunk, past_chunks, past_tiles, batch, head, row_tile, live_chunks, num_tokens, stride_on, stride_ot,
                GROUP, HEAD, BLOCK_M, BLOCK_D, LSE, PAST_M, FOLD_M, AT_ONCE,
            )  # fmt: skip
            tl.store(counter_ptr + slot, 0)  # ready for the next launch, so that a graph can replay


@torch.library.custom_op("wfm_kernels::attention", mutates_args=("counters",))
def attention_op(
    q_BNTK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor, lengths_B: Tensor, bits: Tensor | None, k_scale_BHL: Tensor | None,
    v_scale_BHL: Tensor | None, past_m: Tensor | None, past_l: Tensor | None, past_acc: Tensor | None, past_length_1: Tensor | None,
    counters: Tensor | None, scale: float, form: int, sink: int, frame: int, ring: int, window: int, slots: int, past_chunk: int,
    return_lse: bool, splits: int, two_launches: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The launch. Returns (out_BNTK, lse_BNT, empty unless asked for). Numbers that are 0 are chosen here."""
    (B, N, T, K), lengths_B = q_BNTK.shape, lengths_B.contiguous()
    plan = _plan(q_BNTK, k_BHLK, v_BHLK, k_scale_BHL is not None, slots, splits, 0, MAX_CHUNKS)
    out_BNTK = torch.empty((B, N, T, K), dtype=q_BNTK.dtype, device=q_BNTK.device)
    lse_BNT = torch.empty((B, N, T) if return_lse else 0, dtype=torch.float32, device=q_BNTK.device)
    if counters is None:
        counters = lengths_B.new_zeros(plan.blocks if plan.splits > 1 and not two_launches else 0, dtype=torch.int32)
    partials = plan.partials(plan.max_chunks if plan.splits > 1 else 0, q_BNTK.device)
    past = partials if past_m is None else (past_m, past_l, past_acc)
    past_numbers = (1, 0, 0) if past_m is None else (past_chunk, past_m.shape[1], past_m.shape[0] // k_BHLK.shape[1])
    past = (*past, lengths_B if past_m is None else past_length_1)
    shapes = plan.shapes | dict(LSE=return_lse, PAST_M=0 if past_m is None else past_m.shape[2])
    tensors, numbers = (q_BNTK, k_BHLK, v_BHLK, k_scale_BHL, v_scale_BHL, lengths_B, bits), (scale, form, sink, frame, ring, window, slots)
    flags = dict(LAST_BLOCK_FOLDS=not two_launches, PARTIALS=False)
    _launch(plan, tensors, out_BNTK, lse_BNT, past, past_numbers, partials, counters, numbers, shapes, flags)
    if plan.splits > 1 and two_launches:
        fold_kernel[(plan.row_tiles, plan.blocks // plan.row_tiles)](
            lengths_B, out_BNTK, lse_BNT, *past, *partials, *past_numbers, *out_BNTK.stride()[:3],
            T, k_BHLK.shape[1], slots, plan.chunk_size, plan.max_chunks, num_warps=plan.options["num_warps"], maxnreg=255, **shapes,
        )  # fmt: skip
    return out_BNTK, lse_BNT


@attention_op.register_fake
def _(
    q_BNTK, k, v, lengths, bits, k_scale, v_scale, past_m, past_l, past_acc, past_length, counters, scale, form, sink, frame, ring, window,
    slots, past_chunk, return_lse, splits, two_launches,
):  # fmt: skip
    out_BNTK = torch.empty(q_BNTK.shape, dtype=q_BNTK.dtype, device=q_BNTK.device)
    return out_BNTK, torch.empty(q_BNTK.shape[:3] if return_lse else 0, dtype=torch.float32, device=q_BNTK.device)


@torch.library.custom_op("wfm_kernels::attention_partials", mutates_args=())
def attention_partials_op(
    q_BNTK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor, lengths_B: Tensor, k_scale_BHL: Tensor | None, v_scale_BHL: Tensor | None,
    scale: float, tile_rows: int, chunks: int, stages: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """The launch that stores what each chunk of the keys says (m, l, acc of each row); one block that has them all folds them first."""
    slots = k_BHLK.shape[2]
    plan = _plan(q_BNTK, k_BHLK, v_BHLK, k_scale_BHL is not None, slots, 0, tile_rows, chunks)
    plan = replace(plan, options=plan.options | dict(num_stages=stages))
    partials = plan.partials(plan.max_chunks if plan.splits > 1 else 1, q_BNTK.device)
    tensors, numbers = (q_BNTK, k_BHLK, v_BHLK, k_scale_BHL, v_scale_BHL, lengths_B, None), (scale, *mask_numbers(FULL, slots))
    past, shapes = (*partials, lengths_B), plan.shapes | dict(LSE=False, PAST_M=0)
    flags = dict(LAST_BLOCK_FOLDS=False, PARTIALS=True)
    _launch(plan, tensors, q_BNTK, partials[0], past, (1, 0, 0), partials, lengths_B, numbers, shapes, flags)
    return partials


@attention_partials_op.register_fake
def _(q_BNTK, k_BHLK, v_BHLK, lengths_B, k_scale_BHL, v_scale_BHL, scale, tile_rows, chunks, stages):
    plan = _plan(q_BNTK, k_BHLK, v_BHLK, k_scale_BHL is not None, k_BHLK.shape[2], 0, tile_rows, chunks)
    return plan.partials(plan.max_chunks if plan.splits > 1 else 1, q_BNTK.device)


@dataclass(frozen=True)
class _Plan:
    """What follows from the shapes: how the queries and keys are cut, and the launch's constants."""

    row_tiles: int
    blocks: int  # row tiles of all rows and heads
    splits: int
    chunk_size: int
    max_chunks: int
    block_n: int
    alike: bool
    shapes: dict[str, int]
    options: dict[str, int]

    def partials(self, chunks: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Room for m and l [tiles, chunks, rows] and acc [tiles, chunks, rows, D], float32."""
        shape = self.blocks, chunks, self.shapes["BLOCK_M"]
        sizes = shape, shape, (*shape, self.shapes["BLOCK_D"])
        return tuple(torch.empty(size, dtype=torch.float32, device=device) for size in sizes)


def _plan(q_BNTK, k_BHLK, v_BHLK, quantised: bool, slots: int, splits: int, tile_rows: int, chunks: int) -> _Plan:
    (B, N, T, K), H = q_BNTK.shape, k_BHLK.shape[1]
    group, alike = N // H, k_BHLK.stride(2) == v_BHLK.stride(2)
    block_m, block_n, block_d, options = tile_shape(tile_rows or T * group, K, q_BNTK.dtype, quantised, alike)
    row_tiles = triton.cdiv(T * group, block_m)
    chunk_size = chunk_length(slots, block_n, chunks)
    max_chunks, blocks = triton.cdiv(slots, chunk_size), row_tiles * B * H
    splits = splits or number_of_splits(blocks, max_chunks, multiprocessors(q_BNTK.device))
    fold_m, at_once = fold_shape(T * group, K, block_d, options["num_warps"])
    shapes = dict(GROUP=group, HEAD=K, BLOCK_M=block_m, BLOCK_D=block_d, FOLD_M=fold_m, AT_ONCE=at_once, enable_fp_fusion=False)
    return _Plan(row_tiles, blocks, splits, chunk_size, max_chunks, block_n, alike, shapes, options)


def _launch(plan: _Plan, tensors, out_BNTK, lse, past, past_numbers, partials, counters, numbers, shapes, flags) -> None:
    q_BNTK, k_BHLK, v_BHLK, k_scale_BHL, v_scale_BHL, lengths_B, bits = tensors
    scale, form, sink, frame, ring, window, slots = numbers
    quantised = k_scale_BHL is not None
    k_scale_BHL, v_scale_BHL = (k_scale_BHL.contiguous(), v_scale_BHL.contiguous()) if quantised else (lengths_B, lengths_B)
    decode_kernel[(plan.row_tiles, plan.blocks // plan.row_tiles, plan.splits)](
        q_BNTK, k_BHLK, v_BHLK, k_scale_BHL, v_scale_BHL, lengths_B, lengths_B if bits is None else bits.contiguous(), out_BNTK, lse,
        *past, *partials, counters, *q_BNTK.stride()[:3], *k_BHLK.stride()[:3], *v_BHLK.stride()[:3], *out_BNTK.stride()[:3],
        *(k_scale_BHL.stride()[:2] if quantised else (0, 0)), *past_numbers, scale * LOG2E, q_BNTK.shape[2], k_BHLK.shape[1], slots,
        plan.chunk_size, partials[0].shape[1], sink, frame, ring, window, BLOCK_N=plan.block_n, FORM=form, QUANTISED=quantised,
        ALIKE=plan.alike, SPLITS=plan.splits, PRECISION="ieee", **flags, **shapes, **plan.options,
    )  # fmt: skip


def attention(
    q_BNTK, k_BHLK, v_BHLK, lengths_B, *, scale=None, max_length=None, mask: Mask = CAUSAL, k_scale_BHL=None, v_scale_BHL=None,
    return_lse=False, counters=None, past=None, splits=None, two_launches=False,
) -> Tensor | tuple[Tensor, Tensor]:  # fmt: skip
    """See reference.py for the maths. splits: number of blocks a row's keys go to (default by occupancy); it changes no bit.

    past: what `attention_partials` gave for these queries, the T tokens of all rows behind one another, and other keys: they are folded
    in first.
    """
    if q_BNTK.shape[-1] > MAX_HEAD:
        raise KernelError(f"attention: heads of {q_BNTK.shape[-1]}, expected at most {MAX_HEAD} on CUDA: a wider tile does not fit")
    if max(k_BHLK.stride(2), v_BHLK.stride(2)) >= FARTHEST:
        strides = k_BHLK.stride(2), v_BHLK.stride(2)
        raise KernelError(f"attention: slots of k and v are {strides} numbers apart, expected below {FARTHEST} on CUDA")
    numbers = mask_numbers(mask, k_BHLK.shape[2] if max_length is None else max_length)
    bits = mask.bits_BT if isinstance(mask, Tree) else mask.seen_BL if isinstance(mask, Slots) else None
    scale = q_BNTK.shape[-1] ** -0.5 if scale is None else float(scale)
    out_BNTK, lse_BNT = attention_op(
        q_BNTK, k_BHLK, v_BHLK, lengths_B, bits, k_scale_BHL, v_scale_BHL, *(past[:4] if past else (None,) * 4), counters, scale, *numbers,
        past[4] if past else 1, return_lse, splits or 0, two_launches,
    )  # fmt: skip
    return (out_BNTK, lse_BNT) if return_lse else out_BNTK


def attention_partials(
    q_1NRK, k_1HLK, v_1HLK, length_1, *, tile_rows: int, chunks: int, stages: int, scale=None, k_scale_BHL=None, v_scale_BHL=None
) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:  # fmt: skip
    """Full attention left in pieces, for `past` of `attention`: (m, l, acc of each chunk, length_1, keys in a chunk).

    tile_rows: query rows to choose the tile for: another tile may take another matrix instruction. chunks: the most that the keys are cut
    into; that, and not the number of queries, decides every bit. stages: tiles of keys on their way at a time.
    """
    scale = q_1NRK.shape[-1] ** -0.5 if scale is None else float(scale)
    partials = attention_partials_op(q_1NRK, k_1HLK, v_1HLK, length_1, k_scale_BHL, v_scale_BHL, scale, tile_rows, chunks, stages)
    plan = _plan(q_1NRK, k_1HLK, v_1HLK, k_scale_BHL is not None, k_1HLK.shape[2], 0, tile_rows, chunks)
    return *partials, length_1, plan.chunk_size


def tile_shape(
    rows: int, head: int, dtype: torch.dtype, quantised: bool = False, alike: bool = True
) -> tuple[int, int, int, dict[str, int]]:
    """(BLOCK_M, BLOCK_N, BLOCK_D, launch options), such that nothing spills on sm_80 and sm_90.

    Left alone, ptxas aims at a round number of registers and spills a few; shared memory is what limits
    the blocks a multiprocessor holds. Four warps have the rows of a tile of 64 each to themselves; with eight two share them and
    weights go through shared memory, which took nearly twice the time (H200, T = 16, 4k). A quantised tile is half the bytes: 128 keys.
    """
    block_d = max(16, triton.next_power_of_2(head))
    wide, masked = block_d > 128, block_d == 128 != head  # masks of the columns beyond the head take registers too
    if dtype == torch.float32:  # no matrix instruction to feed: small tiles
        return 16, 16 if wide or masked else 32, block_d, dict(num_warps=8, num_stages=3, maxnreg=255)
    block_m = min(max(16, triton.next_power_of_2(rows)), 32 if wide else 64)
    block_n = 128 if quantised and block_m == 16 else 64
    if wide or (block_m == 64 and (masked or quantised or not alike)):
        block_n = 32
    registers = 255 if block_m > 16 or wide or masked or quantised else 168  # 168: three blocks on a multiprocessor
    return block_m, block_n, block_d, dict(num_warps=8 if block_m > 16 and (wide or masked) else 4, num_stages=3, maxnreg=registers)


def chunk_length(max_length: int, block_n: int, chunks: int = MAX_CHUNKS) -> int:
    """Keys in a chunk: whole tiles, two or more, at most `chunks` chunks. A function of max_length alone, never of the batch."""
    return block_n * max(2, triton.cdiv(triton.cdiv(max_length, block_n), chunks))
