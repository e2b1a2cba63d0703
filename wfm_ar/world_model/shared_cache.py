"""Rows that branch off one past: its keys and values are kept once and read once a step, whatever the number of rows.

Promises: what `KVCache` gives for rows that all begin with the same tokens, up to rounding. Only what the rows add is theirs.
"""

import torch
from torch import Tensor
from wfm_kernels import attention_shared_prefix

from wfm_ar.world_model.kv_cache import KVCache


class SharedKVCache:
    """`past`: one row, whose live tokens all rows see; it is not copied, and may itself go on behind them. `own`: the rows' tokens."""

    def __init__(self, past: KVCache, rows: int) -> None:
        """The rows may add as many tokens as `past` had room for."""
        layers, one, kv_heads, capacity, head_dim = past.k.shape
        assert one == 1 and past.longest >= 1
        self.past_length, dtype, device = past.longest, past.k.dtype, past.k.device
        self.past_k, self.past_v = (x[:, 0, :, : self.past_length] for x in (past.k, past.v))  # [layers, H, P, K]
        self.own = KVCache(layers, rows, capacity - self.past_length, kv_heads, head_dim, dtype, device)
        self.context = past.context  # of one row: all rows have the same text
        self._past_length_1 = torch.full((1,), self.past_length, dtype=torch.int64, device=device)

    @property
    def longest(self) -> int:
        return self.past_length + self.own.longest

    def attend(self, layer: int, q_BNTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor) -> Tensor:
        """See KVCache.attend."""
        own, T = self.own, q_BNTK.shape[2]
        k, v = own.update(layer, k_BHTK, v_BHTK)
        past_k, past_v, live = self.past_k[layer], self.past_v[layer], own.longest + T
        return attention_shared_prefix(
            q_BNTK, past_k, past_v, k, v, own.lengths_B + T, prefix_length_1=self._past_length_1, max_length=live
        )  # fmt: skip

    def advance(self, count: int) -> None:
        """Count `count` more tokens in every row."""
        self.own.advance(count)

    def row(self, index: int) -> KVCache:
        """Row `index` as a plain cache of one row. A copy."""
        layers, _, kv_heads, free, head_dim = self.own.k.shape
        live = int(self.own.lengths_B[index])
        one = KVCache(layers, 1, self.past_length + free, kv_heads, head_dim, self.past_k.dtype, self.past_k.device)
        for whole, past, own in ((one.k, self.past_k, self.own.k), (one.v, self.past_v, self.own.v)):
            whole[:, 0, :, : self.past_length] = past
            whole[:, 0, :, self.past_length : self.past_length + live] = own[:, index, :, :live]
        one.advance(self.past_length + live)
        one.context = self.context
        return one
