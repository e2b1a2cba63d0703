import json
import os

import pytest
import torch

from wfm_ar.errors import BadCheckpoint, NoSpace, WfmError
from wfm_ar.train import checkpoint
from wfm_ar.train.checkpoint import RunLock, load_checkpoint, load_weights, save_checkpoint, verified_checkpoints


def save(run, step, keep=2):
    return save_checkpoint(run, step, {"model": {"w": torch.full((2, 3), float(step))}}, {"step": step}, keep)


def test_round_trip_and_retention(tmp_path):
    for step in (5, 10, 15):
        save(tmp_path, step)
    assert [f.name for f in verified_checkpoints(tmp_path)] == ["step-000010", "step-000015"]
    tensors, state = load_checkpoint(tmp_path / "step-000015")
    assert state == {"step": 15} and torch.equal(tensors["model"]["w"], torch.full((2, 3), 15.0))


@pytest.mark.parametrize("harm", ["flip", "cut", "missing", "manifest", "alien"])
def test_a_damaged_folder_is_not_a_checkpoint(tmp_path, harm):
    save(tmp_path, 5)
    folder = save(tmp_path, 10)
    weights, manifest = folder / "model.safetensors", folder / "MANIFEST.json"
    if harm == "flip":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    elif harm == "cut":
        weights.write_bytes(weights.read_bytes()[:-4])
    elif harm == "missing":
        weights.unlink()
    elif harm == "manifest":
        manifest.write_text(manifest.read_text()[:-9])
    else:
        content = json.loads(manifest.read_text())
        content["files"]["../step-000005/model.safetensors"] = content["files"].pop("model.safetensors")
        manifest.write_text(json.dumps(content))
    assert [f.name for f in verified_checkpoints(tmp_path)] == ["step-000005"]
    with pytest.raises(BadCheckpoint):
        load_checkpoint(folder)


def test_damaged_folders_do_not_use_up_retention(tmp_path):
    save(tmp_path, 5)
    (tmp_path / "step-000007").mkdir()
    (tmp_path / "step-000008").mkdir()
    save(tmp_path, 10)
    assert [f.name for f in verified_checkpoints(tmp_path)] == ["step-000005", "step-000010"]


@pytest.mark.parametrize("point", ["save_file", "fsync", "sha256_of"])
def test_a_full_disk_leaves_what_was_there_and_no_litter(tmp_path, monkeypatch, point):
    save(tmp_path, 5)
    original, calls = getattr(checkpoint, point), []

    def full(*arguments, **keywords):
        calls.append(arguments)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        return original(*arguments, **keywords)

    monkeypatch.setattr(checkpoint, point, full)
    with pytest.raises(NoSpace, match="No space left"):
        save(tmp_path, 10)
    monkeypatch.undo()
    assert [f.name for f in verified_checkpoints(tmp_path)] == ["step-000005"]
    assert not list(tmp_path.glob(".tmp-*"))


def test_weights_that_do_not_fit_are_all_named():
    module = torch.nn.Linear(2, 3)
    with pytest.raises(BadCheckpoint, match=r"bias is \(4,\), expected \(3,\).*extra other.*missing weight"):
        load_weights(module, {"bias": torch.zeros(4), "other": torch.zeros(1)}, "here")


def test_a_run_folder_has_one_owner(tmp_path):
    with RunLock(tmp_path):
        (tmp_path / f".tmp-step-000001-{os.getpid()}").mkdir()
        with pytest.raises(WfmError, match="another run"):
            RunLock(tmp_path)
    with RunLock(tmp_path):
        pass
    assert not list(tmp_path.glob(".tmp-*"))
