"""What a run learns from: one lone episode is both splits, and ranges found in data stay those of the run."""

import numpy as np
import pytest

from wfm_ar.data import write_video
from wfm_ar.errors import BadData
from wfm_ar.verbs.training_data import training_sets

FRAMES = np.zeros((5, 16, 16, 3), np.uint8)


def folder(root, count, width=2, scale=1.0):
    root.mkdir(exist_ok=True)
    for i in range(count):
        if not (root / f"{i}.mp4").exists():
            write_video(root / f"{i}.mp4", FRAMES, 10)
        np.savez(root / f"{i}.npz", scale * np.random.default_rng(i).normal(size=(5, width)).astype(np.float32))
    return root


def test_one_episode_is_trained_on_and_validated_with(tmp_path, capsys):
    train, val = training_sets(folder(tmp_path / "a", 1), tmp_path / "run", camera=None, fps=None)
    assert train is val and len(train) == 1 and "validation says nothing of clips not seen" in capsys.readouterr().out
    train, val = training_sets(folder(tmp_path / "a", 4), tmp_path / "other", camera=None, fps=None)
    assert len(train) + len(val) == 4 and len(val) >= 1


def test_a_run_keeps_the_ranges_it_began_with(tmp_path, capsys):
    data, run = folder(tmp_path / "a", 2), tmp_path / "run"
    first = training_sets(data, run, camera=None, fps=None)[0].schema
    folder(data, 3, scale=5.0)
    capsys.readouterr()
    again = training_sets(data, run, camera=None, fps=None)[0].schema
    assert again == first and "the run's action ranges are kept" in capsys.readouterr().out
    assert training_sets(data, tmp_path / "new", camera=None, fps=None)[0].schema.channels[0].high > 2 * first.channels[0].high


def test_another_robot_is_refused(tmp_path):
    training_sets(folder(tmp_path / "a", 2), tmp_path / "run", camera=None, fps=None)
    with pytest.raises(BadData, match="this run has actions .*expected those of the data.*another run="):
        training_sets(folder(tmp_path / "b", 2, width=3), tmp_path / "run", camera=None, fps=None)
    (tmp_path / "run" / "actions.json").write_text("{")
    with pytest.raises(BadData, match="actions.json: cannot be read"):
        training_sets(tmp_path / "a", tmp_path / "run", camera=None, fps=None)
