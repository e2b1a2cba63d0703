"""Cosmos worlds driven a latent at a time, with and without the actions they were tuned on."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from wfm_ar.errors import BadActions
from wfm_ar.rollout.engine import Batch
from wfm_ar.rollout.world import Prompt, World
from wfm_ar.schema import ActionChannel, ActionSchema
from wfm_ar.simulate.environment import WorldEnv
from wfm_ar.simulate.planner import PlanConfig, plan
from wfm_ar.world_model.transformer import WorldModel

SCHEMA = ActionSchema(channels=tuple(ActionChannel(name=name, unit="m", low=-1.0, high=1.0, bins=5) for name in ("dx", "dy")), rate_hz=24.0)
FEW = {"top_k": 4}  # of thousands of nearly equal chances, a rounding picks another


def clip(frames: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, 64, 96, 3), dtype=np.uint8)


def moves(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def tuned(world) -> World:
    """The 4b world with ten more rows of its embedding, as fine-tuning on two channels of five bins leaves it."""
    given = world.modules["world_model"]
    config = replace(given.config, vocab=given.config.vocab + 10)
    model, state = WorldModel(config).eval(), given.state_dict()
    rows = torch.randn(10, config.dim, generator=torch.Generator().manual_seed(0)) * 2
    model.load_state_dict(state | {"embedding.weight": torch.cat((state["embedding.weight"], rows))})
    sequence = replace(world.parts.sequence, vocab=config.vocab, action_bins=(5, 5))
    return World(replace(world.parts, world_model=model, sequence=sequence, action_schema=SCHEMA), name="tuned")


def test_a_stream_follows_actions_like_a_clip_does(tuned):
    """Also beyond the trained five latents, where both roll on from the last two."""
    actions = moves(56)
    whole = tuned.generate(clip(9), actions=actions, num_frames=57, seed=3, refine=False, **FEW)
    stream = tuned.start(clip(9), actions=actions[:8], seed=3, **FEW)
    frames = [stream.given_frames, *(stream.step(actions[8 * i : 8 * i + 8]) for i in range(1, 7))]
    assert np.array_equal(stream.tokens, whole.tokens) and np.array_equal(np.concatenate(frames), whole.raw_frames)
    other = tuned.start(clip(9), actions=actions[:8], seed=3, **FEW)
    other.step(-actions[8:16])
    assert not np.array_equal(other.tokens, whole.tokens[:3])


def test_actions_may_begin_late_and_stop(tuned):
    none = tuned.start(clip(9), seed=3, **FEW)  # nobody knows the actions between the given frames
    plain = tuned.generate(clip(9), num_frames=17, seed=3, refine=False, **FEW)
    none.step()
    assert np.array_equal(none.tokens, plain.tokens)
    none.step(moves(8))
    none.step()
    (row,) = none._rows.rows
    assert [one is None for one in row.bins] == [True, True, True, False, True] and (row.bins[3] >= 0).all()
    ids, positions, *_ = none._rows.sequence.begun([], row.tokens[:], row.bins[:])
    h, w = none.tokens.shape[1:]
    assert len(none.tokens) == 5 and len(ids) == len(positions) == 5 * h * w + 16 and int((ids >= 64000).sum()) == 16
    assert none._rows._caches[0].longest == len(ids) - 1  # what was fed step by step is what a new prefill would feed
    assert none.actions.shape == (32, 2) and np.isnan(none.actions[:16]).all() and not np.isnan(none.actions[16:24]).any()


def test_forks_share_the_past_and_go_their_own_ways(tuned, monkeypatch):
    monkeypatch.setattr("wfm_ar.world_model.kv_cache.SHARED_FROM", 8)
    stream = tuned.start(clip(9), seed=3, **FEW)
    stream.step(moves(8))
    left, right, again, seeded = stream.fork(), stream.fork(), stream.fork(), stream.fork(seed=4)
    (cache,), (whole,) = left._rows._caches, stream._rows._caches
    assert cache.prefix is not None and cache.prefix[0].data_ptr() == whole.k.data_ptr()
    a, b, c, d = (one.step(moves(8, seed)) for one, seed in ((left, 1), (right, 2), (again, 1), (seeded, 1)))
    assert np.array_equal(a, c) and not np.array_equal(left.tokens, right.tokens) and not np.array_equal(left.tokens, seeded.tokens)
    stream.step(moves(8, 1))  # the stream itself goes on behind what its forks read
    assert np.array_equal(stream.tokens, left.tokens)
    child = left.fork()
    assert np.array_equal(child.step(moves(8, 5)), left.step(moves(8, 5)))


def test_futures_of_one_past_with_actions_of_their_own(tuned, monkeypatch):
    for module in ("wfm_ar.world_model.kv_cache", "wfm_ar.rollout.engine"):
        monkeypatch.setattr(f"{module}.SHARED_FROM", 8)
    prompts = [Prompt(video=clip(1), actions=moves(16, seed), num_frames=17, seed=seed) for seed in (1, 2, 3)]
    kinds = []
    use = Batch._use
    monkeypatch.setattr(Batch, "_use", lambda self, *caches: kinds.append(caches[0].prefix is not None) or use(self, *caches))
    rows = tuned.generate_batch(prompts, refine=False, **FEW)
    assert kinds == [True]
    for prompt, row in zip(prompts, rows, strict=True):
        alone = tuned.generate(prompt.video, actions=prompt.actions, num_frames=17, seed=prompt.seed, refine=False, **FEW)
        assert np.array_equal(alone.tokens, row.tokens)


def test_actions_that_cannot_be(tuned, world):
    stream = tuned.start(clip(1))
    for actions, words in ((moves(7), "got 7, expected 8"), (np.zeros((8, 3), np.float32), "2")):
        with pytest.raises(BadActions, match=words):
            stream.step(actions)
    assert len(stream.tokens) == 1  # nothing was made
    with pytest.raises(BadActions, match="takes no actions"):
        world.start(clip(1)).step(moves(8))
    with pytest.raises(BadActions, match="at least 8"):
        tuned.start(clip(9), actions=moves(7))


def test_clips_of_different_lengths_are_one_batch_and_leave_it_when_done(tuned, monkeypatch):
    """Given frames and lengths of their own, also beyond the trained length: each has the tokens it has alone."""
    prompts = [Prompt(video=clip(g), num_frames=n, seed=s, actions=moves(n - 1, s)) for g, n, s in ((1, 17, 1), (9, 25, 2), (9, 49, 3))]
    sizes, advance = [], Batch.advance
    monkeypatch.setattr(Batch, "advance", lambda self, *args: sizes.append(len(self.rows)) or advance(self, *args))
    together = tuned.generate_batch(prompts, refine=False, **FEW)
    assert sizes == [3, 3, 1, 1, 1]
    for prompt, row in zip(prompts, together, strict=True):
        alone = tuned.generate_batch([prompt], refine=False, **FEW)[0]
        assert len(row.frames) == prompt.num_frames and np.array_equal(alone.tokens, row.tokens)


def test_guidance_by_actions(tuned):
    """What the actions make likelier counts more; a guidance of 1 changes nothing, and rows guided together are those guided alone."""
    prompts = [Prompt(video=clip(1), actions=moves(16, seed), num_frames=17, seed=seed) for seed in (1, 2)]
    plain = tuned.generate_batch(prompts, refine=False, **FEW)
    same, more = (tuned.generate_batch(prompts, refine=False, action_guidance=g, **FEW) for g in (1.0, 3.0))
    for one, two, three, prompt in zip(plain, same, more, prompts, strict=True):
        assert np.array_equal(one.tokens, two.tokens) and not np.array_equal(one.tokens, three.tokens)
        alone = tuned.generate_batch([prompt], refine=False, action_guidance=3.0, **FEW)[0]
        assert np.array_equal(alone.tokens, three.tokens)


def test_the_guided_scores_are_those_of_two_passes(tuned):
    """uncond + guidance * (cond - uncond), from two forwards over whole rows."""
    sequence, model = tuned.sequence, tuned.parts.world_model
    tokens, actions = torch.from_numpy(tuned.encode(clip(1))), moves(8)
    rolled = tuned.generate(clip(1), actions=actions, num_frames=9, seed=3, refine=False, temperature=0.0, action_guidance=2.0)
    first = rolled.tokens[1].flatten()
    ids_rA = tuned.bins_of(actions)[0]
    scores = []
    with torch.inference_mode():
        for led_by in (ids_rA[None], None):
            ids, positions, *_ = sequence.pack(torch.cat((tokens, torch.from_numpy(rolled.tokens[1:]))), None, led_by)
            logits = model(ids[None], positions[None])[0, len(ids) - len(first) - 1 : -1]
            scores.append(logits)
    guided = scores[1] + 2.0 * (scores[0] - scores[1])
    assert np.array_equal(guided.argmax(-1).numpy(), first) and not np.array_equal(scores[0].argmax(-1).numpy(), first)


def test_a_plan_is_found_in_it(tuned):
    """The planner proposes nothing by a policy that the model does not have."""
    goal = tuned.generate(clip(1), actions=moves(16, 5), num_frames=17, seed=0, refine=False, temperature=0.0).frames[-1].astype(float)
    config = PlanConfig(samples=4, rounds=2, elites=2)
    found = plan(tuned, clip(1), lambda frames: float(np.abs(frames[-1] - goal).mean()), num_frames=17, config=config)
    assert found.actions.shape == (16, 2) and not found.proposed and len(found.costs) == 2
    assert found.cost == min(float(costs.min()) for costs in found.costs) and np.isfinite(found.cost)


def test_an_environment_of_it(tuned):
    env = WorldEnv(tuned, [clip(1)], lambda frames: (float(frames[-1].mean()), False), max_steps=2, top_k=4)
    first, _ = env.reset(seed=1)
    assert first.shape == (64, 96, 3) and env.action_space.shape == (8, 2)
    other = env.fork()
    one, two = env.step(moves(8, 1)), other.step(moves(8, 2))
    assert not np.array_equal(one[0], two[0]) and one[1] == pytest.approx(float(one[0].mean()))
    assert env.step(moves(8))[3] is True  # truncated
