"""Corrupt checkpoints: the short form of tools/campaigns/hostile_checkpoints.py, and the cases that long runs found."""

import json

import hostile_checkpoints as campaign
import pytest

from wfm_ar.errors import BadCheckpoint
from wfm_ar.rollout.world_folder import read_world
from wfm_ar.train.checkpoint import load_checkpoint


def test_a_thousand_checkpoints(tmp_path):
    report = campaign.run(1000, 0, tmp_path)
    assert report.failures == [] and report.cases == 1000
    assert report.outcomes["refused"] > 600 and report.outcomes["the same, bit for bit"] > 50


@pytest.fixture
def world(tmp_path):
    campaign.tiny_world(tmp_path / "world")
    return tmp_path / "world"


def edit(world, *path, value):
    settings = json.loads((world / "world.json").read_text())
    node = settings
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    (world / "world.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("world_model", "layers"), 10**9, "model layers: got 1000000000, expected 0 to 1024"),
        (("world_model", "kv_heads"), 0, "model kv_heads: got 0"),
        (("video_tokenizer", "multipliers"), [1, 10**9], "tokenizer multipliers"),
        (("diffusion_decoder", "channels"), [10**9], "channels: got"),
        (("action_schema", "channels", 0, "high"), 1e308, "below 1e30"),
        (("action_schema", "channels", 0, "bins"), 1 << 31, "bins is 2147483648, expected a whole number from 2 to 32767"),
        (("files", "world_model.safetensors", "bytes"), 1 << 60, "got 1152921504606846976 bytes, expected at most"),
        (("files", "README.md", "bytes"), "7", "expected whole numbers"),
        (("video_tokenizer", "norm"), "../x", "expected one of"),
        (("diffusion_decoder",), None, "diffusion_decoder: got null, expected the settings of"),
        (("text",), None, "text: got null, expected the settings of text_tokenizer.model"),
    ],
)
def test_sizes_are_checked_before_anything_is_allocated(world, path, value, words):
    edit(world, *path, value=value)
    with pytest.raises(BadCheckpoint, match=words) as caught:
        read_world(world)
    assert "; fix: " in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"[" * 100_000, b'{"a":' * 50_000, b" " * (2 << 20), b'{"a": NaN}', b'{"a": 1, "a": 1}'])
def test_json_that_is_too_deep_too_long_or_loose(world, tmp_path, content):
    (world / "world.json").write_bytes(content)
    with pytest.raises(BadCheckpoint, match="world.json: cannot be read"):
        read_world(world)
    folders = campaign.sound(tmp_path / "more")
    (folders["training"] / "MANIFEST.json").write_bytes(content)
    with pytest.raises(BadCheckpoint):
        load_checkpoint(folders["training"])
