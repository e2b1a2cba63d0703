"""The given picture, kept wherever it stands still.

A tokenizer loses detail, and a world model repaints a background a little differently at every latent. Where a later frame decodes
to about what the last given one decoded to, nothing has happened since: the given frame itself is shown there. Where something
moved, the frame is what was imagined. So what a rollout imagines is untouched by this; what it merely remembers is exact.

Two frames that decode alike say nothing of the picture if everything decodes alike: where the tokenizer's own copy of the given
frame is poor, only the given frames are shown as they were, and nothing of them is kept later.
"""

import math
from copy import copy
from dataclasses import dataclass
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from wfm_ar.errors import BadConfig

STILL, MOVED = 0.2, 0.4  # difference on the [-1, 1] scale up to which a place counts as still, and from which as moved
REACH = 1  # pixels around a moved place that count as moved too: its blurred edge
POOR_COPY = 24.0  # dB PSNR of the last given frame as decoded; below it nothing is kept
SLACK = 1.0  # dB below the worst of the training run's copies up to which a picture counts as of their kind
GONE, WIDE_REACH = 0.7, 3  # what changed by as much is another thing now: the blurred edge of what was there reaches further


@dataclass(frozen=True, kw_only=True)
class TrainingCopies:
    """How well the tokenizer copies single pictures of a training run's held-out clips: those of another kind it copies worse."""

    pictures: int  # that were copied
    median_db: float  # PSNR
    least_db: float

    def __post_init__(self) -> None:
        if self.pictures < 1 or not -100 < self.least_db <= self.median_db < 1000:
            got = f"{self.least_db:g} and {self.median_db:g} dB of {self.pictures} pictures"
            raise BadConfig(f"least_db: got {got}, expected least_db up to median_db, of 1 or more")

    @property
    def expected_db(self) -> float:
        """Below this a given picture is unlike those of the training data."""
        return self.least_db - SLACK


class Detail:
    """The given frames of one row; frames come in order, given ones first. Its state is replaced, never changed."""

    def __init__(self, given_CTHW: Tensor) -> None:
        """float [3, T, H, W] in [-1, 1], T >= 1."""
        self.given_CTHW = given_CTHW
        self.reference: Tensor | None = None
        self.last: Tensor | None = None  # [1, 3, 1, H, W] each: the last given frame as decoded, and as given
        self.copy_db = 0.0  # PSNR of the one against the other

    def restore(self, decoded_BCTHW: Tensor, made_BCTHW: Tensor | None = None) -> Tensor:
        """Frames as decoded, and as they are to be shown (refined, say; None: as decoded) -> float [1, 3, n, H, W] with detail.

        Given frames come out as they were given.
        """
        made_BCTHW = decoded_BCTHW if made_BCTHW is None else made_BCTHW
        count = decoded_BCTHW.shape[2]
        given, self.given_CTHW = self.given_CTHW[None, :, :count], self.given_CTHW[:, count:]
        if given.shape[2]:
            self.reference, self.last = decoded_BCTHW[:, :, -1:], given[:, :, -1:]
            error = float((self.reference.clamp(-1, 1) - self.last).square().mean())
            self.copy_db = 10 * math.log10(4 / max(error, 1e-6))
            return given
        if not self.keeps or self.last is None or self.reference is None:
            return made_BCTHW
        return made_BCTHW.lerp(self.last.expand_as(made_BCTHW), stillness(decoded_BCTHW, self.reference).expand_as(made_BCTHW))

    @property
    def keeps(self) -> bool:
        """Whether later frames keep anything of the given ones."""
        return self.copy_db >= POOR_COPY

    def fork(self) -> "Detail":
        """One that goes on from here on its own."""
        return copy(self)


def stillness(frames_BCTHW: Tensor, reference_BC1HW: Tensor) -> Tensor:
    """[B, 1, T, H, W] in 0..1: 1 where a frame looks as the reference does in every channel and near by, 0 where it does not."""
    change_BTHW = (frames_BCTHW - reference_BC1HW).abs().amax(1)
    near_BTHW = _largest_around(change_BTHW, REACH)
    wide_BTHW = _largest_around(near_BTHW, WIDE_REACH - REACH)
    still_BTHW = ((MOVED - near_BTHW) / (MOVED - STILL)).clamp(0, 1) * ((GONE - wide_BTHW) / (GONE - MOVED)).clamp(0, 1)
    return still_BTHW.unsqueeze(1)


def _largest_around(x_BTHW: Tensor, reach: int) -> Tensor:
    """The largest number (of none below 0) within `reach` pixels each way: many times faster here than torch's max_pool2d."""
    for axis, edges in ((-2, (0, 0, reach, reach)), (-1, (reach, reach))):
        padded_BTHW = F.pad(x_BTHW, edges)
        x_BTHW = reduce(torch.maximum, (padded_BTHW.narrow(axis, place, x_BTHW.shape[axis]) for place in range(2 * reach + 1)))
    return x_BTHW
