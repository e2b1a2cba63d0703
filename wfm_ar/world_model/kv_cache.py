"""Keys and values of the tokens already seen, in place, with a length a row."""

import torch
from wfm_kernels import attention

from wfm_ar.errors import BadPrompt


class KVCache:
    """k, v: [layers, B, kv_heads, capacity, head_dim]; `lengths_B` int64 on the device counts the tokens of each row.

    `update` writes new keys and values behind the live ones without moving the length; `advance` moves it once all layers
    have written. The host keeps `longest` and `shortest`, so that nobody reads the device to know them.
    """

    def __init__(self, layers: int, rows: int, capacity: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device | str):
        shape = (layers, rows, kv_heads, capacity, head_dim)
        self.k = torch.zeros(shape, dtype=dtype, device=device)
        self.v = torch.zeros(shape, dtype=dtype, device=device)
        self.lengths_B = torch.zeros(rows, dtype=torch.int64, device=device)
        self.longest = self.shortest = 0
        self.context: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # layer -> cross-attention (k, v), made once a prompt

    @property
    def capacity(self) -> int:
        return self.k.shape[3]

    def update(self, layer: int, k_BHTK: torch.Tensor, v_BHTK: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Write T tokens behind each row's length; -> whole (k, v) [B, H, capacity, K] of the layer. BadPrompt when full."""
        T = k_BHTK.shape[2]
        if self.longest + T > self.capacity:
            raise BadPrompt(f"KV cache: got {self.longest} + {T} tokens, capacity {self.capacity}; fix: a shorter clip or a larger cache")
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

    def attend(self, layer: int, q_BNTK: torch.Tensor, k_BHTK: torch.Tensor, v_BHTK: torch.Tensor) -> torch.Tensor:
        """Attention of T new tokens a row to those before them and to each other, causally -> [B, N, T, K]; they are written first."""
        T = q_BNTK.shape[2]
        k, v = self.update(layer, k_BHTK, v_BHTK)
        return attention(q_BNTK, k, v, self.lengths_B + T, max_length=self.longest + T)

    def advance(self, count: int) -> None:
        """Count `count` more tokens in every row."""
        self.lengths_B += count
        self.longest, self.shortest = self.longest + count, self.shortest + count

    def truncate(self, length: int) -> None:
        """Forget everything behind the first `length` tokens of every row."""
        self.lengths_B.clamp_(max=length)
        self.longest, self.shortest = min(self.longest, length), min(self.shortest, length)

    def fork(self, rows: torch.Tensor) -> "KVCache":
        """A cache of its own whose row i is a copy of row `rows[i]` (int64 [B'])."""
        return KVCache.stack([self.row(int(row)) for row in rows])

    def row(self, index: int) -> "KVCache":
        """Row `index` as a cache of one row that shares this one's memory."""
        layers, _, kv_heads, _, head_dim = self.k.shape
        one = KVCache(layers, 1, 0, kv_heads, head_dim, self.k.dtype, self.k.device)
        one.k, one.v = self.k[:, index : index + 1], self.v[:, index : index + 1]
        one.lengths_B = self.lengths_B[index : index + 1].clone()
        one.longest = one.shortest = int(one.lengths_B)
        one.context = {layer: (k[index : index + 1], v[index : index + 1]) for layer, (k, v) in self.context.items()}
        return one

    @staticmethod
    def stack(caches: list["KVCache"]) -> "KVCache":
        """One cache whose rows are copies of those of `caches` (same capacity), each with its own length."""
        out = caches[0].row(0)
        out.k, out.v = torch.cat([c.k for c in caches], 1), torch.cat([c.v for c in caches], 1)
        out.lengths_B = torch.cat([c.lengths_B for c in caches])
        out.longest, out.shortest = max(c.longest for c in caches), min(c.shortest for c in caches)
        pairs = {layer: [c.context[layer] for c in caches] for layer in caches[0].context}
        out.context = {layer: (torch.cat([k for k, _ in p]), torch.cat([v for _, v in p])) for layer, p in pairs.items()}
        return out
