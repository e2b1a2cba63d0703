"""Collects the results of a benchmark run and writes them, one JSON a machine."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
RESULTS = Path(__file__).resolve().parent / "results"


def pytest_addoption(parser):
    parser.addoption("--save-results", action="store_true", help="write kernels/benchmarks/results/<machine>.json")


@pytest.fixture(scope="session")
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="session")
def results(request, device):
    """A list to append rows to; with --save-results it is written when the run ends."""
    from wfm_kernels.benchmark import about_machine, file_name

    rows = []
    yield rows
    if rows and request.config.getoption("--save-results"):
        about = about_machine(device)
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / file_name(about)).write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")
