"""The benchmark's tables: kernels/README.md shows what results/*.json say, and a rival that does not run is named with its reason."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from wfm_kernels.benchmark import about_machine, case_name, file_name, goals_table, measure
from wfm_kernels.benchmark.goals import CPU_GOALS, GPU_GOALS
from wfm_kernels.benchmark.record import table
from wfm_kernels.benchmark.registry import CPU_CASES, GPU_CASES, Case
from wfm_kernels.benchmark.timing import WrongNumbers

BENCHMARKS = Path(__file__).resolve().parents[3] / "kernels" / "benchmarks"


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


@pytest.mark.parametrize(("device", "goals", "cases"), [("cuda", GPU_GOALS, GPU_CASES), ("cpu", CPU_GOALS, CPU_CASES)])
def test_every_goal_is_read_off_a_case_that_is_run(device, goals, cases) -> None:
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    rows = []
    for maker, shape in cases:
        made = maker(device="meta", dtype=dtype, **shape)  # names only: no memory, no GPU
        ratios = dict.fromkeys((*made.rivals, *(("F.cross_entropy compiled", "flex_attention compiled") if device == "cuda" else ())), 2.0)
        time = {"median": 20.0 if "T16" in made.name else 10.0, "low": 9.0, "high": 11.0}
        times = {"microseconds": {"ours": time}, "times_faster_than": ratios, "share_of_copy": 0.9, "extra_bytes": 5e8}
        rows.append({"name": made.name} | times)
    lines = goals_table(device, rows).splitlines()[2:]
    assert len(lines) == len(goals) and all("reached" in line or "missed" in line for line in lines)
    assert goals_table(device, []).count("not measured") == len(goals)
    if device == "cuda":
        verdicts = [line.split("|")[3:5] for line in lines]
        assert [v.strip() for v in verdicts[0]] == ["90%", "reached"] and [v.strip() for v in verdicts[3]] == ["2.00x", "missed"]
        assert verdicts[8][0].strip() == "0.50 GB"


def test_cases_are_chosen_by_name() -> None:
    names = [case_name(maker, shape) for maker, shape in (*CPU_CASES, *GPU_CASES)]
    assert len(set(names)) == len(names) and "shared_prefix B=64 N=4 H=4 P=512 L=16 K=32" in names
