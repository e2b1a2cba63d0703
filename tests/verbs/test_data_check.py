"""`wfm data check` and `stats` from the command line."""

import re
from pathlib import Path

import numpy as np
import pytest

from wfm_ar.cli import main
from wfm_ar.data.episodes import write_episode, write_episodes
from wfm_ar.data.set_folder import name_of_set
from wfm_ar.data.video import read_image, write_video
from wfm_ar.schema import ActionChannel, ActionSchema

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
SCHEMA = ActionSchema(channels=(ActionChannel(name="dx", unit="m", low=-1, high=1),), rate_hz=10)


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))


@pytest.fixture
def episodes(tmp_path) -> Path:
    actions = np.zeros((4, 1), np.float32)
    records = [
        write_episode(tmp_path, id=name, frames_THWC=FRAMES, fps=10, split=split, text="go", actions=actions)
        for name, split in (("a", "train"), ("b", "val"))
    ]
    write_episodes(tmp_path, records, SCHEMA)
    return tmp_path


def test_a_sound_set(episodes, capsys):
    for path in (episodes, episodes / "episodes.jsonl"):
        assert main(["data", "check", str(path)]) == 0
        out, err = capsys.readouterr()
        assert "2 episodes" in out and "no defects" in out and err == ""


def test_check_draws_samples_and_tells_what_is_seldom_meant(episodes, capsys):
    np.save(episodes / "actions" / "a.npy", np.array([[0], [0.5], [3], [9]], np.float32))
    (episodes / "videos" / "b.mp4").unlink()
    assert main(["data", "check", str(episodes), "sheet=s.png"]) == 2
    assert read_image("s.png").shape[1] == 40 + 24 + 80 + 12  # a title, one sound episode of two, margins
    write_video(episodes / "videos" / "b.mp4", FRAMES, 10)
    assert main(["data", "check", str(episodes)]) == 0
    out = capsys.readouterr().out
    assert "note: action channel 'dx': 25.0 % of its values lie beyond -1 to 1" in out
    sheet = f"outputs/{name_of_set(episodes)}-samples.png"
    assert f"samples: {sheet}" in out and read_image(sheet).shape[1] > 200
    assert main(["data", "check", str(episodes), "sheet=s.jpg"]) == 2
    assert "ends in .png" in capsys.readouterr().err


def test_stats_page(episodes, capsys):
    np.save(episodes / "actions" / "a.npy", np.array([[0], [0.5], [3], [9]], np.float32))
    assert main(["data", "stats", str(episodes), "out=page.html"]) == 0
    out, err = capsys.readouterr()
    assert "2 episodes, 10 frames" in out and "dx: 0 to 9, mean 1.562, std 2.973, 25.0 % clipped" in out and err == ""
    page = Path("page.html").read_text()
    assert page.count("data:image/svg+xml;base64,") == 7 and page.count("data:image/png;base64,") == 1 and "<script" not in page
    words = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page).replace("http-equiv", "")  # pictures may spell anything
    assert "http" not in words and "25.0 % of its values" in page
    assert main(["data", "stats", str(episodes), "out=page.html"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert main(["data", "stats", str(episodes), "samples=false"]) == 0 and Path(f"outputs/{name_of_set(episodes)}-stats.html").exists()


def test_one_line_a_defect_with_file_line_and_remedy(episodes, capsys):
    video = episodes / "videos" / "b.mp4"
    video.write_bytes(video.read_bytes()[:600])
    np.save(episodes / "actions" / "a.npy", np.zeros((3, 1), np.float32))
    assert main(["data", "check", f"path={episodes}", "decode=true"]) == 2
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert len(lines) == 2 and all("episodes.jsonl line" in line and "; fix: " in line for line in lines)
    assert "line 1" in lines[0] and "a.npy" in lines[0] and "line 2" in lines[1] and "b.mp4" in lines[1]
    assert err == f"wfm data check: {episodes}: episodes.jsonl, 2 defects found, expected none; fix: as each line says\n"


def test_camera_and_rate_of_data_with_several(tmp_path, capsys):
    h5py = pytest.importorskip("h5py", reason="needs h5py, the extra [hdf5]")
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for i in range(2):
            file[f"data/demo_{i}/actions"] = np.random.default_rng(i).normal(size=(5, 2)).astype(np.float32)
            for name, side in (("front", 16), ("wrist", 32)):
                file[f"data/demo_{i}/obs/{name}_image"] = np.full((5, side, side, 3), 9 * i, np.uint8)
    for verb in ("check", "stats"):
        for words, told in (([], "0.0 min"), (["camera=wrist_image", "fps=0.1"], "1.7 min"), (["camera=tile"], "")):
            assert main(["data", verb, str(tmp_path), *words]) == 0
            out, err = capsys.readouterr()
            assert told in out and err == "", (out, err)
            if verb == "stats":
                size = {"tile": "32x16", "wrist_image": "32x32"}.get(words[0].removeprefix("camera=") if words else "", "16x16")
                assert f"{size} pixels" in out
        assert main(["data", verb, str(tmp_path), "camera=wirst_image"]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and 'did you mean "wrist_image"' in err
        assert main(["data", verb, f"{tmp_path}:{tmp_path / 'a.hdf5'}"]) == 0
        assert "4 episodes" in capsys.readouterr().out


def test_a_folder_of_videos_and_a_folder_of_nothing(tmp_path, capsys):
    write_video(tmp_path / "clip one, two.mp4", FRAMES, 10)
    assert main(["data", "check", str(tmp_path)]) == 0
    assert "1 episode " in capsys.readouterr().out
    assert main(["data", "check", str(tmp_path / "none")]) == 2
    out, err = capsys.readouterr()
    assert out.count("\n") == 1 and "none" in out and err.count("\n") == 1


def test_texts_too_long_to_train_on(episodes, capsys):
    index = episodes / "episodes.jsonl"
    index.write_text(index.read_text().replace('"go"', '"' + "0123456789" * 4 + '"', 1))
    assert main(["data", "check", str(episodes), "sheet=null"]) == 0  # one text of ten times the digits: few pieces
    capsys.readouterr()
    assert main(["data", "check", str(episodes), "sheet=null", "max_text=3"]) == 2
    out, err = capsys.readouterr()
    assert f"{episodes} episode a: text of " in out and "expected at most sequence.max_text=3; fix: " in out and "1 defect found" in err
    assert main(["data", "check", str(episodes), "sheet=null", "max_text=null"]) == 0
    assert main(["data", "check", str(episodes), "max_text=0"]) == 2


def test_episodes_too_short_to_train_on_are_told(episodes, capsys):
    line = "note: episodes of 5 frames at most: training refuses them, as its window is of 9 frames"
    assert main(["data", "check", str(episodes)]) == 0 and line in capsys.readouterr().out
    assert main(["train", "experiment=smoke", f"data={episodes}", "steps=1"]) == 2
    assert "expected some of window=9 or more" in capsys.readouterr().err
    for words in ("window=5", "window=null"):
        assert main(["data", "check", str(episodes), words]) == 0 and "training refuses" not in capsys.readouterr().out
    assert main(["data", "check", str(episodes), "window=0"]) == 2
    assert "window: got 0, expected at least 1" in capsys.readouterr().err


def test_sets_of_one_name_have_pictures_of_their_own(tmp_path, capsys):
    for parent, shade in (("a", 10), ("b", 200)):
        (tmp_path / parent / "clips").mkdir(parents=True)
        write_video(tmp_path / parent / "clips/c.mp4", np.full_like(FRAMES, shade), 10)
        assert main(["data", "check", str(tmp_path / parent / "clips")]) == 0
    sheets = sorted(Path("outputs").iterdir())
    assert len(sheets) == 2 and all(sheet.name.startswith("clips-") for sheet in sheets)
    assert name_of_set(tmp_path / "a/clips") == name_of_set(tmp_path / "b/../a/clips") != name_of_set(tmp_path / "b/clips")


def test_a_folder_that_cannot_be_written_does_not_hide_what_was_found(episodes, capsys):
    Path("outputs").write_text("a file, where a folder is wanted")
    assert main(["data", "check", str(episodes)]) == 0
    out, err = capsys.readouterr()
    assert "no defects" in out and "note: no samples were drawn: outputs" in out and err == ""
    (episodes / "videos/b.mp4").unlink()
    assert main(["data", "check", str(episodes)]) == 2
    out, err = capsys.readouterr()
    assert "b.mp4" in out and "1 defect found" in err
    assert main(["data", "check", str(episodes), "sheet=outputs/mine.png"]) == 2  # asked for by name: an error
    assert "mine.png" in capsys.readouterr().err
