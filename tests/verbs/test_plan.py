"""`wfm plan` on a tiny random world: which files, what is in them, and every kind of bad input."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_world as tiny

from wfm_ar.cli import main
from wfm_ar.data.episodes import write_episode, write_episodes
from wfm_ar.data.video import read_image, read_video, write_image
from wfm_ar.errors import NoSpace
from wfm_ar.rollout.world import load_world
from wfm_ar.rollout.world_folder import save_world
from wfm_ar.simulate.goal import GoalPicture
from wfm_ar.verbs import outputs

POOR = "wfm: note: keep_detail is off: the tokenizer's own copy of the given picture has"  # it is untrained
QUICK = ("samples=4", "rounds=2", "elites=2", "frames=5")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    frames, actions = tiny.make_video(9), tiny.make_actions(8)
    record = write_episode(folder / "set", id="e0", frames_THWC=frames, fps=10, split="val", text=tiny.TEXTS[0], actions=actions)
    write_episodes(folder / "set", [record], tiny.SCHEMA)
    save_world(folder / "world", tiny.make_parts())
    save_world(folder / "bare", tiny.make_parts(text=False, actions=False, refine=False))
    write_image(folder / "now.png", tiny.make_video(1)[0])
    write_image(folder / "wanted.png", tiny.make_video(1, seed=1)[0])
    write_image(folder / "large.png", np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8))
    return folder


@pytest.fixture
def wfm(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*overrides: str, world: str = "world") -> tuple[int, str, str]:
        code = main(["plan", f"world={place / world}", *QUICK, *overrides])
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_writes_the_plan_and_what_the_world_imagines_of_it(wfm, place, tmp_path):
    code, out, err = wfm(f"image={place / 'now.png'}", f"goal={place / 'wanted.png'}", f"text={tiny.TEXTS[0]}", "out=p/plan.mp4")
    assert code == 0 and err.count("\n") == 1 and err.startswith(POOR), err
    assert sorted(p.name for p in (tmp_path / "p").iterdir()) == [
        f"plan{end}" for end in (".actions.npy", ".json", ".mp4", ".png", ".tokens.npy")
    ]
    actions, about = np.load(tmp_path / "p/plan.actions.npy"), json.loads((tmp_path / "p/plan.json").read_text())
    assert actions.shape == (4, 2) and about["actions"] == "planned" and about["settings"]["samples"] == 4
    assert [len(costs) for costs in about["costs_of_rounds"]] == [4, 4]
    world, now = load_world(place / "world"), read_image(place / "now.png")
    clip = world.generate(video=now, actions=actions, text=tiny.TEXTS[0], num_frames=5, temperature=0.0, refine=False)
    assert np.array_equal(np.load(tmp_path / "p/plan.tokens.npy"), clip.tokens)  # wfm generate actions= shows the same
    goal = GoalPicture(picture=read_image(place / "wanted.png")[0], last=2)
    assert about["cost"] == pytest.approx(goal(clip.frames)) and about["cost_at_first"] == pytest.approx(goal(now))
    assert f"distance to the goal {about['cost_at_first']:.1f} grey levels (of 255) at first, {about['cost']:.1f} as imagined" in out
    assert about["cost_unit"].startswith("grey levels")
    assert (f", {1 - about['cost'] / about['cost_at_first']:.0%} nearer (" in out) == (about["cost"] < about["cost_at_first"])
    assert len(read_video(tmp_path / "p/plan.mp4")) == 5
    again = wfm(f"image={place / 'now.png'}", f"goal={place / 'wanted.png'}", f"text={tiny.TEXTS[0]}", "out=p/again.mp4")
    assert again[0] == 0 and np.array_equal(np.load(tmp_path / "p/again.actions.npy"), actions)


def test_an_episode_gives_start_text_and_goal(wfm, place, tmp_path):
    code, _, err = wfm(f"data={place / 'set'}", "out=e.mp4")
    about = json.loads((tmp_path / "e.json").read_text())
    assert code == 0 and err.count("\n") == 1 and err.startswith(POOR)
    assert about["prompt"]["episode"] == "e0" and about["prompt"]["text"] == tiny.TEXTS[0]
    there = read_video(next((place / "set" / "videos").iterdir()))
    assert about["cost_at_first"] == pytest.approx(GoalPicture(picture=there[4], last=2)(there[:1]))
    assert wfm(f"data={place / 'set'}", f"goal={place / 'large.png'}", "frames=7", "out=large.mp4")[0] == 0  # a goal is cropped and resized


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("goal={}/wanted.png",), ["samples: is not there", "fix: name a data set"]),
        (("image={}/now.png", "data={}/set", "goal={}/wanted.png"), ["data: got ", "expected one of them"]),
        (("image={}/now.png",), ["goal: got none beside image", "fix: goal=wanted.png"]),
        (("image={}/now.png", "goal={}/wanted.png", "episode=e0"), ["episode: got 'e0' but no data set"]),
        (("image={}/now.png", "goal={}/gone.png"), ["gone.png"]),
        (("image={}/now.png", "goal={}/set/actions.json"), ["actions.json"]),
        (("image={}/now.png", "goal={}/wanted.png", "frames=1"), ["frames: got 1, expected more than the 1 given frames"]),
        (("image={}/now.png", "goal={}/wanted.png", "frames=4"), ["wfm plan: frames: ", "expected 1 + 2*n"]),
        (("image={}/now.png", "goal={}/wanted.png", "action_guidance=2", "text_guidance=2"), ["wfm plan: text_guidance: got 2"]),
        (("data={}/set", "frames=11"), ["frames: got 11, but episode e0 has 9", "fix: frames=9"]),
        (("data={}/set", "episode=e9"), ["episode: got 'e9'"]),
        (("image={}/now.png", "goal={}/wanted.png", "elites=5"), ["elites: got 5, expected at most the 4 samples"]),
        (("image={}/now.png", "goal={}/wanted.png", "samples=none"), ["samples"]),
        (("image={}/now.png", "goal={}/wanted.png", "smoothness=nan"), ["smoothness is nan"]),
        (("image={}/now.png", "goal={}/wanted.png", "temperature=-1"), ["temperature: got -1"]),
        (("image={}/now.png", "goal={}/wanted.png", "embodiment=arm"), ["embodiment: got 'arm'"]),
        (("image={}/now.png", "goal={}/wanted.png", "out=plan.avi"), ["expected a name that ends in .mp4 or .gif"]),
        (("image={}/now.png", "goal={}/wanted.png", "sampels=4"), ["sampels", "samples"]),
    ],
)
def test_bad_input_is_one_line(wfm, place, tmp_path, overrides, words):
    given = [override.format(place) for override in overrides]
    code, _, err = wfm(*(given if any(word.startswith("out=") for word in given) else [*given, "out=plan.mp4"]))
    assert code == 2 and err.count("\n") == 1 and "Traceback" not in err, err
    assert all(word in err for word in words), err
    assert not list(tmp_path.iterdir())


def test_a_world_without_actions_and_outputs_that_are_there(wfm, place, tmp_path):
    given = f"image={place / 'now.png'}", f"goal={place / 'wanted.png'}", "out=plan.mp4"
    code, _, err = wfm(*given, world="bare")
    assert code == 2 and "this world takes no actions" in err
    (tmp_path / "plan.json").write_text("{}")
    code, _, err = wfm(*given)
    assert code == 2 and "plan.json" in err and (tmp_path / "plan.json").read_text() == "{}"
    assert wfm(*given, "overwrite=true")[0] == 0


def test_an_error_leaves_nothing_and_what_is_made_is_not_made_again(wfm, place, tmp_path, monkeypatch):
    given = f"image={place / 'now.png'}", f"goal={place / 'wanted.png'}", "out=more/plan.mp4"
    with monkeypatch.context() as broken:
        broken.setattr(outputs, "write_contact_sheet", full_disk)
        code, _, err = wfm(*given)
        assert code == 2 and "no space left" in err and not list(tmp_path.iterdir())
    assert wfm(*given)[0] == 0
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "more").iterdir()}
    assert before.keys() == {f"plan{suffix}" for suffix in (".mp4", *outputs.BESIDE)}
    code, out, _ = wfm(*given)
    assert code == 0 and "made already" in out
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "more").iterdir()} == before
    code, _, err = wfm(*given, "seed=1")
    assert code == 2 and "exists already" in err


def full_disk(*arguments, **named):
    raise NoSpace("sheet: no space left on the disk; fix: free some space")
