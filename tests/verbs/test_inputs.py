"""Whatever a command is told to overwrite, what it reads stays: by name, by link, in a data set, in a world."""

import os
from pathlib import Path

import numpy as np
import pytest

from wfm_ar.cli import main
from wfm_ar.data import write_episode, write_episodes
from wfm_ar.data.video import write_image, write_video
from wfm_ar.errors import OutputExists
from wfm_ar.verbs.inputs import refuse_inputs

FRAMES = np.zeros((3, 16, 16, 3), np.uint8)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A picture, a clip, a data set `set` with episode e, and a folder `world`."""
    monkeypatch.chdir(tmp_path)
    write_image("a.png", FRAMES[0])
    write_video("a.mp4", FRAMES, 10)
    write_episodes(tmp_path / "set", [write_episode(tmp_path / "set", id="e", frames_THWC=FRAMES, fps=10, split="val")])
    Path("world").mkdir()
    Path("world/world.json").write_text("{}")
    Path("set/preview.png").write_bytes(b"of nobody's")
    return tmp_path


@pytest.mark.parametrize(
    ("out", "key", "value", "how"),
    [
        ("a.png", "image", "a.png", "is the input"),
        ("./set/../a.png", "image", "a.png", "is the input"),
        ("hard.png", "image", "a.png", "is the input"),
        ("soft.png", "image", "a.png", "is the input"),
        ("set/videos/e.mp4", "data", "set", "belongs to the input"),
        ("soft.mp4", "data", "nothing:set", "belongs to the input"),
        ("set/episodes.jsonl", "path", "set", "belongs to the input"),
        ("set", "src", "set", "is the input"),
        ("set", "data", "set/episodes.jsonl", "holds the input"),
        (".", "src", "set", "holds the input"),
        ("world/world.json", "world", "world", "belongs to the input"),
    ],
)
def test_what_is_read_is_not_written(place, out, key, value, how):
    os.link("a.png", "hard.png")
    os.symlink("a.png", "soft.png")
    os.symlink("set/videos/e.mp4", "soft.mp4")
    with pytest.raises(OutputExists) as caught:
        refuse_inputs([Path("free.mp4"), Path(out)], {"text": None, key: value})
    assert f"{Path(out)}: {how} {key}={value} of this command, expected a f" in str(caught.value) and "; fix: choose" in str(caught.value)


@pytest.mark.parametrize(
    ("out", "inputs"),
    [
        ("b.png", {"image": "a.png"}),  # is not there
        ("a.png", {"video": "a.mp4", "world": "tabletop", "text": "push a.png left"}),
        ("set/preview.png", {"data": "set"}),  # lies there and is none of its files
        ("a.png", {"data": "a.txt"}),
    ],
)
def test_what_is_not_read_may_be_written(place, out, inputs):
    refuse_inputs([Path(out)], inputs)


@pytest.mark.parametrize(
    "command",
    [
        "generate image=a.png out=a.mp4",
        "generate video=a.mp4 out=a.mp4",
        "generate data=set out=set/videos/e.mp4",
        "generate data=set out=set save=lerobot",
        "generate batch=list.jsonl out=.",
        "plan image=b.png goal=a.png out=a.mp4",
        "tokenize video=a.mp4 out=soft.npy",
        "data convert src=set out=set",
        "data stats path=set out=set/episodes.jsonl",
        "train data=set init=runs/x/world run=runs/x",
        "cosmos convert src=world out=world",
    ],
)
def test_every_verb_leaves_its_inputs_alone(place, command, capsys):
    os.symlink("a.mp4", "soft.npy")
    write_image("b.png", FRAMES[0])
    Path("list.jsonl").write_text('{"id": "new", "text": "push"}\n{"id": "a", "image": "b.png"}\n{"id": "c", "video": "a.mp4"}\n')
    Path("runs/x").mkdir(parents=True)
    os.symlink(place / "world", "runs/x/world")
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}
    code = main([*command.split(), "overwrite=true"])
    out, err = capsys.readouterr()
    assert code == 2 and err.count("\n") == 1 and "overwrite=true never replaces an input" in err, err
    assert {path: path.read_bytes() for path in before} == before


def test_a_sheet_is_not_drawn_over_the_data(place, capsys):
    write_image("set/episodes.png", FRAMES[0])
    os.replace("set/videos/e.mp4", "set/videos/e.png")
    Path("set/episodes.jsonl").write_text(Path("set/episodes.jsonl").read_text().replace("e.mp4", "e.png"))
    assert main(["data", "check", "set", "sheet=set/videos/e.png"]) == 2
    assert "belongs to the input path=set" in capsys.readouterr().err
