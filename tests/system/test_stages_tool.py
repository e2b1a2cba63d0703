"""tools/stages.py: finished stages are kept in half precision and restored as checkpoints that a run goes on from."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from wfm_ar.train.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint

TOOL = Path(__file__).resolve().parents[2] / "tools" / "stages.py"

pytestmark = pytest.mark.skipif(not TOOL.is_file(), reason="needs the checkout")


def stages(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, TOOL, *map(str, words)], capture_output=True, text=True, timeout=120)


def test_kept_stages_are_restored(tmp_path):
    torch.manual_seed(0)
    weights = {"wide": torch.randn(40, 50), "statistics": torch.tensor([5667.748]), "count": torch.tensor(3)}
    state = {"step": 70, "stage": "video_tokenizer", "describe": {"model": {"levels": [4, 4]}}, "rng": {"python": 1}}
    save_checkpoint(tmp_path / "run" / "video_tokenizer", 70, {"model": {}, "ema": weights, "optimizer": {}}, state, keep=1)
    made = stages("keep", tmp_path / "run", tmp_path / "kept")
    assert made.returncode == 0 and "video_tokenizer: step 70" in made.stdout, made.stderr
    assert [file.name for file in (tmp_path / "kept").iterdir()] == ["video_tokenizer.safetensors"]
    assert stages("restore", tmp_path / "kept", tmp_path / "again").returncode == 0
    newest = newest_checkpoint(tmp_path / "again" / "video_tokenizer")
    assert newest is not None and newest.name == "step-000070"
    tensors, found = load_checkpoint(newest)
    assert found["describe"] == state["describe"] and "rng" not in found
    for group in ("model", "ema"):
        assert torch.equal(tensors[group]["wide"], weights["wide"].half().float())
        assert torch.equal(tensors[group]["statistics"], weights["statistics"]) and int(tensors[group]["count"]) == 3


def test_a_damaged_file_is_one_line(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "video_tokenizer.safetensors").write_bytes(b"\0" * 64)
    failed = stages("restore", tmp_path / "kept", tmp_path / "run")
    assert failed.returncode == 1 and failed.stderr.startswith("stages: ") and failed.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
