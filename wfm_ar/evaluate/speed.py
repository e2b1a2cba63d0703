"""How fast a world rolls out, and how much memory a process took at its worst. Wall-clock numbers of this machine, now."""

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wfm_ar.errors import BadConfig

POLL = 0.05  # seconds between looks at another process's peak


def frames_per_second(roll: Callable[[int], int], *, runs: int) -> dict[str, Any]:
    """Times `roll(seed)`, which makes a clip and returns how many frames it imagined: one run to warm up, then `runs` timed ones.

    Returns {"frames_per_second": median over the runs, "runs": all of them}.
    """
    assert runs >= 1, f"expected at least one run, got {runs}"
    roll(0)
    speeds = []
    for seed in range(1, 1 + runs):
        start = time.perf_counter()
        frames = roll(seed)
        speeds.append(frames / (time.perf_counter() - start))
    return {"frames_per_second": float(np.median(speeds)), "runs": speeds}


def peak_bytes(pid: int | str = "self") -> int:
    """The most memory (resident, bytes) the process `pid` has held so far; for other processes on Linux only."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():  # ru_maxrss also counts what the parent held before exec
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if pid != "self":
        return 0  # it has ended, or this system tells nothing of other processes
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def measure_command(command: Sequence[str], *, timeout: float) -> dict[str, Any]:
    """Runs `command`, without a shell, and returns its peak memory in bytes (children not counted) and its seconds.

    Raises BadConfig with the last line it said if it fails or takes longer than `timeout` seconds.
    """
    start, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile() as said:  # not a pipe: one that nobody reads blocks the child when it is full
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said) as process:
            try:
                while process.poll() is None:
                    peak = max(peak, peak_bytes(process.pid))
                    if time.perf_counter() - start > timeout:
                        raise BadConfig(f"{' '.join(command)}: still running after {timeout:g} s; fix: run it by hand to see why")
                    time.sleep(POLL)
            finally:
                if process.poll() is None:
                    process.kill()
        said.seek(0)
        lines = said.read().decode(errors="replace").strip().splitlines()
    if process.returncode:
        last = lines[-1] if lines else "it said nothing"
        raise BadConfig(f"{' '.join(command)}: ended with exit code {process.returncode} ({last}); fix: run it by hand to see why")
    return {"peak_bytes": peak, "seconds": time.perf_counter() - start}
