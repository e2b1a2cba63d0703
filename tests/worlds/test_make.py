import importlib.util
import json
import os
import shutil

import numpy as np
import pytest

from wfm_ar.data import check_data, open_episodes
from wfm_ar.data.claims import claim
from wfm_ar.errors import BadConfig, MissingDependency, OutputExists
from wfm_ar.worlds import make
from wfm_ar.worlds.make import make_dataset

pytestmark = pytest.mark.skipif(importlib.util.find_spec("mujoco") is None, reason="needs mujoco, the extra [sim]")
SETTINGS = dict(world="tabletop", episodes=7, frames=9, seed=3, val_fraction=0.3, progress=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_dataset(out=tmp_path_factory.mktemp("made") / "set", workers=2, **SETTINGS)


def files_of(root) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_what_is_made_is_a_sound_set(made):
    assert check_data(made, decode=True) == []
    episodes = open_episodes(made)
    assert [e.id for e in episodes] == [f"{i:06d}" for i in range(7)]
    assert {e.fps for e in episodes} == {10.0} and {e.split for e in episodes} <= {"train", "val"}
    assert [c.name for c in episodes.schema.channels] == ["dx", "dy"] and episodes.schema.channels[0].high == 0.025
    for i in range(7):
        assert episodes.load_frames(i).shape == (9, 128, 128, 3)
        assert episodes.load_actions(i).shape == (8, 2)
        assert episodes.load_state(i)["peg_xy"].shape == (9, 2)
    expected = {"make.json", "actions.json", "episodes.jsonl"}
    expected |= {
        f"{folder}/{i:06d}.{suffix}" for folder, suffix in [("videos", "mp4"), ("actions", "npy"), ("states", "npz")] for i in range(7)
    }
    assert set(files_of(made)) == expected


def test_same_seed_same_bytes_whatever_the_workers(made, tmp_path):
    make_dataset(out=tmp_path / "one", workers=1, **SETTINGS)
    assert files_of(tmp_path / "one") == files_of(made)


def test_masks_are_kept_of_held_out_episodes_alone(made, tmp_path):
    """Everything else is as it would be without them; a compressed state reads as any other."""
    settings = SETTINGS | {"val_fraction": 0.6}
    out = make_dataset(out=tmp_path / "masked", workers=1, masks=True, **settings)
    assert json.loads((out / "make.json").read_text())["masks"] is True and check_data(out, decode=True) == []
    plain, masked, held_out = open_episodes(made), open_episodes(out), 0
    for i, episode in enumerate(masked):
        state, before = masked.load_state(i), plain.load_state(i)
        np.testing.assert_equal({name: state[name] for name in before}, before)
        if episode.split == "train":
            assert set(state) == set(before)
            continue
        held_out += 1
        count = len(state["names"])
        assert state["masks"].shape == (9, 128, 128) and state["masks"].dtype == np.uint8
        assert set(np.unique(state["masks"])) <= {0, 255, *range(1, count + 1)} and (state["masks"] == 255).sum() > 9 * 50
        assert state["visible"].shape == (9, count) and (state["visible"] <= 1).all() and state["visible"].mean() > 0.8
        assert out.joinpath(f"states/{i:06d}.npz").stat().st_size < 20_000
    assert 0 < held_out < 7
    with pytest.raises(OutputExists, match="masks=True not None"):
        make_dataset(out=out, **settings)


def test_an_interrupted_run_goes_on(made, tmp_path, monkeypatch):
    whole = files_of(made)
    out = tmp_path / "cut"
    shutil.copytree(made, out)
    lines = (out / "episodes.jsonl").read_bytes().splitlines(keepends=True)
    (out / "making.jsonl").write_bytes(lines[4] + lines[0] + lines[2] + lines[1] + lines[3][:40])  # killed while writing a line
    for name in ("episodes.jsonl", "actions.json", "videos/000003.mp4", "videos/000005.mp4", "states/000006.npz"):
        (out / name).unlink()
    (out / "videos/.000006.mp4.1234abcd.part").write_bytes(b"half")
    asked = []
    real = make._make
    monkeypatch.setattr(make, "_make", lambda todo, *rest: asked.extend(todo) or real(todo, *rest))
    make_dataset(out=out, workers=1, **SETTINGS)
    assert asked == [3, 5, 6]
    assert files_of(out) == whole


def test_a_run_killed_while_it_took_an_older_set_away_goes_on(made, tmp_path):
    """Its new settings are there, of the older set's files some still are, and none of them is taken for a made one."""
    out = tmp_path / "cut"
    shutil.copytree(made, out)
    (out / "episodes.jsonl").unlink()
    (out / "videos/000012.mp4").write_bytes(b"of the older set")
    (out / "videos/000001.mp4").write_bytes(b"of the older set")
    make_dataset(out=out, workers=1, **SETTINGS)
    assert files_of(out) == files_of(made)


def test_a_complete_set_is_left_alone(made):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    make_dataset(out=made, workers=2, **SETTINGS)
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*")} == before


def test_other_settings_are_refused_unless_asked(made, tmp_path):
    out = tmp_path / "set"
    shutil.copytree(made, out)
    (out / "notes.txt").write_text("mine")
    before = files_of(out)
    with pytest.raises(OutputExists, match="episodes=7 not 1, seed=3 not 4; fix: .*overwrite=true"):
        make_dataset(out=out, workers=1, **{**SETTINGS, "seed": 4, "episodes": 1})
    assert files_of(out) == before
    make_dataset(out=out, workers=1, overwrite=True, **{**SETTINGS, "seed": 4, "episodes": 1})
    assert len(open_episodes(out)) == 1 and (out / "notes.txt").read_text() == "mine"
    assert not (out / "videos/000001.mp4").exists()


def test_all_episodes_may_have_one_task(made, tmp_path):
    strayed = make_dataset(out=tmp_path / "stray", workers=1, task="stray", **{**SETTINGS, "episodes": 2})
    assert {episode.text for episode in open_episodes(strayed)} == {"move at random"}
    assert json.loads((strayed / "make.json").read_text())["task"] == "stray"
    assert "task" not in json.loads((made / "make.json").read_text())  # sets made before there were tasks are still known as such
    with pytest.raises(OutputExists, match="task='stray' not None"):
        make_dataset(out=strayed, workers=1, **{**SETTINGS, "episodes": 2})


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_never_touched(tmp_path, overwrite):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/holiday.mp4").write_bytes(b"precious")
    with pytest.raises(OutputExists, match="not made by this command"):
        make_dataset(out=tmp_path, workers=1, overwrite=overwrite, **SETTINGS)
    assert files_of(tmp_path) == {"videos/holiday.mp4": b"precious"}
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(OutputExists):
        make_dataset(out=file, workers=1, overwrite=overwrite, **SETTINGS)


def test_two_at_once_are_refused(made, tmp_path):
    out = tmp_path / "set"
    shutil.copytree(made, out)
    (out / "episodes.jsonl").unlink()
    with claim(out / "make.json"):
        with pytest.raises(OutputExists, match="another process"):
            make_dataset(out=out, workers=1, **SETTINGS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"world": "tabeltop"}, 'did you mean "tabletop"'),
        ({"episodes": 0}, "episodes: got 0"),
        ({"frames": 1}, "frames: got 1"),
        ({"frames": 9.0}, "frames: got 9.0"),
        ({"seed": -1}, "seed: got -1"),
        ({"val_fraction": 1.0}, "val_fraction: got 1.0"),
        ({"workers": 0}, "workers: got 0"),
        ({"task": "strey"}, 'did you mean "stray"'),
    ],
)
def test_impossible_settings(tmp_path, change, words):
    with pytest.raises(BadConfig, match=words):
        make_dataset(out=tmp_path / "a", **{"workers": 1, **SETTINGS, **change})
    assert not (tmp_path / "a").exists()


def test_the_state_matches_the_actions(made):
    episodes = open_episodes(made)
    for i in range(len(episodes)):
        moved = np.diff(episodes.load_state(i)["peg_xy"], axis=0)
        assert np.abs(moved - episodes.load_actions(i)).max() < 0.026
        assert np.median(np.abs(moved - episodes.load_actions(i))) < 0.001


def test_the_settings_are_written_down(made):
    assert json.loads((made / "make.json").read_text()) == {
        "format": 1, "world": "tabletop", "episodes": 7, "frames": 9, "seed": 3, "val_fraction": 0.3, "crf": 16
    }  # fmt: skip


def dies(job):
    os._exit(9)


@pytest.mark.slow
def test_no_opengl_is_told_once(tmp_path, monkeypatch):
    """The workers cannot start: one line from the parent, not new workers for ever."""
    monkeypatch.setenv("MUJOCO_GL", "nothing_of_the_kind")
    with pytest.raises(BadConfig, match="MUJOCO_GL=nothing_of_the_kind cannot draw .*; fix: install libegl1"):
        make_dataset(out=tmp_path / "set", workers=2, **SETTINGS)


@pytest.mark.slow
def test_a_worker_that_dies_is_told_once(tmp_path, monkeypatch):
    monkeypatch.setattr(make, "_make_episode", dies)
    with pytest.raises(BadConfig, match="a worker process died while it made an episode"):
        make_dataset(out=tmp_path / "set", workers=2, **SETTINGS)


def test_no_mujoco_is_told_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match="needs the package mujoco, .*; fix: pip install 'mujoco=="):
        make_dataset(out=tmp_path / "set", workers=2, **SETTINGS)
    assert not (tmp_path / "set").exists()
