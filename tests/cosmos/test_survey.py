"""Folders of downloads as they are: networks among other files, in one folder or in many, and what is damaged is told."""

import json
import shutil
import warnings

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from wfm_ar.cosmos.convert import convert
from wfm_ar.cosmos.describe import describe
from wfm_ar.cosmos.survey import survey
from wfm_ar.errors import BadCheckpoint, BadConfig
from wfm_ar.rollout.world import load_world

DV, CV = "Cosmos-Tokenize1-DV8x16x16-720p", "Cosmos-Tokenize1-CV8x8x8-720p"
SIZE = dict(dtype="float32", height=64, width=96)


@pytest.fixture
def release(place, tmp_path):
    return shutil.copytree(place / "release-4b", tmp_path / "checkpoints")


def _hashes(folder):
    files = json.loads((folder / "world.json").read_text())["files"]
    return {name: one["sha256"] for name, one in files.items() if name != "README.md"}


def test_a_download_holds_more_than_the_networks(place, release, tmp_path):
    """As published: statistics for pictures beside the tokenizer, guardrails and language models beside the releases."""
    shutil.copy(release / CV / "mean_std.pt", release / CV / "image_mean_std.pt")
    (release / "guardrail").mkdir()
    torch.save(nn.Linear(3, 3), release / "guardrail" / "filter.pt")  # a pickle of a class
    torch.save({"a": torch.ones(2)}, release / "guardrail" / "face.pth", _use_new_zipfile_serialization=False)
    save_file({"lm_head.weight": torch.ones(2, 2)}, release / "guardrail" / "model.safetensors")
    told = list(describe(release))
    assert len([line for line in told if line.startswith("left out: ")]) == 3 and len(survey(release).found) == 4
    notes = []
    convert(release, tmp_path / "world", progress=notes.append, **SIZE)
    assert _hashes(tmp_path / "world") == _hashes(place / "4b") and len([line for line in notes if "left out" in line]) == 3


def test_what_is_damaged_is_told_unless_everything_is_there_without_it(release, tmp_path):
    decoder = next(release.glob("*7B-Decoder*")) / "model.pt"
    decoder.write_bytes(decoder.read_bytes()[:5000])
    with pytest.raises(BadCheckpoint, match="7B-Decoder.*truncated or damaged"):
        convert(release, tmp_path / "world", **SIZE)
    assert not (tmp_path / "world").exists()
    convert(release, tmp_path / "world", diffusion_decoder=False, **SIZE)


def test_refining_with_half_of_its_parts(release, tmp_path):
    """A decoder without its text works, and one without its tokenizer is left out: both are told."""
    notes = []
    next(release.glob("*7B-Decoder*/aux_vars.pt")).unlink()
    convert(release, tmp_path / "one", progress=notes.append, **SIZE)
    assert "no aux_vars.pt beside the diffusion decoder" in notes[0] and "diffusion_decoder" in notes
    shutil.rmtree(release / CV)
    notes.clear()
    convert(release, tmp_path / "two", progress=notes.append, **SIZE)
    assert notes[0].startswith("left out: the diffusion_decoder: ") and notes[1:] == ["world_model", "video_tokenizer"]
    with pytest.raises(BadConfig, match="has no diffusion_decoder"):
        load_world(tmp_path / "two", int8=["model", "decoder"])


def test_every_file_in_one_folder(place, release, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for folder in (path for path in release.iterdir()):
        for file in (path for path in folder.iterdir() if path.suffix != ".json"):
            kept = file.name in ("mean_std.pt", "aux_vars.pt")
            shutil.copy(file, flat / (file.name if kept else f"{folder.name}-{file.name}"))
    tensors = torch.load(flat / "Cosmos-Predict1-4B-model.pt", weights_only=True)["model"]
    (flat / "Cosmos-Predict1-4B-model.pt").unlink()
    names = sorted(tensors)
    shards = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for shard, members in shards.items():
        save_file({name: tensors[name] for name in members}, flat / shard)
    where = {name: shard for shard, members in shards.items() for name in members}
    (flat / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    decoder = flat / "Cosmos-Predict1-7B-Decoder-DV8x16x16ToCV8x8x8-720p-model.pt"
    save_file(torch.load(decoder, weights_only=True), decoder.with_suffix(".safetensors"))  # beside shards, but none of them
    decoder.unlink()
    convert(flat, tmp_path / "world", **SIZE)
    assert _hashes(tmp_path / "world") == _hashes(place / "4b")


def test_links_to_folders_are_followed(place, release, tmp_path):
    """Downloads are large, and lie on other disks."""
    linked = tmp_path / "linked"
    linked.mkdir()
    for folder in release.iterdir():
        (linked / folder.name).symlink_to(folder)
    (release / DV / "up").symlink_to(release)  # a way round without an end
    assert len(survey(linked).found) == 4


def test_a_tokenizer_as_its_training_saves_it(place, release, tmp_path):
    """Names begin with `network.`; beside them a running mean and losses, which are no weights of the network."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        halves = [torch.jit.load(release / DV / f"{side}.jit").state_dict() for side in ("encoder", "decoder")]
    weights = {f"network.{name}": tensor for half in halves for name, tensor in half.items()}
    mean = {"ema." + name.replace(".", "-"): torch.zeros_like(tensor) for name, tensor in weights.items()}
    torch.save({"model": weights | mean | {"loss.scale": torch.ones(1)}, "iteration": 7}, release / DV / "model.pt")
    (release / DV / "encoder.jit").unlink()
    convert(release, tmp_path / "world", **SIZE)
    assert _hashes(tmp_path / "world") == _hashes(place / "4b")


def test_archives_go_before_what_training_saved(place, release, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        halves = [torch.jit.load(release / DV / f"{side}.jit").state_dict() for side in ("encoder", "decoder")]
    torch.save({name: torch.zeros_like(tensor) for half in halves for name, tensor in half.items()}, release / DV / "model.pt")
    convert(release, tmp_path / "world", **SIZE)
    assert _hashes(tmp_path / "world") == _hashes(place / "4b")
