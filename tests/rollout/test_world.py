"""The public world: every kind of prompt, same tokens alone, in a batch and streamed, and every mistake in one line."""

import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import tiny_world as tiny
import torch

from wfm_ar.errors import BadActions, BadClip, BadConfig, BadPrompt
from wfm_ar.rollout.detail import TrainingCopies
from wfm_ar.rollout.frame_decoder import BackgroundDecoder
from wfm_ar.rollout.sampling import SamplingConfig
from wfm_ar.rollout.world import Prompt, World

VIDEO, ACTIONS, TEXT = tiny.make_video(5), tiny.make_actions(20), tiny.TEXTS[0]


@pytest.fixture(scope="module")
def world() -> World:
    return World(tiny.make_parts(), name="tiny")


@pytest.fixture(scope="module")
def bare() -> World:
    return World(tiny.make_parts(text=False, actions=False, refine=False), name="bare")


PROMPTS = [
    Prompt(num_frames=7, seed=1),
    Prompt(text=TEXT, num_frames=9, seed=2),
    Prompt(video=VIDEO[:1], num_frames=7, seed=3, imagine=False),
    Prompt(video=VIDEO[:1], text=TEXT, actions=ACTIONS, num_frames=13, seed=4),
    Prompt(video=VIDEO, actions=ACTIONS, num_frames=9, seed=5),
    Prompt(video=VIDEO, text=tiny.TEXTS[2], num_frames=9, seed=6),
    Prompt(text=tiny.TEXTS[1], actions=ACTIONS, num_frames=5, seed=7),
    Prompt(video=VIDEO, num_frames=5, seed=8),
]


def test_every_kind_of_prompt_gives_a_whole_clip(world: World) -> None:
    for prompt in PROMPTS:
        rollout = world.generate_batch([prompt], refine=False)[0]
        latents = 1 + (prompt.num_frames - 1) // 2
        assert rollout.frames.shape == (prompt.num_frames, 16, 24, 3) and rollout.frames.dtype == np.uint8
        assert rollout.tokens.shape == (latents, 2, 3) and rollout.tokens.dtype == np.int64
        assert 0 <= rollout.tokens.min() and rollout.tokens.max() < 36
        assert rollout.fps == 10.0 and rollout.seed == prompt.seed and not rollout.refined
        assert np.array_equal(rollout.raw_frames, world.decode(rollout.tokens))
        given = 0 if prompt.video is None else len(prompt.video)
        assert rollout.given_frames == given
        if given:
            assert np.array_equal(rollout.tokens[: 1 + (given - 1) // 2], world.encode(prompt.video))
            assert np.array_equal(rollout.frames[:given], prompt.video)
        plain = world.generate_batch([prompt], refine=False, keep_detail=False)[0]
        assert np.array_equal(plain.tokens, rollout.tokens) and np.array_equal(plain.frames, world.decode(rollout.tokens))
        assert plain.raw_frames is plain.frames and not plain.kept_detail


def test_raw_frames_hold_no_pixel_of_the_given_picture(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where every copy counts as good enough, so that what is shown keeps the given picture."""
    monkeypatch.setattr("wfm_ar.rollout.detail.POOR_COPY", 0.0)
    monkeypatch.setattr("wfm_ar.rollout.detail.STILL", 100.0)
    monkeypatch.setattr("wfm_ar.rollout.detail.MOVED", 200.0)
    monkeypatch.setattr("wfm_ar.rollout.detail.GONE", 300.0)
    for refine in (False, True):
        kept = world.generate_batch([PROMPTS[2]], refine=refine)[0]
        assert kept.kept_detail and kept.refined is refine
        later = kept.frames[kept.given_frames :]
        assert (np.abs(later.astype(int) - kept.frames[kept.given_frames - 1]) <= 1).all()  # all of it counts as still
        assert np.array_equal(kept.raw_frames, world.decode(kept.tokens)) and not np.array_equal(kept.raw_frames, kept.frames)


def test_nothing_is_kept_where_the_tokenizers_copy_is_poor(world: World) -> None:
    prompt = PROMPTS[2]
    with pytest.warns(
        UserWarning, match=r"keep_detail is off: the tokenizer's own copy of the given picture has [\d.]+ dB, expected 24.* unlike"
    ):
        rollout = world.generate_batch([prompt], refine=False)[0]
    assert not rollout.kept_detail
    assert np.array_equal(rollout.frames[: rollout.given_frames], prompt.video)
    assert np.array_equal(rollout.frames[rollout.given_frames :], rollout.raw_frames[rollout.given_frames :])
    with pytest.warns(UserWarning, match="keep_detail is off"):
        stream = world.start(video=prompt.video, seed=prompt.seed)
    stream.fork()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        world.generate_batch([prompt], refine=False, keep_detail=False)


@pytest.mark.parametrize(
    ("least", "enough", "words"),
    [
        (3.0, 24.0, r"^keep_detail is off: the tokenizer's own copies have [\d.]+ dB, of the training data too, expected 24 or more"),
        (30.0, 24.0, r"^the given picture is unlike the training data: .* has [\d.]+ dB, expected 29.0 or more.*; keep_detail is off"),
        (30.0, 0.0, r"^the given picture is unlike the training data: .* \(33.0 is usual\); fix: crop= where [^;]*$"),
        (3.0, 0.0, ""),
    ],
)
def test_a_picture_is_held_against_those_of_the_training_data(world: World, monkeypatch, least, enough, words) -> None:
    """An untrained tokenizer copies it with some 6 dB."""
    monkeypatch.setattr("wfm_ar.rollout.detail.POOR_COPY", enough)
    measured = World(replace(world.parts, copies=TrainingCopies(pictures=8, median_db=33.0, least_db=least)))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        measured.generate_batch([PROMPTS[2]], refine=False)
        measured.start(video=PROMPTS[2].video)
    assert len(told) == (2 if words else 0) and all(re.search(words, str(one.message)) for one in told)


def test_actions_are_given_back_or_imagined(world: World) -> None:
    given, imagined, absent, later = world.generate_batch([PROMPTS[3], PROMPTS[0], PROMPTS[2], PROMPTS[5]], refine=False)
    assert np.array_equal(given.actions, ACTIONS[:12]) and given.clipped_actions == 0
    assert imagined.actions.shape == (6, 2) and np.abs(imagined.actions).max() <= 0.0250001
    assert len(np.unique(imagined.actions)) > 2
    assert absent.actions is None
    assert np.isnan(later.actions[:4]).all() and np.isfinite(later.actions[4:]).all() and later.actions.shape == (8, 2)
    wild = world.generate(actions=np.full((4, 2), 9.0), num_frames=5, refine=False)
    assert wild.clipped_actions == 8 and (wild.actions == 9).all()


@pytest.mark.parametrize("settings", [{"temperature": 0.0}, {}, {"temperature": 1.5, "top_p": 1.0, "top_k": 7}], ids=str)
def test_same_tokens_alone_and_in_any_batch(world: World, settings: dict) -> None:
    alone = [world.generate_batch([prompt], refine=False, **settings)[0] for prompt in PROMPTS]
    for members in (range(8), (7, 3), (4, 5, 0), [3] * 3):
        for i, rollout in zip(members, world.generate_batch([PROMPTS[i] for i in members], refine=False, **settings), strict=True):
            assert np.array_equal(rollout.tokens, alone[i].tokens), i
            assert np.array_equal(rollout.frames, alone[i].frames), i
            assert (rollout.actions is None) == (alone[i].actions is None)
            assert rollout.actions is None or np.array_equal(rollout.actions, alone[i].actions, equal_nan=True)


def test_seeds_repeat_and_differ(world: World) -> None:
    a, b, c = (world.generate(video=VIDEO[:1], num_frames=9, seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(a.tokens, b.tokens) and np.array_equal(a.frames, b.frames) and np.array_equal(a.actions, b.actions)
    assert not np.array_equal(a.tokens, c.tokens)


def test_text_and_actions_change_what_comes(world: World) -> None:
    def tokens(**inputs) -> np.ndarray:  # of several seeds: a small change of the scores need not change one row's draws
        return np.stack([world.generate(video=VIDEO[:1], num_frames=9, refine=False, seed=s, **inputs).tokens for s in range(4)])

    plain = tokens(actions=ACTIONS)
    for other in (dict(text=TEXT, actions=ACTIONS), dict(actions=-ACTIONS), dict(imagine=False)):
        assert not np.array_equal(tokens(**other), plain)


@pytest.mark.parametrize("refine", [False, True])
@pytest.mark.parametrize("prompt", [PROMPTS[1], PROMPTS[3], PROMPTS[4]], ids=["text", "driven", "frames"])
def test_streamed_equals_whole(world: World, prompt: Prompt, refine: bool) -> None:
    whole = world.generate_batch([prompt], refine=refine)[0]
    given = 0 if prompt.video is None else len(prompt.video)
    stream = world.start(prompt.video, prompt.text, prompt.actions if given else None, seed=prompt.seed, refine=refine)
    frames, at = [stream.given_frames], given
    while at < prompt.num_frames:
        driven = prompt.actions is not None and at
        frames.append(stream.step(prompt.actions[at - 1 : at + 1] if driven else None))
        at += len(frames[-1])
    assert np.array_equal(stream.tokens, whole.tokens)
    assert np.array_equal(np.concatenate(frames), whole.frames)
    if prompt.actions is not None:
        assert np.abs(stream.actions - whole.actions).max() <= 0.05 / 8 / 2 + 1e-6
    else:
        assert np.array_equal(stream.actions, whole.actions)


def test_frames_decoded_latent_by_latent_equal_the_clip_decoded_whole(world: World) -> None:
    import torch

    tokens = world.generate(num_frames=13, refine=False).tokens
    with torch.inference_mode():
        whole = world.parts.video_tokenizer.decode(torch.from_numpy(tokens)[None])[0]
    whole = ((whole.clamp(-1, 1) + 1) * 127.5).permute(1, 2, 3, 0).numpy()
    assert np.abs(world.decode(tokens).astype(np.float32) - whole).max() <= 0.502


def test_a_stream_forks(world: World) -> None:
    stream = world.start(VIDEO[:1], TEXT, seed=9, refine=True)
    stream.step(ACTIONS[:2])
    fork, other = stream.fork(), stream.fork()
    ahead = [fork.step(ACTIONS[2:4]), fork.step(), fork.step(ACTIONS[4:6])]
    other.step(-ACTIONS[2:4])
    assert all(np.array_equal(stream.step(a), f) for a, f in zip((ACTIONS[2:4], None, ACTIONS[4:6]), ahead, strict=True))
    assert np.array_equal(stream.tokens, fork.tokens) and len(other.tokens) == 3
    assert not np.array_equal(other.tokens[2], stream.tokens[2])


def test_a_stream_goes_on_beyond_the_trained_length(world: World) -> None:
    stream = world.start(seed=1)
    assert stream.tokens.shape == (0, 2, 3) and stream.actions is None and stream.given_frames.shape == (0, 16, 24, 3)
    assert [len(stream.step()) for _ in range(12)] == [1] + [2] * 11
    assert np.array_equal(stream.tokens, world.generate(num_frames=23, seed=1, refine=False).tokens)


def test_refined_frames_differ_and_keep_the_tokens(world: World) -> None:
    raw, refined = (world.generate(text=TEXT, num_frames=7, seed=2, refine=refine) for refine in (False, True))
    assert np.array_equal(raw.tokens, refined.tokens) and np.array_equal(raw.raw_frames, refined.raw_frames)
    assert not np.array_equal(refined.frames, refined.raw_frames) and refined.frames.shape == raw.frames.shape


def test_frames_decoded_in_the_background_are_those_decoded_in_the_end(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    beside = []

    def seen(decoders, threads: int) -> BackgroundDecoder:
        beside.append(threads)
        return BackgroundDecoder(decoders, threads)

    monkeypatch.setattr("wfm_ar.rollout.world.BackgroundDecoder", seen)
    before, made = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            made += [world.generate_batch(PROMPTS[3:4])[0], world.generate_batch(PROMPTS[2:5])[1]]
    finally:
        torch.set_num_threads(before)
    assert beside == [0, 0, 2, 1]
    for other in made[1:]:
        assert np.array_equal(other.frames, made[0].frames) and np.array_equal(other.raw_frames, made[0].raw_frames)


def test_timings_and_progress(world: World) -> None:
    heard: list[tuple[int, int]] = []
    rollout = world.generate(video=VIDEO, num_frames=11, progress=lambda *count: heard.append(count))
    assert heard == [(1, 3), (2, 3), (3, 3)]
    timings = rollout.timings
    assert sum(timings[f"{name}_s"] for name in ("encode", "roll", "paint")) == pytest.approx(timings["total_s"], rel=0.05)
    assert 1 <= timings["passes_per_latent"] <= world.sequence.latent_size + world.sequence.action_size
    assert timings["ms_per_token"] > 0 and timings["frames_per_s"] > 0 and timings["decode_s"] > 0 and timings["refine_s"] > 0
    nothing = world.generate(video=VIDEO, num_frames=5, refine=False, progress=lambda *count: heard.append(count))
    assert len(heard) == 3 and "ms_per_token" not in nothing.timings and len(nothing.frames) == 5


def test_a_world_without_text_actions_and_decoder(bare: World) -> None:
    assert bare.generate(num_frames=5, refine=False).actions is None
    assert bare.start(VIDEO).step().shape == (2, 16, 24, 3)
    for error, match, prompt in (
        (BadPrompt, "trained without texts", dict(text="go")),
        (BadActions, "takes no actions", dict(actions=ACTIONS)),
        (BadConfig, "'bare' has no diffusion decoder", dict(refine=True)),
    ):
        with pytest.raises(error, match=match):
            bare.generate(num_frames=5, **{"refine": False} | prompt)
    with pytest.raises(BadActions, match="takes no actions"):
        bare.start().step(ACTIONS[:2])
    with pytest.raises(BadActions, match="takes no actions"):
        bare.check_schema(tiny.SCHEMA)


BAD = [
    (BadClip, r"num_frames: clip: got 6 frames, expected 1 \+ 2\*n; fix: use 5 or 7", dict(num_frames=6)),
    (BadClip, "num_frames: clip: got 0 frames", dict(num_frames=0)),
    (BadPrompt, "num_frames: got 5.0", dict(num_frames=5.0)),
    (BadClip, "frames, expected at most 1048576; fix: a shorter one", dict(num_frames=1 + 2 * 10**400)),
    (BadClip, "video: clip: got 4 frames.* use 3 or 5", dict(video=VIDEO[:4])),
    (BadClip, "video: clip: got 0 frames", dict(video=VIDEO[:0])),
    (BadClip, r"video: got uint8 \[16, 24\], expected a file, a PIL image, or uint8 ", dict(video=VIDEO[0, ..., 0])),
    (BadClip, r"video: got float64", dict(video=VIDEO / 255)),
    (BadPrompt, "num_frames: got 3, expected at least the 5 given frames", dict(video=VIDEO, num_frames=3)),
    (BadPrompt, r"text: got \d+ tokens .*expected at most 12", dict(text="a very long tale about a cube")),
    (BadPrompt, "text: got a int", dict(text=3)),
    (BadPrompt, "seed: got -1", dict(seed=-1)),
    (BadConfig, "temperature: got -1", dict(temperature=-1)),
    (BadConfig, "top_p: got 0", dict(top_p=0)),
    (BadConfig, "top_k: got 0", dict(top_k=0)),
    (BadConfig, "steps", dict(refine_steps=9, refine=True)),
    (BadActions, r"got shape \[20, 3\], expected \[N, 2\]", dict(actions=np.zeros((20, 3)))),
    (BadActions, "1 NaN or infinite values, the first in row 1", dict(actions=np.array([[0, 0], [0, np.nan]] * 1 + [[0, 0]] * 9))),
    (BadActions, "got 5, expected at least 8 for 9 frames; fix: more actions, or num_frames=5", dict(actions=ACTIONS[:5])),
    (BadActions, "expected numbers", dict(actions=np.full((8, 2), "x"))),
]


@pytest.mark.parametrize("error,match,prompt", BAD, ids=[str(i) for i in range(len(BAD))])
def test_bad_prompts_are_one_clear_line(world: World, error: type, match: str, prompt: dict) -> None:
    with pytest.raises(error, match=match) as caught:
        world.generate(**{"num_frames": 9, "refine": False} | prompt)
    assert "\n" not in str(caught.value)


def test_a_bad_prompt_of_a_batch_is_named(world: World) -> None:
    with pytest.raises(BadActions, match="prompt 1: actions: got 5, expected at least 8"):
        world.generate_batch([PROMPTS[0], Prompt(actions=ACTIONS[:5], num_frames=9), PROMPTS[1]])


def test_bad_steps_and_schemas_and_tokens(world: World) -> None:
    stream = world.start(VIDEO[:1])
    for actions, match in ((ACTIONS[:1], "got 1, expected 2, one a frame"), (ACTIONS[:2] * np.nan, "NaN"), (np.zeros((2, 3)), r"\[2, 3\]")):
        with pytest.raises(BadActions, match=match):
            stream.step(actions)
    assert stream.step(ACTIONS[:2]).shape == (2, 16, 24, 3)  # none of them has moved the stream
    with pytest.raises(BadActions, match="got 2, expected none before the first frame"):
        world.start().step(ACTIONS[:2])
    world.check_schema(tiny.SCHEMA)
    other = replace(tiny.SCHEMA, channels=(tiny.SCHEMA.channels[0], replace(tiny.SCHEMA.channels[1], high=0.05)))
    with pytest.raises(BadActions, match=r"a.json: the schema differs from the world's \(channel 1 \(dy\) high 0.025 != 0.05\)"):
        world.check_schema(other, "a.json")
    for tokens, match in ((np.zeros((2, 2)), "shape"), (np.full((1, 2, 3), 36), "from 36 to 36, expected whole numbers from 0 to 35")):
        with pytest.raises(BadPrompt, match=match):
            world.decode(tokens)


def test_sampling_as_one_object_draws_what_its_settings_by_name_draw(world: World) -> None:
    how = {"temperature": 1.3, "top_p": 1.0, "top_k": 7}
    prompt = {"text": TEXT, "num_frames": 7, "seed": 2, "refine": False}
    by_name = world.generate(**prompt, **how)
    assert np.array_equal(world.generate(**prompt, sampling=SamplingConfig(**how)).tokens, by_name.tokens)
    assert not np.array_equal(world.generate(**prompt, sampling=SamplingConfig(temperature=0.0)).tokens, by_name.tokens)
    # a setting by name goes before the object's own, and None leaves that as it is
    mixed = world.generate(**prompt, sampling=SamplingConfig(**how | {"top_k": 2}), top_k=7, top_p=None)
    assert np.array_equal(mixed.tokens, by_name.tokens)
    batch = world.generate_batch([Prompt(text=TEXT, num_frames=7, seed=2)], refine=False, sampling=SamplingConfig(**how))
    assert np.array_equal(batch[0].tokens, by_name.tokens)
    stream = world.start(text=TEXT, seed=2, sampling=SamplingConfig(**how))
    for _ in range(4):
        stream.step()
    assert np.array_equal(stream.tokens, by_name.tokens)


def test_sampling_is_a_sampling_config(world: World) -> None:
    with pytest.raises(BadConfig, match="sampling: got dict, expected a SamplingConfig; fix: "):
        world.generate(num_frames=5, sampling={"top_p": 0.5})
