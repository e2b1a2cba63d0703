#!/usr/bin/env python3
"""Rewrites the table of docs/security.md from what the campaigns kept in docs/campaigns/*.json.

python tools/campaigns/hostile_videos.py --cases 5000 --json=docs/campaigns/videos.json
python tools/figures.py            update the table
python tools/figures.py --check    say whether it is up to date (exit 1 if not)
"""

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
from readme import between  # noqa: E402

PAGE, KEPT = ROOT / "docs" / "security.md", ROOT / "docs" / "campaigns"
HEAD = (
    "| campaign | cases | failures | of them exit 70 | what became of them | slowest case | peak memory, children | run |",
    "|---|---|---|---|---|---|---|---|",
)


def bugs(kept: dict) -> int:
    """Exit code 70 is a failure in every campaign; earlier versions did not count it apart, so without failures there is none."""
    return kept["exit_70"] if kept["failures"] else 0


def row(kept: dict) -> str:
    """One line of the table."""
    outcomes = ", ".join(f"{count:,} {name}" for name, count in sorted(kept["outcomes"].items(), key=lambda one: -one[1]))
    memory = f"{kept['peak_mib']} MiB, {kept['children_peak_mib']} MiB"
    cells = (kept["campaign"], f"{kept['cases']:,}", str(kept["failures"]), str(bugs(kept)), outcomes)
    cells += (f"{kept['slowest_seconds']:.2f} s", memory, f"`{kept['command']}`, {kept['day']}")
    return f"| {' | '.join(cells)} |"


def table(folder: Path = KEPT) -> str:
    """All rows by name of their file, and the sums over all of them."""
    kept = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    cases, failures = (sum(one[key] for one in kept) for key in ("cases", "failures"))
    total = f"{cases:,} cases, {failures} failures, {sum(map(bugs, kept))} of them exit 70 (an internal error)."
    return "\n".join(("", *HEAD, *map(row, kept), "", total, ""))


def main() -> int:
    old = PAGE.read_text()
    new = between(old, "figures", table())
    if "--check" in sys.argv:
        print("docs/security.md is up to date" if new == old else "docs/security.md is behind docs/campaigns; fix: python tools/figures.py")
        return int(new != old)
    PAGE.write_text(new)
    return 0


if __name__ == "__main__":
    sys.exit(main())
