"""The video tokenizer: clip <-> grid of discrete tokens, causal in time, at any rate the config names.

Promises: frame k of a reconstruction does not depend on later frames, 1 + r*n frames become 1 + n latents, and a clip
encoded or decoded in pieces through a stream gives what the whole gives. Knows nothing of text, actions or files.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from wfm_ar.errors import BadClip, BadConfig
from wfm_ar.framing import CENTRE, area_of
from wfm_ar.shapes import latent_frames
from wfm_ar.sizes import check_sizes
from wfm_ar.tokenizers.video.causal_conv import NORMS, CausalConv3d, Memory
from wfm_ar.tokenizers.video.decoder import Decoder
from wfm_ar.tokenizers.video.encoder import Encoder
from wfm_ar.tokenizers.video.fsq import FSQ

MOST_PIXELS = 1 << 22  # of a picture: a small file must not ask for gigabytes a frame
EARLIER_TOKENIZER = {"crop": CENTRE, "time_kernel": 3}  # of a VideoTokenizerConfig: what files from before a setting came leave unsaid


def _power_of_two(n: int) -> bool:
    return n >= 1 and n & (n - 1) == 0


@dataclass(frozen=True, kw_only=True)
class VideoTokenizerConfig:
    """Every rate and width of the tokenizer; DV8x16x16 is one value of this, the shipped tabletop tokenizer another."""

    height: int = 128  # pixels, a multiple of spatial_compression
    width: int = 128  # pixels
    crop: str = CENTRE  # how pictures of other sizes become ones of height x width (framing.py); the network does not depend on it
    temporal_compression: int = 4  # frames a latent: 1, 2, 4 or 8
    spatial_compression: int = 16  # pixels a token's side: 8 or 16
    patch_time: int = 4  # how much of the temporal rate the Haar packets take; strided convolutions take the rest
    patch_space: int = 4  # how much of the spatial rate the Haar packets take
    encoder_channels: int = 40  # width of the first level; level l has channels * multipliers[l]
    decoder_channels: int = 64
    multipliers: tuple[int, ...] = (1, 2, 2)  # one a level; every level but the last may halve
    encoder_blocks: int = 1  # residual blocks a level
    decoder_blocks: int = 2
    z_channels: int = 64  # width between encoder and quantiser
    levels: tuple[int, ...] = (3, 3, 3, 3, 3, 3, 3)  # FSQ levels; their product is the codebook
    time_kernel: int = 3  # frames that a convolution in time sees; 1 with temporal_compression=1: each frame is coded by itself
    norm: str = "place"  # "frame" = the published per-frame norm; "place" = per place, so still regions keep their codes
    attention: bool = False  # factorised attention in the middle (the published networks have it)
    factorised_ends: bool = False  # (1,3,3)+(3,1,1) first and last convolution as published, else (1,3,3) alone
    background: bool = True  # subtract a stored still picture: right for a fixed camera
    normalise: bool = True  # running standardisation of latents before the quantiser, so that all codes get used

    def __post_init__(self):
        area_of(self.crop)  # which raises
        for name in ("temporal_compression", "spatial_compression", "patch_time", "patch_space"):
            if not _power_of_two(getattr(self, name)):
                raise BadConfig(f"tokenizer {name}: got {getattr(self, name)}, expected a power of two; fix: 1, 2, 4, 8 or 16")
        if self.temporal_compression % self.patch_time or self.spatial_compression % self.patch_space:
            raise BadConfig(
                "tokenizer patch_time/patch_space: must divide temporal_compression/spatial_compression; fix: make them smaller"
            )
        for name in ("height", "width"):
            if getattr(self, name) % self.spatial_compression or getattr(self, name) < 1:
                raise BadConfig(f"tokenizer {name}: got {getattr(self, name)}, expected a multiple of {self.spatial_compression}")
        if max(self._halvings()) >= len(self.multipliers):  # the last level does not halve
            needed = max(self._halvings()) + 1
            raise BadConfig(
                f"tokenizer multipliers: got {len(self.multipliers)} levels, expected at least {needed}; fix: add levels or patch more"
            )
        check_sizes(self, "tokenizer", height=(1, 1 << 14), width=(1, 1 << 14), encoder_channels=(1, 8192), decoder_channels=(1, 8192))
        check_sizes(self, "tokenizer", multipliers=(1, 64), encoder_blocks=(0, 256), decoder_blocks=(0, 256), z_channels=(1, 1 << 16))
        check_sizes(self, "tokenizer", levels=(2, 1 << 16), temporal_compression=(1, 256), spatial_compression=(1, 256))
        check_sizes(self, "tokenizer", time_kernel=(1, 16))
        if self.height * self.width > MOST_PIXELS:
            raise BadConfig(
                f"tokenizer width and height: got {self.width}x{self.height} pixels, expected at most {MOST_PIXELS} in all, such as "
                "2048x2048; fix: smaller pictures"
            )
        if len(self.multipliers) > 16 or math.prod(self.levels) > 1 << 23:
            raise BadConfig(
                f"tokenizer multipliers and levels: got {len(self.multipliers)} levels and {math.prod(self.levels):.3g} codes, "
                "expected at most 16 and 8.4e6; fix: fewer"
            )
        if len(self.levels) < 1 or min(self.levels) < 2:
            raise BadConfig(f"tokenizer levels: got {self.levels}, expected at least one level count, each >= 2")
        if self.norm not in NORMS:
            raise BadConfig(f"tokenizer norm: got {self.norm!r}, expected one of {sorted(NORMS)}")

    def _halvings(self) -> tuple[int, int]:
        time = (self.temporal_compression // self.patch_time).bit_length() - 1
        return time, (self.spatial_compression // self.patch_space).bit_length() - 1

    def halves(self, level: int) -> tuple[bool, bool]:
        """Whether the encoder's level halves (time, space) at its end."""
        time, space = self._halvings()
        return level < time, level < space

    @property
    def frames_apart(self) -> bool:
        """Whether each frame is encoded and decoded by itself, whatever comes before it."""
        return self.temporal_compression == self.time_kernel == 1 and not self.attention

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens per latent as (rows, columns)."""
        return self.height // self.spatial_compression, self.width // self.spatial_compression


class LatentNorm(nn.Module):
    """Standardise each latent channel by running statistics, so that training starts - and stays - at unit spread."""

    mean: torch.Tensor
    std: torch.Tensor
    seen: torch.Tensor

    def __init__(self, channels: int, momentum: float = 0.01):
        super().__init__()
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))
        self.register_buffer("seen", torch.zeros(()))  # batches seen: the first ones count fully

    @torch.no_grad()
    def observe(self, z: torch.Tensor) -> None:
        """Fold a batch of latents [B, c, t, h, w] into the statistics."""
        self.seen += 1
        rate = torch.maximum(1 / self.seen, self.seen.new_tensor(self.momentum))
        std, mean = torch.std_mean(z.float(), dim=(0, 2, 3, 4))
        self.mean.lerp_(mean, rate)
        self.std.lerp_(std.clamp_min(1e-4), rate)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.observe(z.detach())
        shape = (1, -1, 1, 1, 1)
        return (z - self.mean.view(shape)) / self.std.view(shape)


class VideoTokenizer(nn.Module):
    """Clips [B, 3, T, H, W] in [-1, 1] <-> token ids [B, t, h, w]."""

    background: torch.Tensor  # where the configuration has one

    def __init__(self, config: VideoTokenizerConfig):
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quant_conv = CausalConv3d(config.z_channels, len(config.levels))
        self.latent_norm = LatentNorm(len(config.levels)) if config.normalise else nn.Identity()
        self.quantizer = FSQ(config.levels)
        self.post_quant_conv = CausalConv3d(len(config.levels), config.z_channels)
        if config.background:
            self.register_buffer("background", torch.zeros(3, config.height, config.width))

    @property
    def codebook_size(self) -> int:
        return self.quantizer.codebook_size

    def _still(self) -> torch.Tensor | float:
        return self.background[None, :, None] if self.config.background else 0.0

    def latents(self, foreground_BCTHW: torch.Tensor, memory: Memory | None = None) -> torch.Tensor:
        """Frames less the background -> latents of about unit spread [B, c, t, h, w], before the quantiser."""
        return self.latent_norm(self.quant_conv(self.encoder(foreground_BCTHW, memory)))

    def foreground(self, codes_Bcthw: torch.Tensor, memory: Memory | None = None) -> torch.Tensor:
        """Codes -> frames less the background; the inverse direction of `latents`."""
        return self.decoder(self.post_quant_conv(codes_Bcthw), memory)

    def forward(self, foreground_BCTHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Training pass on frames (or crops) less the background -> (their reconstruction, codes, latents), gradients straight through."""
        latents = self.latents(foreground_BCTHW)
        codes = self.quantizer(latents)
        return self.foreground(codes), codes, latents

    def encode(self, video_BCTHW: torch.Tensor) -> torch.Tensor:
        """float [B, 3, 1 + r*n, H, W] in [-1, 1] -> int64 [B, 1 + n, h, w]. Raises BadClip on another T, H or W."""
        latent_frames(video_BCTHW.shape[2], self.config.temporal_compression)
        self._check_size(video_BCTHW)
        return self.quantizer.codes_to_ids(self.quantizer(self.latents(video_BCTHW - self._still())))

    def decode(self, tokens_Bthw: torch.Tensor) -> torch.Tensor:
        """int64 [B, 1 + n, h, w] -> float32 [B, 3, 1 + r*n, H, W], not clamped."""
        return self.foreground(self.codes(tokens_Bthw)) + self._still()

    def codes(self, tokens_Bthw: torch.Tensor) -> torch.Tensor:
        """int64 [B, t, h, w] -> float [B, c, t, h, w] in [-1, 1], in the weights' dtype."""
        return self.quantizer.ids_to_codes(tokens_Bthw).to(self.post_quant_conv.weight.dtype)

    def encode_stream(self) -> "EncodeStream":
        """A stream that encodes a clip of any length piece by piece."""
        return EncodeStream(self)

    def decode_stream(self) -> "DecodeStream":
        """A stream that decodes latents as they come."""
        return DecodeStream(self)

    def _check_size(self, video_BCTHW: torch.Tensor) -> None:
        rate, (H, W) = self.config.spatial_compression, video_BCTHW.shape[3:]
        if self.config.background and (H, W) != (self.config.height, self.config.width):
            raise BadClip(f"clip: got {W}x{H} pixels, expected {self.config.width}x{self.config.height}; fix: resize it first")
        if H % rate or W % rate:
            raise BadClip(f"clip: got {W}x{H} pixels, expected multiples of {rate}; fix: crop or pad it")


class EncodeStream:
    """Carried state of an encoding. First push: 1 + r*k frames; later pushes: r*k frames."""

    def __init__(self, tokenizer: VideoTokenizer):
        self.tokenizer, self.memory = tokenizer, {}

    @torch.inference_mode()
    def push(self, video_BCTHW: torch.Tensor) -> torch.Tensor:
        """float [B, 3, T, H, W] in [-1, 1] -> int64 [B, t, h, w] of the latents that became complete."""
        rate, T = self.tokenizer.config.temporal_compression, video_BCTHW.shape[2]
        if not self.memory:
            latent_frames(T, rate)
        elif T % rate:
            raise BadClip(f"stream: got {T} frames, expected a multiple of {rate} after the first push")
        self.tokenizer._check_size(video_BCTHW)
        latents = self.tokenizer.latents(video_BCTHW - self.tokenizer._still(), self.memory)
        return self.tokenizer.quantizer.codes_to_ids(self.tokenizer.quantizer(latents))


class DecodeStream:
    """Carried state of a decoding. The first latent gives 1 frame, every later one r frames."""

    def __init__(self, tokenizer: VideoTokenizer):
        self.tokenizer, self.memory = tokenizer, {}

    @torch.inference_mode()
    def push(self, tokens_Bthw: torch.Tensor) -> torch.Tensor:
        """int64 [B, t, h, w] -> float32 [B, 3, frames, H, W], not clamped."""
        return self.tokenizer.foreground(self.tokenizer.codes(tokens_Bthw), self.memory) + self.tokenizer._still()
