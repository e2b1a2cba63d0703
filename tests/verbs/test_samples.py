"""`wfm samples`: a world's recorded episode as files that the other commands take, and its samples as a data set to train on."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_world as tiny

from wfm_ar.cli import main
from wfm_ar.data.episodes import write_episode, write_episodes
from wfm_ar.data.formats import open_episodes
from wfm_ar.data.video import read_image, read_video
from wfm_ar.rollout.world_folder import save_world


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("samples") / "world"
    save_world(folder, tiny.make_parts())
    texts = ("do nothing", tiny.TEXTS[0], "do nothing", "do nothing")
    records = [
        write_episode(
            folder / "samples",
            id=f"e{i}",
            frames_THWC=tiny.make_video(9, seed=i),
            fps=10,
            split="val",
            text=text,
            actions=tiny.make_actions(8),
            lossless=True,
        )
        for i, text in enumerate(texts)
    ]
    write_episodes(folder / "samples", records, tiny.SCHEMA)
    return folder


@pytest.fixture
def told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["samples", *arguments])
        return code, *capsys.readouterr()

    return run


def test_the_files_are_the_episodes(told, world):
    code, out, err = told(f"world={world}", "episode=e1", "prompt_frames=5", "out=got")
    assert (code, err) == (0, "")
    truth = tiny.make_video(9, seed=1)
    assert np.array_equal(read_image("got/start.png"), truth[:1]) and np.array_equal(read_image("got/goal.png"), truth[-1:])
    assert np.array_equal(read_video("got/in.mp4"), truth[:5])
    actions = np.load("got/actions.npy")
    assert actions.dtype == np.float32 and np.allclose(actions, tiny.make_actions(8))
    assert Path("got/text.txt").read_text() == f"{tiny.TEXTS[0]}\n"
    rows = [json.loads(line) for line in Path("got/prompts.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == ["imagined-0", "imagined-1", "driven"] and rows[2]["actions"] == "actions.npy"
    episodes = open_episodes(Path("got/episodes"))
    assert [episode.split for episode in episodes] == ["train", "train", "train", "val"]
    assert out.count("\n  wfm ") == 3


def test_what_it_writes_can_be_given_to_generate(told, world, capsys):
    assert told(f"world={world}", "out=got")[0] == 0
    assert main(["generate", f"world={world}", "batch=got/prompts.jsonl", "out=many", "refine=false"]) == 0
    assert {path.name for path in Path("many").glob("*.mp4")} == {"imagined-0.mp4", "imagined-1.mp4", "driven.mp4"}


def test_mistakes_are_one_line(told, world):
    for arguments, words in (
        (("episode=e9",), "episode: got 'e9'"),
        (("prompt_frames=0",), "prompt_frames: got 0, expected at least 1"),
        (("world=nowhere",), "no such folder or shipped world"),
    ):
        code, out, err = told(f"world={world}", *arguments)
        assert code == 2 and out == "" and err.count("\n") == 1 and words in err, err
    assert told(f"world={world}", "out=twice")[0] == 0
    assert "exists already" in told(f"world={world}", "out=twice")[2]
    assert told(f"world={world}", "out=twice", "overwrite=true")[0] == 0
    code, _, err = told(f"world={world}", f"out={world}", "overwrite=true")
    assert code == 2 and "input" in err
