"""A world as a gymnasium environment: agents learn or are tried out in what it imagines. The only file that imports gymnasium."""

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import numpy as np

from wfm_ar.errors import BadActions, BadClip, BadConfig, MissingDependency
from wfm_ar.extras import how_to_install
from wfm_ar.rollout.world import World

try:
    import gymnasium
except ImportError as error:
    raise MissingDependency(f"world environment: the package gymnasium is missing; fix: {how_to_install('gym')}") from error

Reward = Callable[[np.ndarray], tuple[float, bool]]
SEEDS = 2**31  # of the imagined futures


class WorldEnv(gymnasium.Env):
    """One step is one latent: an action is float32 [r, A], the r actions that lead through its frames, in the channels' own units and
    ranges; an observation is the last of these frames, uint8 [H, W, 3]. info["frames"] has all of them.

    Every episode begins at one of `starts`; with `max_steps` steps it is truncated. The same seed and actions give the same episode.
    """

    metadata = {"render_modes": ["rgb_array"]}

    def __init__(
        self,
        world: World,
        starts: Sequence[np.ndarray],
        reward: Reward | None = None,
        *,
        max_steps: int = 12,
        text: str | None = None,
        render_mode: str | None = None,
        **sampling: Any,
    ) -> None:
        """starts: clips uint8 [1 + r*n, H, W, 3]. reward: new frames uint8 [r, H, W, 3] -> (reward, whether the episode is over); none:
        always 0. sampling: what `World.start` takes: SamplingConfig by name, refine.

        Raises BadActions for a world without actions, BadClip or BadConfig for what cannot be.
        """
        if world.action_schema is None:
            raise BadActions("world environment: this world takes no actions, expected one that does; fix: train it on data with actions")
        if not len(starts):
            raise BadClip("starts: got none, expected clips to begin from; fix: [frames[:1]] begins at a picture")
        if max_steps < 1:
            raise BadConfig(f"max_steps: got {max_steps}, expected at least 1; fix: 12 is a good value")
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise BadConfig(f"render_mode: got {render_mode!r}, expected none or 'rgb_array'; fix: leave it out")
        self.world, self.starts, self.reward, self.max_steps, self.render_mode = world, list(starts), reward, max_steps, render_mode
        self.metadata = {**self.metadata, "render_fps": world.fps / world.rate}
        self._how: dict[str, Any] = dict(text=text, **sampling)
        low, high = (np.array([getattr(c, end) for c in world.action_schema.channels], np.float32) for end in ("low", "high"))
        self.action_space = gymnasium.spaces.Box(np.tile(low, (world.rate, 1)), np.tile(high, (world.rate, 1)), dtype=np.float32)
        self.observation_space = gymnasium.spaces.Box(0, 255, (world.height, world.width, 3), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """(the last frame of a start, info). options: {"start": index of the one to begin at}."""
        super().reset(seed=seed)
        drawn = int(self.np_random.integers(len(self.starts)))  # drawn in any case: what follows must not hang on it
        start = drawn if options is None or "start" not in options else options["start"]
        if not 0 <= start < len(self.starts):
            raise BadConfig(f"start: got {start}, expected 0 to {len(self.starts) - 1}; fix: leave it out for any")
        self._steps = 0
        self._stream = self.world.start(video=self.starts[start], seed=int(self.np_random.integers(SEEDS)), **self._how)
        self._frame = self._stream.given_frames[-1]
        return self._frame.copy(), {"frames": self._stream.given_frames, "start": start}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """(last frame, reward, over, truncated, info) after the actions [r, A] of one latent. Raises BadActions."""
        frames = self._stream.step(np.asarray(action, np.float32))
        self._steps, self._frame = self._steps + 1, frames[-1]
        reward, over = (0.0, False) if self.reward is None else self.reward(frames)
        return self._frame.copy(), float(reward), bool(over), self._steps >= self.max_steps, {"frames": frames}

    def render(self) -> np.ndarray | None:
        """The frame now, if made with render_mode="rgb_array"."""
        return self._frame.copy() if self.render_mode else None

    def fork(self) -> "WorldEnv":
        """A second environment at the same point, which goes on by itself: other actions show other futures of one past."""
        other = copy(self)
        other._stream = self._stream.fork()
        return other
