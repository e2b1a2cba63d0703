"""Which cache places a query sees. A mask is a small value passed to `attention`; `visible` is its definition.

Logical places count tokens since the start of a row, so query t of row b sits at place lengths_B[b] - T + t. In a plain cache
the slot of a place is the place itself; in a ring of frames (RingWindow) old frames are overwritten and the slot is computed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from wfm_kernels.errors import KernelError

MAX_TREE_TOKENS = 64  # bits of an int64


@dataclass(frozen=True, kw_only=True)
class Causal:
    """A query sees every place up to its own."""


@dataclass(frozen=True, kw_only=True)
class Full:
    """A query sees every live place: the tokens of a frame decoded in parallel, or a text context (cross-attention)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tree:
    """A query sees the whole past before the T new tokens, and token s of the T where bit s of bits_BT[b, t] is set.

    For speculative drafts that branch. bits_BT: int64 [B, T], T <= 64, on the device of the queries.
    """

    bits_BT: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Slots:
    """A query sees the live slots set in seen_BL: cross-attention over a text context whose mask may have holes.

    seen_BL: bool [B, L], on the device of the queries. Live slots it hides must hold finite numbers: they are read and weigh nothing.
    """

    seen_BL: Tensor


@dataclass(frozen=True, kw_only=True)
class RingWindow:
    """A sliding window of whole frames plus sink tokens that stay, over a ring of frame slots.

    Place p < sink_tokens keeps slot p. Later places belong to frames of frame_tokens; frame f lives at slot
    sink_tokens + (f % ring_frames) * frame_tokens. A query in frame f sees the sinks and frames f - window_frames + 1 .. f,
    causally, or all tokens written so far where full is set. Source: StreamingLLM (arXiv 2309.17453).
    """

    sink_tokens: int
    frame_tokens: int
    ring_frames: int
    window_frames: int  # frames, the query's own included
    full: bool = False

    def __post_init__(self):
        whole = all(isinstance(n, int) for n in (self.sink_tokens, self.frame_tokens, self.ring_frames, self.window_frames))
        if not whole or self.sink_tokens < 0 or self.frame_tokens < 1 or not 1 <= self.window_frames <= self.ring_frames:
            raise KernelError(
                f"RingWindow: got {self}, expected whole sink_tokens >= 0, frame_tokens >= 1, 1 <= window_frames <= ring_frames"
            )

    @property
    def slots(self) -> int:
        return self.sink_tokens + self.ring_frames * self.frame_tokens


Mask = Causal | Full | Tree | Slots | RingWindow
CAUSAL = Causal()
FULL = Full()


def visible(mask: Mask, lengths_B: Tensor, T: int, L: int) -> Tensor:
    """Bool [B, T, L]: does query t of row b see cache slot l? The definition that every path is tested against."""
    slot_L = torch.arange(L, device=lengths_B.device)
    live_B11 = lengths_B[:, None, None]
    query_BT1 = live_B11 - T + torch.arange(T, device=lengths_B.device)[None, :, None]
    match mask:
        case Causal():
            return slot_L <= query_BT1
        case Full():
            return (slot_L < live_B11).expand(-1, T, -1)
        case Tree(bits_BT=bits_BT):
            draft_B1L = slot_L - (live_B11 - T)  # which of the T tokens a slot holds; negative in the past
            drafted_BTL = (bits_BT[:, :, None] >> draft_B1L.clamp(0, T - 1)) & 1
            return (draft_B1L < 0) | ((draft_B1L < T) & (drafted_BTL == 1))
        case Slots(seen_BL=seen_BL):
            return ((slot_L < live_B11) & seen_BL[:, None, :L]).expand(-1, T, -1)
        case RingWindow(sink_tokens=sink, frame_tokens=size, ring_frames=ring, window_frames=window, full=full):
            newest_B11 = torch.div(live_B11 - 1 - sink, size, rounding_mode="floor")
            frame_B1L = newest_B11 - (newest_B11 - (slot_L - sink) // size) % ring  # the newest frame that can be in this slot
            place_B1L = torch.where(slot_L < sink, slot_L, sink + frame_B1L * size + (slot_L - sink) % size)
            query_frame_BT1 = torch.div(query_BT1 - sink, size, rounding_mode="floor")
            recent_BTL = (frame_B1L >= 0) & (frame_B1L > query_frame_BT1 - window)
            seen_BTL = place_B1L < live_B11 if full else place_B1L <= query_BT1
            return seen_BTL & ((slot_L < sink) | recent_BTL) & (slot_L < mask.slots)
    raise KernelError(f"attention: mask is {mask!r}, expected Causal, Full, Tree, Slots or RingWindow")


def check_mask(mask: Mask, B: int, T: int, L: int, device: torch.device) -> None:
    """Raise KernelError where a mask does not fit B rows of T queries on this device and a cache of L slots."""
    if isinstance(mask, Tree):
        if T > MAX_TREE_TOKENS or mask.bits_BT.shape != (B, T) or mask.bits_BT.dtype != torch.int64:
            got = f"{mask.bits_BT.dtype} {tuple(mask.bits_BT.shape)}"
            raise KernelError(f"attention: tree bits are {got}, expected torch.int64 ({B}, {T}) with T <= {MAX_TREE_TOKENS}")
        if mask.bits_BT.device != device:
            raise KernelError(f"attention: tree bits are on {mask.bits_BT.device}, expected {device}; fix: bits_BT.to(device)")
    elif isinstance(mask, Slots):
        if mask.seen_BL.shape != (B, L) or mask.seen_BL.dtype != torch.bool or mask.seen_BL.device != device:
            got = f"{mask.seen_BL.dtype} {tuple(mask.seen_BL.shape)} on {mask.seen_BL.device}"
            raise KernelError(f"attention: seen slots are {got}, expected torch.bool ({B}, {L}) on {device}")
    elif isinstance(mask, RingWindow):
        if mask.slots > L:
            raise KernelError(f"attention: {mask} needs {mask.slots} slots, expected at most the cache's {L}")
        needed = mask.window_frames + -(-(T - 1) // mask.frame_tokens)
        if mask.ring_frames < needed:
            raise KernelError(
                f"attention: {T} new tokens overwrite frames still in the window; ring_frames is {mask.ring_frames}, expected {needed}"
            )
    elif not isinstance(mask, Causal | Full):
        raise KernelError(f"attention: mask is {mask!r}, expected Causal, Full, Tree, Slots or RingWindow")


def rows_of(mask: Mask, rows: slice) -> Mask:
    """The mask of some rows of the batch."""
    if isinstance(mask, Tree):
        return Tree(bits_BT=mask.bits_BT[rows])
    return Slots(seen_BL=mask.seen_BL[rows]) if isinstance(mask, Slots) else mask
