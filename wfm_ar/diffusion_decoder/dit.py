"""A transformer that denoises video latents, told by token ids what they should show: the published 7B diffusion decoder.

Promises: `forward` is the raw network F of EDM (before c_skip and c_out); rows of a batch do not touch. Knows nothing of noise
schedules or guidance: see dit_sampler.py. Peebles & Xie 2023 (arXiv 2212.09748) with low-rank modulation, three-axis rotary
positions and a text context.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wfm_ar.errors import BadClip, BadConfig


@dataclass(frozen=True, kw_only=True)
class DiTConfig:
    """Widths and switches. Raises BadConfig where a value cannot be."""

    latent_channels: int = 16  # of the continuous tokenizer whose latents are denoised
    token_vocab: int = 64000  # codebook of the discrete tokenizer that conditions
    token_dim: int = 32  # channels that a token becomes beside the latent
    layers: int = 28
    dim: int = 4096
    heads: int = 32
    hidden: int = 16384  # of the MLP
    context_dim: int = 1024  # width of the text context
    modulation_rank: int = 256
    patch: int = 2  # latent places a side of one transformer place
    padding_mask: bool = True  # one more input channel: 1 where the picture is padding
    theta: float = 10000.0  # base of the rotary frequencies
    space_stretch: float = 1.5  # NTK stretch of the rotary frequencies of rows and columns
    time_stretch: float = 1.0
    base_fps: float = 24.0  # frame positions are counted at this rate
    sigma_data: float = 0.5  # spread of what is denoised

    def __post_init__(self) -> None:
        for name in (
            "latent_channels",
            "token_vocab",
            "token_dim",
            "layers",
            "dim",
            "heads",
            "hidden",
            "context_dim",
            "modulation_rank",
            "patch",
        ):
            if getattr(self, name) < 1:
                raise BadConfig(f"diffusion transformer: {name}: got {getattr(self, name)}, expected at least 1")
        if self.dim % self.heads or self.dim // self.heads % 2 or self.dim // self.heads < 6:
            raise BadConfig(
                f"diffusion transformer: dim and heads: got {self.dim} and {self.heads}, expected heads of an even width, 6 or more"
            )

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def in_channels(self) -> int:
        """Channels before patching: latent, token embedding, padding mask."""
        return self.latent_channels + self.token_dim + int(self.padding_mask)


def dit_rotary(config: DiTConfig, t: int, h: int, w: int, fps: float, device: torch.device | str = "cpu") -> Tensor:
    """float32 angles [t * h * w, head_dim / 2] in the order t, h, w; rows and columns take head_dim // 6 frequencies each.

    An axis of d numbers has base theta * stretch^(d / (d - 2)) (NTK-aware scaling); time is counted in frames of base_fps.
    """
    spatial = config.head_dim // 6 * 2
    sizes = (config.head_dim - 2 * spatial, spatial, spatial)
    stretches, angles = (config.time_stretch, config.space_stretch, config.space_stretch), []
    for axis, (size, stretch, length) in enumerate(zip(sizes, stretches, (t, h, w), strict=True)):
        base = config.theta * (stretch ** (size / (size - 2)) if size > 2 else 1.0)
        frequency = 1.0 / base ** (torch.arange(0, size, 2, dtype=torch.float32, device=device) / size)
        place = torch.arange(length, dtype=torch.float32, device=device)
        if axis == 0:
            place = place / fps * config.base_fps
        view = [1, 1, 1, -1]
        view[axis] = length
        angles.append((place[:, None] * frequency).view(view).expand(t, h, w, -1))
    return torch.cat(angles, -1).flatten(0, 2)


def _rotate(x_BNLK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x_BNLK.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


class _Attention(nn.Module):
    """Attention with RMS-normed queries and keys; to a context, or (context_dim None) to itself with rotary positions."""

    def __init__(self, config: DiTConfig, context_dim: int | None) -> None:
        super().__init__()
        dim = config.dim
        self.head_dim = config.head_dim
        self.q = nn.Linear(dim, dim, bias=False)
        self.kv = nn.Linear(context_dim or dim, 2 * dim, bias=False)
        self.q_norm, self.k_norm = nn.RMSNorm(self.head_dim, eps=1e-6), nn.RMSNorm(self.head_dim, eps=1e-6)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x_BLD: Tensor, context_BSC: Tensor | None = None, rotary: tuple[Tensor, Tensor] | None = None) -> Tensor:
        k, v = self.kv(x_BLD if context_BSC is None else context_BSC).chunk(2, -1)
        q, k, v = (y.unflatten(-1, (-1, self.head_dim)).transpose(1, 2) for y in (self.q(x_BLD), k, v))
        q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            q, k = _rotate(q, *rotary), _rotate(k, *rotary)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class _MLP(nn.Module):
    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.dim, config.hidden, bias=False)
        self.down = nn.Linear(config.hidden, config.dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class _Modulation(nn.Module):
    """The noise level's shift, scale (and gate): a low-rank map of its own plus one that all layers share."""

    def __init__(self, config: DiTConfig, parts: int) -> None:
        super().__init__()
        self.parts = parts
        self.down = nn.Linear(config.dim, config.modulation_rank, bias=False)
        self.up = nn.Linear(config.modulation_rank, parts * config.dim, bias=False)

    def forward(self, noise_BD: Tensor, shared_BM: Tensor) -> tuple[Tensor, ...]:
        """-> `parts` tensors [B, 1, D]."""
        own = self.up(self.down(F.silu(noise_BD)))
        return (own + shared_BM[:, : own.shape[1]]).unsqueeze(1).chunk(self.parts, -1)


def _norm(x_BLD: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return F.layer_norm(x_BLD, x_BLD.shape[-1:], eps=1e-6) * (1 + scale) + shift


class _Block(nn.Module):
    """Self-attention, attention to the context, MLP; each modulated, gated and residual."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.attention, self.cross_attention = _Attention(config, None), _Attention(config, config.context_dim)
        self.mlp = _MLP(config)
        self.modulations = nn.ModuleList(_Modulation(config, 3) for _ in range(3))

    def forward(self, x: Tensor, noise: Tensor, shared: Tensor, context: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        (s1, c1, g1), (s2, c2, g2), (s3, c3, g3) = (modulation(noise, shared) for modulation in self.modulations)
        x = x + g1 * self.attention(_norm(x, s1, c1), rotary=rotary)
        x = x + g2 * self.cross_attention(_norm(x, s2, c2), context)
        return x + g3 * self.mlp(_norm(x, s3, c3))


class DiT(nn.Module):
    """Latents [B, C, t, h, w] to F of the same shape."""

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.token_vocab, config.token_dim)
        self.embed = nn.Linear(config.in_channels * config.patch**2, config.dim, bias=False)
        self.noise_in = nn.Linear(config.dim, config.dim, bias=False)
        self.noise_out = nn.Linear(config.dim, 3 * config.dim, bias=False)
        self.noise_norm = nn.RMSNorm(config.dim, eps=1e-6)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))
        self.last_modulation = _Modulation(config, 2)
        self.head = nn.Linear(config.dim, config.latent_channels * config.patch**2, bias=False)

    def condition(self, tokens_Bthw: Tensor, h: int, w: int) -> Tensor:
        """Token ids [B, t, h', w'] -> [B, token_dim, t, h, w]: embedded, then resized bilinearly frame by frame."""
        embedded = self.token_embedding(tokens_Bthw.long()).permute(0, 1, 4, 2, 3)
        resized = F.interpolate(embedded.flatten(0, 1), size=(h, w), mode="bilinear", align_corners=False)
        return resized.unflatten(0, embedded.shape[:2]).transpose(1, 2)

    def forward(
        self,
        x_BCthw: Tensor,
        noise_B: Tensor,
        condition_BEthw: Tensor,
        context_BSC: Tensor,
        *,
        fps: float = 24.0,
        padding_BHW: Tensor | None = None,
    ) -> Tensor:
        """F(c_in x; c_noise).

        noise_B: c_noise = ln(sigma) / 4. condition: see `condition`. context_BSC: text embeddings, all of them attended to.
        padding_BHW: float, 1 where a pixel is padding, any resolution; None = no padding. Raises BadClip where h or w is no
        multiple of the patch, or the condition has another grid.
        """
        config, (B, _, t, h, w), p = self.config, x_BCthw.shape, self.config.patch
        if h % p or w % p:
            raise BadClip(f"diffusion transformer: got latents of {w}x{h}, expected multiples of {p}; fix: crop or pad the clip")
        if condition_BEthw.shape[2:] != x_BCthw.shape[2:]:
            got, expected = list(condition_BEthw.shape[2:]), list(x_BCthw.shape[2:])
            raise BadClip(f"diffusion transformer: got tokens for a grid {got}, expected {expected}; fix: tokens of the same clip")
        parts = [x_BCthw, condition_BEthw]
        if config.padding_mask:
            mask = x_BCthw.new_zeros(B, 1, h, w)
            if padding_BHW is not None:
                mask = F.interpolate(padding_BHW[:, None].to(x_BCthw), size=(h, w), mode="nearest").expand(B, -1, -1, -1)
            parts.append(mask.unsqueeze(2).expand(-1, -1, t, -1, -1))
        x = torch.cat(parts, 1).unflatten(4, (-1, p)).unflatten(3, (-1, p))  # [B, C, t, h', m, w', n]
        x = self.embed(x.permute(0, 2, 3, 5, 1, 4, 6).flatten(4).flatten(1, 3))

        half = config.dim // 2
        frequency = torch.exp(-math.log(10000.0) / half * torch.arange(half, dtype=torch.float32, device=x.device))
        angle = noise_B.float()[:, None] * frequency
        wave_BD = torch.cat((angle.cos(), angle.sin()), 1).to(x.dtype)
        shared_BM = self.noise_out(F.silu(self.noise_in(wave_BD)))
        noise_BD = self.noise_norm(wave_BD)
        angles = dit_rotary(config, t, h // p, w // p, fps, x.device)
        rotary = (angles.cos().to(x.dtype), angles.sin().to(x.dtype))
        context_BSC = context_BSC.to(x.dtype)
        for block in self.blocks:
            x = block(x, noise_BD, shared_BM, context_BSC, rotary)
        shift, scale = self.last_modulation(noise_BD, shared_BM)
        x = self.head(_norm(x, shift, scale)).unflatten(1, (t, h // p, w // p)).unflatten(-1, (p, p, -1))
        return x.permute(0, 6, 1, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)
