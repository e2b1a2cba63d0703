"""Does what is imagined stay real? Colour, sharpness, codes and motion of rollouts beside those of the true clips.

The true clips are taken as the tokenizer gives them back: what it loses is no drift. Numbers are of the last quarter of the frames, where
drift shows, but for motion, which is of all.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

MOVED = 12  # grey levels of 255 by which a pixel must change from frame to frame to count as moving


def reality_numbers(
    made: Sequence[np.ndarray], copies: Sequence[np.ndarray], made_tokens: Sequence[np.ndarray], true_tokens: Sequence[np.ndarray]
) -> dict[str, Any]:
    """made, copies: uint8 [T, H, W, 3], rollouts under the true actions and the tokenizer's copies of the true clips; tokens [t, h, w]."""
    pairs = list(zip(made, copies, strict=True))
    late = [(_late(a), _late(b)) for a, b in pairs]
    moving, moving_true = (float(np.mean([moving_share(pair[side]) for pair in pairs])) for side in (0, 1))
    return {
        "clips": len(pairs),
        "colour": float(np.mean([np.abs(a.mean((1, 2)) - b.mean((1, 2))).mean() for a, b in late])),  # grey levels
        "sharpness": float(np.mean([edges(a) for a, _ in late]) / max(1e-9, np.mean([edges(b) for _, b in late]))),
        "motion": moving / moving_true if moving_true > 0 else None,
        "moving": moving,  # share of the pixels
        "moving_true": moving_true,
        "codes_apart": codes_apart([_late(tokens) for tokens in made_tokens], [_late(tokens) for tokens in true_tokens]),
        # what two halves of the true clips themselves differ by: the scale of the number above
        "codes_apart_true": codes_apart(true_tokens[::2], true_tokens[1::2]) if len(true_tokens) > 1 else None,
    }


def moving_share(frames_THWC: np.ndarray) -> float:
    """Share of the pixels that change by more than MOVED from a frame to the next."""
    return float((np.abs(np.diff(frames_THWC.astype(np.int16), axis=0)).max(-1) > MOVED).mean())


def edges(frames_THWC: np.ndarray) -> float:
    """Mean difference of neighbouring pixels, grey levels: how sharp pictures are."""
    frames = frames_THWC.astype(np.int16)
    return float((np.abs(np.diff(frames, axis=1)).mean() + np.abs(np.diff(frames, axis=2)).mean()) / 2)


def codes_apart(some: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    """Total variation distance of two sets of tokens, 0 (each code as frequent) to 1 (none in common)."""
    ids = [np.concatenate([tokens.ravel() for tokens in each]) for each in (some, others)]
    most = 1 + max(int(each.max()) for each in ids)
    shares = [np.bincount(each, minlength=most) / len(each) for each in ids]
    return float(np.abs(shares[0] - shares[1]).sum() / 2)


def _late(rows: np.ndarray) -> np.ndarray:
    return rows[-max(1, len(rows) // 4) :]
