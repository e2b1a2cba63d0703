"""For tests of verbs: a tiny random world with a clip, a picture, actions and a data set beside it, and a way to run `wfm` on it."""

from pathlib import Path

import numpy as np
import pytest
import tiny_world as tiny

from wfm_ar.cli import main
from wfm_ar.data.episodes import write_episode, write_episodes
from wfm_ar.data.video import write_image, write_video
from wfm_ar.rollout.world_folder import save_world

POOR = "wfm: note: keep_detail is off: the tokenizer's own copy of the given picture has"  # it is untrained


@pytest.fixture(scope="session")
def place(tmp_path_factory) -> Path:
    """A folder with a world, a clip, a larger clip, an image, actions, and a data set."""
    folder = tmp_path_factory.mktemp("generate")
    samples = folder / "set"
    frames, actions = tiny.make_video(9), tiny.make_actions(8)
    records = [
        write_episode(samples, id=f"e{i}", frames_THWC=frames, fps=10, split="val", text=text, actions=actions)
        for i, text in enumerate(["do nothing", tiny.TEXTS[0]])
    ]
    write_episodes(samples, records, tiny.SCHEMA)
    save_world(folder / "world", tiny.make_parts(), samples=samples)
    save_world(folder / "bare", tiny.make_parts(text=False, actions=False, refine=False))
    write_video(folder / "in.mp4", tiny.make_video(5), 10)
    write_video(folder / "large.mp4", np.random.default_rng(0).integers(0, 256, (3, 40, 64, 3), dtype=np.uint8), 10)
    write_image(folder / "in.png", tiny.make_video(1)[0])
    np.save(folder / "a.npy", tiny.make_actions(20))
    return folder


@pytest.fixture
def wfm(place, tmp_path, monkeypatch, capsys):
    """Runs `wfm <verb> world=... <overrides>` in an empty folder -> (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(verb: str, *overrides: str, world: str = "world") -> tuple[int, str, str]:
        code = main([*verb.split(), f"world={place / world}", *overrides])
        out, err = capsys.readouterr()
        return code, out, "".join(line for line in err.splitlines(keepends=True) if POOR not in line)

    return run


@pytest.fixture
def refused():
    """refused(result of wfm, *words): told in one line that holds the words, with exit code 2."""

    def check(result: tuple[int, str, str], *words: str) -> None:
        code, out, err = result
        assert code == 2, (code, out, err)
        assert err.count("\n") == 1 and "Traceback" not in err, err
        for word in words:
            assert word in err, (word, err)

    return check
