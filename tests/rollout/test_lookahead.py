"""What a lookahead tells, and worlds that are told it: the same tokens in every way of asking."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_world as tiny
import torch

from wfm_ar import load_world
from wfm_ar.errors import BadCheckpoint, BadConfig
from wfm_ar.frame_predictor.network import FramePredictor, FramePredictorConfig
from wfm_ar.rollout.lookahead import CHANGED, Lookahead, expected_tokens
from wfm_ar.rollout.world import Prompt, World, WorldParts, save_world
from wfm_ar.world_model.sequence import NOT_TOLD, TOLD_SCALE, Sequence


@pytest.fixture(scope="module")
def parts() -> WorldParts:
    return tiny.make_parts(lookahead=True)


@pytest.fixture(scope="module")
def world(parts: WorldParts) -> World:
    return World(parts)


@pytest.fixture
def lookahead(parts: WorldParts) -> Lookahead:
    return parts.lookahead()


def tokens(count: int, parts: WorldParts, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, parts.sequence.video_vocab, (count, 2, 3), generator=torch.Generator().manual_seed(seed))


def bins(count: int, parts: WorldParts) -> torch.Tensor:
    return torch.stack([torch.randint(0, n, (count,)) for n in parts.sequence.action_bins], 1)


def test_what_is_told_are_the_codes_of_the_predicted_frame_and_how_much_it_changes(parts, lookahead):
    past, acting = tokens(3, parts), bins(2, parts)[None]
    told = lookahead(past[None], acting)
    frames = lookahead.decoded(past)
    coming = parts.frame_predictor(frames[None], lookahead.values(acting, frames))
    change = (coming - frames[-1]).abs().amax(1).unfold(1, 8, 8).unfold(2, 8, 8).amax((3, 4)).clamp_max(1)
    assert told.shape == (1, 2, 3, 4) and told.dtype == torch.int8
    assert ((told[..., 3].float() / TOLD_SCALE) ** 2 - change).abs().max() < 0.02
    quantizer = parts.video_tokenizer.quantizer
    codes = quantizer.codes_to_ids(quantizer(parts.video_tokenizer.latents(coming[:, :, None])))[:, 0]
    expected = expected_tokens(told, past[-1:], parts.sequence.levels)
    surely = (change - CHANGED).abs() > 0.02
    assert torch.equal(expected[surely & (change > CHANGED)], codes[surely & (change > CHANGED)]) and surely.any()


def test_what_stands_still_keeps_its_tokens(parts, lookahead):
    lookahead.predictor = FramePredictor(parts.frame_predictor.config)  # which repeats the last frame
    past = tokens(3, parts)
    told = lookahead(past[None], bins(2, parts)[None])
    assert (told[..., 3] == 0).all() and torch.equal(expected_tokens(told, past[-1:], parts.sequence.levels), past[-1:])


def test_rows_are_told_what_they_are_told_alone_and_along_a_clip(parts, lookahead):
    clip, acting = tokens(6, parts), bins(5, parts)
    along = lookahead.along(clip, acting)
    assert (along[0] == NOT_TOLD).all()
    none = torch.full((1, acting.shape[1]), -1)
    pasts = torch.stack([clip[[max(0, k - 2), max(0, k - 1), k]] for k in range(5)])
    led = torch.stack([torch.cat((acting[k - 1 : k] if k else none, acting[k : k + 1])) for k in range(5)])
    steps = [lookahead(pasts[k : k + 1], led[k : k + 1])[0] for k in range(5)]
    assert (along[1:].int() - torch.stack(steps).int()).abs().max() <= 1  # one pass over many frames rounds otherwise
    assert torch.equal(lookahead(pasts[1:], led[1:]), torch.stack(steps[1:]))


def test_nothing_is_told_of_latents_whose_actions_are_not_known(parts, lookahead):
    acting = bins(3, parts)
    acting[1] = -1
    along = lookahead.along(tokens(4, parts), acting)
    assert [(each == NOT_TOLD).all().item() for each in along] == [True, False, True, False]


def test_hints_hold_what_is_told_and_nothing_where_nothing_is(parts):
    sequence, told = Sequence(parts.sequence), torch.zeros(2, 3, 4, dtype=torch.int8)
    told[0, 0] = torch.tensor([50, 100, 0, 30])  # levels 4, 3, 3
    plain, hints = (sequence.video_hints(tokens(1, parts), [None], ahead) for ahead in (None, told))
    start = sequence.hint_width - (1 + 10 + 36)
    assert (plain[:, start:] == 0).all() and torch.equal(plain[:, :start], hints[:, :start])
    assert (hints[:, start] == 1).all()
    assert torch.allclose(hints[0, start + 1 : start + 11], torch.tensor([0, 0.5, 0.5, 0, 0, 0, 1, 1, 0, 0]), atol=1e-5)
    own, right = hints[0, start + 11 + 16 : start + 11 + 20], hints[1, start + 11 + 12 : start + 11 + 16]
    assert torch.allclose(own, torch.tensor([0.5, 1.0, 0.0, 0.3])) and torch.equal(
        own, right
    )  # the left neighbour of the place to the right


def test_the_same_tokens_alone_in_a_batch_through_a_stream_and_from_a_fork(world):
    actions = tiny.make_actions(9)
    prompts = [Prompt(video=tiny.make_video(k + 1, k), actions=tiny.make_actions(9, k), num_frames=10, seed=k) for k in range(3)]
    together = world.generate_batch(prompts, refine=False)
    for prompt, rollout in zip(prompts, together, strict=True):
        assert np.array_equal(world.generate_batch([prompt], refine=False)[0].tokens, rollout.tokens)
    stream = world.start(video=tiny.make_video(1), seed=0)
    for k in range(4):
        stream.step(actions[k : k + 1])
    fork = stream.fork()
    for each in (stream, fork):
        for k in range(4, 9):
            each.step(actions[k : k + 1])
    assert np.array_equal(stream.tokens, together[0].tokens) and np.array_equal(fork.tokens, stream.tokens)


def test_a_world_that_is_told_other_things_draws_other_tokens(parts, world):
    prompt = dict(video=tiny.make_video(1), actions=tiny.make_actions(9), num_frames=10, seed=3, refine=False)
    there = world.generate(**prompt)
    world = World(parts)
    world.lookahead.predictor = FramePredictor(parts.frame_predictor.config)
    assert not np.array_equal(world.generate(**prompt).tokens, there.tokens)


@pytest.mark.parametrize(
    "settings", [{"text_guidance": 2.0, "text": tiny.TEXTS[0]}, {"action_guidance": 2.0, "actions": tiny.make_actions(6)}]
)
def test_guided_and_imagined_rollouts_run(world, settings):
    made = world.generate(video=tiny.make_video(2), num_frames=7, seed=1, refine=False, **settings)
    assert made.tokens.shape == (7, 2, 3)


def test_a_world_folder_with_a_frame_predictor(parts, world, tmp_path: Path):
    folder = save_world(tmp_path / "world", parts, dtype=torch.float32)
    prompt = dict(video=tiny.make_video(1), actions=tiny.make_actions(4), num_frames=5, seed=1)
    loaded, made = load_world(folder).generate(**prompt), world.generate(**prompt)
    assert np.array_equal(loaded.tokens, made.tokens)
    # weights that lie elsewhere in memory may round a pixel the other way
    assert np.abs(loaded.frames.astype(int) - made.frames).max() <= 1
    path = folder / "world.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"frame_predictor": None}))
    with pytest.raises(BadCheckpoint, match="frame_predictor: got null, expected the settings of frame_predictor.safetensors"):
        load_world(folder)
    settings["frame_predictor"]["actions"] = 3
    path.write_text(json.dumps(settings))
    with pytest.raises(BadCheckpoint):
        load_world(folder)


def test_a_world_folder_from_before_it_came_is_read(tmp_path: Path):
    folder = save_world(tmp_path / "old", tiny.make_parts())
    settings = json.loads((folder / "world.json").read_text())
    assert settings.pop("frame_predictor") is None and settings["sequence"].pop("lookahead") is False
    (folder / "world.json").write_text(json.dumps(settings))
    assert load_world(folder).lookahead is None


def test_tokenizers_that_it_cannot_be_for(parts):
    old, predictor = tiny.make_parts().video_tokenizer, parts.frame_predictor
    with pytest.raises(BadConfig, match="got a tokenizer of 2 frames a latent.* expected one of single frames"):
        Lookahead(old, predictor)
    with pytest.raises(BadConfig, match="predictor patch: got 16 with 24x16 pixels, expected sides that are multiples of 32"):
        Lookahead(parts.video_tokenizer, FramePredictor(FramePredictorConfig(patch=16, channels=(4, 4), blocks=(0, 0, 0))))
