"""Collects the results of a benchmark run and writes them beside the registry, one JSON a machine."""

import json
import os
import platform
import sys
from pathlib import Path

import pytest
import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parent)]
RESULTS = Path(__file__).resolve().parent / "results"


def pytest_addoption(parser):
    parser.addoption("--save-results", action="store_true", help="write kernels/benchmarks/results/<machine>.json")


@pytest.fixture(scope="session")
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(scope="session")
def results(request, device):
    """A list to append rows to; with --save-results it is written when the run ends."""
    rows = []
    yield rows
    if not (rows and request.config.getoption("--save-results")):
        return
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), platform.machine()
    )
    machine = torch.cuda.get_device_name() if device == "cuda" else cpu
    record = dict(
        device=device,
        machine=machine,
        threads=torch.get_num_threads(),
        cores=os.cpu_count(),
        load_average=os.getloadavg() if hasattr(os, "getloadavg") else None,
        clocks="not read",
        timing="CPU time of one thread, warm caches" if device == "cpu" else "graph replay between events, L2 flushed",
        torch=torch.__version__,
        python=platform.python_version(),
        rows=rows,
    )
    RESULTS.mkdir(exist_ok=True)
    name = "".join(c if c.isalnum() else "-" for c in f"{device}-{machine}".lower()).strip("-")
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
