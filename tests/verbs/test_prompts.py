"""Prompts come at the world's rate and the right way up, or one line says why not; each robot has a rate of its own."""

from dataclasses import replace

import numpy as np
import pytest
import tiny_world as tiny

from wfm_ar.cli import main
from wfm_ar.data import open_episodes, video_info, write_episode, write_episodes, write_image, write_video
from wfm_ar.errors import BadClip, BadConfig, BadPrompt
from wfm_ar.rollout.world import World
from wfm_ar.rollout.world_folder import save_world
from wfm_ar.schema import ActionSchema, MixedSchema
from wfm_ar.verbs.prompts import Request, read_prompt, read_requests

FAST = replace(tiny.SCHEMA, rate_hz=30.0)


def frames(count):
    """Frame t is of brightness 5 * t, and black below the middle."""
    out = np.zeros((count, 16, 24, 3), np.uint8)
    out[:, :8] = 5 * np.arange(count)[:, None, None, None]
    return out


def brightness(video):
    return (video[:, 0, 0, 0] // 5).tolist()


@pytest.fixture(scope="module")
def world():
    return World(tiny.make_parts(), "tiny")  # 10 frames a second, 2 a latent


@pytest.fixture
def clip(tmp_path):
    write_video(tmp_path / "in.mp4", frames(21), 30, lossless=True)
    return tmp_path / "in.mp4"


def test_a_faster_clip_is_taken_at_the_worlds_rate(world, clip):
    _, prompt, told = read_prompt(Request(video=clip, frames=9), world, True)
    assert brightness(prompt.video) == [0, 3, 6, 9, 12, 15, 18] and told == "30 frames a second re-timed to the world's 10"
    _, prompt, _ = read_prompt(Request(video=clip, frames=9, prompt_frames=3), world, True)
    assert brightness(prompt.video) == [0, 3, 6]
    with pytest.raises(BadPrompt, match="prompt_frames: got 8, but .*in.mp4 has 7 frames at the world's 10 a second"):
        read_prompt(Request(video=clip, frames=11, prompt_frames=8), world, True)
    with pytest.raises(BadPrompt, match="gives 7 frames of the 7 asked for"):
        read_prompt(Request(video=clip, frames=7), world, True)


def test_a_rate_that_the_user_knows_better(world, clip):
    _, prompt, told = read_prompt(Request(video=clip, frames=23, prompt_fps=10), world, True)
    assert brightness(prompt.video) == list(range(21)) and told == ""  # frame by frame, as asked
    _, prompt, told = read_prompt(Request(video=clip, frames=23, prompt_fps=20), world, True)
    assert brightness(prompt.video) == list(range(0, 21, 2)) and "20 frames a second re-timed" in told
    for wrong in (0, -1, float("inf")):
        with pytest.raises(BadConfig, match="prompt_fps: got .* expected a number above 0"):
            Request(video=clip, prompt_fps=wrong)
    with pytest.raises(BadConfig, match="prompt_fps: got 10 but no video"):
        Request(text="go", prompt_fps=10)


@pytest.mark.parametrize(("rate", "taken"), [(9.97, True), (10.05, True), (5, False)])
def test_a_slower_clip_is_refused_and_one_rate_is_one_rate(world, tmp_path, rate, taken):
    write_video(tmp_path / "in.mp4", frames(5), rate, lossless=True)
    request = Request(video=tmp_path / "in.mp4", frames=9)
    if taken:
        _, prompt, told = read_prompt(request, world, True)
        assert brightness(prompt.video) == [0, 1, 2, 3, 4] and told == ""
        return
    with pytest.raises(
        BadPrompt, match="in.mp4: got 5 frames a second, expected 10 or more, .*; fix: prompt_fps=10 takes it frame by frame"
    ):
        read_prompt(request, world, True)
    assert brightness(read_prompt(replace(request, prompt_frames=1), world, True)[1].video) == [0]  # a picture has no rate
    _, prompt, _ = read_prompt(replace(request, prompt_fps=10), world, True)
    assert brightness(prompt.video) == [0, 1, 2, 3, 4]


def test_a_clip_that_does_not_say_its_rate(world, clip, monkeypatch):
    monkeypatch.setattr("wfm_ar.rollout.pictures.video_info", lambda path: replace(video_info(path), fps=0.0))
    with pytest.raises(BadClip, match="does not say how many frames a second it has, expected 10"):
        read_prompt(Request(video=clip, frames=9), world, True)


def test_pictures_are_turned_whatever_they_come_from(world, clip, tmp_path):
    write_image(tmp_path / "in.png", frames(9)[8])
    for source in ({"video": clip, "prompt_frames": 3}, {"image": tmp_path / "in.png"}, {"data": tmp_path, "prompt_frames": 3}):
        plain, turned = (read_prompt(Request(frames=9, flip=flip, **source), world, True)[1].video for flip in (None, "vertical"))
        assert (turned == plain[:, ::-1]).all() and (turned != plain).any()
    with pytest.raises(BadConfig, match="flip: got vertical but no picture to turn"):
        Request(text="go", flip="vertical")
    with pytest.raises(BadConfig, match="flip: got 'upside'"):
        Request(video=clip, flip="upside")


def one_set(root, schema, rate):
    actions = np.linspace(-0.02, 0.02, 40, dtype=np.float32).reshape(20, 2)
    records = [write_episode(root, id="e", frames_THWC=frames(21), fps=rate, split="val", actions=actions, lossless=True)]
    write_episodes(root, records, schema)
    return root


def test_an_episode_of_a_higher_rate_drives_at_the_worlds(tmp_path):
    """Its actions are joined as training with fps= joins them; a lower rate is refused."""
    moving = ActionSchema(channels=tuple(replace(channel, motion="delta") for channel in FAST.channels), rate_hz=30)
    one_set(tmp_path / "fast", moving, 30)
    thin = open_episodes(tmp_path / "fast", fps=10)
    world = World(tiny.make_parts(schema=thin.schema), "thin")
    _, prompt, told = read_prompt(Request(data=tmp_path / "fast", frames=7, prompt_frames=3), world, True)
    assert brightness(prompt.video) == [0, 3, 6] and "30 frames a second re-timed to the world's 10" in told
    assert (prompt.actions == thin.load_actions(0)).all()
    one_set(tmp_path / "slow", replace(thin.schema, rate_hz=5.0), 5)
    with pytest.raises(BadPrompt, match="episode e of .*slow has 5 frames a second, expected 10 or more"):
        read_prompt(Request(data=tmp_path / "slow", frames=7), world, True)
    read_prompt(Request(data=tmp_path / "slow", frames=7, drive=False), world, True)  # one picture has no rate


@pytest.mark.slow
def test_each_robot_keeps_its_rate_in_what_is_rolled_out(tmp_path, capsys):
    both = MixedSchema(embodiments=(("arm", tiny.SCHEMA), ("hand", FAST)))
    parts = tiny.make_parts(schema=both, text=False)
    assert [World(parts, "both", robot).fps for robot in ("arm", "hand", None)] == [10, 30, 10]
    save_world(tmp_path / "both", parts)
    for robot, rate in (("arm", 10), ("hand", 30)):
        words = [f"world={tmp_path / 'both'}", f"embodiment={robot}", "frames=5", "refine=false"]
        assert main(["generate", *words, f"out={tmp_path / robot}.mp4"]) == 0
        assert video_info(tmp_path / f"{robot}.mp4").fps == rate
        pytest.importorskip("pyarrow", reason="needs pyarrow, the extra [lerobot]")
        assert main(["generate", *words, "save=lerobot", f"out={tmp_path / robot}_set"]) == 0
        made = open_episodes(tmp_path / f"{robot}_set")
        assert made[0].fps == rate == made.schema.rate_hz and made.load_frames(0).shape[0] == 5


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_batch_file_saved_on_windows(tmp_path, encoding):
    (tmp_path / "prompts.jsonl").write_bytes('{"text": "schieb den Würfel", "frames": 5}\r\n{"text": "b"}\r\n'.encode(encoding))
    requests = [request for request, _ in read_requests(tmp_path / "prompts.jsonl", {"frames": 9})]
    assert [(one.text, one.frames) for one in requests] == [("schieb den Würfel", 5), ("b", 9)]
