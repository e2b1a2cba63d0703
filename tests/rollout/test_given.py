"""Pictures as callers have them: files, PIL images and arrays of any size give the prompt that the command line would make."""

import warnings

import numpy as np
import pytest
import tiny_world as tiny
from PIL import Image

from wfm_ar.data.video import read_video, resize_crop, video_info, write_image, write_video
from wfm_ar.errors import BadClip, BadPrompt, Note, OutputExists
from wfm_ar.rollout.given import prompt_of
from wfm_ar.rollout.world import Prompt, World

LARGE = np.random.default_rng(0).integers(0, 256, (3, 32, 64, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def world():
    return World(tiny.make_parts(), "tiny")  # 24x16 pixels, 10 frames a second, 2 a latent


def noted(given, world) -> tuple[Prompt, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        prompt = prompt_of(given, world)
    assert all(one.category is Note for one in caught)
    return prompt, [str(one.message) for one in caught]


def test_one_picture_in_every_shape_it_comes_in(world, tmp_path):
    picture = LARGE[0]
    write_image(tmp_path / "in.png", picture)
    expected = resize_crop(LARGE[:1], 16, 24)
    for given in (
        tmp_path / "in.png",
        str(tmp_path / "in.png"),
        picture,
        picture[None],
        Image.fromarray(picture),
        Image.fromarray(picture).convert("RGBA"),
    ):
        for key in ("image", "video"):
            prompt, notes = noted({key: given}, world)
            assert (prompt.video == expected).all() and prompt.num_frames == 49
            assert len(notes) == 1 and notes[0].startswith(f"{key}: pictures become 24x16 (crop=")
    prompt, _ = noted({"image": picture, "crop": "stretch"}, world)
    assert (prompt.video == resize_crop(LARGE[:1], 16, 24, "stretch")).all()
    own = tiny.make_video(3)
    prompt, notes = noted({"video": own, "seed": 4, "num_frames": 9}, world)
    assert (prompt.video == own).all() and (notes, prompt.seed, prompt.num_frames) == ([], 4, 9)
    as_it_is = Prompt(video=LARGE)
    assert prompt_of(as_it_is, world) is as_it_is


def test_a_video_file_is_taken_at_the_worlds_rate(world, tmp_path):
    clip = np.repeat(tiny.make_video(3), 3, axis=0)
    write_video(tmp_path / "in.mp4", clip, 30, lossless=True)
    prompt, notes = noted({"video": tmp_path / "in.mp4"}, world)
    assert (prompt.video == clip[::3]).all() and notes == [f"{tmp_path}/in.mp4: 30 frames a second re-timed to the world's 10"]


@pytest.mark.parametrize(
    ("given", "error", "match"),
    [
        ({"image": LARGE[0], "video": LARGE}, BadPrompt, "video and image: got both"),
        ({"image": LARGE}, BadPrompt, "image: got 3 pictures, expected one; fix: video= takes several"),
        ({"image": LARGE / 255}, BadClip, r"image: got float64 \[3, 32, 64, 3\], expected a file"),
        ({"image": "nothing.png"}, BadClip, "nothing.png: does not exist"),
        ({"video": "nothing.mp4"}, BadClip, "nothing.mp4: does not exist"),
        ({"vidoe": LARGE}, BadPrompt, 'vidoe: is no input .did you mean "video"'),
    ],
)
def test_what_is_no_picture_is_one_line(world, given, error, match):
    with pytest.raises(error, match="prompt 1: " + match):
        prompt_of(given, world, 1)


def test_generate_takes_them_and_rollouts_save_and_show_themselves(world, tmp_path):
    how = {"num_frames": 5, "refine": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        rollout = world.generate(image=LARGE[0], **how)
        batch = world.generate_batch([{"image": LARGE[0], "num_frames": 5}, Prompt(num_frames=5)], refine=False)
        exact = world.generate(resize_crop(LARGE[:1], 16, 24), **how)
    assert (rollout.tokens == exact.tokens).all() and (batch[0].tokens == exact.tokens).all() and batch[1].given_frames == 0
    rollout.save(tmp_path / "a.mp4")
    assert read_video(tmp_path / "a.mp4").shape == (5, 16, 24, 3)
    with pytest.raises(OutputExists):
        rollout.save(tmp_path / "a.mp4")
    rollout.save(str(tmp_path / "a.mp4"), overwrite=True)
    rollout.save(tmp_path / "a.gif")
    assert read_video(tmp_path / "a.gif").shape == rollout.frames.shape and video_info(tmp_path / "a.gif").fps == rollout.fps
    assert repr(rollout) == "<Rollout: 5 frames of 24x16, 10 a second, 1 given, 2 action channels, seed 0>"
    assert repr(world).startswith("<World 'tiny': 24x16 pixels, 10 frames/s, ") and repr(world).endswith(
        ", text, actions of 2 channels, on cpu>"
    )
    assert repr(Prompt(video=LARGE, text="push")) == "Prompt(text='push', video=uint8[3, 32, 64, 3], num_frames=49, seed=0, imagine=True)"


def test_a_stream_starts_from_the_same_things(world, tmp_path):
    write_image(tmp_path / "in.png", LARGE[0])
    how = {"keep_detail": False, "imagine": False, "seed": 3}
    ready = world.start(resize_crop(LARGE[:1], 16, 24), **how).step()
    for given in (tmp_path / "in.png", Image.fromarray(LARGE[0]), LARGE[0]):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            stream = world.start(image=given, **how)
        assert any("64x32" in str(one.message) for one in caught)
        np.testing.assert_array_equal(stream.step(), ready)
    with pytest.raises(BadPrompt, match="video and image: got both"):
        world.start(LARGE[:1], image=LARGE[0])
