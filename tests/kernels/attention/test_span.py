"""Attention over a span: the reference's numbers, and the bits of a query in any pass, where this CPU keeps them."""

import pytest
import torch
from wfm_kernels.attention import reference
from wfm_kernels.attention.span import FEWEST, MOST, Span, attention_over_span, tokens_apart

CAPACITY = 90


def tensors(B: int, N: int, H: int, K: int, T: int) -> tuple[torch.Tensor, ...]:
    torch.manual_seed(0)
    return tuple(torch.randn(B, heads, length, K) for heads, length in ((N, T), (H, CAPACITY), (H, CAPACITY)))


@pytest.mark.parametrize("group", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("B,start,count", [(1, 0, 5), (3, 40, 12), (2, CAPACITY - 12, 12), (1, CAPACITY - 5, 12)])
def test_equals_the_reference(group: int, B: int, start: int, count: int) -> None:
    """Passes of every size, the last of them up to a full cache; a plan may be longer than what there is room for."""
    q_BNTK, k, v = tensors(B, 2 * group, 2, 24, count)
    span = Span(start, count, group, CAPACITY)
    room = min(count, CAPACITY - start)
    for size in range(1, room + 1):
        for at in range(0, room - size + 1, size):
            found = attention_over_span(q_BNTK[:, :, at : at + size], k, v, span.bias(at, size))
            lengths = torch.full((B,), start + at + size)
            expected = reference.attention(q_BNTK[:, :, at : at + size], k, v, lengths)
            assert (found - expected).abs().max().item() <= 5e-6


@pytest.mark.parametrize("group,head", [(1, 64), (2, 64), (4, 32), (8, 12)])
def test_what_is_hidden_changes_no_bit(group: int, head: int) -> None:
    q_BNTK, k, v = tensors(2, 2 * group, 2, head, 3)
    bias_RS = Span(30, 20, group, CAPACITY).bias(4, 3)
    assert bias_RS.shape == (group * max(3, -(-FEWEST // group)), 50)
    before = attention_over_span(q_BNTK, k, v, bias_RS)
    k[:, :, 37:], v[:, :, 37:] = 1e4, -1e4
    assert torch.equal(attention_over_span(q_BNTK, k, v, bias_RS), before)


@pytest.mark.parametrize("group,head", [(1, 64), (2, 64), (4, 32), (3, 24), (6, 12), (8, 64)])
@pytest.mark.parametrize("start", [0, 131, 520])
def test_a_query_has_the_same_bits_in_any_pass(group: int, head: int, start: int) -> None:
    most = tokens_apart(group, head, torch.get_num_threads())
    if not most:
        pytest.skip("this CPU rounds a query otherwise beside others")
    assert most == MOST // group
    count = 24
    torch.manual_seed(1)
    q, k, v = (torch.randn(2, heads, n, head) for heads, n in ((2 * group, count), (2, start + count), (2, start + count)))
    span = Span(start, count, group, start + count)
    alone = torch.cat([attention_over_span(q[:, :, i : i + 1], k, v, span.bias(i, 1)) for i in range(count)], 2)
    for size in range(2, min(most, count) + 1):
        for at in range(0, count - size + 1, 5):
            assert torch.equal(attention_over_span(q[:, :, at : at + size], k, v, span.bias(at, size)), alone[:, :, at : at + size])
        one = attention_over_span(q[1:, :, :size], k[1:], v[1:], span.bias(0, size))
        assert torch.equal(one, alone[1:, :, :size])
