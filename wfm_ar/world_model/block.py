"""One transformer layer: self-attention, cross-attention where configured, SwiGLU; each behind an RMSNorm, all residual."""

import torch
import torch.nn.functional as F
from torch import nn
from wfm_kernels import swiglu

from wfm_ar.world_model.attention import CrossAttention, SelfAttention
from wfm_ar.world_model.linear import Linear
from wfm_ar.world_model.norm import RMSNorm


class SwiGLU(nn.Module):
    """down(silu(gate x) * up x)."""

    AT_ONCE = 2048  # rows that inference takes in one piece: a long prompt's widest activations bound its memory

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.gate_up = Linear(dim, 2 * hidden, bias=False)
        self.down = Linear(hidden, dim, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-2] > self.AT_ONCE and not torch.is_grad_enabled():
            return torch.cat([self(piece) for piece in x.split(self.AT_ONCE, -2)], -2)
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(F.silu(gate) * up if torch.is_grad_enabled() else swiglu(gate, up))  # the op has no gradient on CUDA


class Block(nn.Module):
    """`config` is the WorldModelConfig."""

    recomputable = True  # see train/recompute.py

    def __init__(self, config):
        super().__init__()
        heads = (config.heads, config.kv_heads, config.head_dim, config.eps)
        self.attention_norm = RMSNorm(config.dim, eps=config.eps)
        self.attention = SelfAttention(config.dim, *heads)
        self.cross_norm = RMSNorm(config.dim, eps=config.eps) if config.context_dim else None
        self.cross_attention = CrossAttention(config.dim, config.context_dim, *heads) if config.context_dim else None
        self.ffn_norm = RMSNorm(config.dim, eps=config.eps)
        self.ffn = SwiGLU(config.dim, config.hidden)

    def forward(self, x, cos, sin, layer, cache=None, context=None, context_mask=None) -> torch.Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin, layer, cache)
        if self.cross_attention is not None and self.cross_norm is not None:
            x = x + self.cross_attention(self.cross_norm(x), context, context_mask, layer, cache)
        return x + self.ffn(self.ffn_norm(x))
