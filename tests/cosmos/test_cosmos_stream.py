"""Cosmos worlds driven a latent at a time, with and without the actions they were tuned on."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from wfm_ar.errors import BadActions
from wfm_ar.rollout.cosmos_roll import CosmosRows
from wfm_ar.rollout.cosmos_world import CosmosWorld
from wfm_ar.rollout.world import Prompt
from wfm_ar.schema import ActionChannel, ActionSchema
from wfm_ar.world_model.transformer import WorldModel

SCHEMA = ActionSchema(channels=tuple(ActionChannel(name=name, unit="m", low=-1.0, high=1.0, bins=5) for name in ("dx", "dy")), rate_hz=24.0)
FEW = {"top_k": 4}  # of thousands of nearly equal chances, a rounding picks another


def clip(frames: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, 64, 96, 3), dtype=np.uint8)


def moves(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def tuned(world) -> CosmosWorld:
    """The 4b world with ten more rows of its embedding, as fine-tuning on two channels of five bins leaves it."""
    given = world.modules["world_model"]
    config = replace(given.config, vocab=given.config.vocab + 10)
    model, state = WorldModel(config).eval(), given.state_dict()
    rows = torch.randn(10, config.dim, generator=torch.Generator().manual_seed(0)) * 2
    model.load_state_dict(state | {"embedding.weight": torch.cat((state["embedding.weight"], rows))})
    settings = replace(world.settings, world_model=config, action_schema=SCHEMA.to_json())
    return CosmosWorld(settings, world.modules | {"world_model": model}, name="tuned")


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
    bins = none._rows._bins
    assert [one is None for one in bins] == [True, True, False] and (bins[2] >= 0).all()
    ids, positions = none._rows._window(0)
    h, w = none.tokens.shape[1:]
    assert len(none.tokens) == 5 and len(ids) == len(positions) == 5 * h * w + 16 and int((ids >= 64000).sum()) == 16
    assert none._rows._cache.longest == len(ids)  # what was fed step by step is what a new prefill would feed


def test_forks_share_the_past_and_go_their_own_ways(tuned, monkeypatch):
    monkeypatch.setattr("wfm_ar.world_model.kv_cache.SHARED_FROM", 8)
    stream = tuned.start(clip(9), seed=3, **FEW)
    stream.step(moves(8))
    left, right, again, seeded = stream.fork(), stream.fork(), stream.fork(), stream.fork(seed=4)
    cache = left._rows._cache
    assert cache.prefix is not None and cache.prefix[0].data_ptr() == stream._rows._cache.k.data_ptr()
    a, b, c, d = (one.step(moves(8, seed)) for one, seed in ((left, 1), (right, 2), (again, 1), (seeded, 1)))
    assert np.array_equal(a, c) and not np.array_equal(left.tokens, right.tokens) and not np.array_equal(left.tokens, seeded.tokens)
    stream.step(moves(8, 1))  # the stream itself goes on behind what its forks read
    assert np.array_equal(stream.tokens, left.tokens)
    child = left.fork()
    assert np.array_equal(child.step(moves(8, 5)), left.step(moves(8, 5)))


def test_futures_of_one_past_with_actions_of_their_own(tuned, monkeypatch):
    monkeypatch.setattr("wfm_ar.world_model.kv_cache.SHARED_FROM", 8)
    prompts = [Prompt(video=clip(1), actions=moves(16, seed), num_frames=17, seed=seed) for seed in (1, 2, 3)]
    kinds = []
    prefill = CosmosRows._prefill
    monkeypatch.setattr(CosmosRows, "_prefill", lambda self: prefill(self) or kinds.append(self._cache.prefix is not None))
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
    with pytest.raises(BadActions, match="take no actions"):
        world.start(clip(1)).step(moves(8))
    with pytest.raises(BadActions, match="at least 8"):
        tuned.start(clip(9), actions=moves(7))
