"""Hostile configs: the short form of tools/campaigns/hostile_configs.py, and the cases that long runs found."""

import time

import hostile_configs as campaign
import pytest

from wfm_ar.cli import settings_of
from wfm_ar.errors import BadConfig


def test_three_hundred_configs(tmp_path):
    report = campaign.run(300, 0, tmp_path)
    assert report.failures == [] and report.cases == 300
    assert report.outcomes["refused"] > 200 and report.outcomes["taken"] > 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("defaults: 7\n", "defaults must be a list"),
        ("defaults: [hostile]\n", "includes itself"),
        ("# @package _global_\nseed: <<\n", "hostile.yaml|constructor"),
        ("? [a, b]\n: 1\n", "unhashable|constructing"),
        ("# @package _global_\nmodel:\n  _target_: os.system\n", "never name code"),
        ("# @package _global_\nhydra:\n  job:\n    env_set: {A: b}\n", "hydra's own settings"),
        ("# @package _global_\nname: ${oc.env:HOME}\n", "oc.env"),
        ("# @package _global_\nname: ${oc.${stage}:HOME}\n", "refers to several|oc.all|Unsupported"),
        ("# @package _global_\nname: ${run}${run}\n", "refers to several keys"),
    ],
)
def test_what_long_runs_found(tmp_path, text, words):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/hostile.yaml").write_text(text)
    with pytest.raises(BadConfig, match=words) as caught:
        settings_of("train", ["experiment=hostile", "data=x"], tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["command line", "file"])
def test_the_environment_is_not_told_by_a_choice_that_does_not_exist(tmp_path, monkeypatch, place):
    """hydra resolves references of a defaults list before it looks for the file, and names what it did not find."""
    monkeypatch.setenv("WFM_SECRET", "of-the-environment")
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/hostile.yaml").write_text("defaults:\n  - /model: ${oc.env:WFM_SECRET}\n")
    overrides = ["experiment=hostile"] if place == "file" else ["model=${oc.env:WFM_SECRET}"]
    with pytest.raises(BadConfig, match="oc.env") as caught:
        settings_of("train", [*overrides, "data=x"], tmp_path)
    assert "of-the-environment" not in str(caught.value) and "\n" not in str(caught.value)


def test_an_alias_bomb_costs_nothing(tmp_path):
    """212 bytes of this took 18 s where nothing looked before OmegaConf did."""
    (tmp_path / "experiment").mkdir()
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"] + [f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]" for a, b in zip("abcdef", "bcdefg", strict=True)]
    (tmp_path / "experiment/hostile.yaml").write_text("\n".join(lines))
    began = time.process_time()
    with pytest.raises(BadConfig, match="line 1: got an alias or anchor 'a', expected plain values"):
        settings_of("train", ["experiment=hostile", "data=x"], tmp_path)
    assert time.process_time() - began < 0.5
