"""Refining decoded frames: a deterministic, seeded ODE sampler of 1 to 8 steps, for whole clips and for streams.

Promises: the same seed gives the same frames; a row depends on its own seed and clip, not on its neighbours or its place in
the batch; a latent depends on no later one; a stream equals the whole clip. Noise is drawn on the CPU from generators keyed
by (row's seed, latent), so it is the same on every device. Knows nothing of training.

The temperature scales that noise. At 1 the flow ends at draws from the posterior: rich, and farther from the truth, frame by
frame, than the decoded clip may be. At 0 it starts from nothing and goes where the denoiser leans: PSNR, edges and flicker are best
there, no seed matters, and a second step still sharpens the first one's mean.
"""

import hashlib
from collections.abc import Sequence
from copy import copy

import torch
from torch import Tensor

from wfm_ar.diffusion_decoder.denoiser import RGB, Denoiser
from wfm_ar.diffusion_decoder.edm import denoise, mix_noise, sampling_sigmas
from wfm_ar.errors import BadConfig


def refine(
    denoiser: Denoiser,
    codes_Bcthw: Tensor,
    decoded_BCTHW: Tensor,
    *,
    steps: int = 2,
    seeds: Sequence[int],
    first_latent: int = 0,
    temperature: float | None = None,
    solver: str = "euler",
) -> Tensor:
    """Decoded frames -> refined frames, float32 [B, 3, T, H, W], about [-1, 1] (not clamped).

    codes_Bcthw: float [-1, 1] [B, c, t, h, w], what was decoded; decoded_BCTHW: float [B, 3, T, H, W], about [-1, 1],
    T = 1 + r*(t - 1). seeds: one a row. first_latent: where in its clip the chunk stands; from 1 on, T = r*t and the latents
    before are not known (carry them with RefineStream). temperature: None takes the config's. solver: "euler" (one network
    call a step) or "heun" (two, but one for the last step; EDM, algorithm 1). Raises BadConfig for steps outside 1..8, another
    solver, a temperature below 0 or a wrong number of seeds, BadClip for shapes that do not fit.
    """
    stream = RefineStream(denoiser, steps=steps, seeds=seeds, first_latent=first_latent, temperature=temperature, solver=solver)
    return stream.push(codes_Bcthw, decoded_BCTHW)


class RefineStream:
    """Refines a clip chunk by chunk, with carried state. Arguments as `refine`."""

    def __init__(
        self,
        denoiser: Denoiser,
        *,
        steps: int = 2,
        seeds: Sequence[int],
        first_latent: int = 0,
        temperature: float | None = None,
        solver: str = "euler",
    ) -> None:
        config = denoiser.config
        self.denoiser, self.seeds, self.latent, self.solver = denoiser, list(seeds), first_latent, solver
        self.sigmas = sampling_sigmas(config, steps)
        self.temperature = config.temperature if temperature is None else temperature
        if solver not in ("euler", "heun"):
            raise BadConfig(f'refine: solver: got "{solver}", expected "euler" or "heun"; fix: solver=euler')
        if not 0 <= self.temperature <= 2:
            raise BadConfig(f"refine: temperature: got {self.temperature}, expected 0..2; fix: 0")
        self._shared: Tensor | None = None  # the noise that all frames of a row have in common
        self._states: list[list[Tensor] | None] = []  # what the network carries from latent to latent, one for each of its calls

    def fork(self) -> "RefineStream":
        """A second stream that goes on from here on its own."""
        return copy(self)  # nothing in it is changed in place: push replaces

    @property
    def carried(self) -> list[Tensor]:
        """What is kept from latent to latent."""
        shared = [] if self._shared is None else [self._shared]
        return shared + [tensor for state in self._states if state is not None for tensor in state]

    @torch.no_grad()
    def push(self, codes_Bcthw: Tensor, decoded_BCTHW: Tensor) -> Tensor:
        """The next k latents: codes [B, c, k, h, w] and their frames [B, 3, T, H, W] -> refined frames of the same shape, float32.

        T = 1 + r*(k - 1) for the chunk that begins the clip, r*k later. Raises BadClip where the shapes do not fit.
        """
        denoiser, config, first = self.denoiser, self.denoiser.config, self.latent == 0
        denoiser.check(codes_Bcthw, decoded_BCTHW, first)
        if len(self.seeds) != len(codes_Bcthw):
            raise BadConfig(f"refine: seeds: got {len(self.seeds)}, expected one a row, {len(codes_Bcthw)}; fix: seeds=[...] for each row")
        device, dtype = next(denoiser.parameters()).device, next(denoiser.parameters()).dtype
        codes_Bcthw, decoded_BCTHW = codes_Bcthw.to(device, dtype), decoded_BCTHW.to(device, torch.float32)
        condition = denoiser.condition(codes_Bcthw, decoded_BCTHW.to(dtype), first)
        if self.temperature:
            noise_BCTHW = self._noise(codes_Bcthw.shape[2], *decoded_BCTHW.shape[3:]).to(device)
            x = denoiser.patch(noise_BCTHW * (self.sigmas[0] * self.temperature), first)
        else:
            grid = [side // config.patch for side in decoded_BCTHW.shape[3:]]
            x = decoded_BCTHW.new_zeros(len(codes_Bcthw), config.patch_channels, codes_Bcthw.shape[2], *grid)
        x = self._solve(x, condition, first)
        self.latent += codes_Bcthw.shape[2]
        anchor = decoded_BCTHW if config.predict == "residual" else 0.0
        return anchor + denoiser.unpatch(x, first) * config.residual_scale

    def _solve(self, x: Tensor, condition: Tensor, first: bool) -> Tensor:
        """Follows dx/dsigma = (x - D(x; sigma)) / sigma from sigma_max to 0."""
        states, handed = iter(self._states), []

        def estimate(x: Tensor, sigma: float) -> Tensor:
            rows = torch.full((len(x),), sigma, dtype=torch.float32, device=x.device)
            denoised, state = denoise(self.denoiser, x.to(condition.dtype), rows.to(condition.dtype), condition, first, next(states, None))
            handed.append(state)
            return denoised.float()

        for sigma, following in zip(self.sigmas, self.sigmas[1:], strict=False):
            slope = (x - estimate(x, sigma)) / sigma
            euler = x + (following - sigma) * slope
            if self.solver == "heun" and following > 0:
                slope = (slope + (euler - estimate(euler, following)) / following) / 2
                euler = x + (following - sigma) * slope
            x = euler
        self._states = handed
        return x

    def _noise(self, latents: int, height: int, width: int) -> Tensor:
        """Unit noise [B, 3, T, H, W] for the next latents, each row's and each latent's from its own generator."""
        sharing, rate = self.denoiser.config.noise_sharing, self.denoiser.config.temporal_compression
        if self._shared is None:
            self._shared = torch.stack([_draw(f"{seed}/shared", 1, height, width) for seed in self.seeds])
        rows = []
        for seed in self.seeds:
            own = [_draw(f"{seed}/{latent}", rate if latent else 1, height, width) for latent in range(self.latent, self.latent + latents)]
            rows.append(torch.cat(own, 1))
        return mix_noise(self._shared, torch.stack(rows), sharing)


def _draw(key: str, frames: int, height: int, width: int) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1
    return torch.randn(RGB, frames, height, width, generator=torch.Generator().manual_seed(seed))
