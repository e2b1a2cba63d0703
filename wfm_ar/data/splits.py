"""Splits: which episodes are trained on and which are held out, where the data do not say so themselves."""

import hashlib
from collections.abc import Sequence

SPLITS = ("train", "val", "test")
VAL_FRACTION = 0.05  # of data that does not say itself what to hold out


def hashed_splits(ids: Sequence[str]) -> dict[str, str]:
    """A split for each id by its hash, so that an episode never changes sides when a set grows; with two ids or more there is
    always one to validate with, and one to train on."""
    splits = {one: split_of(one, VAL_FRACTION) for one in ids}
    if len(splits) > 1:
        splits[min(splits, key=_draw)] = "val"
        splits[max(splits, key=_draw)] = "train"
    return splits


def split_of(episode_id: str, val_fraction: float) -> str:
    """ "train" or "val" by a hash of the id, so that an episode never changes sides when a set grows."""
    return "val" if _draw(episode_id) < val_fraction else "train"


def _draw(name: str) -> float:
    """[0, 1), from a hash of the name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64
