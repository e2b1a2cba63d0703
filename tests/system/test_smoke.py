"""The whole path as a user walks it, tiny: make data, train all three stages, pack a world, roll it out, look at the files."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from wfm_ar.data.video import read_video

pytestmark = [
    pytest.mark.timeout(900),
    # Looked for, not imported: mujoco chooses its OpenGL when it is first imported, and wfm_ar.worlds must have its say before.
    pytest.mark.skipif(importlib.util.find_spec("mujoco") is None, reason="needs mujoco, the extra [sim]"),
]


def wfm(*words: str, where: Path) -> str:
    """Run one command line as a user would; its standard output. Fails the test with the error's own words."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}  # tiny networks: a second thread only waits
    done = subprocess.run([sys.executable, "-m", "wfm_ar", *words], cwd=where, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"wfm {' '.join(words)}: exit {done.returncode}\n{done.stderr[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with data, a run of `experiment=smoke`, and the world it packed."""
    place = tmp_path_factory.mktemp("smoke")
    wfm("data", "make", "world=tabletop", "episodes=40", "frames=17", "out=data", where=place)
    wfm("train", "stage=all", "experiment=smoke", "data=data", "run=run", where=place)
    return place


def losses(run: Path, stage: str) -> list[float]:
    rows = [json.loads(line) for line in (run / stage / "log.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


# The diffusion loss is the error in predicting noise, most of which nothing can predict: it falls less.
@pytest.mark.parametrize(("stage", "share"), [("video_tokenizer", 0.5), ("world_model", 0.7), ("diffusion_decoder", 0.96)])
def test_losses_fall(place, stage, share):
    seen = losses(place / "run", stage)
    assert np.mean(seen[-3:]) < share * seen[0]


def test_a_rollout_is_a_valid_clip_with_all_its_files(place):
    episode = json.loads((place / "data" / "episodes.jsonl").read_text().splitlines()[0])
    clip, actions = (str(place / "data" / episode[key]) for key in ("video", "actions"))
    words = ["generate", "world=run/world", f"video={clip}", "prompt_frames=1", f"actions={actions}", "frames=17", "seed=3"]
    wfm(*words, "out=one.mp4", where=place)
    wfm(*words, "out=two.mp4", where=place)
    assert read_video(place / "one.mp4").shape[0] == 17
    assert (place / "one.mp4").read_bytes() == (place / "two.mp4").read_bytes()
    assert json.loads((place / "one.json").read_text())["seed"] == 3
    assert (place / "one.png").stat().st_size > 1000 and len(np.load(place / "one.tokens.npy")) == 5


def test_training_goes_on_from_where_it_stopped(place):
    told = wfm("train", "stage=world_model", "experiment=smoke", "data=data", "run=run", "steps=130", where=place)
    assert "going on from" in told and (place / "run" / "world_model" / "step-000130").is_dir()
