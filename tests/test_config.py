"""config.build: what reaches a dataclass is known, there, and of its type."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from omegaconf import OmegaConf

from wfm_ar.config import build, from_hydra
from wfm_ar.errors import BadConfig


@dataclass(frozen=True, kw_only=True)
class Inner:
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)

    def __post_init__(self):
        if self.lr <= 0:
            raise BadConfig(f"lr: got {self.lr}, expected a number above 0; fix: 1e-3")


@dataclass(frozen=True, kw_only=True)
class Outer:
    steps: int
    name: str = "a"
    path: Path | None = None
    on: bool = False
    mode: Literal["auto", "never"] = "auto"
    levels: tuple[int, ...] = (1,)
    sizes: list[int] = field(default_factory=list)
    extra: dict[str, Any] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)
    either: int | str | None = None


def test_every_kind_of_value():
    values = {
        "steps": 3,
        "name": 7,
        "path": "a/b",
        "on": True,
        "mode": "never",
        "levels": [8, 5],
        "sizes": [1],
        "extra": {"x": [1]},
        "inner": {"lr": 1, "betas": [0.5, 1]},
        "either": "x",
    }
    built = build(Outer, values, "here")
    inner = Inner(lr=1.0, betas=(0.5, 1.0))
    expected = Outer(
        steps=3, name="7", path=Path("a/b"), on=True, mode="never", levels=(8, 5), sizes=[1], extra={"x": [1]}, inner=inner, either="x"
    )
    assert built == expected
    assert type(built.inner.lr) is float


def test_defaults_stand():
    assert build(Outer, {"steps": 1}, "here") == Outer(steps=1)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"steps": 1, "inner": {"rl": 1.0}}, ["'inner.rl'", "lr"]),
        ({"steps": 1, "nmae": "x"}, ["'nmae'", 'did you mean "name"']),
        ({}, ["'steps' is missing", "steps=VALUE"]),
        ({"steps": 1.5}, ["steps is 1.5", "a whole number"]),
        ({"steps": 1, "inner": {"lr": 10**400}}, ["inner.lr is 1000000", "a number"]),
        ({"steps": True}, ["steps is True", "a whole number"]),
        ({"steps": "3"}, ["steps is '3'", "a whole number"]),
        ({"steps": None}, ["steps is None"]),
        ({"steps": 1, "on": 1}, ["on is 1", "true or false"]),
        ({"steps": 1, "mode": "autto"}, ["mode is 'autto'", 'did you mean "auto"', "auto | never"]),
        ({"steps": 1, "levels": [1, "x"]}, ["levels[1] is 'x'", "a whole number"]),
        ({"steps": 1, "inner": {"betas": [1.0]}}, ["inner.betas is [1.0]", "2 values"]),
        ({"steps": 1, "inner": 3}, ["inner is 3", "a group of keys"]),
        ({"steps": 1, "inner": {"lr": float("nan")}}, ["inner.lr is nan", "a number"]),
        ({"steps": 1, "inner": {"lr": 0}}, ["lr: got 0.0"]),
        ({"steps": 1, "path": []}, ["path is []", "a path"]),
        ({"steps": 1, "inner": {"_target_": "os.system"}}, ["'inner._target_'"]),
    ],
)
def test_refusals_name_the_key_and_the_remedy(values, told):
    with pytest.raises(BadConfig) as caught:
        build(Outer, values, "wfm here")
    message = str(caught.value)
    assert "\n" not in message
    for words in told:
        assert words in message


def test_unset_and_broken_values_of_a_hydra_tree():
    with pytest.raises(BadConfig, match=r"out has no value.*out=VALUE"):
        from_hydra(OmegaConf.create({"out": "???"}), "wfm here")
    with pytest.raises(BadConfig, match="nowhere"):
        from_hydra(OmegaConf.create({"out": "${nowhere}"}), "wfm here")
    assert from_hydra(OmegaConf.create({"a": {"b": [1, "${c}"]}, "c": 2}), "wfm here") == {"a": {"b": [1, 2]}, "c": 2}
