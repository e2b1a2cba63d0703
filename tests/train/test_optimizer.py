import pytest
import torch

from wfm_ar.errors import BadConfig
from wfm_ar.train.optimizer import WeightAverage, build_optimizer, learning_rate
from wfm_ar.train.settings import LoopConfig, OptimizerConfig


def test_schedule_warms_up_and_ends_at_its_floor():
    config = OptimizerConfig(lr=1.0, warmup_steps=10, min_lr_ratio=0.1)
    rates = [learning_rate(step, 100, config) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == 1.0
    assert rates[55] == pytest.approx(0.55) and rates[100] == pytest.approx(0.1)
    assert all(a >= b for a, b in zip(rates[10:], rates[11:], strict=False))


def test_only_matrices_decay():
    model = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))
    decayed, plain = build_optimizer(model, OptimizerConfig()).param_groups
    assert [p.shape for p in decayed["params"]] == [(3, 4)] and decayed["weight_decay"] > 0
    assert len(plain["params"]) == 4 and plain["weight_decay"] == 0


def test_average_follows_quickly_at_first_and_slowly_later():
    model = torch.nn.Linear(1, 1, bias=False)
    average = WeightAverage(model, 0.9)
    torch.nn.init.constant_(model.weight, average.model.weight.item() + 1)
    start = average.model.weight.item()
    average.update(model, 0)
    assert average.model.weight.item() - start == pytest.approx(0.9, abs=1e-5)  # decay (1 + 0) / (10 + 0)
    before = average.model.weight.item()
    average.update(model, 10_000)
    assert average.model.weight.item() - before == pytest.approx(0.01, abs=1e-5)


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"batch_size": -1}, {"precision": "fp8"}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(BadConfig, match=next(iter(wrong))):
        LoopConfig(**wrong)
    with pytest.raises(BadConfig, match="lr"):
        OptimizerConfig(lr=0)
