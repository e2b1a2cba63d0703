"""Inverse dynamics read-back: what a network that was trained on true clips alone reads off imagined ones, beside what was commanded.

r, Pearson's correlation, for each channel: over rollouts under the true actions and under another clip's, and over the tokenizer's copies
of the true clips, which is the ceiling. Pictures that stand still are read as no motion and look consistent whatever was commanded, so
steps in which the true clip moves are scored apart.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from wfm_ar.evaluate.metrics import pearson_r
from wfm_ar.evaluate.reality import moving_share

MOVES = 0.001  # share of the pixels that must change in a true step for it to count as moving


def read_back_numbers(
    names: Sequence[str],
    told: Sequence[np.ndarray],
    read: Sequence[np.ndarray],
    copies: Sequence[np.ndarray],
    moving: Sequence[np.ndarray],
    shuffled: tuple[Sequence[np.ndarray], Sequence[np.ndarray]] | None = None,
) -> dict[str, Any]:
    """names: of the C channels. told, read, copies: [t, C] a clip, what was commanded and what is read off the rollout and off the true
    clip's copy; moving: bool [t], the steps in which the true clip moves; shuffled: (told, read) of rollouts under other clips' actions.
    """
    told_NC, read_NC, copies_NC, moving_N = (np.concatenate(each) for each in (told, read, copies, moving))
    channels = {}
    for c, name in enumerate(names):
        row = {"r": _r(read_NC[:, c], told_NC[:, c]), "ceiling": _r(copies_NC[:, c], told_NC[:, c])}
        row["r_moving"] = _r(read_NC[moving_N, c], told_NC[moving_N, c])
        row["ceiling_moving"] = _r(copies_NC[moving_N, c], told_NC[moving_N, c])
        if shuffled is not None:
            others_told, others_read = (np.concatenate(each) for each in shuffled)
            row["r_shuffled"] = _r(others_read[:, c], others_told[:, c])
        channels[name] = row
    return {"channels": channels, "steps": len(told_NC), "moving_steps": int(moving_N.sum()), "clips": len(told)}


def moving_steps(frames: np.ndarray, rate: int) -> np.ndarray:
    """bool [t]: whether a true clip uint8 [1 + r*t, H, W, 3] moves from latent to latent."""
    seen = frames[::rate]
    return np.array([moving_share(seen[k : k + 2]) > MOVES for k in range(len(seen) - 1)], bool)


def _r(a: np.ndarray, b: np.ndarray) -> float:
    return pearson_r(a, b) if len(a) > 1 else 0.0
