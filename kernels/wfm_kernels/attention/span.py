"""Attention on the CPU of a few tokens that are fed in passes nobody knows beforehand: the bits of a token are the same in any of them.

Two things make a query's bits depend on the pass it is in: how many slots are read, as sums are grouped by their number, and how few
queries are multiplied at a time, as a product of one or two rows is another loop. So all passes over the coming tokens read one span
of slots, with those hidden that a token does not see, and have FEWEST to MOST queries. `tokens_apart` tells whether that does it on
this machine.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

FEWEST, MOST = 4, 32  # queries of a KV head; torch's kernel takes 32 at a time, so of more the last few might be too few


class Span:
    """The slots 0 .. start + count - 1 of a row's cache: `count` tokens are to come behind `start`, each sees all up to itself."""

    def __init__(self, start: int, count: int, group: int, capacity: int) -> None:
        """`group`: query heads a KV head. `capacity`: slots that there are, if fewer."""
        self._least = -(-FEWEST // group)
        rows = count + self._least - 1  # behind the last token those that only fill a pass
        self._bias_GTS = torch.full((rows, min(start + count, capacity)), float("-inf")).triu_(start + 1).expand(group, -1, -1)

    def bias(self, at: int, count: int) -> Tensor:
        """What `attention_over_span` adds to the scores of the tokens at .. at + count - 1 of those to come."""
        return self._bias_GTS.narrow(1, at, max(count, self._least)).reshape(-1, self._bias_GTS.shape[2])


def attention_over_span(q_BNTK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor, bias_RS: Tensor) -> Tensor:
    """float32 [B, N, T, K]. bias_RS: `Span.bias` of these T tokens, one for all rows. Slots behind the live ones hold finite numbers."""
    (B, N, T, K), H = q_BNTK.shape, k_BHLK.shape[1]
    R, S = bias_RS.shape
    filled = R * H // N
    if filled > T:
        q_BNTK = F.pad(q_BNTK, (0, 0, 0, filled - T))
    k_BHSK, v_BHSK = k_BHLK.narrow(2, 0, S), v_BHLK.narrow(2, 0, S)
    out_BHRK = F.scaled_dot_product_attention(q_BNTK.reshape(B, H, R, K), k_BHSK, v_BHSK, attn_mask=bias_RS)
    return out_BHRK.view(B, N, filled, K).narrow(2, 0, T)


@functools.lru_cache
def tokens_apart(group: int, head: int, threads: int) -> int:
    """How many tokens a pass may have, if this torch and CPU make the same of each in any such pass; else 0.

    With so many query heads a KV head, numbers of a head and threads.
    """
    draw, count = torch.Generator().manual_seed(0), MOST // group
    for start in (77, 600):
        sizes = (2 * group, 2 * count), (2, start + 2 * count), (2, start + 2 * count)
        q_1NTK, k_1HLK, v_1HLK = (torch.randn(1, heads, length, head, generator=draw) for heads, length in sizes)
        span = Span(start, 2 * count, group, start + 2 * count)
        alone = None
        for size in range(1, count + 1):
            pieces = [(at, min(size, 2 * count - at)) for at in range(0, 2 * count, size)]
            seen = [attention_over_span(q_1NTK.narrow(2, at, n), k_1HLK, v_1HLK, span.bias(at, n)) for at, n in pieces]
            alone = torch.cat(seen, 2) if alone is None else alone
            if not torch.equal(torch.cat(seen, 2), alone):
                return 0
    return count
