"""Which tokens of a latent a training row keeps: all where something may move, few of those that stand still.

Most tokens of a frame repeat the one before them, and a small network has learnt to copy them in minutes; nearly all of what a
dense row costs is spent on them. The choice rests on earlier latents alone, so what is learnt of a token, given what came before
it, is what dense rows would teach; places where something happens are only looked at more often.
"""

import numpy as np

from wfm_ar.rollout.lookahead import CHANGED
from wfm_ar.world_model.sequence import NOT_TOLD, TOLD_SCALE

SURE, NEAR_CONTENT, ELSEWHERE = 1.0, 0.15, 0.03  # probability to be kept: near a change, near any content, of an empty place
NEAR_FORETOLD = 0.25  # beside a change that a lookahead tells of, and so tells the place of
EMPTY = 0.05  # of an empty place of an image that is only seen
UNKNOWN = 0.6  # near any content, of a row's second latent: nothing says what moves


def usual_tokens(clips: list[np.ndarray], codebook_size: int) -> np.ndarray:
    """int64 [h, w]: the token that a place most often has in clips [t, h, w]; where the camera stands still, that of an empty place."""
    tokens_nhw = np.concatenate(clips).astype(np.int64)
    n, h, w = tokens_nhw.shape
    places = np.arange(h * w) * codebook_size
    counts = np.bincount((tokens_nhw.reshape(n, -1) + places).ravel(), minlength=h * w * codebook_size)
    return counts.reshape(h * w, codebook_size).argmax(1).reshape(h, w)


def keep_probability(tokens_thw: np.ndarray, usual_hw: np.ndarray, ahead_thwK: np.ndarray | None = None) -> np.ndarray:
    """float32 [t, h, w] in (0, 1] for a window of a clip, int [t, h, w]. The first latent is only seen: what is in it is kept.

    ahead_thwK: what a lookahead tells of the window (wfm_ar/rollout/lookahead.py); where it was asked, it says where something moves.
    """
    content_thw = tokens_thw != usual_hw
    near_thw = _dilated(content_thw)
    kept = np.full(tokens_thw.shape, ELSEWHERE, np.float32)
    kept[1:][near_thw[:-1]] = NEAR_CONTENT
    asked = np.zeros(len(kept), bool) if ahead_thwK is None else ahead_thwK[:, 0, 0, 0] != NOT_TOLD
    if len(kept) > 1 and not asked[1]:
        kept[1][near_thw[0]] = UNKNOWN
    moved_thw = np.zeros(tokens_thw.shape, bool)
    moved_thw[2:] = tokens_thw[1:-1] != tokens_thw[:-2]
    moved_thw[asked] = False
    kept[_dilated(moved_thw)] = SURE
    if ahead_thwK is not None and asked.any():
        foretold_thw = (ahead_thwK[..., -1] > TOLD_SCALE * CHANGED**0.5) & asked[:, None, None]
        kept[_dilated(foretold_thw)] = NEAR_FORETOLD
        kept[foretold_thw] = SURE
    kept[0][content_thw[0]] = SURE
    return kept


def kept_of_rows(seen_Bthw: np.ndarray, usual_hw: np.ndarray, told_BthwK: np.ndarray | None, rng: np.random.Generator) -> np.ndarray:
    """bool [B, t, h, w]: which tokens of windows are kept, drawn by `keep_probability`."""
    told = [None] * len(seen_Bthw) if told_BthwK is None else told_BthwK
    chance = np.stack([keep_probability(seen_thw, usual_hw, of_it) for seen_thw, of_it in zip(seen_Bthw, told, strict=True)])
    return rng.random(chance.shape, np.float32) < chance


def kept_of_images(seen_Bthw: np.ndarray, usual_hw: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """bool [B, t, h, w]: which tokens are kept of windows whose first latent alone is seen and none is asked for: what is in that latent,
    what touches it, and a few of the empty places."""
    kept = np.zeros(seen_Bthw.shape, bool)
    near_Bhw = np.stack([_dilated(seen_thw[:1] != usual_hw)[0] for seen_thw in seen_Bthw])
    kept[:, 0] = near_Bhw | (rng.random(near_Bhw.shape, np.float32) < EMPTY)
    return kept


def _dilated(mask_thw: np.ndarray) -> np.ndarray:
    """True wherever a mask is true at a place or one of its eight neighbours."""
    padded = np.pad(mask_thw, ((0, 0), (1, 1), (1, 1)))
    h, w = mask_thw.shape[1:]
    return np.logical_or.reduce([padded[:, y : y + h, x : x + w] for y in range(3) for x in range(3)])
