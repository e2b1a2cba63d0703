"""The figures of one run of a campaign as JSON: what `tools/figures.py` makes the table in docs/security.md from."""

import json
import resource
import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from wfm_ar import __version__


def figures(
    campaign: str, *, cases: int, failures: int, bugs: int, slowest_seconds: float, seconds: float, outcomes: Mapping[str, int]
) -> dict[str, object]:
    """What is kept of a run; memory is the resident peak of this process, and of its largest child that has ended, in MiB.

    bugs: what the command line ended, or would end, with exit code 70.
    """
    own, children = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "campaign": campaign,
        "command": shlex.join(["python", *(word for word in sys.argv if not word.startswith("--json="))]),
        "wfm_ar": __version__,
        "day": datetime.now(UTC).date().isoformat(),
        "cases": cases,
        "failures": failures,
        "exit_70": bugs,
        "outcomes": dict(outcomes),
        "slowest_seconds": round(slowest_seconds, 3),
        "seconds": round(seconds, 1),
        "peak_mib": round(own),
        "children_peak_mib": round(children),
    }


def write_figures(path: Path | None, values: Mapping[str, object]) -> None:
    """Writes what `figures` gave, where a path was asked for."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values, indent=1) + "\n")
