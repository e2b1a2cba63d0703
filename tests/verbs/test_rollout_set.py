"""`wfm generate save=lerobot`: rollouts as a data set that says of every frame and action where it comes from."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_world as tiny

from wfm_ar.cli import main
from wfm_ar.data import open_episodes, write_video
from wfm_ar.rollout.world_folder import save_world

parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow, the extra [lerobot]")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("rollouts")
    save_world(folder / "world", tiny.make_parts())
    write_video(folder / "in.mp4", tiny.make_video(5), 10)
    np.save(folder / "a.npy", tiny.make_actions(8))
    lines = [
        {"id": "driven", "text": tiny.TEXTS[0], "video": "in.mp4", "actions": "a.npy"},
        {"id": "free", "text": tiny.TEXTS[0], "video": "in.mp4"},
        {"id": "nothing"},
    ]
    (folder / "p.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_actions_text_and_provenance_of_every_frame(place, tmp_path, capsys):
    words = [f"world={place / 'world'}", f"batch={place / 'p.jsonl'}", "frames=9", "save=lerobot"]
    assert main(["generate", *words, f"out={tmp_path / 'set'}"]) == 0
    assert "LeRobot v3.0, 3 imagined episodes" in capsys.readouterr().out
    episodes = open_episodes(tmp_path / "set")
    assert [e.id for e in episodes] == ["driven", "free", "nothing"] and [e.text for e in episodes] == [tiny.TEXTS[0]] * 2 + [None]
    assert episodes.schema == tiny.SCHEMA and (episodes.load_actions(0) == np.load(place / "a.npy")).all()
    frame, action = ([episodes.load_state(i)[name].tolist() for i in range(3)] for name in ("provenance.frame", "provenance.action"))
    assert frame == [[0] * 5 + [2] * 4] * 2 + [[2] * 9]  # given, then imagined and refined
    assert action == [[0] * 8 + [2], [2] * 4 + [1] * 4 + [2], [1] * 8 + [2]]  # given; unknown between given frames, then imagined
    assert not episodes.load_actions(1)[:4].any() and np.isfinite(episodes.load_actions(1)).all()
    about = json.loads((tmp_path / "set/meta/wfm.json").read_text())
    assert about["imagined"] is True and [e["id"] for e in about["episodes"]] == ["driven", "free", "nothing"]
    assert len(about["episodes"][0]["world"]["sha256"]) == 64 and about["episodes"][0]["prompt"]["actions"].endswith("a.npy")
    info = json.loads((tmp_path / "set/meta/info.json").read_text())
    assert info["features"]["provenance.frame"]["wfm_values"]["0"].startswith("given")


def test_frames_are_those_of_the_mp4(place, tmp_path):
    words = ["generate", f"world={place / 'world'}", f"video={place / 'in.mp4'}", "frames=9", "seed=4"]
    assert main([*words, "save=lerobot", f"out={tmp_path / 'set'}"]) == 0
    assert main([*words, f"out={tmp_path / 'one.mp4'}"]) == 0
    from wfm_ar.data import read_video

    near = np.abs(open_episodes(tmp_path / "set").load_frames(0).astype(int) - read_video(tmp_path / "one.mp4"))
    assert near.max() <= 2  # the same codec at the same quality; the set's rate control sees key frames elsewhere


def test_what_is_there_is_not_overwritten(place, tmp_path, capsys):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "mine.txt").write_text("mine")
    for more in ([], ["overwrite=true"]):
        assert main(["generate", f"world={place / 'world'}", "frames=5", "save=lerobot", f"out={tmp_path / 'set'}", *more]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "exists already" in err
    assert [path.name for path in (tmp_path / "set").iterdir()] == ["mine.txt"]
