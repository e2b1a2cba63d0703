"""`wfm data check` and `wfm data make` from the command line."""

from pathlib import Path

import numpy as np
import pytest

from wfm_ar.cli import main
from wfm_ar.data.episodes import write_episode, write_episodes
from wfm_ar.data.video import write_video
from wfm_ar.schema import ActionChannel, ActionSchema

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
SCHEMA = ActionSchema(channels=(ActionChannel(name="dx", unit="m", low=-1, high=1),), rate_hz=10)


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


def test_one_line_a_defect_with_file_line_and_remedy(episodes, capsys):
    video = episodes / "videos" / "b.mp4"
    video.write_bytes(video.read_bytes()[:600])
    np.save(episodes / "actions" / "a.npy", np.zeros((3, 1), np.float32))
    assert main(["data", "check", f"path={episodes}", "decode=true"]) == 2
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert len(lines) == 2 and all("episodes.jsonl line" in line and "; fix: " in line for line in lines)
    assert "line 1" in lines[0] and "a.npy" in lines[0] and "line 2" in lines[1] and "b.mp4" in lines[1]
    assert err == f"wfm data check: {episodes}: 2 defects found, expected none; fix: as each line says\n"


def test_a_folder_of_videos_and_a_folder_of_nothing(tmp_path, capsys):
    write_video(tmp_path / "clip one, two.mp4", FRAMES, 10)
    assert main(["data", "check", str(tmp_path)]) == 0
    assert "1 episodes" in capsys.readouterr().out
    assert main(["data", "check", str(tmp_path / "none")]) == 2
    out, err = capsys.readouterr()
    assert out.count("\n") == 1 and "none" in out and err.count("\n") == 1


def test_make_refuses_what_it_did_not_make(tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("mine")
    for more in ([], ["overwrite=true"]):
        assert main(["data", "make", f"out={tmp_path}", "episodes=1", *more]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and str(tmp_path) in err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"] and (tmp_path / "mine.txt").read_text() == "mine"
