"""tools/gpu: what it says where there is no GPU; the rest of it needs one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "gpu"

pytestmark = pytest.mark.skipif(not TOOL.is_file(), reason="needs the checkout")


def test_without_a_gpu_it_says_so_in_one_line_and_runs_nothing() -> None:
    environment = os.environ | {"GPU_PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([str(TOOL)], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.strip() == (
        "gpu: torch sees no CUDA device, expected one; fix: run this on a machine with a GPU and a CUDA build of torch"
    )
