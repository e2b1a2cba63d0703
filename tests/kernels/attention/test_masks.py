"""The mask forms: their definition against a simulation, and every path against the reference under each of them."""

import pytest
import torch
from wfm_kernels import FULL, KernelError, RingWindow, Slots, Tree, attention
from wfm_kernels.attention import CAUSAL, reference
from wfm_kernels.attention.masks import visible
from wfm_kernels.attention.triton import attention as triton_attention

RING = RingWindow(sink_tokens=5, frame_tokens=4, ring_frames=4, window_frames=3)
RING_FULL = RingWindow(sink_tokens=5, frame_tokens=4, ring_frames=4, window_frames=3, full=True)
CHAIN_AND_SIDE_BRANCH = [0b0001, 0b0011, 0b0111, 0b1001]  # tokens 0-1-2 in a row, token 3 a second child of token 0


def ring_seen(ring, length, T, t):
    """Slots that query t sees, by writing the row's places one after the other into the ring."""
    slot_holds = {}
    for place in range(length):
        frame, offset = divmod(place - ring.sink_tokens, ring.frame_tokens)
        slot = place if place < ring.sink_tokens else ring.sink_tokens + frame % ring.ring_frames * ring.frame_tokens + offset
        slot_holds[slot] = place
    query = length - T + t
    query_frame = (query - ring.sink_tokens) // ring.frame_tokens
    seen = set()
    for slot, place in slot_holds.items():
        recent = place < ring.sink_tokens or (place - ring.sink_tokens) // ring.frame_tokens > query_frame - ring.window_frames
        if recent and (ring.full or place <= query):
            seen.add(slot)
    return seen


@pytest.mark.parametrize("ring", [RING, RING_FULL], ids=["causal", "full"])
@pytest.mark.parametrize("T", [1, 3, 5])
def test_ring_window_is_the_simulated_ring(ring, T):
    for length in range(T, 60):
        seen_TL = visible(ring, torch.tensor([length]), T, 24)[0]
        for t in range(T):
            assert set(seen_TL[t].nonzero().flatten().tolist()) == ring_seen(ring, length, T, t), (length, t)


def test_tree_of_a_chain_is_causal_and_bits_are_obeyed():
    lengths = torch.tensor([9, 4])
    chain = Tree(bits_BT=torch.tensor([[1, 3, 7, 15]] * 2))
    assert torch.equal(visible(chain, lengths, 4, 12), visible(CAUSAL, lengths, 4, 12))
    branch = visible(Tree(bits_BT=torch.tensor([CHAIN_AND_SIDE_BRANCH] * 2)), lengths, 4, 12)
    assert branch[0, 3].tolist() == [True] * 6 + [False, False, True] + [False] * 3
    last_bit = Tree(bits_BT=torch.full((1, 64), -(2**63)))
    assert visible(last_bit, torch.tensor([64]), 64, 64)[0, 0].nonzero().tolist() == [[63]]


def case(name, device):
    """(mask, lengths, T, capacity) of a named form."""
    return {
        "full": (FULL, [40, 3], 6, 40),  # the second row is a context shorter than the queries
        "tree": (Tree(bits_BT=torch.tensor([CHAIN_AND_SIDE_BRANCH, [0b1000, 0b10, 0, 0b1111]], device=device)), [40, 4], 4, 40),
        "tree64": (Tree(bits_BT=torch.randint(-(2**63), 2**63 - 1, (1, 64), device=device)), [70], 64, 70),
        "slots": (Slots(seen_BL=(torch.arange(80, device=device).view(2, 40) * 7 % 5 > 1)), [40, 33], 3, 40),
        "slots_none": (Slots(seen_BL=torch.arange(40, device=device).expand(2, 40) > 9), [40, 9], 3, 40),  # the second row sees nothing
        "ring": (RING, [39, 7], 3, 24),
        "ring_long": (RING, [1001, 18], 1, 24),
        "ring_full": (RING_FULL, [41, 25], 4, 24),
        "ring_short": (RING, [2, 0], 3, 24),
    }[name]


FORMS = ["full", "tree", "tree64", "slots", "slots_none", "ring", "ring_long", "ring_full", "ring_short"]


@pytest.mark.parametrize("form", FORMS)
def test_every_path_obeys_the_mask(form, device, assert_close):
    torch.manual_seed(0)
    mask, lengths, T, L = case(form, device)
    B = len(lengths)
    q, k, v = (torch.randn(B, heads, n, 32, device=device) for heads, n in ((4, T), (2, L), (2, L)))
    lengths = torch.tensor(lengths, device=device)
    out, lse = reference.attention(q, k, v, lengths, mask=mask, return_lse=True)
    if form not in ("ring_short",):
        causal = reference.attention(q, k, v, lengths.clamp(max=L))
        assert (out - causal).abs().max() > 0.1 or form == "ring_long"  # the mask matters in this case
    paths = [lambda *a, **kw: triton_attention(*a, splits=2, **kw)] + ([attention] if device.type == "cpu" else [])
    for path in paths:
        got, got_lse = path(q, k, v, lengths, mask=mask, return_lse=True)
        assert_close(got, out)
        torch.testing.assert_close(got_lse, lse, atol=1e-5, rtol=1e-5)
        assert_close(path(q, k, v, lengths, mask=mask), out)


@pytest.mark.parametrize("ring", [RING, RING_FULL], ids=["causal", "full"])
def test_a_ring_goes_on_past_the_range_of_int32(ring, device, assert_close):
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, heads, n, 32, device=device) for heads, n in ((4, 3), (2, 24), (2, 24)))
    for first in (2**31 - 2, 2**40 + 7):
        lengths = torch.tensor([first, first + 9], device=device)
        expected = reference.attention(q, k, v, lengths, mask=ring)
        for keywords in (dict(splits=1), dict(splits=2), dict(splits=2, two_launches=True)):
            assert_close(triton_attention(q, k, v, lengths, mask=ring, **keywords), expected)


def test_the_two_launch_form_writes_the_same_lse(device):
    q, k, v = (torch.randn(2, 2, n, 32, device=device) for n in (3, 150, 150))
    lengths = torch.tensor([150, 20], device=device)
    one = triton_attention(q, k, v, lengths, return_lse=True, splits=1)
    for two_launches in (False, True):
        several = triton_attention(q, k, v, lengths, return_lse=True, splits=3, two_launches=two_launches)
        assert torch.equal(several[0], one[0]) and torch.equal(several[1], one[1])


def test_masks_that_do_not_fit_are_refused():
    q, k = torch.randn(1, 2, 3, 8), torch.randn(1, 2, 24, 8)
    lengths = torch.tensor([5])
    refused = [
        (Tree(bits_BT=torch.ones(1, 3, dtype=torch.int32)), r"tree bits are torch.int32 \(1, 3\), expected torch.int64 \(1, 3\)"),
        (Tree(bits_BT=torch.ones(2, 3, dtype=torch.int64)), r"tree bits are torch.int64 \(2, 3\)"),
        (
            Tree(bits_BT=torch.ones(1, 3, dtype=torch.int64, device="meta")),
            r"tree bits are on meta, expected cpu; fix: bits_BT.to\(device\)",
        ),
        (RingWindow(sink_tokens=9, frame_tokens=4, ring_frames=4, window_frames=1), r"needs 25 slots, expected at most the cache's 24"),
        (RingWindow(sink_tokens=0, frame_tokens=4, ring_frames=4, window_frames=4), r"3 new tokens overwrite frames .* expected 5"),
        (Slots(seen_BL=torch.ones(1, 24)), r"seen slots are torch.float32 \(1, 24\) on cpu, expected torch.bool \(1, 24\)"),
        (Slots(seen_BL=torch.ones(1, 23, dtype=torch.bool)), r"seen slots are torch.bool \(1, 23\)"),
        ("causal", r"mask is 'causal', expected Causal, Full, Tree, Slots or RingWindow"),
    ]
    for mask, message in refused:
        with pytest.raises(KernelError, match=message):
            attention(q, k, k, lengths, mask=mask)
    with pytest.raises(KernelError, match="1 <= window_frames <= ring_frames"):
        RingWindow(sink_tokens=0, frame_tokens=4, ring_frames=2, window_frames=3)
    with pytest.raises(KernelError, match="sink_tokens=1.5, .* expected whole sink_tokens"):
        RingWindow(sink_tokens=1.5, frame_tokens=4, ring_frames=2, window_frames=1)
