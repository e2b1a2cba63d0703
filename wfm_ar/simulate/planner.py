"""Planning in a world: the actions under which it imagines what was wanted.

The cross-entropy method (Rubinstein 1999; for learned models Chua et al. 2018, arXiv 1805.12114) with what Pinneri et al. 2020
(arXiv 2008.06389) add: noise that is alike from step to step, and the best of a round stays in the running. The first round is shared
with the world's own policy: a part of its candidates are actions that the model imagines, which already go about things as its data do.

Promises: the same world, clip, cost, settings and seed give the same plan. It knows neither pixels nor files: what is good is the
caller's `cost`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from wfm_ar.errors import BadActions, BadClip, BadConfig, BadPrompt
from wfm_ar.rollout.prompt import Prompt, Rollout
from wfm_ar.shapes import latent_frames

if TYPE_CHECKING:
    from wfm_ar.rollout.sampling import SamplingConfig
    from wfm_ar.rollout.world import World

LEAST_SPREAD = 0.02  # of a channel's range: what the spread of candidates never falls below
CERTAIN = {"temperature": 0.0, "action_temperature": 1.0}  # the likeliest future of any actions; proposals of the policy differ

Cost = Callable[[np.ndarray], float]


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """How long and how hard it looks. Raises BadConfig where a value cannot be."""

    samples: int = 32  # futures imagined a round
    rounds: int = 2
    elites: int = 6  # best candidates so far that the next round is drawn around
    imagined: float = 0.5  # part of the first round that the world's own policy proposes
    smoothness: float = 0.5  # correlation of the noise from one action to the fourth after it, 0 to below 1
    batch: int = 16  # futures rolled together
    read_back: float = 0.0  # what a future costs more where the actions read off it are half a channel's range off; 0 = off
    read_back_stop: float | None = None  # halves of a range: a future counts up to the first latent that is further off; None = off

    def __post_init__(self) -> None:
        for name in ("samples", "rounds", "elites", "batch"):
            if (value := getattr(self, name)) < 1:
                raise BadConfig(f"{name}: got {value}, expected at least 1; fix: leave it out for {getattr(PlanConfig, name)}")
        if self.elites > self.samples:
            raise BadConfig(f"elites: got {self.elites}, expected at most the {self.samples} samples; fix: a fifth of them is a good value")
        if not 0 <= self.imagined <= 1:
            raise BadConfig(f"imagined: got {self.imagined}, expected a part from 0 to 1; fix: 0.5 is a good value")
        if not 0 <= self.smoothness < 1:
            raise BadConfig(f"smoothness: got {self.smoothness}, expected 0 to below 1; fix: 0.5 is a good value")
        if not 0 <= self.read_back < np.inf:
            raise BadConfig(f"read_back: got {self.read_back}, expected a number, 0 or more; fix: leave it out for none")
        if self.read_back_stop is not None and not 0 < self.read_back_stop < np.inf:
            got = f"read_back_stop: got {self.read_back_stop}, expected a number above 0"
            raise BadConfig(f"{got}; fix: leave it out for none; `wfm generate` tells what is usual (read_back of its JSON)")

    @property
    def reads_back(self) -> bool:
        """Whether the world's own reading of what it imagines counts."""
        return self.read_back > 0 or self.read_back_stop is not None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The best actions found, and what the world imagines of them."""

    actions: np.ndarray  # float32 [N, A]: action i leads from frame i to i + 1 after the given ones; up to where it counts
    cost: float  # what is read back of it included
    rollout: Rollout  # the given frames and those imagined under `actions`
    proposed: bool  # by the world's policy, not drawn
    costs: tuple[np.ndarray, ...]  # float64 [samples] of every round, sorted; inf where the cost was none
    stopped: bool = False  # its actions end before the rollout, where what is read off that is too far off
    apart: float | None = None  # mean halves of a range by which what is read off it is off; None where that does not count


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    actions: np.ndarray  # float32 [N, A]
    cost: float
    proposed: bool
    latents: int  # that count
    apart: float | None


def plan(
    world: "World",
    video: np.ndarray,
    cost: Cost,
    *,
    num_frames: int = 33,
    text: str | None = None,
    past_actions: np.ndarray | None = None,
    guess: np.ndarray | None = None,
    possible: Callable[[np.ndarray], np.ndarray] | None = None,
    seed: int = 0,
    config: PlanConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
    sampling: "SamplingConfig | None" = None,
    **settings: Any,
) -> Plan:
    """The actions for which `cost` of the imagined clip is least.

    video: uint8 [1 + r*n, H, W, 3], what is there; past_actions: [len(video) - 1, A], those between its frames, needed if there are
    any. num_frames: of the whole clip. cost is told a clip uint8 [num_frames, H, W, 3] (given frames, then imagined ones, not refined);
    NaN counts as the worst. text: as in `World.generate`; it also tells the policy what to propose. guess: [<= N, A], where
    to look at first instead of the middle of each channel's range, such as the rest of the last plan. possible: actions [N, A] -> the
    nearest ones that can be carried out, where the channels' ranges do not say it all; the policy proposes what it likes. progress is told
    (futures imagined, of how many). sampling: how futures are drawn; None: the world's own way with CERTAIN.
    settings: of SamplingConfig by name, in place of those.

    config.read_back and read_back_stop: the world's inverse dynamics read the actions back from each future; where
    that is far off it costs more, or counts only up to there (one latent at least), and so ends the plan.

    Raises BadActions, BadConfig, BadPrompt, BadClip, before any work, for what cannot be.
    """
    config = config or PlanConfig()
    if config.reads_back and world.parts.inverse_dynamics is None:
        key = "read_back" if config.read_back else "read_back_stop"
        got = f"{key}: got {getattr(config, key)}, expected none: world {world.name!r} has no inverse dynamics to read actions with"
        raise BadConfig(f"{got}; fix: leave it out, or train with inverse_dynamics=small")
    search = _Search(world, video, num_frames, past_actions, guess, possible, np.random.default_rng(seed), config)
    how = CERTAIN | settings if sampling is None else {"sampling": sampling, **settings}
    roll = partial(world.generate_batch, refine=False, **how)
    pool: list[_Candidate] = []
    best, costs, done = None, [], 0
    for number in range(config.rounds):
        prompts = [
            Prompt(video=video, text=text, actions=actions, num_frames=num_frames, seed=seed + i)
            for i, actions in enumerate(search.drawn(number == 0))
        ]
        here = []
        for first in range(0, len(prompts), config.batch):
            part = prompts[first : first + config.batch]
            for prompt, rollout in zip(part, roll(part), strict=True):
                value, latents, apart = _judged(world, rollout, len(video), cost, config)
                assert rollout.actions is not None, "every future has actions"
                found = _Candidate(
                    actions=rollout.actions[len(video) - 1 :],
                    cost=np.inf if np.isnan(value) else value,
                    proposed=prompt.actions is None,
                    latents=latents,
                    apart=apart,
                )
                here.append(found)
                if best is None or found.cost < best[0].cost:
                    best = found, rollout
            done += len(part)
            if progress is not None:
                progress(done, config.rounds * config.samples)
        costs.append(np.sort([one.cost for one in here]))
        pool = sorted(pool + here, key=lambda one: one.cost)[: config.elites]
        search.narrow([one.actions for one in pool])
    assert best is not None, "a plan imagines at least one future"
    found, rollout = best
    actions = found.actions[: found.latents * world.rate]
    return Plan(
        actions=actions,
        cost=found.cost,
        rollout=rollout,
        proposed=found.proposed,
        costs=tuple(costs),
        stopped=len(actions) < len(found.actions),
        apart=found.apart,
    )


def _judged(world: "World", rollout: Rollout, given: int, cost: Cost, config: PlanConfig) -> tuple[float, int, float | None]:
    """(cost, latents after the `given` frames that count, mean of how far what is read off those is off)."""
    latents = (len(rollout.frames) - given) // world.rate
    if not config.reads_back:
        return float(cost(rollout.frames)), latents, None
    from wfm_ar.rollout.action_reading import apart_by_latent  # which brings torch

    read = apart_by_latent(world, rollout.raw_frames, rollout.actions)
    assert read is not None, "of a world with a reader, whose futures have actions"
    apart = [np.nan if value is None else value for value in read[-latents:]]
    if config.read_back_stop is not None:
        latents = max(1, next((k for k, value in enumerate(apart) if value > config.read_back_stop), latents))
    mean = float(np.mean(apart[:latents]))
    return float(cost(rollout.frames[: given + latents * world.rate])) + config.read_back * mean, latents, mean


class _Search:
    """A normal distribution over plans: one action a latent, held for its frames, and what is drawn from it."""

    def __init__(
        self,
        world: "World",
        video: np.ndarray,
        num_frames: int,
        past_actions: np.ndarray | None,
        guess: np.ndarray | None,
        possible: Callable[[np.ndarray], np.ndarray] | None,
        rng: np.random.Generator,
        config: PlanConfig,
    ) -> None:
        if world.action_schema is None:
            raise BadActions("plan: this world takes no actions, expected one that does; fix: train it on data with actions")
        if len(video) >= num_frames:
            fix = f"num_frames={len(video) + world.rate}"
            raise BadPrompt(f"num_frames: got {num_frames}, expected more than the {len(video)} given frames; fix: {fix}")
        try:
            latent_frames(num_frames, world.rate)
        except BadClip as error:
            raise BadClip(f"num_frames: {error}") from None
        for name, given in (("past_actions", past_actions), ("guess", guess)):
            if given is not None:
                world.action_schema.validate(given, name)
        channels = world.action_schema.channels
        self.low, self.high = (np.array([getattr(channel, end) for channel in channels]) for end in ("low", "high"))
        self.whole = np.array([channel.discrete for channel in channels])
        self.rate, self.possible, self.rng, self.config = world.rate, possible, rng, config
        self.proposes = world.imagines_actions
        self.past = np.empty((0, len(channels)), np.float32) if past_actions is None else np.asarray(past_actions, np.float32)
        if len(self.past) != len(video) - 1:
            told = f"got {len(self.past)}, expected {len(video) - 1}, those between the {len(video)} given frames"
            raise BadActions(f"past_actions: {told}; fix: one a frame but the first")
        steps = max(1, (num_frames - len(video)) // world.rate)
        self.mean = np.tile((self.low + self.high) / 2, (steps, 1))
        self.spread = np.tile((self.high - self.low) / 4, (steps, 1))
        if guess is not None:
            known = _latent_means(np.asarray(guess)[: steps * world.rate], world.rate)
            self.mean[: len(known)] = known

    def drawn(self, first: bool) -> Iterator[np.ndarray | None]:
        """The candidates of a round, float32 [past + N, A]; None: let the policy propose. The first of them is the middle itself."""
        proposed = round(self.config.imagined * self.config.samples) if first and self.proposes else 0
        for i in range(self.config.samples):
            if i >= self.config.samples - proposed:
                yield None
                continue
            knots = self.mean + (self.spread * self._noise() if i else 0.0)
            knots = np.clip(np.where(self.whole, np.rint(knots), knots), self.low, self.high)
            knots = knots if self.possible is None else self.possible(knots)
            yield np.concatenate([self.past, np.repeat(knots, self.rate, axis=0).astype(np.float32)])

    def narrow(self, elites: list[np.ndarray]) -> None:
        """The next round is drawn around these."""
        knots = np.stack([_latent_means(actions, self.rate) for actions in elites])
        self.mean = knots.mean(0)
        self.spread = np.maximum(knots.std(0), LEAST_SPREAD * (self.high - self.low))

    def _noise(self) -> np.ndarray:
        """Standard normal [latents, A], alike from one latent to the next, as fast as in worlds of four frames a latent."""
        noise = self.rng.standard_normal(self.mean.shape)
        alike = self.config.smoothness ** (self.rate / 4)
        for t in range(1, len(noise)):
            noise[t] = alike * noise[t - 1] + np.sqrt(1 - alike**2) * noise[t]
        return noise


def _latent_means(actions: np.ndarray, rate: int) -> np.ndarray:
    """[N, A] -> [N / rate, A]: the mean action of each latent; what is left over in the end is left out."""
    whole = len(actions) // rate
    return actions[: whole * rate].reshape(whole, rate, -1).mean(1, dtype=np.float64)
