"""Flat memory (reliability goal R21): the resident size of a training run does not grow.

    python tools/campaigns/memory.py --steps 5000

`wfm train` of one stage in a child; its resident size is read from /proc while it runs, and the median of its last tenth is
compared with that of the tenth behind step 200.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from training_runs import STAGES, TINY, Child, make_clips


def resident(pid: int) -> float:
    """MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / 2**20


def measure(place: Path, stage: str, steps: int) -> tuple[float, float, int]:
    """-> (MiB behind step 200, MiB at the end, samples)."""
    data, run, log = make_clips(place / "clips"), place / "run", place / "told.txt"
    before = STAGES[: STAGES.index(stage)][:1]
    for name in before:
        assert Child([f"stage={name}", f"data={data}", f"run={run}", *TINY, "steps=6"], log).wait() == 0, log.read_text()[-2000:]
    # the first validation brings in code and buffers that the steps before it did not need: it belongs before step 200
    often = [f"steps={steps}", "checkpoint_every=100", "val_every=100", "log_every=10", "num_workers=1", "deterministic=false"]
    child = Child([f"stage={stage}", f"data={data}", f"run={run}", *TINY, *often], log)
    samples, history = [], run / stage / "log.jsonl"
    while child.ended() is None:
        child.listen()
        time.sleep(0.2)
        try:
            step = json.loads(history.read_text().splitlines()[-1])["step"]
            samples.append((step, resident(child.pid)))
        except (OSError, ValueError, IndexError):
            continue  # not begun, a line half written, or ended meanwhile
    assert log.read_text().count(f"{steps}/{steps}"), log.read_text()[-2000:]
    late = [size for step, size in samples if step >= 200]
    tenth = max(1, len(late) // 10)
    return median(late[:tenth]), median(late[-tenth:]), len(late)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--stage", choices=STAGES, default="world_model")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        early, late, samples = measure(Path(folder), options.stage, options.steps)
    growth = late / early - 1
    print(f"{options.stage}, {options.steps} steps: {early:.1f} MiB behind step 200, {late:.1f} MiB at the end: {100 * growth:+.2f} %")
    print(f"{samples} samples, {time.monotonic() - began:.0f} s")
    print("1 passed, 0 failed" if growth < 0.02 else "0 passed, 1 failed")
    sys.exit(growth >= 0.02)
