import errno
import json
import math
import os
import random
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tiny_stages
import torch

from wfm_ar.data.files import sha256_of
from wfm_ar.errors import BadCheckpoint, NoSpace, WfmError
from wfm_ar.train.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint, verified_checkpoints
from wfm_ar.train.disk import Disk
from wfm_ar.train.loop import step_seconds, train
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


def test_waiting_for_frames_is_measured_a_step(tmp_path):
    """The time left asks a stage once as it starts, and after each batch."""
    stage, asked = LineStage(), []
    stage.to_decode = lambda: asked.append(len(stage.steps_seen)) or (0, 10)
    train(stage, config(3, num_workers=0), tmp_path)
    assert asked == [0, 0, 1, 2]


def test_a_number_is_the_mean_over_the_steps_that_have_it(tmp_path):
    class Kinds(LineStage):
        def loss(self, model, batch, generator):
            loss, _ = super().loss(model, batch, generator)
            return loss, {"even" if int(batch["step"]) % 2 == 0 else "odd": batch["step"].float()}

    train(Kinds(), config(8, log_every=4), tmp_path)
    assert [(row["even"], row["odd"]) for row in lines(tmp_path) if "odd" in row] == [(1.0, 2.0), (5.0, 6.0)]
    train(Kinds(), config(9, log_every=9), tmp_path / "one")
    (row,) = [row for row in lines(tmp_path / "one") if "odd" in row]
    assert (row["even"], row["odd"]) == (4.0, 4.0)


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


def test_a_run_that_only_fails_stops_names_the_clips_and_keeps_its_last_checkpoint(tmp_path):
    with pytest.raises(WfmError, match="4 steps in a row.*clip 36"):
        train(LineStage(poison=range(33, 100)), config(50, max_bad_steps=4), tmp_path)
    assert newest_checkpoint(tmp_path).name == "step-000030"
    rows = [json.loads(line) for line in (tmp_path / "bad_steps.jsonl").read_text().splitlines()]
    assert rows == [{"step": step, "what": "loss", "clips": [f"clip {step}"]} for step in range(33, 37)]


def test_a_run_resumed_among_bad_steps_stops_where_it_would_have(tmp_path):
    """The count in a row is part of the state; lines of steps that are done again are not there twice."""
    train(LineStage(poison=range(8, 30)), config(10, max_bad_steps=5), tmp_path)
    (tmp_path / "bad_steps.jsonl").open("a").write('{"step": 10, "what": "loss", "clips": []}\n{"step": 1')
    with pytest.raises(WfmError, match="5 steps in a row"):
        train(LineStage(poison=range(8, 30)), config(40, max_bad_steps=5), tmp_path)
    rows = [json.loads(line)["step"] for line in (tmp_path / "bad_steps.jsonl").read_text().splitlines()]
    assert rows == [8, 9, 10, 11, 12]


class NormStage(LineStage):
    """With running statistics, which a forward pass changes before its loss is known, and with ambient randomness."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.model = torch.nn.Sequential(torch.nn.BatchNorm1d(1), torch.nn.Dropout(0.2), self.model)

    def loss(self, model, batch, generator):
        self.steps_seen.append(int(batch["step"]))
        return (model(batch["x"]) - batch["x"]).square().mean() + 0.01 * random.random() + 0.01 * np.random.rand(), {}

    def validate(self, model, device):
        torch.rand(3), random.random()
        return {"weight": float(model[2].weight)}, {}


def test_a_skipped_step_leaves_no_trace_in_running_statistics(tmp_path):
    tensors, state = load_checkpoint(train(NormStage(poison=(3, 7)), config(10), tmp_path))
    assert state["bad_steps"] == 2 and all(torch.isfinite(t).all() for t in tensors["model"].values() if t.is_floating_point())
    assert float(tensors["model"]["0.running_mean"].abs()) > 0


def test_ambient_generators_and_the_log_between_its_lines_are_resumed_too(tmp_path):
    often = {"log_every": 7, "checkpoint_every": 5, "val_every": 4}
    whole = train(NormStage(), config(30, **often), tmp_path / "whole")
    for steps in (15, 20, 30):  # 15 and 20 lie between two lines of the log
        stage = Stopping(15 if steps == 15 else 20 if steps == 20 else 99)
        try:
            parts = train(stage, config(30, **often), tmp_path / "parts")
        except Cut:
            continue
    assert stage.steps_seen == list(range(20, 30))
    for name in ("model", "ema", "optimizer"):
        assert sha256_of(whole / f"{name}.safetensors") == sha256_of(parts / f"{name}.safetensors")
    assert lines(tmp_path / "whole") == lines(tmp_path / "parts")


class Cut(BaseException):
    """As abrupt as a test can be without a process of its own."""


class Stopping(NormStage):
    def __init__(self, last):
        super().__init__()
        self.last = last

    def loss(self, model, batch, generator):
        if int(batch["step"]) == self.last:
            raise Cut
        return super().loss(model, batch, generator)


def test_weights_that_went_bad_stop_the_run_at_once(tmp_path):
    class Flipped(LineStage):
        def batch(self, step, size, seed):
            if step == 14:
                with torch.no_grad():
                    self.model.weight.fill_(math.inf)  # a bit that flipped in memory
            return super().batch(step, size, seed)

    with pytest.raises(WfmError, match=r"step 14: weights \(weight\) are not finite.*resume=auto.*clip 14"):
        train(Flipped(), config(20, num_workers=0), tmp_path)
    assert newest_checkpoint(tmp_path).name == "step-000010"
    train(LineStage(), config(20, num_workers=0), tmp_path / "other")
    folder = train(LineStage(), config(20, num_workers=0), tmp_path)  # goes on as if nothing had been
    assert sha256_of(folder / "model.safetensors") == sha256_of(tmp_path / "other" / folder.name / "model.safetensors")


def test_weights_that_went_bad_just_before_a_save_are_not_saved(tmp_path):
    class Flipped(LineStage):
        def validate(self, model, device):
            with torch.no_grad():
                model.weight.fill_(math.nan)
            return {}, {}

    with pytest.raises(BadCheckpoint, match="ema weight is not finite"):
        train(Flipped(), config(20, val_every=20), tmp_path)
    assert newest_checkpoint(tmp_path).name == "step-000010"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_whatever_is_not_finite_never_reaches_a_checkpoint(tmp_path, value):
    """NaN and infinities put into clip, activation, loss and gradient of random steps: skipped, counted, named; weights stay good."""
    chosen = random.Random(str(value)).sample(range(40), 8)
    places = dict(zip(chosen, ["clip", "activation", "loss", "gradient"] * 2, strict=True))

    class Injected(LineStage):
        def batch(self, step, size, seed):
            batch = super().batch(step, size, seed)
            if places.get(step) == "clip":
                batch["x"][0] = value
            return batch

        def loss(self, model, batch, generator):
            place = places.get(int(batch["step"]))
            hooks = []
            if place == "activation":
                hooks.append(model.register_forward_hook(lambda module, given, out: out * value))
            if place == "gradient":
                hooks.append(model.weight.register_hook(lambda gradient: gradient + value))
                self.hooks = hooks  # they fire in backward
            loss, logs = super().loss(model, batch, generator)
            if place != "gradient":
                for hook in hooks:
                    hook.remove()
            return loss * (value if place == "loss" else 1), logs

        def clip_ids(self, batch):
            for hook in getattr(self, "hooks", []):
                hook.remove()
            return super().clip_ids(batch)

    folder = train(Injected(), config(40), tmp_path)
    for each in verified_checkpoints(tmp_path):
        assert all(torch.isfinite(t).all() for group in load_checkpoint(each)[0].values() for t in group.values())
    assert load_checkpoint(folder)[1]["bad_steps"] == 8
    rows = [json.loads(line) for line in (tmp_path / "bad_steps.jsonl").read_text().splitlines()]
    assert {row["step"]: row["what"] for row in rows} == {s: "gradient" if p == "gradient" else "loss" for s, p in places.items()}


@pytest.mark.parametrize("policy", ["stop", "continue"])
def test_a_full_disk_ends_the_run_or_is_waited_out(tmp_path, monkeypatch, policy, capsys):
    original = Disk.before

    def full(self, operation, path):
        if operation == "write" and "step-000020" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(self, operation, path)

    monkeypatch.setattr(Disk, "before", full)
    if policy == "stop":
        with pytest.raises(NoSpace, match="step-000020.*No space left"):
            train(LineStage(), config(40, disk_full=policy), tmp_path)
        assert newest_checkpoint(tmp_path).name == "step-000010"
    else:
        train(LineStage(), config(40, disk_full=policy), tmp_path)
        assert "going on" in capsys.readouterr().out
        assert [f.name for f in verified_checkpoints(tmp_path)] == ["step-000030", "step-000040"]
    assert not list(tmp_path.glob(".tmp-*"))


def test_resume_never_and_other_settings_are_refused(tmp_path):
    train(LineStage(), config(10), tmp_path)
    with pytest.raises(WfmError, match="resume=auto"):
        train(LineStage(), config(20), tmp_path, resume="never")
    with pytest.raises(BadCheckpoint, match="width"):
        train(LineStage(width=2), config(20), tmp_path)
    assert train(LineStage(), config(10), tmp_path).name == "step-000010"  # nothing left to do


def test_a_checkpoint_from_before_later_ones_is_not_gone_on_from_in_the_same_folder(tmp_path):
    train(LineStage(), config(30), tmp_path)
    with pytest.raises(WfmError, match="step-000030, which is later than step-000020"):
        train(LineStage(), config(40), tmp_path, resume=str(tmp_path / "step-000020"))
    assert train(LineStage(), config(40), tmp_path / "b", resume=str(tmp_path / "step-000020")).name == "step-000040"


def test_an_optimizer_that_does_not_fit_is_named(tmp_path):
    folder = train(LineStage(), config(10), tmp_path)
    tensors, state = load_checkpoint(folder)
    del tensors["optimizer"]["weight/exp_avg"]
    save_checkpoint(tmp_path, 10, tensors, state, 2)
    with pytest.raises(BadCheckpoint, match="optimizer.*missing weight/exp_avg"):
        train(LineStage(), config(20), tmp_path)


def test_a_signal_breaks_validation_off_and_it_is_made_up_for(tmp_path):
    class Long(LineStage):
        def validate(self, model, device):
            if self.stop and float(model.bias) != 0:
                os.kill(os.getpid(), signal.SIGTERM)
                for _ in range(1000):
                    threading.Event().wait(0.01)
                raise AssertionError("validation went on for ten seconds")
            return super().validate(model, device)

    stage = Long()
    stage.stop = False
    whole = train(stage, config(20, val_every=8), tmp_path / "whole")
    stage = Long()
    stage.stop = True
    with pytest.raises(SystemExit) as stopped:
        train(stage, config(20, val_every=8), tmp_path / "parts")
    assert stopped.value.code == 143 and newest_checkpoint(tmp_path / "parts").name == "step-000008"
    for _ in range(2):  # also when it is resumed twice from there
        parts = train(LineStage(), config(20, val_every=8), tmp_path / "parts")
        assert lines(tmp_path / "whole") == lines(tmp_path / "parts")
        if parts.name == "step-000020" and _ == 0:
            shutil.rmtree(parts)
            shutil.rmtree(tmp_path / "parts" / "step-000010")
    assert sha256_of(whole / "model.safetensors") == sha256_of(parts / "model.safetensors")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_exits(tmp_path, number, code):
    class Signalled(LineStage):
        def loss(self, model, batch, generator):
            if int(batch["step"]) == 12:
                os.kill(os.getpid(), number)
            return super().loss(model, batch, generator)

    assert threading.current_thread() is threading.main_thread()
    before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    with pytest.raises(SystemExit) as stopped:
        train(Signalled(), config(1000), tmp_path)
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == before
    assert stopped.value.code == code
    assert (tmp_path / "step-000013" / "MANIFEST.json").exists()


def test_frozen_weights_keep_their_averaged_values(tmp_path):
    before = load_checkpoint(train(LineStage(), config(20), tmp_path))[0]
    assert not torch.equal(before["model"]["bias"], before["ema"]["bias"])
    stage = LineStage()
    stage.model.bias.requires_grad_(False)
    after = load_checkpoint(train(stage, config(30), tmp_path))[0]
    assert torch.equal(after["ema"]["bias"], before["ema"]["bias"]) and torch.equal(after["model"]["bias"], before["ema"]["bias"])
    assert not torch.equal(after["ema"]["weight"], before["ema"]["weight"])


def test_steps_are_timed_without_a_trace(tmp_path):
    stage = tiny_stages.make_stage("video_tokenizer", tiny_stages.make_data(tmp_path))
    before, state = {name: tensor.clone() for name, tensor in stage.model.state_dict().items()}, torch.get_rng_state()
    began = time.monotonic()
    seconds = step_seconds(stage, tiny_stages.loop_config(4), seconds=0.2)
    assert 0 < seconds < time.monotonic() - began
    assert all(torch.equal(before[name], tensor) for name, tensor in stage.model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state) and stage.model.training
