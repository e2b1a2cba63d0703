"""The video tokenizer's sibling without a quantiser: clip <-> continuous latents, causal in time (the published CV networks).

Same encoder and decoder as `VideoTokenizer`, and like it a clip encoded or decoded in pieces through a stream gives what the whole
gives. Latents are standardised by a channel's and latent's own mean and spread, which come with the published weights in a file
of their own; without one they are left as they are.
"""

from dataclasses import dataclass

import torch
from torch import nn

from wfm_ar.errors import BadClip, BadConfig
from wfm_ar.shapes import latent_frames
from wfm_ar.tokenizers.video.causal_conv import CausalConv3d, Memory
from wfm_ar.tokenizers.video.decoder import Decoder
from wfm_ar.tokenizers.video.encoder import Encoder
from wfm_ar.tokenizers.video.model import VideoTokenizerConfig


@dataclass(frozen=True, kw_only=True)
class ContinuousTokenizerConfig(VideoTokenizerConfig):
    """Rates and widths as of a VideoTokenizerConfig; `levels` has no meaning here."""

    latent_channels: int = 16
    chunk: int = 8  # latents that have a mean and a spread of their own; later ones take the last's

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.background or self.normalise:
            raise BadConfig(
                "continuous tokenizer: background and normalise: got true, expected false; fix: both are of discrete tokenizers"
            )
        if min(self.latent_channels, self.chunk) < 1:
            raise BadConfig(
                f"continuous tokenizer: latent_channels and chunk: got {self.latent_channels}, {self.chunk}, expected at least 1"
            )


class ContinuousTokenizer(nn.Module):
    """Clips float [B, 3, 1 + r*n, H, W] in [-1, 1] <-> latents float [B, c, 1 + n, h, w]."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, config: ContinuousTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quant_conv = CausalConv3d(config.z_channels, config.latent_channels)
        self.post_quant_conv = CausalConv3d(config.latent_channels, config.z_channels)
        self.register_buffer("mean", torch.zeros(config.latent_channels, config.chunk))
        self.register_buffer("std", torch.ones(config.latent_channels, config.chunk))

    def latents(self, video_BCTHW: torch.Tensor, memory: Memory | None = None) -> torch.Tensor:
        """Frames -> latents as the network makes them, not standardised."""
        return self.quant_conv(self.encoder(video_BCTHW, memory))

    def frames(self, latents_Bcthw: torch.Tensor, memory: Memory | None = None) -> torch.Tensor:
        """The inverse direction of `latents`; not clamped."""
        return self.decoder(self.post_quant_conv(latents_Bcthw), memory)

    def encode(self, video_BCTHW: torch.Tensor) -> torch.Tensor:
        """float [B, 3, 1 + r*n, H, W] -> standardised latents [B, c, 1 + n, h, w]. Raises BadClip on another T, H or W."""
        latent_frames(video_BCTHW.shape[2], self.config.temporal_compression)
        return self._encode(video_BCTHW, 0, None)

    def decode(self, latents_Bcthw: torch.Tensor) -> torch.Tensor:
        """Standardised latents [B, c, 1 + n, h, w] -> float [B, 3, 1 + r*n, H, W], not clamped."""
        return self._decode(latents_Bcthw, 0, None)

    def encode_stream(self) -> "LatentEncodeStream":
        """A stream that encodes a clip of any length piece by piece."""
        return LatentEncodeStream(self)

    def decode_stream(self) -> "LatentDecodeStream":
        """A stream that decodes latents as they come."""
        return LatentDecodeStream(self)

    def _encode(self, video_BCTHW: torch.Tensor, first: int, memory: Memory | None) -> torch.Tensor:
        rate, (H, W) = self.config.spatial_compression, video_BCTHW.shape[3:]
        if H % rate or W % rate:
            raise BadClip(f"clip: got {W}x{H} pixels, expected multiples of {rate}; fix: crop or pad it")
        latents = self.latents(video_BCTHW, memory)
        mean, std = self._statistics(latents, first)
        return ((latents - mean) / std).to(latents.dtype)

    def _decode(self, latents_Bcthw: torch.Tensor, first: int, memory: Memory | None) -> torch.Tensor:
        mean, std = self._statistics(latents_Bcthw, first)
        return self.frames((latents_Bcthw * std + mean).to(self.post_quant_conv.weight.dtype), memory)

    def _statistics(self, latents_Bcthw: torch.Tensor, first: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(mean, std) [1, c, t, 1, 1] of latents first .. first + t - 1 of a clip."""
        places = torch.arange(first, first + latents_Bcthw.shape[2], device=self.mean.device).clamp_max(self.config.chunk - 1)
        return self.mean[None, :, places, None, None], self.std[None, :, places, None, None]


class LatentEncodeStream:
    """Carried state of an encoding. First push: 1 + r*k frames; later pushes: r*k frames."""

    def __init__(self, tokenizer: ContinuousTokenizer) -> None:
        self.tokenizer, self.memory, self.latents = tokenizer, {}, 0  # latents: how many there were so far

    @torch.inference_mode()
    def push(self, video_BCTHW: torch.Tensor) -> torch.Tensor:
        """float [B, 3, T, H, W] in [-1, 1] -> standardised latents [B, c, t, h, w] that became complete. Raises BadClip."""
        rate, T = self.tokenizer.config.temporal_compression, video_BCTHW.shape[2]
        if not self.latents:
            latent_frames(T, rate)
        elif T % rate or not T:
            raise BadClip(f"stream: got {T} frames, expected a multiple of {rate} after the first push; fix: push whole latents")
        latents = self.tokenizer._encode(video_BCTHW, self.latents, self.memory)
        self.latents += latents.shape[2]
        return latents


class LatentDecodeStream:
    """Carried state of a decoding. The first latent gives 1 frame, every later one r frames."""

    def __init__(self, tokenizer: ContinuousTokenizer) -> None:
        self.tokenizer, self.memory, self.latents = tokenizer, {}, 0

    @torch.inference_mode()
    def push(self, latents_Bcthw: torch.Tensor) -> torch.Tensor:
        """Standardised latents [B, c, t, h, w] -> float [B, 3, frames, H, W], not clamped."""
        frames = self.tokenizer._decode(latents_Bcthw, self.latents, self.memory)
        self.latents += latents_Bcthw.shape[2]
        return frames
