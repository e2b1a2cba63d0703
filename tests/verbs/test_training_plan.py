"""`budget=`: what is chosen is kept in the run and gone on with, and what the user sets goes before it."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import tiny_robot

from wfm_ar.cli import main, settings_of
from wfm_ar.errors import BadConfig
from wfm_ar.rollout.world import load_world
from wfm_ar.train.checkpoint import save_checkpoint
from wfm_ar.verbs.training_plan import Plan, _with_room


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("budget=soon", "budget: got 'soon', expected a time of a minute or more"),
        ("stage=world_model", "budget: got none with stage=world_model, expected stage=all and no init="),
        ("episodes=0", "episodes: got 0, expected 1 or more"),
    ],
)
def test_budgets_that_cannot_be(tmp_path, monkeypatch, capsys, override, line):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "experiment=robot", "data=bot", override]) == 2
    assert line in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_is_planned_kept_and_gone_on_with(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny_robot.write_robot(tmp_path / "bot", clips=5, frames=30, fps=30)
    run, command = tmp_path / "runs/robot", ["train", "experiment=robot", "data=bot", "steps=2", "model.layers=1", "threads=1"]
    small = ["tokenizer.encoder_channels=8", "tokenizer.decoder_channels=8", "predictor=tiny", "decoder=tiny"]
    assert main([*command, *small]) == 0
    out = capsys.readouterr().out
    plan = json.loads((run / "plan.json").read_text())
    assert (run / "plan.txt").read_text().startswith("plan: budget as long as the data ask for")
    assert "30 frames a second are thinned to 10" in out and "dropped, as they never change: grip" in out
    assert "stands still" in out and "set by you: steps, model.layers" in out
    assert plan["chosen"]["fps"] == 10 and plan["chosen"]["tokenizer.background"] is True
    assert plan["chosen"]["tokenizer.height"] == 48 and plan["chosen"]["tokenizer.width"] == 64
    assert not {"stages.world_model.steps", "model.layers", "tokenizer.encoder_channels", "predictor.channels"} & plan["chosen"].keys()
    assert set(plan["seconds"]) == {
        "video_tokenizer",
        "frame_predictor",
        "encoding",
        "looking ahead",
        "world_model",
        "diffusion_decoder",
        "inverse_dynamics",
    } and all(seconds > 0 for seconds in plan["seconds"].values())
    assert 2**26 < plan["peak_bytes"] < plan["room_bytes"] and sum(plan["spent"].values()) > plan["spent"]["rehearsal"] > 0
    world = load_world(run / "world")
    assert (world.height, world.width, world.fps, world.parts.world_model.config.layers) == (48, 64, 10, 1)
    assert world.parts.sequence.lookahead and world.parts.sequence.action_bins and world.parts.inverse_dynamics.config.actions == 2
    assert "the verdict is on 2 clips of 10 frames" in out and (run / "verdict/report.html").exists()
    report = json.loads((run / "verdict/report.json").read_text())
    assert report["listening"]["clips"] == 2 and set(report["read_back"]["channels"]) == {"dx", "dy"}

    assert main([*command, *small, "overwrite=true", "budget=3h"]) == 0
    out = capsys.readouterr().out
    assert "the run keeps its plan; budget=3h does not change it" in out and "plan: budget" not in out
    assert "world_model has its 2 steps already" in out.replace("runs/robot/world_model ", "") and "were foretold" in out


def test_the_time_of_a_stage_that_ended_early_goes_to_those_after_it(tmp_path, monkeypatch):
    names = ("video_tokenizer", "frame_predictor", "world_model", "diffusion_decoder", "inverse_dynamics")
    facts = {"clips": 9, "held_out": 1, "width": 64, "height": 48, "texts": 2}
    content = {
        **{"format": 1, "budget_s": 3600.0, "machine": "2 CPU cores", "facts": facts, "used": {"clips": 9, "frames": 300}, "given": []},
        **{"chosen": {"patience": 2}, "why": dict.fromkeys(("rate", "camera", "actions"), "x"), "wanted": dict.fromkeys(names, 10**6)},
        **{"steps": dict.fromkeys(names, 3), "seconds": dict.fromkeys(names, 20.0), "step_s": dict.fromkeys(names, 1.0), "size": "tiny"},
        **{"foretold_s": 3600.0, "peak_bytes": 2**30, "spent": {}, "sensible_s": 3600.0, "validations": dict.fromkeys(names, 8)},
        **{"looking_s": dict.fromkeys(names, 1.0)},
    }
    settings = settings_of("train", ["experiment=robot", "data=x"])
    monkeypatch.setattr("wfm_ar.verbs.training_plan.step_seconds", lambda *rest: 1.0)
    steps = {}
    for spent, early in ((300.0, None), (100.0, {"step": 100, "steps": 300, "name": "psnr", "best": 21.0, "best_step": 50})):
        plan = Plan(tmp_path / str(spent), json.loads(json.dumps(content)))
        state = {"step": 100, "early_stop": {"best": 21.0, "best_step": 50, "since": 2, "ended": early}}
        folder = save_checkpoint(tmp_path / str(spent) / "video_tokenizer", 100, {}, state, 1)
        plan.content["spent"]["video_tokenizer"] = spent
        plan.end_stage("video_tokenizer", folder)
        told = (tmp_path / str(spent) / "plan.txt").read_text()
        line = "video_tokenizer ended after 100 of 300 steps: held-out psnr was best after 50 (21)"
        assert (line in told) == (early is not None) and "a stage ends early where 2 validations are no better than an earlier one" in told
        refitted = plan.refitted(settings, SimpleNamespace(name="frame_predictor"), tmp_path / str(spent))
        assert refitted.patience == 2
        steps[spent] = refitted.stages.world_model.steps
        assert Plan.of(tmp_path / str(spent)).content["ended_early"].keys() == ({"video_tokenizer"} if early else set())
    assert steps[100.0] - steps[300.0] == pytest.approx(200 * 0.63 / 0.91, abs=2)  # its share of the later stages'


@pytest.mark.parametrize(
    ("room", "given", "found"),
    [
        (10, (), (2, None)),
        (None, (), (2, None)),
        (7, (), (2, True)),  # recomputed before it becomes smaller
        (5, (), (1, None)),
        (2.4, (), (0, True)),
        (1, (), (0, True)),  # no room at all: the smallest is taken
        (7, ("activation_checkpointing",), (1, None)),
    ],
)
def test_what_has_no_room_is_recomputed_and_then_made_smaller(monkeypatch, room, given, found):
    """Sizes take 9, 4 and 3 as they are, and two thirds of it recomputed."""
    tried = []

    def rehearsed(settings, train_set, wish):
        tried.append(settings.tokenizer.encoder_channels)
        usual = {16: 3.0, 24: 4.0, 32: 9.0}[tried[-1]]
        return SimpleNamespace(peak_bytes=usual * 2 / 3 if settings.activation_checkpointing else usual)

    monkeypatch.setattr("wfm_ar.verbs.training_plan._rehearsed", rehearsed)
    settings = replace(settings_of("train", ["experiment=robot", "data=x"]), given=given)
    facts = SimpleNamespace(height=96, width=96)
    at, keys, timings = _with_room(settings, {}, None, facts, 2, room)
    assert (at, keys.get("activation_checkpointing")) == found and tried == sorted(tried, reverse=True)
    assert room is None or room == 1 or timings.peak_bytes <= room


def test_a_gpu_too_small_for_the_smallest_size_is_told_in_a_line(monkeypatch):
    monkeypatch.setattr("wfm_ar.verbs.training_plan._rehearsed", lambda *rest: None)
    settings = settings_of("train", ["experiment=robot", "data=x"])
    with pytest.raises(BadConfig, match="the tiny size needs more memory than the GPU has free"):
        _with_room(settings, {}, None, SimpleNamespace(height=96, width=96), 1, 7.0)
