"""The short form of tools/campaigns/kill_writers.py: real verbs, killed at file operations or two at once. (Every single operation of
what they share: tests/data/test_claims.py.)"""

import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"
pytestmark = [pytest.mark.skipif(not TOOLS.is_dir(), reason="needs the checkout"), pytest.mark.timeout(600)]


def test_kills_and_pairs_lose_nothing_and_leave_nothing(tmp_path, load):
    writers = load(TOOLS / "campaigns" / "kill_writers.py")
    cases = tuple(case for case in writers.CASES if case.name in ("generate batch=", "data convert", "data curate"))
    report = writers.campaign(tmp_path, 5, seed=1, cases=cases)
    writers.pairs(tmp_path, 1, seed=1, report=report, cases=cases[-2:])
    assert report.failures == [] and (report.kills, report.pairs, report.refused) == (5, 1, 1)


def test_the_table_of_figures_is_what_the_campaigns_kept(tmp_path, load, monkeypatch):
    figures = load(TOOLS / "figures.py")
    page = figures.PAGE.read_text()
    assert figures.between(page, "figures", figures.table()) == page, "fix: python tools/figures.py"
    kept = load(TOOLS / "campaigns" / "campaign_figures.py")
    monkeypatch.setattr(sys, "argv", ["tools/campaigns/some.py", "--cases", "3000", "--json=some.json"])
    numbers = kept.figures(
        "some", cases=3000, failures=2, bugs=1, slowest_seconds=0.1234, seconds=5, outcomes={"refused": 2, "taken": 2996}
    )
    kept.write_figures(tmp_path / "some.json", numbers)
    earlier = {name: value for name, value in numbers.items() if name != "exit_70"} | {"campaign": "other", "failures": 0}
    kept.write_figures(tmp_path / "other.json", earlier)
    kept.write_figures(None, numbers)
    head, _, other, row, _, total = figures.table(tmp_path).strip().splitlines()
    assert head.startswith("| campaign | cases |") and total == "6,000 cases, 2 failures, 1 of them exit 70 (an internal error)."
    assert other.startswith("| other | 3,000 | 0 | 0 |")
    begin = "| some | 3,000 | 2 | 1 | 2,996 taken, 2 refused | 0.12 s | "
    assert row.startswith(begin) and "`python tools/campaigns/some.py --cases 3000`" in row
