"""Latents -> frames: the encoder's mirror, ending in the inverse Haar packets."""

import torch
import torch.nn.functional as F
from torch import nn

from wfm_ar.haar import haar_unpatch
from wfm_ar.tokenizers.video.blocks import Level, Middle, ResBlock
from wfm_ar.tokenizers.video.causal_conv import NORMS, CausalConv3d, FactorisedConv, Memory, Upsample


class Decoder(nn.Module):
    """latents [B, z_channels, t, h, w] -> float [B, 3, T, H, W], not clamped."""

    def __init__(self, config):
        super().__init__()
        self.patch = (config.patch_time, config.patch_space)
        width = 3 * config.patch_time * config.patch_space**2
        channels = [config.decoder_channels * m for m in config.multipliers]
        ends = FactorisedConv if config.factorised_ends else lambda i, o: CausalConv3d(i, o, space=3)
        self.conv_in = ends(config.z_channels, channels[-1])
        self.mid = Middle(channels[-1], config.norm, config.attention, config.time_kernel)
        self.up = nn.ModuleList()  # index = level, so up[0] comes last, as in the published key names
        for level, c_out in enumerate(channels):
            c_in = channels[min(level + 1, len(channels) - 1)]
            blocks = [ResBlock(c_in if i == 0 else c_out, c_out, config.norm, config.time_kernel) for i in range(config.decoder_blocks)]
            time, space = config.halves(level - 1) if level > 0 else (False, False)
            self.up.append(Level(blocks, "upsample", Upsample(c_out, time, space) if time or space else None))
        self.norm_out = NORMS[config.norm](channels[0])
        self.conv_out = ends(channels[0], width)

    def forward(self, z_Bcthw: torch.Tensor, memory: Memory | None = None) -> torch.Tensor:
        first = not memory
        x = self.conv_in(z_Bcthw.contiguous(memory_format=torch.channels_last_3d), memory)
        x = self.mid(x, memory)
        for level in reversed(self.up):
            x = level(x, memory)
        x = self.conv_out(F.silu(self.norm_out(x)), memory)
        return haar_unpatch(x, *self.patch, first=first)
