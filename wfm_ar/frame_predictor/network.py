"""The network of the frame predictor: a small U-Net, the last frames and the actions behind them in, the next frame out.

Where things are and how they move is far easier to learn in pixels, where what moves is the same picture elsewhere, than in codes.
What it gives is one likely frame, not a draw, and rolled on its own it would drift: the world model, which is told the codes of
that frame as a hint, draws the tokens. Convolutional with per-place norms, so it trains on crops and runs on whole frames. It is
told where in the whole frame a place lies: what a fixed camera always sees, walls among it, is taken off the frames, and how many
pixels a metre has depends on the place.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wfm_ar.errors import BadConfig
from wfm_ar.residual_block import ResidualBlock
from wfm_ar.sizes import check_sizes

RGB = 3
EARLIER_PREDICTOR = {"history": 2}  # of settings from before they had it
GATE = 4.0  # the gate on what changes is within the sigmoids of -GATE and GATE, .018 and .982
OCTAVES = 3  # of the waves that tell places apart: the shortest is a quarter of the frame long


@dataclass(frozen=True, kw_only=True)
class FramePredictorConfig:
    """Shape of the network. Raises BadConfig where a value cannot be."""

    actions: int = 0  # columns of the action vocabulary; 0 = frames alone
    history: int = 2  # frames that are seen; more of them tell better where things are than copies a little off each
    patch: int = 4  # pixels a side of one place of the finer grid; the coarser one has half as many places
    channels: tuple[int, int] = (96, 128)  # width of the finer and of the coarser grid
    blocks: tuple[int, int, int] = (2, 3, 2)  # residual blocks: finer grid, coarser, finer again
    embedding: int = 64  # width of what is known of the actions

    def __post_init__(self) -> None:
        check_sizes(self, "predictor:", actions=(0, 1 << 12), history=(2, 16), patch=(1, 64), embedding=(1, 1 << 14))
        check_sizes(self, "predictor:", channels=(1, 8192), blocks=(0, 64))
        if len(self.channels) != 2 or len(self.blocks) != 3:
            got = f"{list(self.channels)} and {list(self.blocks)}"
            raise BadConfig(f"predictor: channels and blocks: got {got}, expected two widths and three counts")

    @property
    def multiple(self) -> int:
        """Pixels that both sides of a frame are a multiple of."""
        return 2 * self.patch


class FramePredictor(nn.Module):
    """The last frames and what leads on from them -> the next frame, all less the background that a fixed camera always sees."""

    def __init__(self, config: FramePredictorConfig):
        super().__init__()
        self.config = config
        (fine, coarse), (before, middle, after), width = config.channels, config.blocks, config.embedding
        self.actions, told = None, 0
        if config.actions:
            known = 3 * config.actions * (config.history - 1)
            self.actions, told = nn.Sequential(nn.Linear(known, width), nn.SiLU(), nn.Linear(width, width)), width
        self.enter = nn.Conv2d(config.history * RGB * config.patch**2 + 2 + 4 * OCTAVES, fine, 3, padding=1)
        self.before = nn.ModuleList(ResidualBlock(fine, told) for _ in range(before))
        self.down = nn.Conv2d(fine, coarse, 2, stride=2)
        self.middle = nn.ModuleList(ResidualBlock(coarse, told) for _ in range(middle))
        self.up = nn.ConvTranspose2d(coarse, fine, 2, stride=2)
        self.after = nn.ModuleList(ResidualBlock(fine, told) for _ in range(after))
        self.leave = nn.Conv2d(fine, (RGB + 1) * config.patch**2, 3, padding=1)
        for weight in self.leave.parameters():  # it begins by repeating the last frame
            nn.init.zeros_(weight)

    def forward(self, frames_BN3HW: Tensor, actions_BMA: Tensor | None, places_BPhw: Tensor | None = None) -> Tensor:
        """Predict the frame that follows.

        Args:
            frames_BN3HW: the last N = history frames, oldest first, less the background, float, on the [-1, 1] scale.
            actions_BMA: those that lead on from each frame but the first, M = N - 1; float in [-1, 1], NaN where they are not known;
                None of a predictor without actions.
            places_BPhw: `places` of the whole frame, cut like the frames; None = these are whole frames.

        Returns:
            float [B, 3, H, W], not clamped.
        """
        patch, told, last_B3HW = self.config.patch, None, frames_BN3HW[:, -1]
        if self.actions is not None:
            assert actions_BMA is not None, "this predictor reads actions"
            known = ~actions_BMA.isnan()
            values = actions_BMA.nan_to_num(0.0)
            each = torch.cat([x.flatten(1) for x in (values, values.square(), known.to(values.dtype))], 1)
            told = F.silu(self.actions(each.to(last_B3HW.dtype)))
        if places_BPhw is None:
            height, width = last_B3HW.shape[2:]
            places_BPhw = places(height, width, patch, last_B3HW.device).expand(len(last_B3HW), -1, -1, -1)
        earlier = [last_B3HW - frame_B3HW for frame_B3HW in frames_BN3HW[:, :-1].unbind(1)[::-1]]
        seen = F.pixel_unshuffle(torch.cat((last_B3HW, *earlier), 1), patch)
        x = self.enter(torch.cat((seen, places_BPhw.to(seen.dtype)), 1))
        for block in self.before:
            x = block(x, told)
        y = self.down(x)
        for block in self.middle:
            y = block(y, told)
        x = x + self.up(y)
        for block in self.after:
            x = block(x, told)
        change_B3HW, gate_B1HW = F.pixel_shuffle(self.leave(x), patch).split((RGB, 1), 1)
        # what stands still is let through all but as it is: a gate that could shut would never learn to open again
        gate_B1HW = (GATE * torch.tanh(gate_B1HW / GATE)).sigmoid()
        return last_B3HW + change_B3HW * gate_B1HW


def places(height: int, width: int, patch: int, device: torch.device | str = "cpu") -> Tensor:
    """float32 [1, P, height / patch, width / patch]: where each place of a frame of that size in pixels lies, y and x in [-1, 1] and waves
    of them."""
    axes = [torch.arange(size // patch, device=device).add(0.5).mul(2 * patch / size).sub(1) for size in (height, width)]
    yx_2hw = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    waves = [wave(math.pi * 2**k * yx_2hw) for k in range(OCTAVES) for wave in (torch.sin, torch.cos)]
    return torch.cat((yx_2hw, *waves))[None]
