"""Speeds and peaks of processes whose cost is known."""

import sys
import time

import numpy as np
import pytest

from wfm_ar.errors import BadConfig
from wfm_ar.evaluate.speed import frames_per_second, measure_command, peak_bytes

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def test_frames_per_second_is_the_median_of_the_timed_runs():
    seeds = []

    def roll(seed: int) -> int:
        seeds.append(seed)
        time.sleep(0.2 if seed in (0, 2) else 0.02)  # the warm-up and one run are slow
        return 10

    numbers = frames_per_second(roll, runs=3)
    assert seeds == [0, 1, 2, 3] and len(numbers["runs"]) == 3
    assert numbers["frames_per_second"] == np.median(numbers["runs"]) and 100 < numbers["frames_per_second"] <= 500


def test_the_peak_of_this_process_grows_with_what_it_holds():
    before = peak_bytes()
    held = np.ones(200 * 2**20, dtype=np.uint8)
    assert peak_bytes() >= max(before, held.nbytes)


@linux_only
def test_a_command_is_measured_without_its_parent():
    held = np.ones(300 * 2**20, dtype=np.uint8)  # what a forked child would inherit
    code = "import time; a = bytearray(b'x') * (80 << 20); time.sleep(0.3); import sys; sys.stderr.write('x' * 200000)"
    numbers = measure_command([sys.executable, "-c", code], timeout=60)
    assert 80 * 2**20 < numbers["peak_bytes"] < held.nbytes
    assert 0.3 < numbers["seconds"] < 60


def test_a_command_that_fails_or_hangs_is_named_with_its_last_words():
    with pytest.raises(BadConfig, match=r"exit code 3 \(no such world\)"):
        measure_command([sys.executable, "-c", "import sys; sys.stderr.write('no such world'); sys.exit(3)"], timeout=60)
    with pytest.raises(BadConfig, match="still running after 0.5 s"):
        measure_command([sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.5)
