"""Two ranks that are killed and stopped (reliability goal R15): torchrun starts them again and the run ends with the bytes of an
undisturbed one, or it ends with a named error; never a silent hang.

    python tools/campaigns/ranks.py --cases 30

Each case trains with `torchrun --nproc_per_node=2 --max-restarts=1 -m wfm_ar train` and, at a random moment after the first
checkpoint, kills rank 0, rank 1 or both, or stops one of them (SIGSTOP).
"""

import argparse
import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from training_runs import TINY, Child, make_clips

from wfm_ar.data.files import sha256_of
from wfm_ar.train.checkpoint import newest_checkpoint, step_of

HARMS = {
    "kill 0": (signal.SIGKILL, [0]),
    "kill 1": (signal.SIGKILL, [1]),
    "kill both": (signal.SIGKILL, [0, 1]),
    "stop 0": (signal.SIGSTOP, [0]),
    "stop 1": (signal.SIGSTOP, [1]),
}
LIMIT = 60  # seconds from the harm to an error that names the rank
STEPS = 40


def start(data: Path, run: Path, log: Path, restarts: int, steps: int = STEPS) -> subprocess.Popen:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["stage=world_model", f"data={data}", f"run={run}", *TINY, f"steps={steps}", "accumulate=2", "checkpoint_every=5"]
    words += ["val_every=20", "num_workers=1", "watchdog.ranks=10"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--max-restarts={restarts}", f"--master_port={port}"]
    with open(log, "w") as file:
        return subprocess.Popen([*torchrun, "-m", "wfm_ar", "train", *words], stdout=file, stderr=subprocess.STDOUT, env=os.environ)


def workers(torchrun: int) -> dict[int, int]:
    """{rank: pid} of torchrun's children."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int(path.joinpath("stat").read_text().rpartition(")")[2].split()[1])
            rank = re.search(rb"\0RANK=(\d+)\0", path.joinpath("environ").read_bytes())
        except (OSError, IndexError):
            continue
        if parent == torchrun and rank:
            found[int(rank[1])] = int(path.name)
    return found


def one_case(data: Path, base: Path, place: Path, harm: str, rng: random.Random, restarts: int) -> tuple[str, float]:
    """-> (what became of it in the end, seconds until the error that names the rank). Raises AssertionError."""
    run, log = place / "run", place / "told.txt"
    shutil.copytree(base, run)
    process = start(data, run, log, restarts)
    stage = run / "world_model"
    while newest_checkpoint(stage) is None:
        assert process.poll() is None, log.read_text()[-3000:]
        time.sleep(0.1)
    time.sleep(rng.uniform(0, 1.5))
    number, victims = HARMS[harm]
    pids = workers(process.pid)
    reported = step_of(newest_checkpoint(stage))
    if process.poll() is not None or len(pids) < 2:
        process.wait(timeout=600)
        return "too late", 0.0
    try:
        for victim in victims:
            os.kill(pids[victim], number)
        began, named = time.monotonic(), False
        while not named:
            assert time.monotonic() - began < LIMIT, f"{harm}: no error that names the rank in {LIMIT} s\n{log.read_text()[-3000:]}"
            time.sleep(0.1)
            text = log.read_text()
            if number == signal.SIGSTOP:
                named = f"rank {victims[0]} has not been heard of" in text
            else:  # by torchrun, which starts all again or ends
                named = any(f"(exitcode: -9) local_rank: {victim}" in text for victim in victims)
        took = time.monotonic() - began
        code = process.wait(timeout=900)
    finally:
        for pid in [process.pid, *pids.values()] if process.poll() is None else []:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    became = "restarted, ended" if code == 0 else "ended with that error"
    newest = newest_checkpoint(stage)
    assert newest is not None and step_of(newest) >= reported, f"{harm}: step {reported} is lost"
    assert (code == 0) == bool(restarts), f"{harm}: exit {code}\n{log.read_text()[-3000:]}"
    return became, took


def campaign(place: Path, cases: int, seed: int, harms: tuple[str, ...] = tuple(HARMS)) -> list[tuple[str, str, float]]:
    """-> (harm, what became of it, seconds) of each case. Raises AssertionError."""
    rng, data, base = random.Random(seed), make_clips(place / "clips"), place / "base"
    log = place / "told.txt"
    words = ["stage=video_tokenizer", f"data={data}", f"run={base}", *TINY, "steps=6", "checkpoint_every=3"]
    assert Child(words, log).wait() == 0, log.read_text()[-2000:]
    whole = place / "whole"
    shutil.copytree(base, whole)
    assert start(data, whole, log, 0).wait(timeout=300) == 0, log.read_text()[-3000:]
    expected = newest_checkpoint(whole / "world_model")
    results = []
    for case in range(cases):
        harm, restarts = harms[case % len(harms)], 0 if case % 4 == 3 else 1
        folder = place / f"case-{case}"
        folder.mkdir()
        became, took = one_case(data, base, folder, harm, rng, restarts)
        if restarts:
            last = newest_checkpoint(folder / "run" / "world_model")
            assert last.name == expected.name, f"case {case}, {harm}: {last.name}"
            for path in sorted(expected.glob("*.safetensors")):
                assert sha256_of(path) == sha256_of(last / path.name), f"case {case}, {harm}: {path.name} differs"
        results.append((harm, became, took))
        print(f"case {case}: {harm}, {'restart allowed' if restarts else 'no restart'}: named in {took:.1f} s, {became}", flush=True)
        shutil.rmtree(folder)
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            done = campaign(Path(folder), options.cases, options.seed)
        except AssertionError as error:
            print(error)
            print("0 passed, 1 failed")
            sys.exit(1)
    slowest = max(took for _, _, took in done)
    print(f"{len(done)} cases, {time.monotonic() - started:.0f} s; slowest to an error that names the rank {slowest:.1f} s")
    print(f"{len(done)} passed, 0 failed")
