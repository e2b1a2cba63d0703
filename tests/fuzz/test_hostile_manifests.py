"""Corrupt manifests: the short form of tools/campaigns/hostile_manifests.py, and the cases that long runs found."""

import json

import hostile_manifests as campaign
import numpy as np
import pytest

from wfm_ar.data import episodes as episodes_module
from wfm_ar.data.episodes import load_state
from wfm_ar.data.episodes_jsonl import parse_line
from wfm_ar.data.formats import open_episodes
from wfm_ar.errors import BadData, WfmError
from wfm_ar.verbs.prompts import read_requests

RECORD = {"id": "a", "video": "videos/a.mp4", "fps": 10.0, "split": "train"}


def test_a_thousand_manifests(tmp_path):
    report = campaign.run(1000, 0, tmp_path)
    assert report.failures == [] and report.cases == 1000
    assert report.outcomes["refused"] > 600 and report.outcomes["taken"] > 50


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"video": "é" * 300}, "a path of 600 bytes"),
        ({"state": "\ud800"}, "lone surrogate"),
        ({"text": "a" * (10 << 20)}, "a line of .* bytes, expected at most 65536"),
        ({"video": "../x.mp4"}, "leads out of the folder"),
        ({"video": "/etc/passwd"}, "leads out of the folder"),
        ({"fps": 10**400}, "a number of 401 digits, at most 300 are taken"),
    ],
)
def test_what_long_runs_found(tmp_path, changes, words):
    with pytest.raises(BadData, match=words) as caught:
        parse_line(json.dumps(RECORD | changes).encode(), "here", tmp_path)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("actions.json", {"discrete": "a" * 5000}, "discrete is 'aaa"),
        ("actions.json", {"motion": "a" * 5000}, "motion is 'aaa"),
        ("episodes.jsonl", {"split": "a" * 5000}, "split is 'aaa"),
        ("prompts.jsonl", {"frames": "a" * 5000}, "frames is 'aaa"),
    ],
)
def test_values_of_thousands_of_characters_are_told_in_short(tmp_path, name, content, words):
    campaign.sound(tmp_path / "data")
    path = tmp_path / "data" / name
    if name == "actions.json":
        tree = json.loads(path.read_text())
        tree["channels"][0] |= content
        path.write_text(json.dumps(tree))
    else:
        path.write_text(json.dumps({"id": "a", "text": "go left"} | (RECORD if name == "episodes.jsonl" else {}) | content))
    with pytest.raises(WfmError, match=words) as caught:
        read_requests(path, {}) if name == "prompts.jsonl" else open_episodes(path.parent)
    assert len(str(caught.value)) < 500


def test_a_state_that_unpacks_to_much_more(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros(10), y=np.zeros(3))
    assert load_state(tmp_path / "a.npz")["y"].shape == (3,)
    monkeypatch.setattr(episodes_module, "STATE_BYTES", 100)
    with pytest.raises(BadData, match="unpacks to .* bytes, expected at most 100"):
        load_state(tmp_path / "a.npz")
