"""Scene reader: what a latent shows, and what the text asks of it, as one vector for the actions that are due there.

Where the thing is that a text names, where the arm is, and so where to go. Single actions teach that slowly: where the arm is says
nothing of the way to go while the thing is not found, nor the other way round. So one of the places that the network looks at is taught
by something else: it is to be where the picture changes next, which is where the arm is. What is found is added to the embeddings of the
tokens that an action follows, as hints are; the rest is learnt with the transformer, by the loss of the actions.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wfm_ar.residual_block import ResidualBlock

LOOKS = 8  # places that are looked at together
KEY = 32  # width of what a look and a place are compared by
VALUE = 16  # width of what a look takes from a place, beside where that lies
WAVES = (1, 2, 4)  # in half turns over a side of the grid: where a place lies, so that small differences count
TOLD = 128  # width of what is known of the text


class Scenes(NamedTuple):
    """Latents that actions follow, and for every token of some rows the latent that the action behind it follows.

    codes_Snhw: float in [-1, 1]. words_ST: int64 ids of the text, below 0 where there is none.
    at_BL: int64, the scene of each token, below 0 where no action follows.
    moves_Shw: in training, bool: where the next latent is another one, nowhere where that is not known.
    """

    codes_Snhw: Tensor
    words_ST: Tensor
    at_BL: Tensor
    moves_Shw: Tensor | None = None

    def to(self, device: torch.device | str) -> "Scenes":
        return Scenes(*(None if each is None else each.to(device) for each in self))  # type: ignore[arg-type]


class SceneReader(nn.Module):
    """Scenes -> what is added to the tokens' embeddings. A text looks at the places of a picture: attention, a query a look."""

    def __init__(self, digits: int, words: int, channels: int, blocks: int, dim: int) -> None:
        """digits: of a code. words: of the text vocabulary, 0 = rows have no texts. dim: of an embedding."""
        super().__init__()
        told = TOLD if words else 0
        self.words, self.tell = (nn.Embedding(words, TOLD), nn.Linear(TOLD, TOLD)) if words else (None, None)
        self.enter = nn.Conv2d(2 * digits + 2, channels, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(channels, 0) for _ in range(blocks))
        self.key = nn.Conv2d(channels, LOOKS * KEY, 1)
        self.query = nn.Linear(told + 1, LOOKS * KEY, bias=False)
        self.value = nn.Conv2d(channels, VALUE, 1)
        seen, width = LOOKS * (VALUE + 2 + 4 * len(WAVES)) + told, 2 * dim
        self.read = nn.Sequential(nn.Linear(seen, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, dim))

    def forward(self, scenes: Scenes) -> tuple[Tensor, Tensor | None]:
        """(float [B, L, D], zeros where no action follows; with `moves`, how far the first look is from what moves, in nats)."""
        # without gradients each scene has the bits that it has alone
        size = len(scenes.codes_Snhw) if torch.is_grad_enabled() or scenes.codes_Snhw.is_cuda else 1
        parts = [self.found(codes, words) for codes, words in zip(scenes.codes_Snhw.split(size), scenes.words_ST.split(size), strict=True)]
        found_SD, looks_SKP = (torch.cat(each) for each in zip(*parts, strict=True))
        found_SD = F.pad(found_SD, (0, 0, 0, 1))
        added_BLD = found_SD[torch.where(scenes.at_BL < 0, len(found_SD) - 1, scenes.at_BL)]
        return added_BLD, None if scenes.moves_Shw is None else _missed(looks_SKP[:, 0], scenes.moves_Shw.flatten(1))

    def found(self, codes_Snhw: Tensor, words_ST: Tensor) -> tuple[Tensor, Tensor]:
        """Of each scene: (what is found float [S, D], where it looks float [S, looks, places])."""
        codes_Snhw = codes_Snhw.to(self.enter.weight.dtype)
        axes = [torch.linspace(-1, 1, side, device=codes_Snhw.device, dtype=codes_Snhw.dtype) for side in codes_Snhw.shape[2:]]
        places_S2hw = torch.stack(torch.meshgrid(*axes, indexing="ij")).expand(len(codes_Snhw), -1, -1, -1)
        x = self.enter(torch.cat((codes_Snhw, codes_Snhw.square(), places_S2hw), 1))
        for block in self.blocks:
            x = block(x, None)
        x = x * torch.rsqrt(x.float().square().mean(1, keepdim=True) + 1e-4).to(x.dtype)  # of each place alone
        told_SE = self._told(words_ST).to(x.dtype)
        query_SKE = self.query(F.pad(told_SE, (0, 1), value=1.0)).unflatten(1, (LOOKS, KEY))
        looks_SKP = torch.einsum("ske,skep->skp", query_SKE, self.key(x).flatten(2).unflatten(1, (LOOKS, KEY)))
        looks_SKP = (looks_SKP.float() * KEY**-0.5).softmax(-1)
        waves = [wave(math.pi * octave * places_S2hw) for octave in WAVES for wave in (torch.sin, torch.cos)]
        seen_SPC = torch.cat((self.value(x), *(each.to(x.dtype) for each in (4 * places_S2hw, *waves))), 1).flatten(2).transpose(1, 2)
        return self.read(torch.cat(((looks_SKP.to(x.dtype) @ seen_SPC).flatten(1), told_SE), 1)), looks_SKP

    def _told(self, words_ST: Tensor) -> Tensor:
        """float [S, E]: what is known of the texts, zeros where there is none; E = 0 where rows have no texts."""
        if self.words is None or self.tell is None:
            return torch.zeros(len(words_ST), 0, device=words_ST.device)
        there_ST1 = (words_ST >= 0)[..., None]
        embedded_STE = self.words(words_ST.clamp_min(0))
        # the same words in another order are another text
        angles_TK = torch.arange(words_ST.shape[1], device=words_ST.device)[:, None] * 0.5 ** torch.arange(
            TOLD // 16, device=words_ST.device
        )
        waves_TE = torch.cat((angles_TK.sin(), angles_TK.cos()), 1).repeat(1, 8).to(embedded_STE.dtype)
        each_STE = F.silu(self.tell(embedded_STE + waves_TE))
        return (each_STE * there_ST1).sum(1) / there_ST1.sum(1).clamp_min(1)


def _missed(look_SP: Tensor, moves_SP: Tensor) -> Tensor:
    """Mean of -log of what a look has of the places that move, over the scenes in which any does."""
    there_S = moves_SP.any(1)
    missed_S = -((look_SP * moves_SP).sum(1) + 1e-4).log()
    return (missed_S * there_S).sum() / there_S.sum().clamp_min(1)
