"""Logits to the next token: pure functions, with the random numbers given from outside.

A row's token depends on its own logits, its own uniform and the settings; never on other rows. Uniforms come from `draws`,
which is counter-based: any (seed, latent) can be drawn without drawing what came before it.
"""

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from wfm_ar.errors import BadConfig, BadPrompt

CANDIDATES = 256  # top tokens looked at first: a full sort of a large vocabulary costs more than all else here, and is rarely needed


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How a token is drawn. Raises BadConfig where a value cannot be."""

    temperature: float = 1.0  # logits are divided by it; 0 takes the likeliest token
    top_p: float = 0.9  # a token is kept while the likelier ones weigh at most this much; 1 keeps all
    top_k: int | None = None  # only this many likeliest tokens (and ties of the last) are kept, before top_p; None keeps all

    def __post_init__(self) -> None:
        if not (_number(self.temperature) and 0 <= self.temperature < math.inf):
            raise BadConfig(
                f"temperature: got {self.temperature!r}, expected a number of at least 0; fix: 1.0, or 0 for the likeliest token"
            )
        if not (_number(self.top_p) and 0 < self.top_p <= 1):
            raise BadConfig(f"top_p: got {self.top_p!r}, expected a number above 0 and at most 1; fix: 0.9, or 1 to keep all tokens")
        if self.top_k is not None and (isinstance(self.top_k, bool) or not isinstance(self.top_k, int) or self.top_k < 1):
            raise BadConfig(
                f"top_k: got {self.top_k!r}, expected a whole number of at least 1 or none; fix: leave it out to keep all tokens"
            )


class Stream(IntEnum):
    """Purposes of random numbers; each has a sequence of its own, so that one more draw here shifts nothing there."""

    VIDEO = 0
    ACTION = 1


def draws(seed: int, latent: int, stream: Stream, count: int) -> np.ndarray:
    """`count` uniforms in [0, 1), float64 with 32 random bits: Philox-4x64 (Salmon et al. 2011) keyed by the seed, counted by the rest.

    Raises BadPrompt for a seed outside 0 .. 2^63 - 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**63:
        raise BadPrompt(f"seed: got {seed!r}, expected a whole number from 0 to 2^63 - 1; fix: use one of those")
    generator = np.random.Philox(key=[int(seed), 0], counter=[0, latent, int(stream), 0])
    # 32 bits, so that uniform * mass stays below mass after rounding
    return (generator.random_raw(count) >> np.uint64(32)) * 2.0**-32


def sample(logits_BV: Tensor, uniforms_B: Tensor, config: SamplingConfig, allowed: tuple[int, int] | None = None) -> Tensor:
    """The next token of each row, int64 [B], by inverse CDF over the kept tokens from the likeliest down.

    logits_BV: float; uniforms_B: float64 in [0, 1); `allowed`: (start, stop), only ids of that range can come out.
    """
    start, stop = allowed or (0, logits_BV.shape[-1])
    logits_BV = logits_BV[:, start:stop]
    if config.temperature == 0:
        return logits_BV.argmax(-1) + start
    probabilities_BV = _probabilities(logits_BV, config.temperature)
    count = min(probabilities_BV.shape[-1], CANDIDATES)
    top_BV, ids_BV = probabilities_BV.topk(count, -1)
    kept_BV, mass_BV = _kept(top_BV, config)
    tokens_B = _pick(ids_BV, kept_BV, mass_BV, uniforms_B)
    if count < probabilities_BV.shape[-1]:
        for row in kept_BV[:, -1].nonzero().flatten().tolist():  # its last candidate is kept, so more may be
            tokens_B[row] = _pick_from_all(probabilities_BV[row : row + 1], uniforms_B[row : row + 1], config)
    return tokens_B + start


def filtered_probabilities(logits_BV: Tensor, config: SamplingConfig) -> Tensor:
    """What `sample` draws from: float64 [B, V] in the order of the vocabulary, rows sum to 1. Temperature 0 is not meant here."""
    sorted_BV, ids_BV = _probabilities(logits_BV, config.temperature).sort(dim=-1, descending=True, stable=True)
    kept_BV, _ = _kept(sorted_BV, config)
    kept = torch.where(kept_BV, sorted_BV.double(), 0.0)
    return torch.zeros_like(kept).scatter(-1, ids_BV, kept / kept.sum(-1, keepdim=True))


def _probabilities(logits_BV: Tensor, temperature: float) -> Tensor:
    logits_BV = logits_BV.float()
    return torch.softmax(logits_BV if temperature == 1 else logits_BV / temperature, -1)


def _kept(falling_BV: Tensor, config: SamplingConfig) -> tuple[Tensor, Tensor]:
    """Of probabilities in falling order: which are kept (always a head of the row), and their running sum, float64."""
    if config.top_k is None or config.top_k >= falling_BV.shape[-1]:
        mass_BV = falling_BV.cumsum(-1, dtype=torch.float64)
        return mass_BV - falling_BV <= config.top_p, mass_BV
    among_k = falling_BV >= falling_BV[:, config.top_k - 1 : config.top_k]
    falling_BV = falling_BV * among_k
    mass_BV = falling_BV.cumsum(-1, dtype=torch.float64)
    return among_k & (mass_BV - falling_BV <= config.top_p * mass_BV[:, -1:]), mass_BV


def _pick(ids_BV: Tensor, kept_BV: Tensor, mass_BV: Tensor, uniforms_B: Tensor) -> Tensor:
    total_B1 = torch.where(kept_BV, mass_BV, 0.0).amax(-1, keepdim=True)
    places_B1 = torch.searchsorted(mass_BV, uniforms_B.unsqueeze(-1) * total_B1, right=True)
    return ids_BV.gather(-1, places_B1).squeeze(-1)


def _pick_from_all(probabilities_1V: Tensor, uniform_1: Tensor, config: SamplingConfig) -> Tensor:
    falling_1V, ids_1V = probabilities_1V.sort(dim=-1, descending=True, stable=True)
    return _pick(ids_1V, *_kept(falling_1V, config), uniform_1)[0]


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
