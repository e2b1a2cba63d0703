"""Every kernel x configuration compiles to a cubin for sm_80 and sm_90 without a GPU: no spills, within shared memory, the
expected instructions. Prints the table of registers and shared memory (pytest -s).
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}
OPS = ["attention", "rms_norm", "swiglu", "qk_norm_rope_cache", "sample", "linear_cross_entropy"]


@pytest.fixture(scope="module")
def table():
    """One dict a variant, from a subprocess a target without the interpreter's variable."""
    here = Path(__file__).resolve()
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = str(here.parents[2] / "kernels")
    command = [sys.executable, str(here.parent / "compile_all.py")]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    running = [subprocess.Popen([*command, str(sm)], env=environment, **pipes) for sm in SHARED_LIMIT]
    rows = []
    for process in running:
        printed, problems = process.communicate(timeout=900)
        assert process.returncode == 0, problems[-2000:]
        rows += [json.loads(line) for line in printed.splitlines()]
    print()
    columns = dict(op=22, variant=58, sm=4, registers=10, shared=7, LDGSTS=7, HMMA=5, HGMMA=6)
    for r in [{name: name for name in columns}, *rows]:
        print("".join(f"{r[name]:{width}}" for name, width in columns.items()))
    return rows


@pytest.mark.timeout(900)
def test_every_op_is_compiled_for_both_targets(table):
    assert {(r["op"], r["sm"]) for r in table} == {(op, sm) for op in OPS for sm in (80, 90)}


@pytest.mark.parametrize("op", OPS)
def test_no_spills_and_shared_memory_within_limits(op, table):
    for r in table:
        if r["op"] == op:
            where = f"{r['variant']} sm_{r['sm']}"
            assert r["stack"] == r["local"] == r["LDL"] == r["STL"] == 0, f"{where} spills: {r}"
            assert r["shared"] <= SHARED_LIMIT[r["sm"]], f"{where} takes {r['shared']} bytes of shared memory"


def test_attention_streams_its_cache_and_uses_matrix_instructions(table):
    decode = [r for r in table if r["op"] == "attention" and r["variant"].startswith("q ")]
    assert len(decode) == 20 + 4 + 25 + 5
    for r in decode:
        assert r["LDGSTS"] > 0, f"no asynchronous copies: {r}"
        if not r["variant"].startswith("q fp32"):
            assert r["HMMA"] + r["HGMMA"] > 0, f"no matrix instructions: {r}"
    assert any(r["HGMMA"] > 0 for r in decode if r["sm"] == 90)  # tiles of 64 rows use the warp-group form
