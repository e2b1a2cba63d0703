import json
import math
import os
import signal
import threading
from pathlib import Path

import pytest
import torch

from wfm_ar.errors import BadCheckpoint, WfmError
from wfm_ar.train.checkpoint import load_checkpoint, sha256_of
from wfm_ar.train.loop import train
from wfm_ar.train.settings import LoopConfig, OptimizerConfig


class LineStage:
    """Fits y = 3x - 1 with a little noise from the loop's generator; `poison` makes the batches of some steps NaN."""

    name = "line"

    def __init__(self, poison=(), width=1):
        torch.manual_seed(0)
        self.model, self.poison, self.width = torch.nn.Linear(1, width), poison, width
        self.steps_seen = []

    def batch(self, step, size, seed):
        x = torch.randn(size, 1, generator=torch.Generator().manual_seed(seed * 1000 + step))
        return {"x": x * (math.nan if step in self.poison else 1), "step": torch.tensor(step)}

    def loss(self, model, batch, generator):
        self.steps_seen.append(int(batch["step"]))
        noise = 0.01 * torch.randn(batch["x"].shape, generator=generator)
        error = model(batch["x"]) - (3 * batch["x"] - 1 + noise)
        return error.square().mean(), {"bias": model.bias.mean()}

    def clip_ids(self, batch):
        return [f"clip {int(batch['step'])}"]

    def validate(self, model, device):
        return {"weight": float(model.weight.mean())}, {}

    def describe(self):
        return {"model": {"width": self.width, "shape": (1, self.width)}}


def config(steps, **settings) -> LoopConfig:
    often = {"log_every": 1, "val_every": 1000, "checkpoint_every": 10, "batch_size": 8}
    return LoopConfig(steps=steps, optimizer=OptimizerConfig(lr=0.1, warmup_steps=5), **(often | settings))


def lines(run: Path) -> list[dict]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "samples_per_s"} for row in rows]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_ends_with_the_same_bytes(tmp_path, workers):
    whole = train(LineStage(), config(40, num_workers=workers), tmp_path / "whole")

    class Killed(LineStage):
        def loss(self, model, batch, generator):
            if int(batch["step"]) == 27:
                raise KeyboardInterrupt  # as abrupt as a test can be without a process of its own
            return super().loss(model, batch, generator)

    with pytest.raises(KeyboardInterrupt):
        train(Killed(), config(40, num_workers=workers), tmp_path / "parts")
    stage = LineStage()
    parts = train(stage, config(40, num_workers=workers), tmp_path / "parts")
    assert stage.steps_seen == list(range(20, 40))  # from the checkpoint of step 20
    for name in ("model", "ema", "optimizer"):
        assert sha256_of(whole / f"{name}.safetensors") == sha256_of(parts / f"{name}.safetensors")
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")


def test_it_learns_and_accumulation_equals_one_large_batch(tmp_path):
    class Halves(LineStage):
        def batch(self, step, size, seed):  # micro-batches 2s and 2s + 1 are the halves of the large batch s
            large = super().batch(step // 2, 2 * size, seed)["x"]
            return {"x": large[:size] if step % 2 == 0 else large[size:], "step": torch.tensor(step)}

        def loss(self, model, batch, generator):
            error = model(batch["x"]) - (3 * batch["x"] - 1)
            return error.square().mean(), {}

    class Whole(Halves):
        batch = LineStage.batch

    one = load_checkpoint(train(Whole(), config(60, batch_size=16), tmp_path / "one"))[0]["model"]
    two = load_checkpoint(train(Halves(), config(60, batch_size=8, accumulate=2), tmp_path / "two"))[0]["model"]
    torch.testing.assert_close(one["weight"], two["weight"], atol=1e-5, rtol=0)
    assert abs(float(one["weight"]) - 3) < 0.2 and abs(float(one["bias"]) + 1) < 0.2


def test_bad_steps_are_skipped_counted_and_never_saved(tmp_path):
    folder = train(LineStage(poison=(3, 4, 9)), config(10), tmp_path)
    tensors, state = load_checkpoint(folder)
    assert state["bad_steps"] == 3
    assert all(torch.isfinite(t).all() for group in tensors.values() for t in group.values())


def test_a_run_that_only_fails_stops_and_says_so(tmp_path):
    with pytest.raises(WfmError, match="4 steps in a row"):
        train(LineStage(poison=range(100)), config(50, max_bad_steps=4), tmp_path)


def test_resume_never_and_other_settings_are_refused(tmp_path):
    train(LineStage(), config(10), tmp_path)
    with pytest.raises(WfmError, match="resume=auto"):
        train(LineStage(), config(20), tmp_path, resume="never")
    with pytest.raises(BadCheckpoint, match="width"):
        train(LineStage(width=2), config(20), tmp_path)
    assert train(LineStage(), config(10), tmp_path).name == "step-000010"  # nothing left to do


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_exits(tmp_path, number, code):
    class Signalled(LineStage):
        def loss(self, model, batch, generator):
            if int(batch["step"]) == 12:
                os.kill(os.getpid(), number)
            return super().loss(model, batch, generator)

    assert threading.current_thread() is threading.main_thread()
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    try:
        with pytest.raises(SystemExit) as stopped:
            train(Signalled(), config(1000), tmp_path)
    finally:
        for each, handler in zip((signal.SIGTERM, signal.SIGINT), before, strict=True):
            signal.signal(each, handler)
    assert stopped.value.code == code
    assert (tmp_path / "step-000013" / "MANIFEST.json").exists()
