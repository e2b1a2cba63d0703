"""The bench that every section of an evaluation measures on: the world, its held-out clips, and rollouts of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wfm_ar.evaluate.heldout import Clip, HeldOut
from wfm_ar.evaluate.settings import SAMPLING, EvaluateConfig
from wfm_ar.evaluate.workers import Workers
from wfm_ar.rollout.world import Prompt, Rollout, World

Track = Callable[..., Iterator]  # track(items, name, total): yields them and shows how far it is


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What the sections share."""

    world: World
    config: EvaluateConfig
    clips: HeldOut
    track: Track
    robots: Mapping[str, World] = field(default_factory=dict)  # in a world of several robots: the same world, acted in by each
    workers: Workers | None = None  # None: this process rolls everything out

    def acting(self, clip: Clip) -> World:
        """The world in which the clip's own robot acts."""
        return self.robots.get(self._robot(clip), self.world)

    def roll(
        self, clips: Sequence[Clip], prompts: Sequence[Prompt], *, guidance: str, refine: bool, name: str, **more: Any
    ) -> Iterator[Rollout]:
        """One rollout a prompt, each of its clip, in order, made in batches of one robot; nothing is kept of the given picture.

        `guidance`: the one of GUIDANCE that is used; `more`: settings other than the config's.
        """
        config = self.config
        settings = {name: getattr(config, name) for name in (*SAMPLING, guidance, "refine_steps")} | more
        batches: list[list[int]] = []
        for k, clip in enumerate(clips):
            if not k or len(batches[-1]) == config.batch or self.acting(clip) is not self.acting(clips[k - 1]):
                batches.append([])
            batches[-1].append(k)
        settings |= {"refine": refine, "keep_detail": False}
        jobs = [(self._robot(clips[batch[0]]), [prompts[k] for k in batch], settings) for batch in batches]
        made = self.workers.generate(jobs) if self.workers else (self._generate(*job) for job in jobs)
        for _ in self.track(batches, name, len(batches)):
            yield from next(made)

    def _robot(self, clip: Clip) -> str:
        return clip.robot if clip.robot is not None and clip.robot in self.robots else ""

    def _generate(self, robot: str, prompts: Sequence[Prompt], settings: dict[str, Any]) -> list[Rollout]:
        return self.robots.get(robot, self.world).generate_batch(prompts, **settings)

    def prompt(self, k: int, clip: Clip, **inputs: Any) -> Prompt:
        """From the first frame of clip k, with `inputs` of Prompt."""
        return Prompt(video=clip.frames[:1], num_frames=self.config.frames, seed=self.config.seed + k, **inputs)
