"""`wfm train`: the size and the crop of the pictures, said and kept through a run. Slow: a run of all three stages."""

import numpy as np
import pytest

from wfm_ar.cli import main
from wfm_ar.data.video import read_video, write_video
from wfm_ar.rollout.world import load_world


@pytest.fixture
def wfm(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        code = main(list(arguments))
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def clips(tmp_path):
    for i in range(3):
        frames = np.random.default_rng(i).integers(0, 256, (9, 60, 100, 3), dtype=np.uint8)
        write_video(tmp_path / f"clips/{i}.mp4", frames, 10)
    return tmp_path / "clips"


@pytest.fixture(autouse=True)
def folder(tmp_path):
    (tmp_path / "clips").mkdir()


SMALL = ("experiment=smoke", "data=clips", "name=x", "steps=2", "val_every=2", "sequence.max_latents=2")


def test_a_world_that_is_not_square_from_an_area_of_the_pictures(wfm, clips):
    code, out, err = wfm("train", *SMALL, "height=32", "width=48", "crop=10,5,90,50", "stages.video_tokenizer.training.crop=32")
    assert code == 0, err
    assert "clips: pictures become 48x32 (crop=10,5,90,50); 100x60: 38% of the picture is cut off" in out
    assert "runs/x/frames: frames are decoded once and kept here, 0.1 MB for all of them, 0.0 MB are there" in out
    world = load_world("runs/x/world")
    assert (world.width, world.height, world.crop, world.parts.sequence.grid_w, world.parts.sequence.grid_h) == (48, 32, "10,5,90,50", 3, 2)
    code, out, err = wfm("generate", "world=runs/x/world", "data=clips", "frames=5", "out=a.mp4")
    assert code == 0 and "pictures become 48x32 (crop=10,5,90,50); 100x60: 38%" in out
    assert read_video("a.mp4").shape == (5, 32, 48, 3)
    code, out, err = wfm("generate", "world=runs/x/world", "data=clips", "frames=5", "crop=fit", "out=b.mp4")
    assert code == 0 and "pictures become 48x32 (crop=fit); 100x60: 9% of 48x32 is black" in out

    frames = sorted(path.stat().st_mtime_ns for path in (clips.parent / "runs/x/frames").rglob("*.*"))
    code, out, err = wfm("train", *SMALL, "stage=world_model", "steps=3")  # goes on with the run's own sizes, and its frames
    assert code == 0 and "pictures become 48x32 (crop=10,5,90,50)" in out
    assert sorted(path.stat().st_mtime_ns for path in (clips.parent / "runs/x/frames").rglob("*.*")) == frames
    write_video(clips / "0.mp4", np.random.default_rng(9).integers(0, 256, (9, 60, 100, 3), dtype=np.uint8), 10, overwrite=True)
    code, out, err = wfm("train", *SMALL, "stage=world_model", "steps=4")
    assert code == 0 and "the data have changed since they were encoded: 1 with other frames (0.mp4); 1 of " in out
    assert len([*(clips.parent / "runs/x/frames").rglob("*.*")]) == len(frames)  # those of the clip that was are gone
    code, out, err = wfm("train", *SMALL, "stage=world_model", "crop=fit")
    assert code == 2 and "crop: got fit, but the run's video tokenizer was trained with 10,5,90,50, expected that; fix: leave it out" in err
    code, out, err = wfm("train", *SMALL, "stage=world_model", "init=runs/x/world", "run=y", "height=48")
    assert code == 2 and "height, width: got 48x48 pixels, but init= has 48x32, expected those; fix: leave them out" in err


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("crop=middle", "crop: got 'middle', expected centre, fit, stretch, or x,y,w,h in pixels of the source"),
        ("crop=60,0,64,60", "got pictures of 100x60 pixels, expected ones that hold crop=60,0,64,60; fix: an area within them"),
        ("height=50", "tokenizer height: got 50, expected a multiple of 16"),
        ("frame_cache=-1", "frame_cache: got -1, expected a number of GB, 0 or more; fix: frame_cache=16"),
    ],
)
def test_sizes_that_cannot_be(wfm, clips, override, line):
    code, out, err = wfm("train", *SMALL, override)
    assert code == 2 and line in err and err.count("\n") == 1, err
