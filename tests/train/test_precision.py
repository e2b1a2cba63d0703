from dataclasses import replace

import pytest
import torch

import wfm_ar.train.precision as precision
from wfm_ar.train.checkpoint import load_checkpoint, newest_checkpoint
from wfm_ar.train.loop import train
from wfm_ar.train.settings import LoopConfig

CPU = torch.device("cpu")
SMALL, LARGE = torch.nn.Linear(8, 8), torch.nn.Linear(1000, 600)


@pytest.mark.parametrize("gain, expected", [(0.5, False), (1.1, False), (1.6, True)])
def test_a_cpu_takes_bf16_where_it_was_timed_to_be_faster(monkeypatch, gain, expected):
    monkeypatch.setattr(precision, "bf16_gain", lambda: gain)
    assert precision.bf16_by_default(CPU, LARGE) is expected


def test_small_networks_and_gpus_are_not_timed(monkeypatch):
    monkeypatch.setattr(precision, "bf16_gain", lambda: pytest.fail("timed"))
    assert not precision.bf16_by_default(CPU, SMALL)
    assert precision.bf16_by_default(torch.device("cuda"), SMALL)


def test_the_gain_is_a_ratio_of_times_and_is_measured_once():
    precision.bf16_gain.cache_clear()
    gain = precision.bf16_gain()
    assert 0.01 < gain < 100 and precision.bf16_gain() == gain


class PreciseStage:
    """A loss that is `bf16_factor` times as large in bf16 from step 4 on; notes how its training steps are done."""

    name = "precise"

    def __init__(self, bf16_factor: float = 1.0):
        torch.manual_seed(0)
        self.model, self.bf16_factor, self.trained_in = torch.nn.Linear(4, 4), bf16_factor, []

    def batch(self, step, size, seed):
        return {"x": torch.ones(size, 4), "step": torch.tensor(step)}

    def loss(self, model, batch, generator):
        half = torch.is_autocast_enabled("cpu")
        if torch.is_grad_enabled():
            self.trained_in.append("bf16" if half else "fp32")
        factor = self.bf16_factor if half and int(batch["step"]) >= 4 else 1.0
        return factor * (1 + model(batch["x"]).float().square().mean()), {}

    def clip_ids(self, batch):
        return ["clip"]

    def validate(self, model, device):
        return {}, {}

    def describe(self):
        return {"model": {}}


def config(**settings) -> LoopConfig:
    return LoopConfig(steps=8, batch_size=2, log_every=1, val_every=4, checkpoint_every=4, num_workers=0, device="cpu", **settings)


def test_a_loss_that_suffers_ends_bf16(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("wfm_ar.train.loop.bf16_by_default", lambda device, model: True)
    good, bad = PreciseStage(), PreciseStage(bf16_factor=1.5)
    train(good, config(), tmp_path / "good")
    assert good.trained_in == ["bf16"] * 8
    assert "fp32" not in capsys.readouterr().out
    train(bad, config(), tmp_path / "bad")
    assert bad.trained_in == ["bf16"] * 4 + ["fp32"] * 4
    assert "step 4: the loss is" in capsys.readouterr().out


def test_what_is_asked_for_is_not_checked(tmp_path, monkeypatch):
    monkeypatch.setattr("wfm_ar.train.loop.bf16_by_default", lambda device, model: pytest.fail("timed"))
    for asked in ("bf16", "fp32"):
        stage = PreciseStage(bf16_factor=1.5)
        train(stage, config(precision=asked), tmp_path / asked)
        assert stage.trained_in == [asked] * 8


def test_a_run_goes_on_as_it_began(tmp_path, monkeypatch):
    monkeypatch.setattr("wfm_ar.train.loop.bf16_by_default", lambda device, model: True)
    train(PreciseStage(), config(), tmp_path)
    newest = newest_checkpoint(tmp_path)
    assert newest is not None
    assert load_checkpoint(newest)[1]["precision"] == "bf16"
    monkeypatch.setattr("wfm_ar.train.loop.bf16_by_default", lambda device, model: False)
    stage = PreciseStage()
    train(stage, replace(config(), steps=12), tmp_path)
    assert stage.trained_in == ["bf16"] * 4
