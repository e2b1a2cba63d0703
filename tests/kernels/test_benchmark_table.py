"""The benchmark's tables: kernels/README.md shows what results/*.json say, and a rival that does not run is named with its reason."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from wfm_kernels.benchmark import about_machine, file_name, measure
from wfm_kernels.benchmark.record import table
from wfm_kernels.benchmark.registry import Case
from wfm_kernels.benchmark.timing import WrongNumbers

BENCHMARKS = Path(__file__).resolve().parents[2] / "kernels" / "benchmarks"


def test_the_readme_shows_the_results() -> None:
    spec = importlib.util.spec_from_file_location("table", BENCHMARKS / "table.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    readme = (BENCHMARKS.parent / "README.md").read_text()
    assert maker.updated(readme) == readme, "run: python kernels/benchmarks/table.py --write"
    for path in (BENCHMARKS / "results").glob("*.json"):
        record = json.loads(path.read_text())
        assert record["machine"] in readme and all(row["name"] in readme for row in record["rows"])


def case(ours, rivals, tolerance=1e-6) -> Case:
    x = torch.arange(8.0)
    return Case(name="double", ours=lambda: ours(x), reference=lambda: 2 * x, rivals=rivals, bytes_moved=64, tolerance=tolerance)


def test_rivals_that_do_not_run_or_are_wrong_are_left_out_with_the_reason() -> None:
    def broken():
        raise RuntimeError("not built for this card\nand more")

    x = torch.arange(8.0)
    rivals = {"same": lambda: x + x, "broken": broken, "wrong": lambda: 3 * x}
    row = measure(case(lambda x: x * 2, rivals), "cpu", rounds=1)
    assert set(row["times_faster_than"]) == {"same"}
    assert row["not_run"] == {"broken": "RuntimeError: not built for this card", "wrong": "WrongNumbers: error 7.0"}
    shown = table(about_machine("cpu") | {"rows": [row]})
    assert "broken: not run" in shown and "| double |" in shown


def test_wrong_numbers_are_refused_before_timing() -> None:
    for wrong in (lambda x: x * 2.1, lambda x: x * float("nan")):
        with pytest.raises(WrongNumbers, match="double: error"):
            measure(case(wrong, {}), "cpu", rounds=1)


def test_results_of_machines_do_not_overwrite_each_other() -> None:
    about = dict(device="cpu", machine="A (R) B", vectors="AVX2", threads=1)
    assert file_name(about) == "cpu-a-r-b-avx2.json" and file_name(about | {"threads": 2}) == "cpu-a-r-b-avx2-2-threads.json"
