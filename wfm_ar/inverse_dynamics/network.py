"""The network that reads actions off pictures: two frames in, the actions between them out.

It learns from true clips alone, and is then asked what it sees in imagined ones: whether a world did as it was told can be read there for
any robot, without knowing what a picture shows. A small convolutional network with attention pooling; what moves may be anywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wfm_ar.errors import BadConfig
from wfm_ar.sizes import check_sizes

RGB = 3
AT_ONCE = 32  # pairs of frames in one pass; bounds the memory


@dataclass(frozen=True, kw_only=True)
class InverseDynamicsConfig:
    """Shape of the network. Raises BadConfig where a value cannot be."""

    actions: int = 0  # columns of the action vocabulary
    channels: tuple[int, ...] = (32, 64, 96)  # width of each level; each level halves the picture
    heads: int = 4  # places that are looked at together
    hidden: int = 128

    def __post_init__(self) -> None:
        check_sizes(self, "inverse_dynamics:", actions=(0, 1 << 12), channels=(1, 8192), heads=(1, 64), hidden=(1, 1 << 14))
        if not self.channels:
            raise BadConfig("inverse_dynamics: channels: got none, expected one width a level or more; fix: channels=[32,64,96]")


class InverseDynamics(nn.Module):
    """Two frames -> the mean action between them, a number a column about in [-1, 1]."""

    def __init__(self, config: InverseDynamicsConfig):
        super().__init__()
        self.config = config
        widths = (3 * RGB + 2, *config.channels)
        self.levels = nn.ModuleList(nn.Conv2d(a, b, 5 if i == 0 else 3, stride=2, padding=2 if i == 0 else 1)
                                    for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False)))  # fmt: skip
        last = config.channels[-1]
        self.more = nn.Conv2d(last, last, 3, padding=1)
        self.look = nn.Conv2d(last, config.heads, 1)
        self.read = nn.Sequential(
            nn.Linear(config.heads * last, config.hidden), nn.SiLU(), nn.Linear(config.hidden, max(1, config.actions))
        )

    def forward(self, first_B3HW: Tensor, last_B3HW: Tensor) -> Tensor:
        """Frames float [B, 3, H, W] in [-1, 1] -> float [B, A]."""
        B, _, H, W = first_B3HW.shape
        axes = [torch.linspace(-1, 1, side, device=first_B3HW.device, dtype=first_B3HW.dtype) for side in (H, W)]
        places_B2HW = torch.stack(torch.meshgrid(*axes, indexing="ij")).expand(B, -1, -1, -1)
        # the change is small beside the frames: it comes in larger
        x = torch.cat((first_B3HW, last_B3HW, 4 * (last_B3HW - first_B3HW), places_B2HW), 1)
        for level in self.levels:
            x = F.silu(level(x))
        x = x + F.silu(self.more(x))
        weights_BKP = self.look(x).flatten(2).float().softmax(-1).to(x.dtype)
        pooled_BKC = weights_BKP @ x.flatten(2).transpose(1, 2)
        return self.read(pooled_BKC.flatten(1))


def bin_values(bins_NA: Tensor, action_bins: Sequence[int]) -> Tensor:
    """Bins int64 [..., A] of columns with so many -> float in [-1, 1], NaN where a bin is below 0."""
    top_A = torch.tensor(tuple(action_bins), device=bins_NA.device).sub(1).clamp_min(1)
    return torch.where(bins_NA < 0, torch.nan, 2 * bins_NA / top_A - 1)


@torch.inference_mode()
def read_actions(model: InverseDynamics, frames_THWC: np.ndarray, rate: int) -> np.ndarray:
    """What the network sees between each frame and the one `rate` later: uint8 [1 + rate*n, H, W, 3] -> float32 [n, A]."""
    device = model.look.weight.device
    frames_T3HW = torch.from_numpy(frames_THWC[::rate].copy()).permute(0, 3, 1, 2).to(device).float() / 127.5 - 1
    made = [model(a, b) for a, b in zip(frames_T3HW[:-1].split(AT_ONCE), frames_T3HW[1:].split(AT_ONCE), strict=True)]
    return torch.cat(made).float().cpu().numpy()
