"""Self-attention with grouped queries, QK-norm and rotary positions; and cross-attention to a text context."""

import torch
import torch.nn.functional as F
from torch import nn
from wfm_kernels import FULL, Slots, attention
from wfm_kernels.qk_norm_rope_cache.cpu import turn

from wfm_ar.world_model.kv_cache import KVCache
from wfm_ar.world_model.linear import Linear
from wfm_ar.world_model.norm import RMSNorm

AT_ONCE = 64  # queries a row that the decode kernel takes; more of them are a prefill, which is the library's
SHORT = 640  # tokens of a row up to which attention by plain products fits the caches


class SelfAttention(nn.Module):
    """Causal over the row; kv head j serves query heads j * N/H .. (j + 1) * N/H - 1."""

    def __init__(self, dim: int, heads: int, kv_heads: int, head_dim: int, eps: float):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.qkv = Linear(dim, (heads + 2 * kv_heads) * head_dim, bias=False)
        self.out = Linear(heads * head_dim, dim, bias=False)
        self.q_norm, self.k_norm = RMSNorm(head_dim, eps=eps), RMSNorm(head_dim, eps=eps)

    def forward(self, x_BLD, cos, sin, layer: int, cache: KVCache | None = None) -> torch.Tensor:
        """x [B, L, D]; with a cache, its tokens come before x's and x's keys and values are written into it."""
        qkv = self.qkv(x_BLD).unflatten(-1, (-1, self.head_dim))
        q, k, v = qkv.split((self.heads, self.kv_heads, self.kv_heads), 2)
        q = turn(self.q_norm(q), cos, sin).transpose(1, 2)
        k = turn(self.k_norm(k), cos, sin).transpose(1, 2)
        v = v.transpose(1, 2)
        if cache is None:
            group = self.heads // self.kv_heads
            k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
            y = _causal(q, k, v)
        else:
            y = cache.attend(layer, q, k, v)
        return self.out(y.transpose(1, 2).flatten(2))


def _causal(q_BNLK: torch.Tensor, k_BNLK: torch.Tensor, v_BNLK: torch.Tensor) -> torch.Tensor:
    """Causal attention of whole rows. Learning in half precision on the CPU, plain products of short rows take half the time of
    torch's fused ones, forward and back."""
    L = q_BNLK.shape[2]
    if not (v_BNLK.is_cpu and v_BNLK.requires_grad and v_BNLK.dtype == torch.bfloat16 and L <= SHORT):
        return F.scaled_dot_product_attention(q_BNLK, k_BNLK, v_BNLK, is_causal=True)
    later_LL = torch.full((L, L), float("-inf"), dtype=v_BNLK.dtype).triu(1)
    with torch.autocast("cpu", enabled=False):  # which would take the softmax, a fifth of the time, in single precision
        q_BNLK = (q_BNLK * q_BNLK.shape[-1] ** -0.5).to(v_BNLK.dtype)
        scores_BNLL = q_BNLK @ k_BNLK.to(v_BNLK.dtype).transpose(-1, -2) + later_LL
        return scores_BNLL.softmax(-1) @ v_BNLK


class CrossAttention(nn.Module):
    """Attention to a context [B or 1, S, C] with QK-norm and no positions; its keys and values are made once a prompt."""

    def __init__(self, dim: int, context_dim: int, heads: int, kv_heads: int, head_dim: int, eps: float):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        self.q = Linear(dim, heads * head_dim, bias=False)
        self.kv = Linear(context_dim, 2 * kv_heads * head_dim, bias=False)
        self.out = Linear(heads * head_dim, dim, bias=False)
        self.q_norm, self.k_norm = RMSNorm(head_dim, eps=eps), RMSNorm(head_dim, eps=eps)

    def forward(self, x_BLD, context_BSC, mask_BS, layer: int, cache: KVCache | None = None) -> torch.Tensor:
        """mask_BS bool, True = attend; None = attend to all; [B, L, S] where each token sees a context of its own."""
        q = self.q_norm(self.q(x_BLD).unflatten(-1, (self.heads, self.head_dim))).transpose(1, 2)
        if cache is not None and layer in cache.context:
            k, v = cache.context[layer]
        else:
            k, v = self.keys_and_values(context_BSC)
            if cache is not None:
                cache.context[layer] = (k, v)
        return self.out(read_context(q, k, v, mask_BS).transpose(1, 2).flatten(2))

    def keys_and_values(self, context_BSC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, kv heads, S, head_dim] each."""
        k, v = self.kv(context_BSC).unflatten(-1, (2 * self.kv_heads, self.head_dim)).chunk(2, 2)
        return self.k_norm(k).transpose(1, 2), v.transpose(1, 2)


def read_context(q_BNLK: torch.Tensor, k_BHSK: torch.Tensor, v_BHSK: torch.Tensor, mask_BS: torch.Tensor | None) -> torch.Tensor:
    """Attention to a context without repeating it: query heads of a group - and rows that share one context - become queries.

    The kernels' op where nothing is learnt (it has no gradient on CUDA) and each row has one mask; else the library.
    """
    B, N, L, K = q_BNLK.shape
    contexts, H, S, _ = k_BHSK.shape
    if contexts < B:  # one text for all rows
        assert contexts == 1 and mask_BS is None
        q_BNLK = q_BNLK.transpose(0, 1).reshape(1, N, B * L, K)
    whole = mask_BS is None or mask_BS.ndim == 2  # every token of a row sees the same of its context
    if whole and not torch.is_grad_enabled() and (q_BNLK.is_cpu or (q_BNLK.is_cuda and q_BNLK.shape[2] <= AT_ONCE)):
        lengths_B = torch.full((contexts,), S, device=k_BHSK.device)
        mask = FULL if mask_BS is None else Slots(seen_BL=mask_BS.expand(contexts, S))
        y = attention(q_BNLK, k_BHSK, v_BHSK, lengths_B, mask=mask)
    else:
        mask = None
        if mask_BS is not None:
            mask = mask_BS[:, None, None] if whole else mask_BS.repeat(1, N // H, 1)[:, None]
        y = F.scaled_dot_product_attention(q_BNLK.reshape(contexts, H, -1, K), k_BHSK, v_BHSK, attn_mask=mask)
    return y.reshape(N, B, L, K).transpose(0, 1) if contexts < B else y.reshape(B, N, L, K)
