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


def test_a_finished_world_is_trained_on(place):
    """Its networks are the beginning, its sizes hold whatever the experiment says, and nothing else of its run is needed."""
    words = ["train", "init=run/world", "data=data", "run=on", "num_workers=0"]
    settings = ["stages.world_model.training.policy_share=0.5", "stages.world_model.training.policy_data=data"]
    told = wfm(*words, "stage=world_model", "experiment=smoke", "steps=6", "log_every=1", *settings, where=place)
    assert "going on from on/world_model/step-000000" in told and "policy: data: episodes.jsonl" in told
    assert losses(place / "on", "world_model")[0] < 0.9 * losses(place / "run", "world_model")[0]
    wfm(*words[:1], "data=data", "run=on", "stage=world", where=place)
    old, new = (json.loads((place / name / "world/world.json").read_text()) for name in ("run", "on"))
    assert old["world_model"] == new["world_model"] and old["files"]["text_tokenizer.model"] == new["files"]["text_tokenizer.model"]
    same = {name for name in old["files"] if old["files"][name] == new["files"][name]}
    assert {"video_tokenizer.safetensors", "diffusion_decoder.safetensors"} <= same and "world_model.safetensors" not in same
    with pytest.raises(AssertionError, match="expected the actions of the world in init="):
        (place / "videos").mkdir()
        os.link(next((place / "data" / "videos").iterdir()), place / "videos" / "a.mp4")
        wfm("train", "init=run/world", "data=videos", "run=other", "experiment=smoke", "stage=world_model", where=place)


def test_training_goes_on_from_where_it_stopped(place):
    told = wfm("train", "stage=world_model", "experiment=smoke", "data=data", "run=run", "steps=130", where=place)
    assert "going on from" in told and (place / "run" / "world_model" / "step-000130").is_dir()
