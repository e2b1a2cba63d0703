"""Frames -> latents: Haar packets, levels of residual blocks each ending in a downsampling, a middle, a projection."""

import torch
import torch.nn.functional as F
from torch import nn

from wfm_ar.haar import haar_patch
from wfm_ar.tokenizers.video.blocks import Level, Middle, ResBlock
from wfm_ar.tokenizers.video.causal_conv import NORMS, CausalConv3d, Downsample, FactorisedConv, Memory


class Encoder(nn.Module):
    """float [B, 3, T, H, W] -> latents [B, z_channels, t, h, w]; `config` is the tokenizer's VideoTokenizerConfig."""

    def __init__(self, config):
        super().__init__()
        self.patch = (config.patch_time, config.patch_space)
        width = 3 * config.patch_time * config.patch_space**2
        channels = [config.encoder_channels * m for m in (1, *config.multipliers)]
        ends = FactorisedConv if config.factorised_ends else lambda i, o: CausalConv3d(i, o, space=3)
        self.conv_in = ends(width, channels[0])
        self.down = nn.ModuleList()
        for level, (c_in, c_out) in enumerate(zip(channels[:-1], channels[1:], strict=True)):
            blocks = [ResBlock(c_in if i == 0 else c_out, c_out, config.norm, config.time_kernel) for i in range(config.encoder_blocks)]
            time, space = config.halves(level)
            self.down.append(Level(blocks, "downsample", Downsample(c_out, time, space) if time or space else None))
        self.mid = Middle(channels[-1], config.norm, config.attention, config.time_kernel)
        self.norm_out = NORMS[config.norm](channels[-1])
        self.conv_out = ends(channels[-1], config.z_channels)

    def forward(self, video_BCTHW: torch.Tensor, memory: Memory | None = None) -> torch.Tensor:
        x = haar_patch(video_BCTHW, *self.patch, first=not memory)
        x = x.contiguous(memory_format=torch.channels_last_3d)  # on CPUs two to four times faster than channels first
        x = self.conv_in(x, memory)
        for level in self.down:
            x = level(x, memory)
        x = self.mid(x, memory)
        return self.conv_out(F.silu(self.norm_out(x)), memory)
