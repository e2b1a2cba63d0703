"""Every golden file of the published networks, through the same code as `wfm cosmos verify`; and that a wrong one fails."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from wfm_ar.cli import main
from wfm_ar.cosmos.verify import verify_file
from wfm_ar.tokenizers.video import causal_conv

FOLDER = Path(__file__).parents[3] / "shared" / "golden"
NAMES = (
    "fsq", "wavelet", "rope_release", "sampling", "dd_utils", "tokenizer_dv8x16x16", "tokenizer_dv4x8x8", "tokenizer_cv8x8x8",
    "ar_base", "ar_base_12b_yarn", "ar_v2w", "ar_v2w_13b_yarn", "ar_actioncond", "diffusion_decoder",
)  # fmt: skip


@pytest.mark.golden
@pytest.mark.parametrize("name", NAMES)
def test_golden_file(golden, name):
    golden(name)  # skips by name
    checks = list(verify_file(FOLDER, name))
    assert len(checks) >= 4 and [str(check) for check in checks if not check.ok] == []


@pytest.mark.golden
def test_verify_prints_a_line_a_check_and_exits_1_on_failure(golden, tmp_path, capsys):
    tensors, about = golden("fsq")
    (tmp_path / "fsq.json").write_text(json.dumps(about))
    save_file(tensors, tmp_path / "fsq.safetensors")
    assert main(["cosmos", "verify", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9 and all(line.rstrip().endswith(" ok") for line in lines[:-1]) and lines[-1] == "8 checks, 0 failed"
    save_file(tensors | {"bound": tensors["bound"] + 1}, tmp_path / "fsq.safetensors")
    assert main(["cosmos", "verify", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert out.count("FAIL") == 1 and "fsq: bound" in out


def test_files_that_cannot_be_checked_fail(tmp_path, capsys):
    (tmp_path / "fsq_odd.safetensors").write_bytes(b"nothing")
    (tmp_path / "else.safetensors").write_bytes(b"nothing")
    assert main(["cosmos", "verify", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert out.count("FAIL") == 2 and "unknown name" in out
    save_file({"z": torch.zeros(1)}, tmp_path / "wavelet.safetensors")
    (tmp_path / "wavelet.json").write_text('{"cases": [1]}')
    assert main(["cosmos", "verify", str(tmp_path)]) == 1
    assert "wavelet: after 0 checks" in capsys.readouterr().out
    assert main(["cosmos", "verify", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.golden
def test_a_missing_tensor_is_a_failed_check(golden, tmp_path):
    golden("dd_utils")
    tensors, about = load_file(FOLDER / "ar_base.safetensors"), (FOLDER / "ar_base.json").read_text()
    del tensors["sd.layers.1.attention.wk.weight"]
    (tmp_path / "ar_base.json").write_text(about)
    save_file(tensors, tmp_path / "ar_base.safetensors")
    (check,) = verify_file(tmp_path, "ar_base")
    assert not check.ok and "layers.1.attention.wk.weight is missing" in check.note


@pytest.mark.golden
@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("tokenizer")])
def test_tokenizers_hold_on_the_short_ways_of_large_convolutions(golden, monkeypatch, name):
    """The golden networks are too narrow to take them by themselves: indices must be equal there too."""
    golden(name)
    for threshold in ("LARGE", "WINOGRAD", "TILED"):
        monkeypatch.setattr(causal_conv, threshold, 0)
    checks = list(verify_file(FOLDER, name))
    assert len(checks) > 8 and [str(check) for check in checks if not check.ok] == []
