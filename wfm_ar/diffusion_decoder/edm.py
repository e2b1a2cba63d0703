"""Noise schedule, preconditioning and training loss of the diffusion decoder, after Karras et al. 2022 (EDM, arXiv 2206.00364).

What is diffused is y = (true - decoded) / residual_scale, which has about unit spread, so sigma_data = 1 and noise levels are
in units of the tokenizer's own error. Everything here happens on orthonormal Haar patches, where white noise stays white.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from wfm_ar.diffusion_decoder.denoiser import Denoiser, DenoiserConfig
from wfm_ar.errors import BadClip, BadConfig


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """How training weighs noise levels and pixels. Raises BadConfig where a value cannot be."""

    terminal_share: float = 0.4  # share of the rows that train the first step: nothing but noise in, from which the mean is due
    sigma_mean: float = 0.0  # the other rows: ln sigma is normal with this mean
    sigma_std: float = 1.4  # and this spread, cut to sigma_min..sigma_max
    l1_weight: float = 0.2  # |error|, beside the squared error: keeps still places still
    edge_weight: float = 0.5  # |error of the difference between neighbouring pixels|: sharpness
    flicker_weight: float = 0.2  # |error of the difference between neighbouring frames|
    motion_weight: float = 0.0  # extra weight of the places where the decoded clip moves, 0 = none

    def __post_init__(self) -> None:
        if not 0 <= self.terminal_share <= 1:
            raise BadConfig(f"denoising loss: terminal_share: got {self.terminal_share}, expected 0..1; fix: 0.4")
        for name in ("sigma_std", "l1_weight", "edge_weight", "flicker_weight", "motion_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise BadConfig(f"denoising loss: {name}: got {getattr(self, name)}, expected 0 or more; fix: {name}=0 turns it off")


def karras_sigmas(steps: int, *, sigma_min: float, sigma_max: float, rho: float = 7.0) -> list[float]:
    """Noise levels sigma_0 > ... > sigma_{steps-1}, then 0 (EDM, equation 5):

    sigma_i = (sigma_max^(1/rho) + i / (steps - 1) * (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho
    """
    assert steps >= 2, f"a schedule from sigma_max to sigma_min has at least 2 levels, got {steps}"
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return [(high + i / (steps - 1) * (low - high)) ** rho for i in range(steps)] + [0.0]


def preconditioning(sigma: Tensor, sigma_data: float = 1.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(c_skip, c_out, c_in, c_noise) of EDM, table 1, such that D(x; sigma) = c_skip x + c_out F(c_in x; c_noise).

    c_skip = sd^2 / (sigma^2 + sd^2); c_out = sigma sd / sqrt(sigma^2 + sd^2); c_in = 1 / sqrt(sigma^2 + sd^2); c_noise = ln(sigma) / 4
    """
    total = sigma**2 + sigma_data**2
    return sigma_data**2 / total, sigma * sigma_data / total.sqrt(), 1 / total.sqrt(), sigma.log() / 4


def denoise(
    denoiser: Denoiser, x_BCthw: Tensor, sigma_B: Tensor, condition: Tensor, first: bool = True, state: list[Tensor] | None = None
) -> tuple[Tensor, list[Tensor]]:
    """D(x; sigma): the estimate of y, patched as x, from x = y + sigma * noise. Arguments and state as `Denoiser.forward`."""
    c_skip, c_out, c_in, c_noise = preconditioning(sigma_B)
    answer, handed = denoiser(x_BCthw * _rows(c_in), c_noise, condition, first, state)
    return x_BCthw * _rows(c_skip) + answer * _rows(c_out), handed


def measure_scale(true_BCTHW: Tensor, decoded_BCTHW: Tensor, predict: str = "residual") -> float:
    """The `residual_scale` for these clips: root mean square of what is diffused. Both float [B, 3, T, H, W] in [-1, 1]."""
    target = true_BCTHW - decoded_BCTHW if predict == "residual" else true_BCTHW
    return max(float(target.double().square().mean().sqrt()), 1e-4)


def mix_noise(shared: Tensor, own: Tensor, sharing: float) -> Tensor:
    """Unit noise, of whose variance `sharing` is common to all frames (the mixed noise of PYoCo, Ge et al. 2023, arXiv 2305.10474).

    Still places then get the same noise in every frame, so what is made up there stays put instead of flickering.
    """
    return math.sqrt(sharing) * shared + math.sqrt(1 - sharing) * own


def denoising_loss(
    denoiser: Denoiser,
    true_BCTHW: Tensor,
    decoded_BCTHW: Tensor,
    codes_Bcthw: Tensor,
    generator: torch.Generator,
    config: LossConfig | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss of one batch, and numbers to log.

    true_BCTHW, decoded_BCTHW: float [-1, 1], 1 + r*n frames; codes_Bcthw: float [-1, 1], what was decoded. `generator` (on the
    CPU or on the clips' device) draws noise levels and noise. The squared error has EDM's weight (sigma^2 + 1) / sigma^2, which
    makes it the squared error of F at every noise level; the l1 terms (pixels, edges, steps in time) are in the same units.
    Logs (detached scalars): loss, its parts (mse, l1, edge, flicker), and gain_db, the PSNR that one step of refinement gains on
    the decoded frames (over the rows that train the first step; 0 where there is none). Raises BadClip where shapes do not match.
    """
    config = config or LossConfig()
    settings, device = denoiser.config, true_BCTHW.device
    if true_BCTHW.shape != decoded_BCTHW.shape:
        raise BadClip(
            f"denoising loss: got true frames {list(true_BCTHW.shape)} and decoded ones {list(decoded_BCTHW.shape)}, expected "
            "equal shapes; fix: decode the same clip"
        )
    condition = denoiser.condition(codes_Bcthw, decoded_BCTHW)
    anchor = decoded_BCTHW if settings.predict == "residual" else torch.zeros_like(decoded_BCTHW)
    target_BCTHW = (true_BCTHW - anchor) / settings.residual_scale
    batch = len(true_BCTHW)

    draw = {"generator": generator, "device": generator.device}
    sigma_B = (config.sigma_mean + config.sigma_std * torch.randn(batch, **draw)).exp().clamp(settings.sigma_min, settings.sigma_max)
    terminal_B = torch.randperm(batch, **draw) + torch.rand(1, **draw) < config.terminal_share * batch  # the share, but for rounding
    sigma_B = torch.where(terminal_B, settings.sigma_max, sigma_B).to(device)
    # The sampler starts from noise alone. An x that still held y would teach to look for it there, and where residuals are many times
    # the scale sigma_max does not hide them; its noise may also be weaker than sigma_max (temperature), so any strength must do.
    strength_B = torch.where(terminal_B, torch.rand(batch, **draw), 1.0).to(device)
    terminal_B = terminal_B.to(device)
    shared = torch.randn(target_BCTHW[:, :, :1].shape, **draw)
    noise_BCTHW = mix_noise(shared, torch.randn(target_BCTHW.shape, **draw), settings.noise_sharing).to(device)
    x_BCTHW = target_BCTHW * _rows((~terminal_B).float()) + noise_BCTHW * _rows(sigma_B * strength_B)

    denoised, _ = denoise(denoiser, denoiser.patch(x_BCTHW), sigma_B, condition)
    estimate_BCTHW = denoiser.unpatch(denoised)
    error_BCTHW = (estimate_BCTHW - target_BCTHW) / _rows(preconditioning(sigma_B)[1])
    weight_BCTHW = _motion_weight(decoded_BCTHW, config.motion_weight)
    parts = {
        "mse": (weight_BCTHW * error_BCTHW.square()).mean(),
        "l1": (weight_BCTHW * error_BCTHW.abs()).mean(),
        "edge": (weight_BCTHW[..., 1:] * error_BCTHW.diff(dim=4).abs()).mean()
        + (weight_BCTHW[..., 1:, :] * error_BCTHW.diff(dim=3).abs()).mean(),
        "flicker": error_BCTHW.diff(dim=2).abs().mean() if error_BCTHW.shape[2] > 1 else error_BCTHW.new_zeros(()),
    }
    loss = parts["mse"] + config.l1_weight * parts["l1"] + config.edge_weight * parts["edge"] + config.flicker_weight * parts["flicker"]
    before_B = (true_BCTHW - decoded_BCTHW).square().mean(dim=(1, 2, 3, 4)) / settings.residual_scale**2
    after_B = (estimate_BCTHW - target_BCTHW).square().mean(dim=(1, 2, 3, 4))
    before, after = ((mse_B * terminal_B).sum().clamp_min(1e-12) for mse_B in (before_B, after_B))
    logs = {"loss": loss} | parts | {"gain_db": 10 * torch.log10(before / after)}
    return loss, {name: value.detach() for name, value in logs.items()}


def sampling_sigmas(config: DenoiserConfig, steps: int) -> list[float]:
    """The `steps` noise levels of the sampler, then 0. Raises BadConfig unless steps is 1..8.

    The Karras schedule of steps + 1 levels without its sigma_min: the last step goes to 0 straight from the level before, where with
    few steps there is still something to do. One step is the mean, D(noise; sigma_max).
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= 8:
        raise BadConfig(f"refine: steps: got {steps}, expected 1..8; fix: steps=2")
    levels = karras_sigmas(steps + 1, sigma_min=config.sigma_min, sigma_max=config.sigma_max, rho=config.rho)
    return levels[:steps] + [0.0]


def _rows(x_B: Tensor) -> Tensor:
    return x_B.view(-1, 1, 1, 1, 1)


def _motion_weight(decoded_BCTHW: Tensor, strength: float) -> Tensor:
    """[B, 1, T, H, W], mean 1 a row: larger where the decoded clip moves. Read off the decoded clip and not off the truth: a weight
    that knew the truth would bend the estimate away from the mean."""
    motion = decoded_BCTHW.diff(dim=2).abs().mean(1, keepdim=True) if decoded_BCTHW.shape[2] > 1 and strength else None
    if motion is None:
        return torch.ones_like(decoded_BCTHW[:, :1])
    motion = F.max_pool3d(F.pad(motion, (0, 0, 0, 0, 1, 1)), (2, 5, 5), stride=1, padding=(0, 2, 2))
    weight = 1 + strength * (motion / 0.1).clamp(max=1)
    return weight / weight.mean(dim=(1, 2, 3, 4), keepdim=True)
