"""What a world's inverse dynamics read off a clip, beside what it was told to do.

Needs a world that has the network (`wfm train inverse_dynamics=small`). It was trained on true clips alone: where
its reading of imagined ones is far from the actions, the pictures do not show what was commanded.
"""

from typing import TYPE_CHECKING, cast

import numpy as np

from wfm_ar.inverse_dynamics.network import bin_values, read_actions

if TYPE_CHECKING:
    from wfm_ar.rollout.world import World


def told_values(world: "World", actions: np.ndarray) -> np.ndarray:
    """Actions [T - 1, A] of the world's robot -> float [t, C], the mean of those that lead to each latent, a column a varying channel."""
    assert world.action_tokenizer is not None, "its actions are read back"
    bins = world.bins_of(actions)[0]
    return bin_values(bins, world.action_tokenizer.bins).unflatten(0, (-1, world.rate)).mean(1).numpy()


def read_values(world: "World", frames: np.ndarray) -> np.ndarray:
    """Frames uint8 [1 + r*t, H, W, 3] -> float [t, C], what is read off them."""
    assert world.parts.inverse_dynamics is not None, "asked only where there is a reader"
    read = read_actions(world.parts.inverse_dynamics, frames, world.rate)
    return read if world.actions.columns is None else read[:, list(world.actions.columns)]


def apart_by_latent(world: "World", frames: np.ndarray, actions: np.ndarray | None) -> list[float | None] | None:
    """How far what is read off a clip lies from what it was told, for each latent after the first: the mean over channels in halves of
    their range, 0 as told, 1 half a range off; None where its actions are not known. None in all without a reader or actions.

    frames uint8 [1 + r*t, H, W, 3] raw, actions [T - 1, A] with NaN where nobody knows them.
    """
    if world.parts.inverse_dynamics is None or actions is None or len(frames) < 1 + world.rate:
        return None
    told, read = told_values(world, np.nan_to_num(actions)), read_values(world, frames)
    lost = cast("np.ndarray", np.isnan(actions).reshape(len(told), -1).any(1))
    return [None if gone else float(value) for value, gone in zip(np.abs(read - told).mean(1), lost, strict=True)]
