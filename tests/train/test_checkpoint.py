import hashlib
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load as load_safetensors

from wfm_ar.errors import BadCheckpoint, WfmError
from wfm_ar.train.checkpoint import RunLock, load_checkpoint, load_weights, newest_checkpoint, save_checkpoint, verified_checkpoints
from wfm_ar.train.tensor_file import NAMES, first_not_finite, tensor_chunks


def save(run, step, keep=2):
    return save_checkpoint(run, step, {"model": {"w": torch.full((2, 3), float(step))}}, {"step": step}, keep)


def test_round_trip_and_retention(tmp_path):
    for step in (5, 10, 15):
        save(tmp_path, step)
    assert [f.name for f in verified_checkpoints(tmp_path)] == ["step-000010", "step-000015"]
    tensors, state = load_checkpoint(tmp_path / "step-000015")
    assert state == {"step": 15} and torch.equal(tensors["model"]["w"], torch.full((2, 3), 15.0))


@pytest.mark.parametrize("harm", ["flip", "cut", "missing", "manifest", "alien", "link", "extra", "double"])
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
    elif harm == "link":  # the right bytes, but not in the folder
        shutil.copy(weights, tmp_path / "elsewhere")
        weights.unlink()
        weights.symlink_to(tmp_path / "elsewhere")
    elif harm == "extra":  # a file of tensors that nobody vouches for
        shutil.copy(weights, folder / "more.safetensors")
    elif harm == "double":
        manifest.write_text(manifest.read_text().replace('"step": 10', '"step": 10, "step": 10'))
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


def test_a_step_written_again_replaces_the_first(tmp_path):
    save(tmp_path, 5)
    save_checkpoint(tmp_path, 5, {"model": {"w": torch.ones(1)}}, {"step": 5}, 2)
    assert [f.name for f in tmp_path.iterdir()] == ["step-000005"]
    assert torch.equal(load_checkpoint(tmp_path / "step-000005")[0]["model"]["w"], torch.ones(1))


def test_steps_are_ordered_as_numbers(tmp_path):
    for step in (999_999, 1_000_000):
        save(tmp_path, step)
    assert newest_checkpoint(tmp_path).name == "step-1000000"
    assert [f.name for f in verified_checkpoints(tmp_path)] == ["step-999999", "step-1000000"]


def test_retention_never_removes_the_one_just_written(tmp_path):
    for step in (100, 200, 50):
        save(tmp_path, step, keep=1)
    assert {f.name for f in verified_checkpoints(tmp_path)} == {"step-000050", "step-000200"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_neither_saved_nor_loaded(tmp_path, value):
    save(tmp_path, 5)
    poisoned = {"model": {"w": torch.ones(3)}, "ema": {"v": torch.tensor([1.0, value])}}
    with pytest.raises(BadCheckpoint, match="ema v is not finite"):
        save_checkpoint(tmp_path, 10, poisoned, {"step": 10}, 2)
    assert [f.name for f in tmp_path.iterdir()] == ["step-000005"]


def test_sizes_are_checked_before_they_are_believed(tmp_path):
    """A file that claims a tensor of petabytes is refused by its header, with a manifest that vouches for it or not."""
    folder = save(tmp_path, 5)
    weights, manifest = folder / "model.safetensors", folder / "MANIFEST.json"
    header = json.dumps({"w": {"dtype": "F32", "shape": [2**50], "data_offsets": [0, 2**52]}}).encode()
    weights.write_bytes(len(header).to_bytes(8, "little") + header + bytes(24))
    content = json.loads(manifest.read_text())
    content["files"]["model.safetensors"] = {"bytes": weights.stat().st_size, "sha256": hashlib.sha256(weights.read_bytes()).hexdigest()}
    manifest.write_text(json.dumps(content))
    with pytest.raises(BadCheckpoint, match="cannot be read"):
        load_checkpoint(folder)
    manifest.write_text(" " * (2**22 + 1))
    with pytest.raises(BadCheckpoint, match="at most"):
        load_checkpoint(folder)


def test_our_bytes_are_what_safetensors_reads():
    tensors = {f"{name}": torch.arange(-3, 4).to(dtype) for dtype, name in NAMES.items()}
    tensors |= {"empty": torch.zeros(0, 3), "scalar": torch.tensor(2.5), "strided": torch.arange(6.0).view(2, 3).T}
    read = load_safetensors(b"".join(bytes(chunk) for chunk in tensor_chunks(tensors)))
    assert read.keys() == tensors.keys()
    assert all(read[name].dtype == t.dtype and torch.equal(read[name], t) for name, t in tensors.items())
    assert first_not_finite(tensors) is None and first_not_finite(tensors | {"x": torch.tensor([1e38, -torch.inf])}) == "x"


def test_weights_that_do_not_fit_are_all_named():
    module = torch.nn.Linear(2, 3)
    with pytest.raises(BadCheckpoint, match="float64"):
        load_weights(module, {"bias": torch.zeros(3), "weight": torch.zeros(3, 2, dtype=torch.float64)}, "here")
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
