"""What the machine is called, and how many cores and how much memory this process may use."""

import contextlib
import os
import platform
import resource
import sys
from pathlib import Path


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def peak_memory() -> int:
    """Bytes of memory that this process held at most, since `forget_peak_memory` where the system has that."""
    if (told := _in_kib(Path("/proc/self/status"), "VmHWM")) is not None:
        return told
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak_memory() -> None:
    """From now on `peak_memory` tells of what comes (on Linux; elsewhere of the whole life of the process)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def free_memory(system: Path = Path("/")) -> int | None:
    """Bytes that processes may still take, within the limit of a container (cgroup v2); None where that is not told."""
    free = _in_kib(system / "proc/meminfo", "MemAvailable")
    group = system / "sys/fs/cgroup"
    try:
        limit = int((group / "memory.max").read_text())
        used = int((group / "memory.current").read_text())
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        return free
    within = max(0, limit - used + int(stat.get("inactive_file", 0)))  # files that were read are let go of when needed
    return within if free is None else min(free, within)


def _in_kib(path: Path, name: str) -> int | None:
    """A line "name: number kB" of a file of /proc, in bytes."""
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None
