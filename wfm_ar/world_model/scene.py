"""Scene reader: what a latent shows, and what the text asks of it, as one vector for the actions that are due there.

Where the thing is that a text names, where the arm is, and so where to go: a transformer of few layers takes far longer to learn that from
single actions than a convolutional network that looks at the whole grid of codes under the text. What it finds is added to the
embeddings of the tokens that an action follows, as hints are, and it is trained with the transformer, by the loss of the actions.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wfm_ar.residual_block import ResidualBlock

LOOKS = 8  # places that are looked at together
TOLD = 128  # width of what is known of the text


class Scenes(NamedTuple):
    """Latents that actions follow, and for every token of some rows the latent that the action behind it follows.

    codes_Snhw: float in [-1, 1]. words_ST: int64 ids of the text, below 0 where there is none. at_BL: int64, below 0 where no action follows.
    """

    codes_Snhw: Tensor
    words_ST: Tensor
    at_BL: Tensor

    def to(self, device: torch.device | str) -> "Scenes":
        return Scenes(*(each.to(device) for each in self))


class SceneReader(nn.Module):
    """Scenes -> what is added to the tokens' embeddings."""

    def __init__(self, digits: int, words: int, channels: int, blocks: int, dim: int) -> None:
        """digits: of a code. words: of the text vocabulary, 0 = rows have no texts. dim: of an embedding."""
        super().__init__()
        told = TOLD if words else 0
        self.words, self.tell = (nn.Embedding(words, TOLD), nn.Linear(TOLD, TOLD)) if words else (None, None)
        self.enter = nn.Conv2d(2 * digits + 2, channels, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(channels, told) for _ in range(blocks))
        self.look = nn.Conv2d(channels, LOOKS, 1)
        self.read = nn.Sequential(nn.Linear(LOOKS * (channels + 2) + told, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim))

    def forward(self, scenes: Scenes) -> Tensor:
        """float [B, L, D]: zeros where no action follows."""
        # without gradients each scene has the bits that it has alone
        size = len(scenes.codes_Snhw) if torch.is_grad_enabled() or scenes.codes_Snhw.is_cuda else 1
        found = [self.found(codes, words) for codes, words in zip(scenes.codes_Snhw.split(size), scenes.words_ST.split(size), strict=True)]
        found_SD = F.pad(torch.cat(found), (0, 0, 0, 1))
        return found_SD[torch.where(scenes.at_BL < 0, len(found_SD) - 1, scenes.at_BL)]

    def found(self, codes_Snhw: Tensor, words_ST: Tensor) -> Tensor:
        """float [S, D] of each scene."""
        codes_Snhw = codes_Snhw.to(self.enter.weight.dtype)
        axes = [torch.linspace(-1, 1, side, device=codes_Snhw.device, dtype=codes_Snhw.dtype) for side in codes_Snhw.shape[2:]]
        places_S2hw = torch.stack(torch.meshgrid(*axes, indexing="ij")).expand(len(codes_Snhw), -1, -1, -1)
        told_SE = self._told(words_ST)
        x = self.enter(torch.cat((codes_Snhw, codes_Snhw.square(), places_S2hw), 1))
        for block in self.blocks:
            x = block(x, told_SE)
        looks_SKP = self.look(x).flatten(2).float().softmax(-1).to(x.dtype)
        seen_SPC = torch.cat((x, places_S2hw.to(x.dtype)), 1).flatten(2).transpose(1, 2)
        found_SF = (looks_SKP @ seen_SPC).flatten(1)
        return self.read(found_SF if told_SE is None else torch.cat((found_SF, told_SE.to(found_SF.dtype)), 1))

    def _told(self, words_ST: Tensor) -> Tensor | None:
        """float [S, E]: what is known of the texts, zeros where there is none; None of rows without texts."""
        if self.words is None or self.tell is None:
            return None
        there_ST1 = (words_ST >= 0)[..., None]
        embedded_STE = self.words(words_ST.clamp_min(0))
        # the same words in another order are another text
        angles_TK = torch.arange(words_ST.shape[1], device=words_ST.device)[:, None] * 0.5 ** torch.arange(TOLD // 16, device=words_ST.device)
        waves_TE = torch.cat((angles_TK.sin(), angles_TK.cos()), 1).repeat(1, 8).to(embedded_STE.dtype)
        each_STE = F.silu(self.tell(embedded_STE + waves_TE))
        return (each_STE * there_ST1).sum(1) / there_ST1.sum(1).clamp_min(1)
