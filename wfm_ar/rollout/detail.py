"""What the tokens could not hold of the given frames, put back wherever the picture stands still.

A tokenizer loses detail. Of frames that were given, the loss is known: given minus decoded. Where a later frame decodes to what
the last given one decoded to, nothing has happened since, so the loss is still the same and is added back; where something
moved, nothing is added. What a rollout imagines is untouched by this; what it merely remembers is exact.
"""

import torch.nn.functional as F
from torch import Tensor

STILL, MOVED = 0.1, 0.25  # difference on the [-1, 1] scale up to which a place counts as still, and from which as moved
REACH = 1  # pixels around a moved place that count as moved too: its blurred edge


class Detail:
    """The lost detail of one row's given frames; frames come in order, given ones first. Its state is replaced, never changed."""

    def __init__(self, given_CTHW: Tensor) -> None:
        """float [3, T, H, W] in [-1, 1], T >= 1."""
        self.given_CTHW = given_CTHW
        self.reference = self.lost = None  # [1, 3, 1, H, W] each: the last given frame as decoded, and what it lacks

    def restore(self, decoded_BCTHW: Tensor, made_BCTHW: Tensor | None = None) -> Tensor:
        """Frames as decoded, and as they are to be shown (refined, say; None: as decoded) -> float [1, 3, n, H, W] with detail.

        Given frames come out as they were given.
        """
        made_BCTHW = decoded_BCTHW if made_BCTHW is None else made_BCTHW
        count = decoded_BCTHW.shape[2]
        given, self.given_CTHW = self.given_CTHW[None, :, :count], self.given_CTHW[:, count:]
        if given.shape[2]:
            self.reference, self.lost = decoded_BCTHW[:, :, -1:], given[:, :, -1:] - made_BCTHW[:, :, -1:]
            return given
        return made_BCTHW + self.lost * stillness(decoded_BCTHW, self.reference)

    def fork(self) -> "Detail":
        """One that goes on from here on its own."""
        other = Detail.__new__(Detail)
        other.__dict__.update(self.__dict__)
        return other


def stillness(frames_BCTHW: Tensor, reference_BC1HW: Tensor) -> Tensor:
    """[B, 1, T, H, W] in 0..1: 1 where a frame looks as the reference does in every channel and near by, 0 where it does not."""
    change_BTHW = (frames_BCTHW - reference_BC1HW).abs().amax(1)
    change_BTHW = F.max_pool2d(change_BTHW, 2 * REACH + 1, stride=1, padding=REACH)
    return ((MOVED - change_BTHW) / (MOVED - STILL)).clamp(0, 1).unsqueeze(1)
