"""A run that was killed and resumed ends with the same bytes as one that was not: all three stages, 0 and 2 workers."""

import json
import random
from pathlib import Path

import pytest
import tiny_stages as tiny

from wfm_ar.data.files import sha256_of
from wfm_ar.train.loop import train

STEPS = 8


class Killed(BaseException):
    """Passes everything on its way out, as a kill would; what a real one leaves is in tests/system/test_killed.py."""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return tiny.make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module", params=tiny.STAGES)
def uninterrupted(request, data, tmp_path_factory):
    run = tmp_path_factory.mktemp("whole")
    return request.param, run, train(tiny.make_stage(request.param, data), tiny.loop_config(STEPS), run)


def history(run: Path) -> list[str]:
    """The loss history as hexadecimal floats."""
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [" ".join(f"{k}={float(v).hex()}" for k, v in row.items() if k != "samples_per_s") for row in rows]


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_and_resumed_is_as_never_killed(uninterrupted, data, tmp_path, workers):
    name, whole, last = uninterrupted
    kill_at = sorted(random.Random(f"{name} {workers}").sample(range(1, STEPS), 2))
    for step in (*kill_at, None):
        stage = tiny.make_stage(name, data)
        loss = stage.loss

        def killing(model, batch, generator, step=step, loss=loss, calls=[0]):  # noqa: B006 - counts the calls of this run
            calls[0] += 1
            if step is not None and generator.initial_seed() == step:
                raise Killed
            return loss(model, batch, generator)

        stage.loss = killing
        try:
            folder = train(stage, tiny.loop_config(STEPS, num_workers=workers, deterministic=True), tmp_path)
        except Killed:
            continue
    assert folder.name == last.name == f"step-{STEPS:06d}"
    for group in ("model", "ema", "optimizer"):
        assert sha256_of(folder / f"{group}.safetensors") == sha256_of(last / f"{group}.safetensors"), group
    assert json.loads((folder / "state.json").read_text()) == json.loads((last / "state.json").read_text())
    assert history(tmp_path) == history(whole) and len(history(whole)) == 6  # 4 lines of the log, 2 validations


def test_the_batch_says_which_clips_it_has(data):
    for name in tiny.STAGES:
        stage = tiny.make_stage(name, data)
        clips = stage.clip_ids(stage.batch(0, 3, 0))
        assert 1 <= len(clips) <= 5 and set(clips) <= ({f"clip-{i}" for i in range(12)} | {f"{i}.mp4" for i in range(4)})


def test_memory_is_flat(data, tmp_path):
    """Less than 2 % more between step 200 and step 500, with checkpoints, validations and log lines all along."""
    stage, sizes = tiny.make_stage("world_model", data), {}
    batch = stage.batch

    def looking(step, size, seed):
        sizes[step] = int(Path("/proc/self/statm").read_text().split()[1])
        return batch(step, size, seed)

    stage.batch = looking
    settings = {"checkpoint_every": 100, "val_every": 100, "log_every": 10, "num_workers": 0}
    train(stage, tiny.loop_config(500, **settings), tmp_path)
    early, late = (sorted(sizes[step] for step in steps)[len(steps) // 2] for steps in (range(200, 230), range(470, 500)))
    assert late < 1.02 * early, (early, late)
