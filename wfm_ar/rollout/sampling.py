"""Settings and random numbers of a rollout's draws; the drawing itself is `wfm_kernels.sample`.

A row's token depends on its own logits, its own uniform and the settings; never on other rows. Uniforms are counter-based
(Philox, keyed by the row's seed, counted by purpose, latent and place): any can be drawn without those before it, and a kernel
that is given the `keys` draws the same ones on a GPU.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor
from wfm_kernels import KernelError
from wfm_kernels.sample import COLDEST
from wfm_kernels.sample.cpu import pick, uniforms
from wfm_kernels.sample.reference import keep_BV

from wfm_ar.errors import BadCheckpoint, BadConfig, BadPrompt

PLACES = 1 << 16  # draws a latent and purpose: the step of a draw is latent * PLACES + place, 32 bits in all


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How a token is drawn. Raises BadConfig where a value cannot be."""

    temperature: float = 1.0  # logits are divided by it; 0 takes the likeliest token, others are 1e-6 or more
    top_p: float = 0.9  # a token is kept while the likelier ones weigh less than this; 1 keeps all
    top_k: int | None = None  # only this many likeliest tokens (and ties of the last) are kept, before top_p; None keeps all
    action_temperature: float | None = None  # of imagined actions; None: as the video's. A sure world may have a lively policy
    image_temperature: float | None = None  # of a first picture that nothing but a text announces; None: as the video's
    image_top_p: float | None = None  # the same; what begins a thing is unlikely at each place, so a low top_p makes empty scenes
    text_guidance: float = 1.0  # scores are without + this * (with - without the text); 1: as the model has it, at half the work
    action_guidance: float = 1.0  # the same of given actions; one of the two is 1

    def __post_init__(self) -> None:
        for name in ("temperature", "action_temperature", "image_temperature"):
            value = getattr(self, name)
            possible = _number(value) and (value == 0 or COLDEST <= value < math.inf)
            if not possible and not (value is None and name != "temperature"):
                raise BadConfig(
                    f"{name}: got {value!r}, expected 0 or a number of at least {COLDEST}; fix: 1.0, or 0 for the likeliest token"
                )
        for name in ("text_guidance", "action_guidance"):
            value = getattr(self, name)
            if not (_number(value) and 0 <= value < math.inf):
                raise BadConfig(f"{name}: got {value!r}, expected a number of at least 0; fix: 1.0, or 2 to follow closely")
        if self.text_guidance != 1 and self.action_guidance != 1:
            both = f"got {self.text_guidance} beside action_guidance {self.action_guidance}"
            raise BadConfig(f"text_guidance: {both}, expected 1; fix: guide by one of the two")
        for name in ("top_p", "image_top_p"):
            value = getattr(self, name)
            if not (_number(value) and 0 < value <= 1) and not (value is None and name != "top_p"):
                raise BadConfig(f"{name}: got {value!r}, expected a number above 0 and at most 1; fix: 0.9, or 1 to keep all tokens")
        if self.top_k is not None and (isinstance(self.top_k, bool) or not isinstance(self.top_k, int) or self.top_k < 1):
            raise BadConfig(
                f"top_k: got {self.top_k!r}, expected a whole number of at least 1 or none; fix: leave it out to keep all tokens"
            )

    @property
    def settings(self) -> dict[str, Any]:
        """As `wfm_kernels.sample` takes them."""
        return {"temperature": self.temperature, "top_k": self.top_k, "top_p": self.top_p}

    def of(self, stream: "Stream", *, image: bool = False) -> "SamplingConfig":
        """How the tokens of one stream are drawn; image: those of a first picture."""
        if stream is Stream.ACTION:
            own = {"temperature": self.action_temperature}
        else:
            own = {"temperature": self.image_temperature, "top_p": self.image_top_p} if image else {}
        return replace(self, **{name: value for name, value in own.items() if value is not None})


class Stream(IntEnum):
    """Purposes of random numbers; each has a sequence of its own, so that one more draw here shifts nothing there."""

    VIDEO = 0
    ACTION = 1


def keys(seed: int, latent: int, stream: Stream) -> tuple[int, int, int]:
    """(seed, row id, first step) as `wfm_kernels.sample` takes them; the place in the latent is added to the step.

    Raises BadPrompt for a seed outside 0 .. 2^63 - 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**63:
        raise BadPrompt(f"seed: got {seed!r}, expected a whole number from 0 to 2^63 - 1; fix: use one of those")
    return int(seed), int(stream), latent * PLACES


def draws(seed: int, latent: int, stream: Stream, count: int) -> np.ndarray:
    """`count` uniforms in [0, 1), float32 with 24 random bits. Raises BadPrompt for a seed that cannot be."""
    return draws_of_rows([keys(seed, latent, stream)], count)[0].numpy()


def draws_of_rows(row_keys: Sequence[tuple[int, int, int]], count: int) -> Tensor:
    """float32 [B, count]: `draws` of each row's `keys`, in one go."""
    seed_B1, row_B1, step_B1 = torch.tensor(row_keys).T.unsqueeze(-1)
    return uniforms(seed_B1.expand(-1, count), row_B1.expand(-1, count), step_B1 + torch.arange(count))


def sample(logits_BV: Tensor, uniforms_B: Tensor, config: SamplingConfig, allowed: tuple[int, int] | None = None) -> Tensor:
    """The next token of each row, int64 [B], by inverse CDF over the kept tokens in the order of the vocabulary.

    logits_BV: float; uniforms_B: float32 or float64 in [0, 1); `allowed`: (start, stop), only ids of that range can come out.
    Raises BadCheckpoint where a model's logits are no numbers.
    """
    start, stop = allowed or (0, logits_BV.shape[-1])
    try:
        token_B = pick(logits_BV[:, start:stop], uniforms_B, **config.settings)
    except KernelError as error:
        raise BadCheckpoint(f"world model: {error}; fix: weights that are sound, of an earlier checkpoint") from None
    return token_B + start if start else token_B


def filtered_probabilities(logits_BV: Tensor, config: SamplingConfig, ties: bool = True) -> Tensor:
    """What `sample` draws from: float64 [B, V], rows sum to 1; temperature 0 is not meant. ties False: of equal tokens at the edge
    of top_p only the first are kept, as the published code does."""
    scores_BV = logits_BV.float() / config.temperature
    weight_BV = torch.softmax(scores_BV, -1).double() * keep_BV(scores_BV, config.top_k, config.top_p, 0.0, ties)
    return weight_BV / weight_BV.sum(-1, keepdim=True)


def _number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
