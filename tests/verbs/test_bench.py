"""`wfm bench`: the registry through the command line."""

import json

from wfm_ar.cli import main


def test_one_case_is_checked_timed_and_written(tmp_path, capsys) -> None:
    out = tmp_path / "bench.json"
    assert main(["bench", "only=gate", "rounds=1", "device=cpu", f"out={out}"]) == 0
    printed = capsys.readouterr().out
    assert "| case | us (low .. high) |" in printed and "| swiglu R1 F704 float32 |" in printed
    record = json.loads(out.read_text())
    (row,) = record["rows"]
    assert row["max_error"] <= 1e-4 and row["bytes_moved"] == 3 * 704 * 4 and row["share_of_copy"] > 0
    assert set(row["microseconds"]) == {"ours", "copy", "torch"} and row["times_faster_than"]["torch"] > 0
    assert record["versions"]["torch"] and record["threads"] == 1 and record["device"] == "cpu"
    assert main(["bench", "only=gate", "device=cpu", f"out={out}"]) == 2
    assert "exists already" in capsys.readouterr().err


def test_mistakes_are_one_line(capsys) -> None:
    assert main(["bench", "only=flash", "device=cpu"]) == 2
    assert "only: got 'flash', which is in no case" in capsys.readouterr().err
    assert main(["bench", "rounds=0"]) == 2
    assert "rounds, threads: got 0 and 1" in capsys.readouterr().err


def test_both_verbs_of_the_name_have_their_help(capsys) -> None:
    assert main(["bench", "--help"]) == 0
    assert "wfm bench: check the kernels' numbers" in capsys.readouterr().out
    assert main(["bench", "cosmos", "--help"]) == 0
    assert "wfm bench cosmos: speed at the published" in capsys.readouterr().out


def test_wrong_numbers_are_not_timed(monkeypatch, capsys) -> None:
    monkeypatch.setattr("wfm_kernels.benchmark.registry.swiglu", lambda x, y: x + y)
    assert main(["bench", "only=gate", "device=cpu"]) == 2
    told = capsys.readouterr().err
    assert "swiglu R1 F704 float32: error" in told and "nothing was timed" in told
