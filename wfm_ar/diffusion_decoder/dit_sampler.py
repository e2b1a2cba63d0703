"""Token ids to latents of a continuous tokenizer, with the diffusion transformer: guided, seeded Euler steps, chunk by chunk.

Promises: the same seed gives the same latents on every device, and the conditional and the unconditional pass of all rows are
one network call. A clip longer than a chunk is worked in chunks that overlap; `blend` joins what they decode to.
EDM: Karras et al. 2022 (arXiv 2206.00364).
"""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from wfm_ar.diffusion_decoder.dit import DiT
from wfm_ar.diffusion_decoder.edm import karras_sigmas, preconditioning
from wfm_ar.errors import BadConfig

SIGMA_MIN, SIGMA_MAX = 0.02, 80.0
CHUNK, OVERLAP = 8, 2  # latents of a chunk, and those that it shares with the next


def dit_noise(seeds: Sequence[int], shape_Cthw: Sequence[int], chunk: int = 0) -> Tensor:
    """Unit noise [B, C, t, h, w], each row's from a generator of its own, keyed by (its seed, the chunk)."""
    rows = []
    for seed in seeds:
        key = int.from_bytes(hashlib.sha256(f"{seed}/dit/{chunk}".encode()).digest()[:8], "big") >> 1
        rows.append(torch.randn(tuple(shape_Cthw), generator=torch.Generator().manual_seed(key)))
    return torch.stack(rows)


@torch.no_grad()
def dit_sample(
    dit: DiT,
    tokens_Bthw: Tensor,
    context_BSC: Tensor,
    noise_BCthw: Tensor,
    *,
    steps: int = 15,
    guidance: float = 1.8,
    fps: float = 24.0,
    padding_BHW: Tensor | None = None,
    trace: list[dict[str, Tensor]] | None = None,
) -> Tensor:
    """Unit noise -> denoised latents float32 [B, C, t, h, w], of spread sigma_data.

    Guided answer: cond + guidance * (cond - uncond), where the unconditional pass sees a context of zeros and token 0 everywhere,
    as published (there is no token that stands for nothing). guidance 0 leaves the unconditional pass out. `trace` takes one
    dict a step. Raises BadConfig for fewer than 2 steps or a guidance below 0.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 2:
        raise BadConfig(f"diffusion decoder: steps: got {steps!r}, expected a whole number of at least 2; fix: 15, as published")
    if not guidance >= 0:
        raise BadConfig(f"diffusion decoder: guidance: got {guidance!r}, expected 0 or more; fix: 1.8, as published")
    weight = dit.head.weight
    h, w = noise_BCthw.shape[3:]
    condition, context = dit.condition(tokens_Bthw.to(weight.device), h, w), context_BSC.to(weight.device, weight.dtype)
    passes = 1 if guidance == 0 else 2
    if passes == 2:
        condition = torch.cat((condition, dit.condition(torch.zeros_like(tokens_Bthw).to(weight.device), h, w)))
        context = torch.cat((context, torch.zeros_like(context)))
    sigmas = torch.tensor(karras_sigmas(steps, sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX), dtype=torch.float32)
    x = noise_BCthw.to(weight.device, torch.float32) * (SIGMA_MAX**2 + 1) ** 0.5
    for sigma, following in zip(sigmas, sigmas[1:], strict=False):
        c_skip, c_out, c_in, c_noise = preconditioning(sigma, dit.config.sigma_data)
        scaled = (x * c_in).to(weight.dtype).repeat(passes, 1, 1, 1, 1)
        noise_B = c_noise.expand(len(scaled)).to(weight.device)
        answer = dit(scaled, noise_B, condition, context, fps=fps, padding_BHW=padding_BHW).float()
        if passes == 2:
            conditional, unconditional = answer.chunk(2)
            answer = conditional + guidance * (conditional - unconditional)
        denoised = c_skip * x + c_out * answer
        before, x = x, x + (x - denoised) / sigma * (following - sigma)
        if trace is not None:
            trace.append({"x_in": before, "net_guided": answer, "x0_pred": denoised, "x_out": x})
    return x


def split_chunks(latents: int, size: int = CHUNK, overlap: int = OVERLAP) -> list[list[int]]:
    """Which latents each chunk of `size` holds: neighbours share `overlap`; what the last one lacks is mirrored from its own end."""
    assert latents >= 1 and 0 <= overlap < size
    chunks, start = [], 0
    while True:
        own = list(range(start, min(start + size, latents)))
        period = max(1, 2 * len(own) - 2)  # 0 1 2 3 4 3 2 1 | 0 1 ...
        bounce = [i % period if i % period < len(own) else period - i % period for i in range(size)]
        chunks.append([own[i] for i in bounce])
        if start + size >= latents:
            return chunks
        start += size - overlap


def blend_chunks(chunks: Sequence[Tensor], overlap: int) -> Tensor:
    """Clips [B, C, T, H, W] -> one, the last `overlap` frames of each crossing over linearly into the first of the next."""
    whole = chunks[0]
    for chunk in chunks[1:]:
        if overlap:
            ramp = torch.linspace(0, 1, overlap, device=chunk.device, dtype=chunk.dtype).view(-1, 1, 1)
            joint = whole[:, :, -overlap:] * (1 - ramp) + chunk[:, :, :overlap] * ramp
            whole = torch.cat((whole[:, :, :-overlap], joint, chunk[:, :, overlap:]), 2)
        else:
            whole = torch.cat((whole, chunk), 2)
    return whole


def overlap_frames(rate: int, overlap: int = OVERLAP, published: bool = False) -> int:
    """Frames that two decoded chunks have in common when they share `overlap` latents.

    The first latent of a chunk is one frame and each later one `rate`: 1 + rate * (overlap - 1). The published code blends as many
    frames as there are latents in common, which shifts every chunk after the first; `published` reproduces that.
    """
    return overlap if published or overlap == 0 else 1 + rate * (overlap - 1)
