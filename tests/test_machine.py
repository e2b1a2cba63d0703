"""How much memory there is and was used: within a container's limit, and from a moment on."""

import subprocess
import sys
from pathlib import Path

import pytest

from wfm_ar.machine import free_memory

GIB = 2**30


def can_forget() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def system(root, available=4 * GIB, **group):
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text(f"MemTotal: 99 kB\nMemFree: 1 kB\nMemAvailable: {available // 1024} kB\n")
    (root / "sys/fs/cgroup").mkdir(parents=True)
    for name, text in group.items():
        (root / "sys/fs/cgroup" / name.replace("_", ".")).write_text(text)
    return root


def test_without_a_limit_it_is_what_the_machine_has(tmp_path):
    assert free_memory(system(tmp_path, memory_max="max\n", memory_current="5\n", memory_stat="")) == 4 * GIB


@pytest.mark.parametrize(("limit", "expected"), [(3 * GIB, 2 * GIB), (64 * GIB, 4 * GIB), (GIB, 0)])
def test_a_container_has_what_is_left_of_its_limit(tmp_path, limit, expected):
    stat = f"anon 7\ninactive_file {GIB}\n"
    assert free_memory(system(tmp_path, memory_max=str(limit), memory_current=str(2 * GIB), memory_stat=stat)) == expected


def test_a_system_that_does_not_tell(tmp_path):
    assert free_memory(tmp_path) is None


PEAKS = """
import torch
from wfm_ar.machine import forget_peak_memory, peak_memory

torch.ones(96 << 20, dtype=torch.uint8)
forget_peak_memory()
before = peak_memory()
large = torch.ones(48 << 20, dtype=torch.uint8)
held = peak_memory()
del large
forget_peak_memory()
print(before, held, peak_memory())
"""


@pytest.mark.skipif(not can_forget(), reason="this system does not let a process forget its peak")
def test_a_peak_is_that_since_it_was_forgotten():
    """In a process of its own: one that has held gigabytes before gives some of them back at any time."""
    told = subprocess.run([sys.executable, "-c", PEAKS], check=True, capture_output=True, text=True).stdout
    before, held, after = map(int, told.split())
    assert held - before > 40 << 20 and held - after > 40 << 20
