"""What the hostile-file campaigns share: how cases are run, timed and counted, and the edits that know nothing of a format.

A case is a word for what was done and bytes. A campaign's `check` says in one word what became of it, or raises Failure.
The report names every failure with its seed, and the files that failed are kept.
"""

import argparse
import os
import random
import resource
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from campaign_figures import figures, write_figures

from wfm_ar.decoding import pool
from wfm_ar.errors import WfmError

SLOWEST_SECONDS = 10.0  # of CPU time
INTERESTING = (0, 1, 2, 3, 7, 8, 255, 256, 65535, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)


class Failure(Exception):
    """A case that did not end as it must."""


@dataclass
class Report:
    """What a campaign found."""

    name: str
    outcomes: Counter = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    bugs: int = 0  # of the failures: exceptions that the command line ends with exit code 70
    slowest: tuple[float, str] = (0.0, "none")
    seconds: float = 0.0
    peaks_mib: tuple[int, int] | None = None  # of the work itself and of its decoding children, where making the cases takes more than that

    @property
    def cases(self) -> int:
        return sum(self.outcomes.values()) + len(self.failures)

    def kept(self) -> dict[str, object]:
        own = dict(cases=self.cases, failures=len(self.failures), bugs=self.bugs, outcomes=self.outcomes)
        found = figures(self.name, **own, slowest_seconds=self.slowest[0], seconds=self.seconds)
        return found | dict(zip(("peak_mib", "children_peak_mib"), self.peaks_mib or (), strict=False))

    def lines(self) -> list[str]:
        told = ", ".join(f"{count} {outcome}" for outcome, count in self.outcomes.most_common())
        usage = (resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        own, child = self.peaks_mib or usage
        return [
            *self.failures[:20],
            f"{self.name}: {self.cases} cases in {self.seconds:.0f} s: {told}",
            f"slowest case {self.slowest[0]:.2f} s ({self.slowest[1]}); peak memory {own:.0f} MiB, of children {child:.0f} MiB",
            f"{self.cases - len(self.failures)} passed, {len(self.failures)} failed",
        ]


def run_cases(
    name: str,
    cases: Iterable[tuple[str, object]],
    check: Callable[[object], str],
    clock: Callable[[], float] = time.process_time,
    keep: Callable[[str, object], None] | None = None,
) -> Report:
    """Runs `check` on each case. `clock`: CPU seconds spent so far, wherever they are spent."""
    report, began = Report(name), time.monotonic()
    for label, case in cases:
        before = clock()
        try:
            report.outcomes[check(case)] += 1
        except Exception as error:
            report.failures.append(f"FAILED {label}: {type(error).__name__}: {error}")
            report.bugs += is_bug(error)
            if keep:
                keep(label, case)
        spent = clock() - before
        report.slowest = max(report.slowest, (spent, label))
        if spent > SLOWEST_SECONDS:
            report.failures.append(f"FAILED {label}: took {spent:.1f} s, expected at most {SLOWEST_SECONDS:g}")
    report.seconds = time.monotonic() - began
    return report


def is_bug(error: Exception) -> bool:
    """Whether the command line would end with exit code 70: refusals, and what the system says of a file, it tells in one line."""
    return not isinstance(error, (Failure, WfmError)) and not (isinstance(error, OSError) and error.errno is not None)


def cpu_seconds() -> float:
    """Spent by this process and by its decoding children, also those that ended."""
    total = time.process_time()
    ended = os.times()
    total += ended.children_user + ended.children_system
    for pid in pool.child_ids():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except OSError:
            pass
    return total


def one_line(error: Exception) -> None:
    """Raises Failure unless the message is what a user is promised."""
    message = str(error)
    if "\n" in message or "; fix: " not in message:
        raise Failure(f"expected one line with a remedy, got {message!r}")
    if len(message) > 4000:
        raise Failure(f"a line of {len(message)} characters: {message[:80]}")


def mangled(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """`content` with one edit that needs no knowledge of what it is."""
    size = len(content)
    what = rng.choice(("cut", "bits", "bytes", "number", "zeros", "gap", "doubled", "inserted", "swapped", "tail"))
    at = rng.randrange(size) if size else 0
    some = content[at : at + rng.choice((1, 4, 16, 64, 256))]
    rest = content[at + len(some) :]
    if what == "cut":
        return f"cut at {at}", content[:at]
    if what == "bits":
        edited = bytearray(content)
        for _ in range(rng.choice((1, 1, 2, 8))):
            if size:
                edited[rng.randrange(size)] ^= 1 << rng.randrange(8)
        return "bits flipped", bytes(edited)
    if what == "bytes":
        return f"noise at {at}", content[:at] + rng.randbytes(len(some)) + rest
    if what == "number":
        number = struct.pack(rng.choice((">I", "<I", ">Q", "<Q", ">H")), rng.choice(INTERESTING) & 0xFFFF)
        return f"number at {at}", content[:at] + number + content[at + len(number) :]
    if what == "zeros":
        return f"zeros at {at}", content[:at] + bytes(len(some)) + rest
    if what == "gap":
        return f"gap at {at}", content[:at] + rest
    if what == "doubled":
        return f"doubled at {at}", content[:at] + some + some + rest
    if what == "inserted":
        return f"inserted at {at}", content[:at] + rng.randbytes(rng.choice((1, 4, 100))) + content[at:]
    if what == "swapped":
        other = rng.randrange(size) if size else 0
        low, high = sorted((at, other))
        return f"halves swapped at {low}, {high}", content[:low] + content[high:] + content[low:high]
    return "tail added", content + rng.randbytes(rng.choice((1, 8, 1000)))


def main(run: Callable[[int, int, Path], Report], cases: int, about: str) -> None:
    """The command line of a campaign: `python tools/campaigns/hostile_x.py [--cases N] [--seed S] [--keep FOLDER]`."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--cases", type=int, default=cases)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="where to leave the files that failed")
    parser.add_argument("--json", type=Path, help="where to leave the figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = run(options.cases, options.seed, options.keep or Path(folder))
    print(*report.lines(), sep="\n")
    write_figures(options.json, report.kept())
    sys.exit(bool(report.failures))
