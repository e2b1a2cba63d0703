"""Planning: on a world whose right answer is known, and on a real one of random weights."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import tiny_world as tiny

from wfm_ar.errors import BadActions, BadClip, BadConfig, BadPrompt
from wfm_ar.inverse_dynamics.network import InverseDynamics, InverseDynamicsConfig
from wfm_ar.rollout.action_reading import apart_by_latent
from wfm_ar.rollout.sampling import SamplingConfig
from wfm_ar.rollout.world import Prompt, Rollout, World
from wfm_ar.schema import ActionChannel, ActionSchema
from wfm_ar.simulate.goal import GoalPicture
from wfm_ar.simulate.planner import PlanConfig, plan

RATE = 4
START = np.zeros((1, 32, 32, 3), np.uint8)


def channel(name: str, **more) -> ActionChannel:
    return ActionChannel(**(dict(name=name, unit="px", low=-2.0, high=2.0) | more))


@dataclass
class DotWorld:
    """A point that goes where it is told; what it is at is written into the frames' first two values, 16 steps a pixel."""

    channels: tuple[ActionChannel, ...] = (channel("dx"), channel("dy"))
    policy: np.ndarray = field(default_factory=lambda: np.zeros(2))  # the action it proposes
    rate: int = RATE
    imagines_actions: bool = True
    prompts: list[Prompt] = field(default_factory=list)
    settings: list[dict] = field(default_factory=list)

    @property
    def action_schema(self) -> ActionSchema | None:
        return ActionSchema(channels=self.channels, rate_hz=10) if self.channels else None

    def generate_batch(self, prompts, **settings):
        self.prompts += prompts
        self.settings.append(settings)
        return [self._roll(prompt) for prompt in prompts]

    def _roll(self, prompt: Prompt) -> Rollout:
        steps = prompt.num_frames - 1
        actions = np.tile(self.policy, (steps, 1)) if prompt.actions is None else prompt.actions
        frames = np.repeat(START, prompt.num_frames, 0)
        place = 128 + 4 * np.cumsum(actions[:, :2], 0)
        frames[1:, 0, 0, :2] = np.clip(np.rint(place), 0, 255)
        kept = dict(tokens=np.zeros((1, 1, 1), np.int64), given_frames=1, clipped_actions=0, seed=prompt.seed, fps=10.0)
        return Rollout(frames=frames, raw_frames=frames, actions=actions.astype(np.float32), **kept)


def away_from(x: float, y: float):
    return lambda frames: float(np.abs((frames[-1, 0, 0, :2].astype(float) - 128) / 4 - (x, y)).sum())


def test_finds_the_way_to_a_place():
    world = DotWorld()
    found = plan(world, START, away_from(11, -7), num_frames=17, config=PlanConfig(samples=64, rounds=6, elites=8))
    assert found.cost <= 0.75  # of 18 at the start; a frame holds quarters of a step
    assert found.actions.shape == (16, 2) and found.actions.dtype == np.float32
    assert found.actions.sum(0) == pytest.approx([11, -7], abs=0.5)
    assert [len(costs) for costs in found.costs] == [64] * 6 and all((np.diff(costs) >= 0).all() for costs in found.costs)
    assert found.cost == min(costs[0] for costs in found.costs) == away_from(11, -7)(found.rollout.frames)
    assert np.median(found.costs[-1]) < np.median(found.costs[0]) / 3  # later rounds look where it is good


def test_one_seed_one_plan_whatever_the_batch():
    config = PlanConfig(samples=16, rounds=2, elites=4)
    first, again, other = (
        plan(DotWorld(), START, away_from(5, 5), num_frames=9, seed=seed, config=replace(config, batch=batch))
        for seed, batch in ((3, 16), (3, 5), (4, 16))
    )
    assert np.array_equal(first.actions, again.actions) and first.cost == again.cost
    assert not np.array_equal(first.actions, other.actions)


def test_what_is_drawn_can_be_done():
    kinds = (channel("dx"), channel("gear", low=0.0, high=3.0, discrete=True), channel("fixed", low=7.0, high=7.0, constant=True))
    world = DotWorld(channels=kinds)
    shorten = lambda actions: np.concatenate([np.clip(actions[:, :1], -0.5, 0.5), actions[:, 1:]], 1)  # noqa: E731
    plan(world, START, away_from(9, 9), num_frames=9, possible=shorten, config=PlanConfig(samples=40, rounds=2, imagined=0))
    actions = np.stack([prompt.actions for prompt in world.prompts])
    assert actions.shape == (80, 8, 3)
    assert (np.abs(actions[..., 0]) <= 0.5).all() and set(np.unique(actions[..., 1])) == {0, 1, 2, 3} and (actions[..., 2] == 7).all()
    held = actions.reshape(80, 2, RATE, 3)
    assert (held == held[:, :, :1]).all()  # one action a latent


def test_noise_is_alike_from_latent_to_latent():
    def correlation(smoothness: float) -> float:
        world = DotWorld(channels=(channel("dx", low=-100.0, high=100.0), channel("dy")))
        plan(world, START, away_from(0, 0), num_frames=9, config=PlanConfig(samples=600, rounds=1, imagined=0, smoothness=smoothness))
        first, second = np.stack([prompt.actions[[0, -1], 0] for prompt in world.prompts[1:]]).T
        return float(np.corrcoef(first, second)[0, 1])

    assert abs(correlation(0.0)) < 0.12 and abs(correlation(0.8) - 0.8) < 0.08


def test_the_policy_proposes_a_part_of_the_first_round():
    world = DotWorld(policy=np.array([1.0, -1.0]))
    config = PlanConfig(samples=8, rounds=2, elites=2, imagined=0.25)
    found = plan(world, START, away_from(16, -16), num_frames=17, text="go", config=config)
    asked = [prompt.actions is None for prompt in world.prompts]
    assert asked == [False] * 6 + [True] * 2 + [False] * 8
    assert found.proposed and found.cost == 0.0 and (found.actions == [1.0, -1.0]).all()
    assert len({prompt.seed for prompt in world.prompts[6:8]}) == 2  # else both would propose the same
    assert {prompt.text for prompt in world.prompts} == {"go"}
    assert world.prompts[8].actions.mean(0) != pytest.approx([0, 0], abs=0.2)  # the second round begins at what it proposed


def test_a_guess_is_looked_at_first():
    world = DotWorld()
    guess = np.array([[0.5, 0.25]] * RATE + [[-1.0, 0.0]] * RATE)
    found = plan(world, START, away_from(-2, 1), num_frames=13, guess=guess, config=PlanConfig(samples=1, rounds=1, elites=1, imagined=0))
    assert found.cost == 0.0 and np.array_equal(found.actions[: 2 * RATE], guess) and not found.actions[2 * RATE :].any()


def test_given_frames_keep_their_actions():
    world, past = DotWorld(), np.full((RATE, 2), 0.125, np.float32)
    found = plan(
        world, np.repeat(START, 1 + RATE, 0), away_from(3, 3), num_frames=13, past_actions=past, config=PlanConfig(samples=4, elites=2)
    )
    given = [prompt.actions for prompt in world.prompts if prompt.actions is not None]
    assert all(len(actions) == 12 and np.array_equal(actions[:RATE], past) for actions in given)
    assert found.actions.shape == (8, 2)


def test_no_number_is_the_worst_cost():
    costs = iter([np.nan, 4.0, np.nan, 3.0])
    found = plan(DotWorld(), START, lambda _: next(costs), num_frames=5, config=PlanConfig(samples=4, rounds=1, elites=2))
    assert found.cost == 3.0 and found.costs[0].tolist() == [3.0, 4.0, np.inf, np.inf]


def test_progress_and_settings_are_passed_on():
    world, told = DotWorld(), []
    config, sampling = PlanConfig(samples=5, rounds=2, elites=2, batch=3), dict(action_guidance=1.5, temperature=0.5)
    plan(world, START, away_from(1, 1), num_frames=5, config=config, progress=lambda *n: told.append(n), **sampling)
    assert told == [(3, 10), (5, 10), (8, 10), (10, 10)]
    assert all(s == dict(refine=False, temperature=0.5, action_temperature=1.0, action_guidance=1.5) for s in world.settings)
    world, whole = DotWorld(), SamplingConfig(temperature=0.5)
    plan(world, START, away_from(1, 1), num_frames=5, config=config, sampling=whole)
    assert world.settings[0] == dict(refine=False, sampling=whole)  # nothing of CERTAIN goes before it


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (dict(num_frames=1), BadPrompt, "num_frames: got 1, expected more than the 1 given frames; fix: num_frames=5"),
        (dict(num_frames=1 + 4 * 10**400), BadClip, "frames, expected at most 1048576; fix: a shorter one"),
        (dict(video=np.repeat(START, 5, 0)), BadActions, "past_actions: got 0, expected 4, those between the 5 given frames"),
        (dict(past_actions=np.zeros((1, 2))), BadActions, "past_actions: got 1, expected 0"),
        (dict(guess=np.zeros((4, 3))), BadActions, r"guess: got shape \[4, 3\], expected \[N, 2\]"),
        (dict(guess=np.full((4, 2), np.nan)), BadActions, "guess: got 8 NaN or infinite values"),
        (dict(world=DotWorld(channels=())), BadActions, "this world takes no actions"),
    ],
)
def test_bad_requests_are_one_line_before_any_work(change, error, words):
    world = change.pop("world", DotWorld())
    with pytest.raises(error, match=words):
        plan(world, change.pop("video", START), away_from(0, 0), **(dict(num_frames=9) | change))
    assert not world.prompts


@pytest.mark.parametrize(
    "change",
    [
        dict(samples=0),
        dict(rounds=0),
        dict(elites=33),
        dict(imagined=1.5),
        dict(smoothness=1.0),
        dict(batch=-1),
        dict(read_back=-1.0),
        dict(read_back_stop=0.0),
    ],
)
def test_settings_that_cannot_be(change):
    (name,) = change
    with pytest.raises(BadConfig, match=f"^{name}: got .*, expected .*; fix: "):
        PlanConfig(**change)


def test_a_real_world_imagines_the_plan_as_generate_does():
    world, video = World(tiny.make_parts(), name="tiny"), tiny.make_video(1)
    goal = GoalPicture(picture=tiny.make_video(1, seed=5)[0], last=2)
    found = plan(world, video, goal, num_frames=7, text=tiny.TEXTS[0], seed=2, config=PlanConfig(samples=6, rounds=2, elites=2, batch=4))
    again = world.generate(video=video, actions=found.actions, text=tiny.TEXTS[0], num_frames=7, temperature=0.0, refine=False)
    assert np.array_equal(again.tokens, found.rollout.tokens) and np.array_equal(again.frames, found.rollout.frames)
    assert found.cost == goal(again.frames) == min(costs[0] for costs in found.costs)
    assert found.actions.shape == (6, 2) and np.abs(found.actions).max() <= 0.025 + 1e-6


def reading_world() -> World:
    reader = InverseDynamics(InverseDynamicsConfig(actions=2, channels=(8,), heads=1, hidden=8)).eval()
    return World(replace(tiny.make_parts(), inverse_dynamics=reader), name="tiny")


def test_what_is_read_off_a_future_is_a_part_of_its_cost():
    world, video = reading_world(), tiny.make_video(3)
    goal = GoalPicture(picture=tiny.make_video(1, seed=5)[0], last=2)
    past = np.zeros((2, 2), np.float32)
    how = dict(num_frames=9, past_actions=past, seed=2)
    config = PlanConfig(samples=6, rounds=1, elites=2, read_back=7.0)
    found = plan(world, video, goal, config=config, **how)
    apart = apart_by_latent(world, found.rollout.raw_frames, found.rollout.actions)[1:]  # of the three imagined latents
    assert found.apart == pytest.approx(np.mean(apart)) and found.apart > 0
    assert found.cost == pytest.approx(goal(found.rollout.frames) + 7 * found.apart) and not found.stopped and len(found.actions) == 6
    plain = plan(world, video, goal, config=replace(config, read_back=0.0), **how)
    assert (
        plain.apart is None
        and plain.cost <= goal(found.rollout.frames)
        and found.apart <= np.mean(apart_by_latent(world, plain.rollout.raw_frames, plain.rollout.actions)[1:])
    )


@pytest.mark.parametrize(("stop", "latents"), [(0.9, 3), (0.45, 2), (0.25, 1), (0.05, 1)])
def test_a_plan_ends_where_its_pictures_no_longer_show_it(monkeypatch, stop, latents):
    monkeypatch.setattr("wfm_ar.rollout.action_reading.apart_by_latent", lambda world, frames, actions: [0.1, 0.3, 0.5])
    seen = []
    cost = lambda frames: seen.append(len(frames)) or 4.0  # noqa: E731
    config = PlanConfig(samples=2, rounds=2, elites=2, read_back=1.0, read_back_stop=stop)
    found = plan(reading_world(), tiny.make_video(1), cost, num_frames=7, config=config)
    assert set(seen) == {1 + 2 * latents} and len(found.actions) == 2 * latents and len(found.rollout.frames) == 7
    assert found.stopped == (latents < 3) and found.cost == pytest.approx(4 + np.mean([0.1, 0.3, 0.5][:latents]))


@pytest.mark.parametrize("change", [{"read_back": 1.0}, {"read_back_stop": 0.5}])
def test_a_world_that_reads_nothing_back_is_told_so(change):
    (key,) = change
    with pytest.raises(BadConfig, match=f"{key}: got .* world 'tiny' has no inverse dynamics"):
        plan(World(tiny.make_parts(), name="tiny"), tiny.make_video(1), away_from(0, 0), num_frames=5, config=PlanConfig(**change))
