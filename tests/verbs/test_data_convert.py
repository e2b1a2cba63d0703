"""`wfm data convert` from the command line: there and back without a bit lost, and one line for what cannot be."""

import json
from pathlib import Path

import numpy as np
import pytest

from wfm_ar.cli import main
from wfm_ar.data import open_episodes, write_episode, write_episodes
from wfm_ar.schema import ActionChannel, ActionSchema

pytest.importorskip("pyarrow", reason="needs pyarrow, the extra [lerobot]")
REAL = Path(__file__).parents[3] / "shared" / "real"
SCHEMA = ActionSchema(channels=(ActionChannel(name="dx", unit="m", low=-1, high=1, motion="delta"),), rate_hz=10)


@pytest.fixture
def own(tmp_path) -> Path:
    rng, records = np.random.default_rng(0), []
    for i, split in enumerate(("train", "train", "val")):
        frames = rng.integers(0, 256, (5 + i, 17, 16, 3), np.uint8)  # an odd side
        state = {"pose": rng.normal(size=(5 + i, 2)), "names": np.array(["cube"])}
        actions = rng.uniform(-1, 1, (4 + i, 1))
        record = dict(id=f"e{i}", fps=10, split=split, text=f"do {i}" if i else None)
        records.append(write_episode(tmp_path / "own", frames_THWC=frames, actions=actions, state=state, lossless=True, **record))
    write_episodes(tmp_path / "own", records, SCHEMA)
    return tmp_path / "own"


def same(a, b, states=True) -> None:
    """The two sets hold the same, bit for bit."""
    assert len(a) == len(b) and a.schema == b.schema
    for i in range(len(a)):
        assert (a[i].split, a[i].text, a[i].fps) == (b[i].split, b[i].text, b[i].fps)
        assert (a.load_frames(i) == b.load_frames(i)).all() and (a.load_actions(i) == b.load_actions(i)).all()
        if states:
            one, other = a.load_state(i) or {}, b.load_state(i) or {}
            assert all((one[name] == values).all() and one[name].dtype == values.dtype for name, values in other.items())
            assert {name for name in one if name != "names"} == set(other) - {"names"}


def test_to_lerobot_and_back_is_identical(own, tmp_path, capsys):
    assert main(["data", "convert", f"src={own}", f"out={tmp_path / 'there'}", "format=lerobot", "lossless=true"]) == 0
    out = capsys.readouterr().out
    assert "LeRobot v3.0, 3 episodes (2 train, 1 val), 2 with text, actions of 1 channels" in out and "state names left out" in out
    assert main(["data", "convert", f"src={tmp_path / 'there'}", f"out={tmp_path / 'back'}", "lossless=true"]) == 0
    first, there, back = (open_episodes(path) for path in (own, tmp_path / "there", tmp_path / "back"))
    assert [e.id for e in first] == [e.id for e in there] == [e.id for e in back] == ["e0", "e1", "e2"]
    same(first, there)
    same(there, back)
    assert main(["data", "check", str(tmp_path / "back"), "decode=true"]) == 0


def test_lossy_video_is_near_and_even(own, tmp_path, capsys):
    assert main(["data", "convert", f"src={own}", f"out={tmp_path / 'there'}", "format=lerobot", "crf=1"]) == 0
    assert "odd sides: the last row or column was cut off" in capsys.readouterr().out
    first, there = open_episodes(own), open_episodes(tmp_path / "there")
    assert there.load_frames(1).shape == (6, 16, 16, 3)
    luma = [frames @ np.array([0.299, 0.587, 0.114]) for frames in (first.load_frames(1)[:, :16], there.load_frames(1))]
    assert np.abs(luma[0] - luma[1]).mean() < 8  # colour of pure noise does not survive halving; brightness does


def test_videos_that_are_files_are_copied(own, tmp_path):
    assert main(["data", "convert", f"src={own}", f"out={tmp_path / 'copy'}"]) == 0
    assert (own / "videos/e1.mp4").read_bytes() == (tmp_path / "copy/videos/e1.mp4").read_bytes()
    same(open_episodes(own), open_episodes(tmp_path / "copy"))


def test_two_robots(own, tmp_path, capsys):
    other = tmp_path / "other"
    schema = ActionSchema(channels=(ActionChannel(name="grip", unit="", low=0, high=1),), rate_hz=10)
    frames = np.zeros((5, 16, 16, 3), np.uint8)
    write_episodes(other, [write_episode(other, id="e0", frames_THWC=frames, fps=10, split="train", actions=np.ones((4, 1)))], schema)
    assert main(["data", "convert", f"src={own}:{other}", f"out={tmp_path / 'both'}"]) == 0
    both = open_episodes(tmp_path / "both")
    assert both.schema.names == ("own", "other") and both.schema_of(3) == schema and len(both) == 4
    assert main(["data", "convert", f"src={own}:{other}", f"out={tmp_path / 'no'}", "format=lerobot"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "lerobot holds one robot's actions, got own, other" in err and not (tmp_path / "no").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["src=none", "out=x"], "none: is not a folder, expected a data set"),
        (["src={own}", "out={own}"], "is the input src="),
        (["src={own}", "out={own}", "overwrite=true"], "is the input src="),
        (["src={own}", "out=x", "format=zarr"], "zarr"),
        (["src={own}", "out=x", "crf=99"], "crf: got 99, expected 0 to 51"),
        (["src={own}", "out=x", "camera=top"], "has one view an episode"),
    ],
)
def test_one_line_a_mistake(own, tmp_path, monkeypatch, capsys, words, line):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "convert", *(word.format(own=own) for word in words)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and line in err and not (tmp_path / "x").exists()


@pytest.mark.skipif(not REAL.is_dir(), reason="real clips are not beside this checkout")
@pytest.mark.parametrize("name", ["lerobot_v3/fractal", "octo_bridge"])
def test_real_sets_go_through_lerobot_unchanged(name, tmp_path):
    assert main(["data", "convert", f"src={REAL / name}", f"out={tmp_path / 'x'}", "format=lerobot", "lossless=true"]) == 0
    first, there = open_episodes(REAL / name), open_episodes(tmp_path / "x")
    same(first, there)
    assert json.loads((tmp_path / "x/meta/wfm.json").read_text())["converted_from"] == first.title
    assert there.load_frames(len(there) - 1, 3, 2).tobytes() == first.load_frames(len(there) - 1, 3, 2).tobytes()


def test_state_that_differs_by_episode_is_left_out_and_said(tmp_path, capsys):
    records = []
    for i, blocks in enumerate((2, 3)):
        frames = np.full((4, 16, 16, 3), 50, np.uint8)
        state = {"blocks": np.zeros((4, blocks)), "gripper": np.zeros((4, 1)), "file": np.arange(4)} | ({"seen": np.ones(4)} if i else {})
        record = dict(id=f"e{i}", fps=10, split="train", actions=np.zeros((3, 1)), state=state)
        records.append(write_episode(tmp_path / "own", frames_THWC=frames, **record))
    write_episodes(tmp_path / "own", records, SCHEMA)
    assert main(["data", "convert", f"src={tmp_path / 'own'}", f"out={tmp_path / 'there'}", "format=lerobot"]) == 0
    out = capsys.readouterr().out
    assert "state blocks left out: its width or type differs by episode" in out and "state blocks, seen left out" in out
    assert set(open_episodes(tmp_path / "there").load_state(0)) == {"gripper", "file"}


def test_an_error_leaves_no_complaint_of_the_table_behind(own, tmp_path, capfd, monkeypatch):
    import pyarrow.parquet

    def full(self, *arguments, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pyarrow.parquet.ParquetWriter, "write_table", full)
    assert main(["data", "convert", f"src={own}", f"out={tmp_path / 'there'}", "format=lerobot"]) == 2
    err = capfd.readouterr().err
    assert "no space left on the disk" in err and "Exception ignored" not in err and err.count("\n") == 1
