"""Data of several robots is evaluated robot by robot, each under its own schema; real formats, cameras and rates from the command line."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_world as tiny

from wfm_ar.cli import main
from wfm_ar.data import open_episodes, write_episode, write_episodes
from wfm_ar.evaluate.evaluate import evaluate
from wfm_ar.evaluate.settings import EvaluateConfig
from wfm_ar.rollout.robots import fitted
from wfm_ar.rollout.world import load_world, save_world
from wfm_ar.schema import ActionChannel, ActionSchema, MixedSchema

REAL = Path(__file__).parents[3] / "shared" / "real"
HAND = ActionSchema(channels=tuple(ActionChannel(name=f"j{i}", unit="rad", low=-1, high=1, bins=5) for i in range(3)), rate_hz=10)
BOTH = MixedSchema(embodiments=(("arm", tiny.SCHEMA), ("hand", HAND)))
QUICK = EvaluateConfig(episodes=2, tokenizer_episodes=2, frames=5, batch=4, speed_runs=0, demo=False, examples=1, temperature=0.0)


def one_set(root, schema, count=3):
    rng, records = np.random.default_rng(0), []
    for i in range(count):
        values = rng.uniform(schema.channels[0].low, schema.channels[0].high, (8, schema.width)).astype(np.float32)
        split = "val" if i else "train"
        records.append(write_episode(root, id=f"e{i}", frames_THWC=tiny.make_video(9, i), fps=10, split=split, actions=values))
    write_episodes(root, records, schema)
    return root


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """`arm` and `hand`, sets of 2 and 3 channels; a world of both robots, one of the arm alone."""
    root = tmp_path_factory.mktemp("robots")
    one_set(root / "arm", tiny.SCHEMA)
    one_set(root / "hand", HAND)
    save_world(root / "both", tiny.make_parts(schema=BOTH, text=False))
    save_world(root / "one", tiny.make_parts(text=False))
    return root


def test_each_robot_acts_as_in_its_own_evaluation(place, tmp_path):
    data = f"{place / 'arm'}:{place / 'hand'}"
    both = evaluate(place / "both", data, tmp_path / "both", QUICK, progress=False)
    assert both["data"] == "arm:hand" and both["episodes"] == 4 and "rollout" not in both["not_measured"]
    alone = {name: evaluate(place / "both", place / name, tmp_path / name, QUICK, progress=False) for name in ("arm", "hand")}
    for name, one in alone.items():
        for key in ("loss", "accuracy"):
            assert both["prediction"]["by_robot"][name][key] == pytest.approx(one["prediction"][key], abs=1e-6)
        assert both["rollout"]["by_robot"][name]["episodes"] == 2
        assert both["rollout"]["by_robot"][name]["psnr_raw_last"] == pytest.approx(one["rollout"]["psnr_raw_last"])
        assert "by_robot" not in one["rollout"]
    rolled = {row["id"]: row["psnr_raw_last"] for row in both["rollout"]["by_episode"]}
    assert rolled["arm/e1"] == alone["arm"]["rollout"]["by_episode"][0]["psnr_raw_last"]
    assert rolled["hand/e1"] == alone["hand"]["rollout"]["by_episode"][0]["psnr_raw_last"]
    page = (tmp_path / "both" / "report.html").read_text()
    assert page.count("<th>robot</th>") == 2 and "<td>hand</td>" in page


def test_the_actions_of_the_right_robot_are_seen(place, tmp_path):
    """Under the wrong robot's name the tokens would mean other channels: it is refused, and the right one changes the numbers."""
    with_actions = evaluate(place / "both", place / "hand", tmp_path / "a", QUICK, progress=False)
    zeroed = one_set(tmp_path / "hand", HAND)
    for path in (zeroed / "actions").iterdir():
        np.save(path, np.zeros((8, 3), np.float32))
    other = evaluate(place / "both", zeroed, tmp_path / "b", QUICK, progress=False)
    assert with_actions["prediction"]["loss"] != other["prediction"]["loss"]


@pytest.mark.parametrize(
    ("world", "data", "more", "words"),
    [
        ("both", "arm", ["embodiment=hand"], "schema differs from the world's (3 channels"),
        (
            "both",
            "arm",
            ["embodiment=hnad"],
            "embodiment: got 'hnad' (did you mean \"hand\"?), expected embodiment= to be one of arm, hand",
        ),
        ("both", "arm:hand", ["embodiment=hand"], "embodiment: got 'hand', expected none: the data names its own"),
        ("one", "arm", ["embodiment=arm"], "there are no robots to choose from"),
        ("one", "arm:hand", [], "schema differs from the world's (one robot != 2: arm, hand)"),
        ("both", "arm", ["camera=top"], "camera: got 'top', but"),
        ("both", "arm", ["frames=41"], "no held-out episode of 41 frames or more, the longest has 9"),
        ("both", "arm", ["split=test"], "got no episode of split 'test', expected at least one; fix: add one, or take split train or val"),
    ],
)
def test_what_does_not_fit_is_one_line(place, tmp_path, monkeypatch, capsys, world, data, more, words):
    monkeypatch.chdir(place)
    quick = ["frames=5", "episodes=2", "demo=false", "speed_runs=0", f"out={tmp_path / 'out'}"]
    assert main(["evaluate", f"world={place / world}", f"data={data}", *quick, *more]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and words in err and not (tmp_path / "out").exists(), err


def test_a_folder_of_another_name_needs_the_robot_named(place, tmp_path):
    other = one_set(tmp_path / "lab", HAND)
    world = load_world(place / "both")
    with pytest.raises(Exception, match="lab: got one robot's actions, expected embodiment= to be one of arm, hand"):
        fitted(open_episodes(other), world)
    named = fitted(open_episodes(other), world, "hand")
    assert named.schema == BOTH and {episode.embodiment for episode in named} == {"hand"}
    assert named.load_actions(0).shape == (8, 3)


def test_ranges_found_in_data_yield_to_the_worlds(place):
    world = load_world(place / "one")
    wider = tuple(replace(channel, low=-0.5, high=0.5) for channel in tiny.SCHEMA.channels)
    found = replace(open_episodes(place / "arm"), schema=replace(tiny.SCHEMA, channels=wider), schema_made=True)
    assert fitted(found, world).schema == tiny.SCHEMA
    with pytest.raises(Exception, match="schema differs"):
        fitted(replace(found, schema_made=False), world)


def test_clips_without_a_token_that_changes(place, tmp_path):
    """Two latents: there is no pair of later ones to compare."""
    numbers = evaluate(place / "one", place / "arm", tmp_path, replace(QUICK, frames=3), progress=False)
    assert numbers["prediction"]["loss_changed"] is None and numbers["prediction"]["loss"] > 0
    assert "where the token changes" not in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(("camera", "fps"), [("image_1", 5), ("tile", 10)])
def test_real_rlds_episodes_with_a_camera_and_a_rate(tmp_path, camera, fps):
    if not (REAL / "octo_bridge").exists():
        pytest.skip("real clips octo_bridge are not beside this checkout")
    save_world(tmp_path / "world", tiny.make_parts(text=False, actions=False))
    quick = ["frames=5", "episodes=2", "demo=false", "speed_runs=0", f"camera={camera}", f"fps={fps}", f"out={tmp_path / 'out'}"]
    assert main(["evaluate", f"world={tmp_path / 'world'}", f"data={REAL / 'octo_bridge'}", *quick]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["settings"]["camera"] == camera and report["settings"]["fps"] == fps and report["episodes"] == 1
