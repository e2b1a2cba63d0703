"""Keys and values of the tokens already seen, in place, with a length a row; a past that rows share is held and read once."""

import torch
from torch import Tensor
from wfm_kernels import attention, attention_shared_prefix
from wfm_kernels.attention import sdpa

from wfm_ar.errors import BadPrompt

SHARED_FROM = 256  # tokens from which on a common past is shared; below that a copy costs less than a second pass at every token


class KVCache:
    """k, v: [layers, B, kv_heads, capacity, head_dim]; `lengths_B` int64 on the device counts the tokens of each row.

    With a prefix, (k, v) [layers, kv_heads, P, head_dim], all of whose P tokens every row has seen, the above are what came
    after it: lengths and capacity do not count it. `update` writes new keys and values behind the live ones without moving the
    length; `advance` moves it once all layers have written. The host keeps `longest` and `shortest`, so that nobody reads the
    device to know them.
    """

    def __init__(self, layers: int, rows: int, capacity: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device | str):
        shape = (layers, rows, kv_heads, capacity, head_dim)
        self.k = torch.zeros(shape, dtype=dtype, device=device)
        self.v = torch.zeros(shape, dtype=dtype, device=device)
        self.lengths_B = torch.zeros(rows, dtype=torch.int64, device=device)
        self.longest = self.shortest = 0
        self.context: dict[int, tuple[Tensor, Tensor]] = {}  # layer -> cross-attention (k, v), made once a prompt
        self.prefix: tuple[Tensor, Tensor] | None = None
        self.prefix_length_1: Tensor | None = None  # int64 [1] on the device
        self._lent = 0  # tokens that forks see in this cache's memory: they must stay as they are

    @property
    def capacity(self) -> int:
        return self.k.shape[3]

    def attend(self, layer: int, q_BNTK: Tensor, k_BHTK: Tensor, v_BHTK: Tensor) -> Tensor:
        """Write the keys and values of T new tokens and let their queries see all up to themselves: [B, N, T, K]. BadPrompt when full."""
        T = q_BNTK.shape[2]
        k, v = self.update(layer, k_BHTK, v_BHTK)
        return self.read(layer, q_BNTK, k, v, self.lengths_B + T, self.longest + T)

    def read(self, layer: int, q_BNTK: Tensor, k: Tensor, v: Tensor, lengths_B: Tensor, longest: int) -> Tensor:
        """Attention of the newest T tokens over (k, v) as `update` gives them, behind the prefix if there is one."""
        if self.prefix is None:
            if q_BNTK.is_cpu:  # its checks take as long as the attention of a short clip
                return sdpa.attention(q_BNTK, k, v, lengths_B, max_length=longest)
            return attention(q_BNTK, k, v, lengths_B, max_length=longest)
        past_k, past_v = self.prefix
        length_1 = self.prefix_length_1
        assert length_1 is not None, "set with the prefix"
        return attention_shared_prefix(q_BNTK, past_k[layer], past_v[layer], k, v, lengths_B, prefix_length_1=length_1, max_length=longest)

    def update(self, layer: int, k_BHTK: Tensor, v_BHTK: Tensor) -> tuple[Tensor, Tensor]:
        """Write T tokens behind each row's length; -> whole (k, v) [B, H, capacity, K] of the layer. BadPrompt when full."""
        T = k_BHTK.shape[2]
        self.check_room(T)
        k, v = self.k[layer], self.v[layer]
        if self.shortest == self.longest:
            k[:, :, self.longest : self.longest + T] = k_BHTK
            v[:, :, self.longest : self.longest + T] = v_BHTK
        else:
            places = self.lengths_B[:, None] + torch.arange(T, device=k.device)
            rows = torch.arange(k.shape[0], device=k.device)[:, None]
            k[rows, :, places] = k_BHTK.transpose(1, 2)
            v[rows, :, places] = v_BHTK.transpose(1, 2)
        return k, v

    def check_room(self, count: int) -> None:
        """BadPrompt unless `count` more tokens fit in every row."""
        if self.longest + count > self.capacity:
            raise BadPrompt(
                f"KV cache: got {self.longest} + {count} tokens, capacity {self.capacity}; fix: a shorter clip or a larger cache"
            )

    def advance(self, count: int) -> None:
        """Count `count` more tokens in every row."""
        self.lengths_B += count
        self.longest, self.shortest = self.longest + count, self.shortest + count

    def truncate(self, length: int) -> None:
        """Forget everything behind the first `length` tokens of every row."""
        assert length >= self._lent, "a fork sees what would be overwritten"
        self.lengths_B.clamp_(max=length)
        self.longest, self.shortest = min(self.longest, length), min(self.shortest, length)

    def fork(self, rows: Tensor) -> "KVCache":
        """A cache of its own whose row i goes on as row `rows[i]` (int64 [B']) would.

        Forks of one row that is long enough share its past: nothing is copied, they see it in this cache's memory (a fork that
        has a prefix already joins it and its own tokens, once for all rows). Others are copies.
        """
        indices = rows.tolist()
        one = self.row(indices[0])
        total = one.longest + (0 if self.prefix is None else self.prefix[0].shape[2])
        if len(set(indices)) > 1 or total < SHARED_FROM:
            return KVCache.stack([self.row(row) for row in indices])
        layers, _, kv_heads, _, head_dim = self.k.shape
        out = KVCache(layers, len(indices), self.capacity - one.longest, kv_heads, head_dim, self.k.dtype, self.k.device)
        out.context = {
            layer: (k.expand(len(indices), -1, -1, -1), v.expand(len(indices), -1, -1, -1)) for layer, (k, v) in one.context.items()
        }
        own = one.k[:, 0, :, : one.longest], one.v[:, 0, :, : one.longest]
        if self.prefix is None:
            out.prefix, self._lent = own, max(self._lent, one.longest)
        else:
            (past_k, past_v), (own_k, own_v) = self.prefix, own
            out.prefix = (torch.cat((past_k, own_k), 2), torch.cat((past_v, own_v), 2)) if one.longest else self.prefix
        out.prefix_length_1 = torch.full((1,), total, device=self.k.device)
        return out

    def row(self, index: int) -> "KVCache":
        """Row `index` as a cache of one row that shares this one's memory, and its prefix."""
        layers, _, kv_heads, _, head_dim = self.k.shape
        one = KVCache(layers, 1, 0, kv_heads, head_dim, self.k.dtype, self.k.device)
        one.k, one.v = self.k[:, index : index + 1], self.v[:, index : index + 1]
        one.lengths_B = self.lengths_B[index : index + 1].clone()
        one.longest = one.shortest = self.longest if self.longest == self.shortest else int(one.lengths_B)
        one.context = {layer: (k[index : index + 1], v[index : index + 1]) for layer, (k, v) in self.context.items()}
        one.prefix, one.prefix_length_1 = self.prefix, self.prefix_length_1
        return one

    def whole(self) -> "KVCache":
        """The same rows without a prefix: each has a copy of it."""
        if self.prefix is None:
            return self
        length, rows = self.prefix[0].shape[2], len(self.lengths_B)
        layers, _, kv_heads, capacity, head_dim = self.k.shape
        out = KVCache(layers, rows, length + capacity, kv_heads, head_dim, self.k.dtype, self.k.device)
        for mine, past, new in ((out.k, self.prefix[0], self.k), (out.v, self.prefix[1], self.v)):
            mine[:, :, :, :length] = past[:, None]
            mine[:, :, :, length:] = new
        out.lengths_B, out.context = self.lengths_B + length, self.context
        out.longest, out.shortest = self.longest + length, self.shortest + length
        return out

    @staticmethod
    def stack(caches: list["KVCache"]) -> "KVCache":
        """One cache whose rows are copies of those of `caches` (same capacity), each with its own length.

        A prefix stays shared where all have the same; else each row gets a copy of its own.
        """
        if any(c.prefix is not caches[0].prefix for c in caches):
            caches = [c.whole() for c in caches]
        out = caches[0].row(0)
        out.k, out.v = torch.cat([c.k for c in caches], 1), torch.cat([c.v for c in caches], 1)
        out.lengths_B = torch.cat([c.lengths_B for c in caches])
        out.longest, out.shortest = max(c.longest for c in caches), min(c.shortest for c in caches)
        pairs = {layer: [c.context[layer] for c in caches] for layer in caches[0].context}
        out.context = {layer: (torch.cat([k for k, _ in p]), torch.cat([v for _, v in p])) for layer, p in pairs.items()}
        return out
