"""The network of the diffusion decoder: a small U-Net over Haar-patched frames, causal over latents.

Promises: what it gives for a latent depends on that latent and on earlier ones only, a stream with carried state equals the
whole clip, and rows of a batch do not touch. It is fully convolutional with per-place norms, so it trains on crops and runs
on whole pictures. Knows nothing of noise schedules, losses or sampling: see edm.py and sampler.py.

Almost all work is 2-D convolutions with the latents folded into the batch; time is mixed by giving each block the previous
latent's features, which is a causal (2, 3, 3) convolution at the price of a (1, 3, 3) and a (1, 1, 1) one.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wfm_ar.errors import BadClip, BadConfig
from wfm_ar.haar import haar_patch, haar_unpatch
from wfm_ar.shapes import latent_frames
from wfm_ar.sizes import check_sizes

RGB = 3


@dataclass(frozen=True, kw_only=True)
class DenoiserConfig:
    """Shape of the network and of the diffusion it was trained for. Raises BadConfig where a value cannot be."""

    temporal_compression: int = 4  # frames a latent, as the video tokenizer's
    spatial_compression: int = 16  # pixels a code along each side, as the video tokenizer's
    code_channels: int = 4  # numbers a code, the tokenizer's len(levels)
    patch: int = 4  # pixels a side of one place of the network's finest grid
    channels: tuple[int, ...] = (64, 128)  # width of each level, finest first; each level halves the grid
    blocks: tuple[int, ...] = (1, 2)  # residual blocks of each level (twice for all but the coarsest: down and up)
    embedding: int = 128  # width of the noise level's embedding
    predict: str = "residual"  # what is diffused: "residual" = true - decoded, or "frames" = true
    residual_scale: float = 0.05  # spread of what is diffused, in pixel units [-1, 1]; measured on the data, see edm.measure_scale
    sigma_min: float = 0.02  # noise levels are in units of residual_scale
    sigma_max: float = 20.0
    rho: float = 7.0  # bend of the Karras schedule
    noise_sharing: float = 0.5  # share (variance) of the noise that all frames of a row have in common, 0..1
    temperature: float = 0.0  # spread of the sampler's noise; 1 draws from the posterior, 0 takes its likeliest (nearest to the truth)

    def __post_init__(self) -> None:
        for name in ("temporal_compression", "spatial_compression", "patch"):
            value = getattr(self, name)
            if value < 1 or value & (value - 1):
                raise BadConfig(f"diffusion decoder: {name}: got {value}, expected a power of two; fix: use 1, 2, 4, 8 or 16")
        if self.spatial_compression % self.patch:
            raise BadConfig(
                f"diffusion decoder: patch: got {self.patch}, expected a divisor of spatial_compression {self.spatial_compression}; "
                f"fix: patch={self.spatial_compression} or less"
            )
        if not self.channels or len(self.channels) != len(self.blocks) or min(self.channels + self.blocks) < 1:
            raise BadConfig(
                f"diffusion decoder: channels and blocks: got {self.channels} and {self.blocks}, expected equally many numbers, each "
                "at least 1; fix: one width and one count a level"
            )
        check_sizes(self, "diffusion decoder:", channels=(1, 8192), blocks=(1, 64), code_channels=(0, 1024), embedding=(0, 1 << 16))
        check_sizes(self, "diffusion decoder:", temporal_compression=(1, 256), spatial_compression=(1, 256))
        if len(self.channels) > 16:
            raise BadConfig(f"diffusion decoder: channels: got {len(self.channels)} levels, expected at most 16; fix: fewer")
        if min(self.code_channels, self.embedding) < 1:
            raise BadConfig(
                f"diffusion decoder: code_channels and embedding: got {self.code_channels} and {self.embedding}, expected at least 1; "
                "fix: code_channels = number of FSQ levels"
            )
        if self.predict not in ("residual", "frames"):
            raise BadConfig(f'diffusion decoder: predict: got "{self.predict}", expected "residual" or "frames"; fix: predict=residual')
        if not (math.isfinite(self.residual_scale) and self.residual_scale > 0 and self.rho > 0):
            raise BadConfig(
                f"diffusion decoder: residual_scale and rho: got {self.residual_scale} and {self.rho}, expected numbers above 0; "
                "fix: measure the scale on the data"
            )
        if not 0 < self.sigma_min < self.sigma_max < math.inf:
            raise BadConfig(
                f"diffusion decoder: sigma_min and sigma_max: got {self.sigma_min} and {self.sigma_max}, expected 0 < min < max; "
                "fix: 0.02 and 20"
            )
        if not (0 <= self.noise_sharing <= 1 and 0 <= self.temperature <= 2):
            raise BadConfig(
                f"diffusion decoder: noise_sharing and temperature: got {self.noise_sharing} and {self.temperature}, expected 0..1 "
                "and 0..2; fix: 0.5 and 0"
            )

    @property
    def patch_channels(self) -> int:
        """Channels of Haar-patched frames."""
        return RGB * self.temporal_compression * self.patch**2

    @property
    def patch_gain(self) -> float:
        """What makes the averaging Haar patches orthonormal, so that white noise of spread s in pixels has spread s in patches."""
        return math.sqrt(self.temporal_compression * self.patch**2)

    @property
    def multiple(self) -> int:
        """Pixels a side that height and width must be a multiple of."""
        return max(self.spatial_compression, self.patch * 2 ** (len(self.channels) - 1))


def _fold(x_BCthw: Tensor) -> Tensor:
    return x_BCthw.transpose(1, 2).flatten(0, 1).contiguous(memory_format=torch.channels_last)


def _unfold(x_NChw: Tensor, batch: int) -> Tensor:
    return x_NChw.unflatten(0, (batch, -1)).transpose(1, 2)


def _zero(layer: nn.Conv2d | nn.Linear) -> None:
    """What the layer adds is nothing at first."""
    for weight in layer.parameters():
        nn.init.zeros_(weight)


def _norm(x_NChw: Tensor) -> Tensor:
    """Norm over the channels of each place. A norm over places would depend on the crop's size and on what is far away."""
    return F.layer_norm(x_NChw.permute(0, 2, 3, 1), x_NChw.shape[1:2]).permute(0, 3, 1, 2)


class _Pointwise(nn.Linear):
    """A 1x1 convolution. As a matrix product over places: torch's CPU convolution takes a slow path for small 1x1 kernels."""

    def forward(self, x_NChw: Tensor) -> Tensor:
        return super().forward(x_NChw.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class _Block(nn.Module):
    """Residual block: norm, causal convolution, noise-level scale and shift, convolution (starts as identity)."""

    recomputable = True  # see train/recompute.py

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.past = nn.Linear(width, width, bias=False)
        self.film = nn.Linear(embedding, 2 * width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)
        _zero(self.conv2)

    def forward(self, x_NChw: Tensor, noise_BE: Tensor, carried: Tensor | None) -> tuple[Tensor, Tensor]:
        """N = B * t. `carried` [B, 1, h, w, C] is what the latent before the first one hands on; None at the clip's beginning."""
        batch = noise_BE.shape[0]
        a = F.silu(_norm(x_NChw))
        past_BthwC = self.past(a.permute(0, 2, 3, 1)).unflatten(0, (batch, -1))  # places before channels, as the memory lies
        before = torch.zeros_like(past_BthwC[:, :1]) if carried is None else carried
        h = self.conv1(a) + torch.cat((before, past_BthwC[:, :-1]), 1).flatten(0, 1).permute(0, 3, 1, 2)
        film = self.film(noise_BE).repeat_interleave(past_BthwC.shape[1], 0)[:, :, None, None]
        scale, shift = film.chunk(2, 1)
        h = self.conv2(F.silu(_norm(h) * (1 + scale) + shift))
        return x_NChw + h, past_BthwC[:, -1:]


class Denoiser(nn.Module):
    """The raw network F of EDM. Frames go in and come out Haar-patched (`patch`, `unpatch`), RGB in [-1, 1].

    Its answer is `gate * x + value`, both read off the features: a place's noise has far more numbers (192) than the features
    have channels, so without the gate the network could not even pass its input through, and still places would boil.
    """

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__()
        self.config = config
        widths, patched = config.channels, config.patch_channels
        self.embed = nn.Sequential(nn.Linear(10, config.embedding), nn.SiLU(), nn.Linear(config.embedding, config.embedding), nn.SiLU())
        self.stem_frames = nn.Conv2d(patched, widths[0], 3, padding=1)
        self.stem_codes = nn.Conv2d(config.code_channels, widths[0], 3, padding=1, bias=False)
        self.stem_noisy = _Pointwise(patched, widths[0], bias=False)
        levels = list(zip(widths, config.blocks, strict=True))
        self.down = nn.ModuleList(nn.ModuleList(_Block(w, config.embedding) for _ in range(n)) for w, n in levels)
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in zip(widths, widths[1:], strict=False))
        self.grow = nn.ModuleList(_Pointwise(b, a) for a, b in zip(widths, widths[1:], strict=False))
        self.up = nn.ModuleList(nn.ModuleList(_Block(w, config.embedding) for _ in range(n)) for w, n in levels[:-1])
        self.head_value = nn.Conv2d(widths[0], patched, 3, padding=1)
        self.head_gate = _Pointwise(widths[0], patched)
        for head in (self.head_value, self.head_gate):
            _zero(head)

    def patch(self, video_BCTHW: Tensor, first: bool = True) -> Tensor:
        """Float [B, 3, T, H, W] -> orthonormal Haar patches [B, C, t, h, w]. `first`: the clip begins here, T = 1 + r*n."""
        config = self.config
        return haar_patch(video_BCTHW, config.temporal_compression, config.patch, first) * config.patch_gain

    def unpatch(self, x_BCthw: Tensor, first: bool = True) -> Tensor:
        """The inverse of `patch`."""
        config = self.config
        return haar_unpatch(x_BCthw / config.patch_gain, config.temporal_compression, config.patch, first)

    def condition(self, codes_Bcthw: Tensor, decoded_BCTHW: Tensor, first: bool = True) -> Tensor:
        """What the codes and the decoded frames say, worked out once for all steps.

        codes_Bcthw: float in [-1, 1]; decoded_BCTHW: float, about [-1, 1], 1 + r*k frames where the clip begins (`first`), r*k in
        mid-stream. Returns features [B * t, D, h, w]. Raises BadClip where the shapes do not belong together.
        """
        self.check(codes_Bcthw, decoded_BCTHW, first)
        frames = self.patch(decoded_BCTHW, first)
        # the first three bands are the block means, in [-1, 1] before the gain and the only ones that are large
        frames = torch.cat((frames[:, :RGB] / self.config.patch_gain, frames[:, RGB:]), 1)
        codes = F.interpolate(self.stem_codes(_fold(codes_Bcthw)), scale_factor=self.config.spatial_compression // self.config.patch)
        return self.stem_frames(_fold(frames)) + codes

    def check(self, codes_Bcthw: Tensor, decoded_BCTHW: Tensor, first: bool = True) -> None:
        """Raises BadClip unless the codes and the frames are of one clip that this network can take."""
        config, rate = self.config, self.config.temporal_compression
        if codes_Bcthw.ndim != 5 or decoded_BCTHW.ndim != 5 or decoded_BCTHW.shape[1] != RGB:
            raise BadClip(
                f"refine: got codes {list(codes_Bcthw.shape)} and frames {list(decoded_BCTHW.shape)}, expected [B, c, t, h, w] and "
                "[B, 3, T, H, W]; fix: add the missing axes"
            )
        batch, channels, t, h, w = codes_Bcthw.shape
        num_frames, height, width = decoded_BCTHW.shape[2:]
        if first:
            latents = latent_frames(num_frames, rate)
        else:
            latents, rest = divmod(num_frames, rate)
            if rest or not latents:
                raise BadClip(f"refine: got {num_frames} frames in mid-stream, expected {rate}*n; fix: push whole latents")
        if height % config.multiple or width % config.multiple:
            raise BadClip(f"refine: got frames of {width}x{height}, expected multiples of {config.multiple}; fix: resize or crop the clip")
        side = config.spatial_compression
        expected = (decoded_BCTHW.shape[0], config.code_channels, latents, height // side, width // side)
        if (batch, channels, t, h, w) != expected:
            raise BadClip(
                f"refine: got codes {list(codes_Bcthw.shape)} for frames {list(decoded_BCTHW.shape)}, expected {list(expected)}; "
                "fix: give the codes that the frames were decoded from"
            )

    def forward(
        self, x_BCthw: Tensor, noise_B: Tensor, condition: Tensor, first: bool = True, state: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """F(x; c_noise): patched noisy frames of about unit spread, the noise level's number of each row, `condition(...)`.

        Returns the patched answer, shaped as x, and the state to hand to the call for the next latents (one tensor a block). A
        chunk in mid-stream gives `first=False` and the state of the chunk before; without a state it starts with no past.
        """
        batch = x_BCthw.shape[0]
        angles = noise_B.float()[:, None] * (2.0 ** torch.arange(5, device=noise_B.device) * math.pi / 2)
        noise_BE = self.embed(torch.cat((angles.cos(), angles.sin()), 1).to(x_BCthw.dtype))
        x_NChw = _fold(x_BCthw)
        carried, handed = iter(state or ()), []

        def run(blocks: nn.Module, h: Tensor) -> Tensor:
            for block in blocks.children():
                h, last = block(h, noise_BE, next(carried, None))
                handed.append(last)
            return h

        h, skips = self.stem_noisy(x_NChw) + condition, []
        for level, blocks in enumerate(self.down):
            h = run(blocks, h)
            if level < len(self.shrink):
                skips.append(h)
                h = self.shrink[level](h)
        for level in reversed(range(len(self.up))):
            h = skips[level] + F.interpolate(self.grow[level](h), scale_factor=2)
            h = run(self.up[level], h)
        h = F.silu(_norm(h))
        answer = _unfold(self.head_gate(h) * x_NChw + self.head_value(h), batch)
        if first:  # one frame has no motion bands: what stands there would not survive `unpatch` and mislead the next step
            still = self.patch(self.unpatch(answer[:, :, :1]))
            answer = torch.cat((still, answer[:, :, 1:]), 2)
        return answer, handed
