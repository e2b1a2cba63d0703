"""The real simulator beside its world, under the same keys: the honest way to feel a world model."""

import importlib.util
from collections.abc import Callable

import numpy as np

from wfm_ar.rollout.world import World
from wfm_ar.simulate.goal import picture_distance


class Simulator:
    """One simulated table, begun anew from a seed. It belongs to the thread that made it: its renderer does."""

    def __init__(self, seed: int) -> None:
        from wfm_ar.worlds.tabletop import TabletopWorld
        from wfm_ar.worlds.tabletop_policy import draw_layout

        self._table = TabletopWorld()
        self._layout = draw_layout(np.random.default_rng([seed]), "push")
        self._table.reset(self._layout)

    @property
    def text(self) -> str:
        return self._layout.text

    def picture(self) -> np.ndarray:
        """What it shows now, uint8 [H, W, 3]."""
        return self._table.render()

    def step(self, actions_rA: np.ndarray) -> np.ndarray:
        """Carries out the actions, metres [r, 2], shortened where they are longer than the peg can go -> uint8 [r, H, W, 3]."""
        from wfm_ar.worlds.tabletop_policy import MAX_STEP

        frames = []
        for action in np.asarray(actions_rA, np.float64):
            self._table.step(action * min(1.0, MAX_STEP / max(np.linalg.norm(action), 1e-9)))
            frames.append(self._table.render())
        return np.stack(frames)

    def state(self) -> np.ndarray:
        """Where everything is and how it moves, to come back to."""
        return np.concatenate([self._table.data.qpos, self._table.data.qvel])

    def restore(self, state: np.ndarray) -> None:
        """Goes back to what `state` gave."""
        data = self._table.data
        data.qpos[:], data.qvel[:] = np.split(state, [len(data.qpos)])

    def close(self) -> None:
        self._table.close()


def simulator_of(world: World) -> Callable[[int], Simulator] | None:
    """What makes the simulator that this world was trained on, by its seed; None where there is none, or its package is missing."""
    if world.action_schema is None or importlib.util.find_spec("mujoco") is None:
        return None
    from wfm_ar.worlds.tabletop import ACTIONS, SIZE

    made_on = [(c.name, c.unit, c.low, c.high) for c in ACTIONS.channels], ACTIONS.rate_hz, (SIZE, SIZE)
    ours = [(c.name, c.unit, c.low, c.high) for c in world.action_schema.channels], world.action_schema.rate_hz, (world.height, world.width)
    return Simulator if ours == made_on else None


def distances(imagined_THWC: np.ndarray, real_THWC: np.ndarray) -> list[float]:
    """Grey levels between the pictures of two clips, one by one (goal.picture_distance)."""
    return [float(picture_distance(one[None], real)[0]) for one, real in zip(imagined_THWC, real_THWC, strict=True)]
