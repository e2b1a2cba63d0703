"""A stage ends once its held-out number gets no better, with the weights that did best; resumed it ends as it would have."""

import math
import signal

import pytest
import torch

from wfm_ar.data.files import sha256_of
from wfm_ar.errors import BadCheckpoint
from wfm_ar.train.checkpoint import load_checkpoint, newest_checkpoint
from wfm_ar.train.early_stop import EarlyStop, ended_early
from wfm_ar.train.loop import train
from wfm_ar.train.optimizer import WeightAverage
from wfm_ar.train.settings import LoopConfig, OptimizerConfig

LOSSES = [3.0, 2.0, 2.5, math.nan, 2.0, 1.0, 1.0, 1.0]  # after 10, 20, 30, ... steps


class Judged:
    """A line is fitted; the validation after step 10 n says the n-th of `said`."""

    name = "line"

    def __init__(self, said=LOSSES, judged_by=("loss", -1), dies_at=None):
        torch.manual_seed(0)
        self.model, self.said, self.judged_by, self.dies_at = torch.nn.Linear(1, 1), said, judged_by, dies_at
        self.step, self.seen = 0, {}  # averaged weights that were looked at, by step

    def batch(self, step, size, seed):
        return {"x": torch.randn(size, 1, generator=torch.Generator().manual_seed(step)), "step": torch.tensor(step)}

    def loss(self, model, batch, generator):
        self.step = int(batch["step"]) + 1
        if self.step == self.dies_at:
            raise KeyboardInterrupt
        return (model(batch["x"]) - (3 * batch["x"] - 1)).square().mean(), {}

    def clip_ids(self, batch):
        return []

    def validate(self, model, device):
        self.seen[self.step] = model.weight.detach().clone()
        return {self.judged_by[0]: self.said[self.step // 10 - 1]}, {}

    def describe(self):
        return {"model": {}}


def config(steps=80, patience=2, **changes):
    often = {"log_every": 5, "val_every": 10, "checkpoint_every": 7, "batch_size": 4, "num_workers": 0}
    return LoopConfig(steps=steps, patience=patience, optimizer=OptimizerConfig(lr=0.1, warmup_steps=2, ema=0.5), **often | changes)


def kept(folder):
    return load_checkpoint(folder)[0]["ema"]["weight"]


def test_it_ends_when_nothing_gets_better_and_keeps_the_best_weights(tmp_path, capsys):
    stage = Judged()
    folder = train(stage, config(), tmp_path)
    assert folder.name == "step-000040" and list(stage.seen) == [10, 20, 30, 40]  # NaN is not better
    assert torch.equal(kept(folder), stage.seen[20]) and not torch.equal(stage.seen[20], stage.seen[40])
    ended = ended_early(load_checkpoint(folder)[1])
    assert (ended.step, ended.steps, ended.name, ended.best, ended.best_step) == (40, 80, "loss", 2.0, 20)
    assert "ended after 40 of 80 steps: held-out loss was best after 20 (2), and not for 2 validations since" in capsys.readouterr().out


def test_more_patience_gets_further_and_a_stage_that_has_all_its_steps_keeps_its_best_too(tmp_path, capsys):
    stage = Judged()
    folder = train(stage, config(patience=4), tmp_path)
    assert folder.name == "step-000080" and ended_early(load_checkpoint(folder)[1]) is None
    assert torch.equal(kept(folder), stage.seen[60])  # equal is not better
    assert "line held-out loss was best after step 60 (1); those weights are kept" in capsys.readouterr().out
    train(Judged([9.0 - step for step in range(8)]), config(), tmp_path / "falling")
    assert "are kept" not in capsys.readouterr().out


def test_without_patience_or_a_number_to_go_by_it_ends_at_its_last_step_with_its_last_weights(tmp_path):
    for name, patience, judged_by in (("never", 0, ("loss", -1)), ("unjudged", 2, None)):
        stage = Judged()
        stage.validate = lambda model, device, stage=stage: ({"other": float(stage.seen.setdefault(stage.step, model.weight.clone()))}, {})
        stage.judged_by = judged_by
        folder = train(stage, config(patience=patience), tmp_path / name)
        assert folder.name == "step-000080" and torch.equal(kept(folder), stage.seen[80])
        assert set(load_checkpoint(folder)[0]) == {"model", "ema", "optimizer"}


def test_a_stage_that_never_had_a_number_has_none_to_fall_behind(tmp_path):
    folder = train(Judged([math.nan] * 8), config(), tmp_path)
    assert folder.name == "step-000080" and load_checkpoint(folder)[1]["early_stop"]["best"] is None


def test_a_number_of_which_more_is_better(tmp_path):
    assert train(Judged([1.0, 2.0, 1.5, 1.9], ("psnr", 1)), config(), tmp_path).name == "step-000040"


@pytest.mark.parametrize("dies_at", [25, 38])
def test_resumed_it_ends_as_it_would_have(tmp_path, dies_at):
    whole = train(Judged(), config(), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(Judged(dies_at=dies_at), config(), tmp_path / "parts")
    parts = train(Judged(), config(), tmp_path / "parts")
    for name in ("model", "ema", "optimizer", "best"):
        assert sha256_of(whole / f"{name}.safetensors") == sha256_of(parts / f"{name}.safetensors")
    assert load_checkpoint(whole)[1]["early_stop"] == load_checkpoint(parts)[1]["early_stop"]


def test_a_stage_that_has_ended_is_not_gone_on_with(tmp_path, capsys):
    folder = train(Judged(), config(), tmp_path)
    again = Judged()
    assert train(again, config(), tmp_path) == folder and again.step == 0
    assert "ended after 40 of 80 steps" in capsys.readouterr().out.splitlines()[-1]


def test_a_validation_that_a_signal_broke_off_is_judged_when_the_run_goes_on(tmp_path):
    stage = Judged()

    def broken_off(model, device):
        if stage.step == 40:
            signal.raise_signal(signal.SIGTERM)
        return Judged.validate(stage, model, device)

    stage.validate = broken_off
    with pytest.raises(SystemExit):
        train(stage, config(), tmp_path)
    assert load_checkpoint(newest_checkpoint(tmp_path))[1]["validation_due"]
    after = Judged()
    after.step = 40
    folder = train(after, config(), tmp_path)
    assert folder.name == "step-000040" and list(after.seen) == [40] and torch.equal(kept(folder), stage.seen[20])
    assert ended_early(load_checkpoint(folder)[1]).best_step == 20 and not load_checkpoint(folder)[1]["validation_due"]


def test_weights_of_another_network_are_refused(tmp_path):
    early = EarlyStop(2, 80, ("loss", -1), WeightAverage(torch.nn.Linear(1, 1), 0.5), {})
    with pytest.raises(BadCheckpoint, match=r"here: best: does not fit the network: weight is \(2, 2\), expected \(1, 1\)"):
        early.restore({"weight": torch.zeros(2, 2), "bias": torch.zeros(1)}, "here")
