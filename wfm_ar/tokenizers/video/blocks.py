"""The building blocks of encoder and decoder: residual blocks, levels of them, and the factorised attention of the middle."""

import torch
import torch.nn.functional as F
from torch import nn

from wfm_ar.tokenizers.video.causal_conv import NORMS, CausalConv3d, FactorisedConv, Memory


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))) with factorised convolutions; [B, c_in, T, H, W] -> [B, c_out, T, H, W]."""

    recomputable = True  # see train/recompute.py

    def __init__(self, c_in: int, c_out: int, norm: str, time: int = 3):
        super().__init__()
        self.norm1, self.conv1 = NORMS[norm](c_in), FactorisedConv(c_in, c_out, time)
        self.norm2, self.conv2 = NORMS[norm](c_out), FactorisedConv(c_out, c_out, time)
        self.nin_shortcut = CausalConv3d(c_in, c_out) if c_in != c_out else nn.Identity()

    def forward(self, x: torch.Tensor, memory: Memory | None = None) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x)), memory)
        return self.nin_shortcut(x) + self.conv2(F.silu(self.norm2(h)), memory)


class Level(nn.Module):
    """Residual blocks of one resolution, and the step to the next."""

    def __init__(self, blocks: list[ResBlock], name: str, resample: nn.Module | None):
        """name: of that step in the published keys, "downsample" or "upsample"; None where there is no other resolution."""
        super().__init__()
        self.block = nn.ModuleList(blocks)
        self.add_module(name, resample)
        self._name = name

    def forward(self, x: torch.Tensor, memory: Memory | None) -> torch.Tensor:
        for block in self.block:
            x = block(x, memory)
        resample = getattr(self, self._name)
        return x if resample is None else resample(x, memory)


class FrameAttention(nn.Module):
    """One-head attention over one axis: `space` within each frame, or `time` (causal) at each place."""

    recomputable = True  # see train/recompute.py

    def __init__(self, channels: int, norm: str, axis: str):
        super().__init__()
        self.axis = axis
        self.norm = NORMS[norm](channels)
        self.q, self.k, self.v, self.proj_out = (CausalConv3d(channels, channels) for _ in range(4))

    def forward(self, x: torch.Tensor, memory: Memory | None = None) -> torch.Tensor:
        h = self.norm(x)
        q, k, v = self.q(h), self.k(h), self.v(h)
        if self.axis == "space":
            B, _, T, H, W = x.shape
            q, k, v = (y.permute(0, 2, 3, 4, 1).flatten(2, 3) for y in (q, k, v))  # [B, T, HW, C]
            out = F.scaled_dot_product_attention(q, k, v)
            out = out.unflatten(2, (H, W)).permute(0, 4, 1, 2, 3)
        else:
            if memory is not None:
                if self in memory:
                    k, v = torch.cat((memory[self], torch.stack((k, v))), 3).unbind()
                memory[self] = torch.stack((k, v))
            q, k, v = (y.permute(0, 3, 4, 2, 1) for y in (q, k, v))  # [B, H, W, T, C]
            T, S = q.shape[3], k.shape[3]
            mask = torch.ones(T, S, dtype=torch.bool, device=x.device).tril(S - T)
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).permute(0, 4, 3, 1, 2)
        return x + self.proj_out(out)


class Middle(nn.Module):
    """ResBlock, attention over space then time, ResBlock: the only place where far-apart places meet."""

    def __init__(self, channels: int, norm: str, attention: bool, time: int = 3):
        super().__init__()
        self.block_1 = ResBlock(channels, channels, norm, time)
        axes = ("space", "time") if attention else ()
        self.attn_1 = nn.ModuleList(FrameAttention(channels, norm, axis) for axis in axes)
        self.block_2 = ResBlock(channels, channels, norm, time)

    def forward(self, x: torch.Tensor, memory: Memory | None = None) -> torch.Tensor:
        x = self.block_1(x, memory)
        for attention in self.attn_1:
            x = attention(x, memory)
        return self.block_2(x, memory)
