"""One tile of keys in a launch of `attention`: which of them a query sees, and what they add to a chunk's partial result.

Tiles of a quantised cache are multiplied as they are stored, int8 and e4m3 as float16, which holds both exactly.
"""

import os

import triton
import triton.language as tl

from wfm_kernels.attention.masks import Causal, Full, Mask, RingWindow, Slots, Tree

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")  # the interpreter takes no inline assembly
# forms of a mask; the kernel is compiled for one of them
CAUSAL_FORM, FULL_FORM, TREE_FORM, RING_FORM, RING_FULL_FORM, SLOTS_FORM = (tl.constexpr(i) for i in range(6))


def mask_numbers(mask: Mask, capacity: int) -> tuple[int, int, int, int, int, int]:
    """(form, sink, frame, ring, window, slots in use at most) as the kernel takes them."""
    match mask:
        case Causal():
            return CAUSAL_FORM.value, 0, 1, 1, 1, capacity
        case Full():
            return FULL_FORM.value, 0, 1, 1, 1, capacity
        case Tree():
            return TREE_FORM.value, 0, 1, 1, 1, capacity
        case Slots():
            return SLOTS_FORM.value, 0, mask.seen_BL.shape[1], 1, 1, capacity
        case RingWindow():
            form = RING_FULL_FORM if mask.full else RING_FORM
            return form.value, mask.sink_tokens, mask.frame_tokens, mask.ring_frames, mask.window_frames, mask.slots


@triton.jit
def half(x_ND, INTEGER: tl.constexpr, PURE: tl.constexpr):
    """int8 or e4m3 -> fp16, exactly, four at a time; left to the compiler each costs several instructions.

    An int8's bits with the sign flipped are the low byte of the fp16 number 1024 + 128 + x. With PURE the compiler may convert in the
    layout of a matrix instruction's operand, which suits K; V would be read byte by byte there.
    """
    if INTERPRETED:
        half_ND = x_ND.to(tl.float16)
    elif INTEGER:
        half_ND = tl.inline_asm_elementwise(
            """{ .reg .b32 y, bias;
            mov.b32 bias, 0x64806480;
            xor.b32 y, $2, 0x80808080;
            prmt.b32 $0, y, 0x64646464, 0x4140;
            prmt.b32 $1, y, 0x64646464, 0x4342;
            sub.f16x2 $0, $0, bias;
            sub.f16x2 $1, $1, bias; }""",
            "=&r,=&r,r", [x_ND], dtype=tl.float16, is_pure=PURE, pack=4,
        )  # fmt: skip
    else:
        half_ND = tl.inline_asm_elementwise(
            """{ .reg .b16 low, high;
            mov.b32 {low, high}, $2;
            cvt.rn.f16x2.e4m3x2 $0, low;
            cvt.rn.f16x2.e4m3x2 $1, high; }""",
            "=&r,=&r,r", [x_ND], dtype=tl.float16, is_pure=PURE, pack=4,
        )  # fmt: skip
    return half_ND


@triton.jit
def row_length(lengths_ptr, batch, slots, frame, ring, FORM: tl.constexpr):
    """A row's length as int32. That of a ring never ends: whole turns are left out, which changes neither slots nor ages."""
    length = tl.load(lengths_ptr + batch).to(tl.int64)
    if FORM == RING_FORM or FORM == RING_FULL_FORM:
        length -= tl.maximum(length - slots, 0) // (ring * frame) * (ring * frame)
    return length.to(tl.int32)


@triton.jit
def visible_in_tile(key_N, place_M, bits_M, seen_N, length, num_tokens, sink, frame, ring, window, FORM: tl.constexpr):
    """masks.visible for one tile: keys in slots key_N, queries at place_M."""
    if FORM == CAUSAL_FORM:
        visible_MN = key_N[None, :] <= place_M[:, None]
    elif FORM == FULL_FORM:
        visible_MN = (key_N[None, :] < length) & (place_M[:, None] < length)
    elif FORM == SLOTS_FORM:
        visible_MN = ((key_N < length) & (seen_N != 0))[None, :] & (place_M[:, None] < length)
    elif FORM == TREE_FORM:
        draft_N = key_N - (length - num_tokens)
        shift_N = tl.minimum(tl.maximum(draft_N, 0), 63).to(tl.int64)  # a shift by 64 or more is undefined
        drafted_MN = (bits_M[:, None] >> shift_N[None, :]) & 1
        visible_MN = (draft_N < 0)[None, :] | ((draft_N < num_tokens)[None, :] & (drafted_MN == 1))
    else:
        newest = tl.maximum(length - 1 - sink, 0) // frame
        slot_N = tl.maximum(key_N - sink, 0) // frame
        frame_N = newest - (newest - slot_N + ring) % ring  # the newest frame that can be in this slot; % and // truncate on a GPU
        place_N = tl.where(key_N < sink, key_N, sink + frame_N * frame + (key_N - sink) % frame)
        query_frame_M = tl.maximum(place_M - sink, 0) // frame
        recent_MN = (frame_N >= 0)[None, :] & (frame_N[None, :] > (query_frame_M - window)[:, None])
        if FORM == RING_FULL_FORM:
            seen_MN = (place_N[None, :] < length) & (place_M[:, None] < length)
        else:
            seen_MN = place_N[None, :] <= place_M[:, None]
        visible_MN = seen_MN & ((key_N < sink)[None, :] | recent_MN)
    return visible_MN


@triton.jit
def add_tile(
    m_M, l_M, acc_MD, q_MD, place_M, bits_M, bits_ptr, k_ptr, v_ptr, k_scale_ptr, v_scale_ptr, tile, live, stride_kl, stride_vl, scale_M,
    length, num_tokens, sink, frame, ring, window,
    HEAD: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, FORM: tl.constexpr, QUANTISED: tl.constexpr, ALIKE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """A chunk's partial result with the slots tile..tile+BLOCK_N-1 added, for one tile of queries.

    With a quantised cache a key's scales multiply its column of scores and of weights: the tiles themselves are never dequantised.
    The maximum is taken of score + exponent of V's scale, so that what multiplies V is at most 1, however small or large the scales.
    """
    offset_N, offset_D = tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_D)
    key_N = tile + offset_N
    live_N = key_N < live
    loaded_ND = live_N[:, None]
    if HEAD != BLOCK_D:
        loaded_ND = loaded_ND & (offset_D < HEAD)[None, :]
    first = tl.cast(tile, tl.int64)  # slots beyond 2^31 numbers are reached by the scalar, 32 bits do within a tile
    place_ND = offset_N[:, None] * stride_kl + offset_D[None, :]
    k_ND = tl.load(k_ptr + first * stride_kl + place_ND, mask=loaded_ND, other=0.0)
    if not ALIKE:
        place_ND = offset_N[:, None] * stride_vl + offset_D[None, :]
    v_ND = tl.load(v_ptr + first * stride_vl + place_ND, mask=loaded_ND, other=0.0)
    if QUANTISED:
        k_scale_N = tl.load(k_scale_ptr + key_N, mask=live_N, other=0.0)
        v_scale_N = tl.load(v_scale_ptr + key_N, mask=live_N, other=1.0)
        if q_MD.dtype == tl.float16:
            k_ND, v_ND = half(k_ND, k_ND.dtype == tl.int8, True), half(v_ND, v_ND.dtype == tl.int8, False)
        else:
            k_ND, v_ND = k_ND.to(q_MD.dtype), v_ND.to(q_MD.dtype)
    score_MN = tl.dot(q_MD, tl.trans(k_ND), input_precision=PRECISION) * scale_M[:, None]
    if QUANTISED:
        score_MN *= k_scale_N[None, :]
    seen_N = key_N
    if FORM == SLOTS_FORM:
        seen_N = tl.load(bits_ptr + key_N, mask=live_N, other=0).to(tl.int32)
    visible_MN = visible_in_tile(key_N, place_M, bits_M, seen_N, length, num_tokens, sink, frame, ring, window, FORM)
    if FORM == RING_FORM or FORM == RING_FULL_FORM:  # the others see no slot beyond the live ones
        visible_MN = visible_MN & live_N[None, :]
    score_MN = tl.where(visible_MN, score_MN, float("-inf"))
    if QUANTISED:
        exponent_N = tl.maximum((v_scale_N.to(tl.int32, bitcast=True) >> 23) - 126, -60)  # v_scale < 2^exponent; sums stay finite
        new_m_M = tl.maximum(m_M, tl.max(score_MN + exponent_N.to(tl.float32)[None, :], 1))
    else:
        new_m_M = tl.maximum(m_M, tl.max(score_MN, 1))
    safe_m_M = tl.where(new_m_M == float("-inf"), 0.0, new_m_M)
    weight_MN = tl.exp2(score_MN - safe_m_M[:, None])
    rescale_M = tl.exp2(m_M - safe_m_M)
    l_M = l_M * rescale_M + tl.sum(weight_MN, 1)
    if QUANTISED:
        weight_MN *= v_scale_N[None, :]
    acc_MD = acc_MD * rescale_M[:, None]
    acc_MD += tl.dot(weight_MN.to(q_MD.dtype), v_ND, input_precision=PRECISION)
    return new_m_M, l_M, acc_MD
