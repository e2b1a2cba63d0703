"""Two ranks that are killed and stopped (reliability goal R15): torchrun starts them again and the run ends with the bytes of an
undisturbed one, or it ends with a named error; never a silent hang.

    python tools/campaigns/ranks.py --cases 30

Each case trains with `torchrun --nproc_per_node=2 --max-restarts=1 -m wfm_ar train` (every fourth with no restart allowed) and, at a
random moment after the first checkpoint, kills rank 0, rank 1 or both, or stops one of them (SIGSTOP).
"""

import argparse
import contextlib
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from training_runs import TINY, Child, history, make_clips

from wfm_ar.train.checkpoint import load_checkpoint, newest_checkpoint, step_of

HARMS = {
    "kill 0": (signal.SIGKILL, [0]),
    "kill 1": (signal.SIGKILL, [1]),
    "kill both": (signal.SIGKILL, [0, 1]),
    "stop 0": (signal.SIGSTOP, [0]),
    "stop 1": (signal.SIGSTOP, [1]),
}
LIMIT = 60  # seconds from the harm to an error that names the rank, and to new workers or the end
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


def one_case(data: Path, base: Path, place: Path, harm: str, rng: random.Random, restarts: int) -> tuple[str, float, float]:
    """-> (what became of it in the end, seconds to the error that names the rank, seconds to new workers or to the end).

    Raises AssertionError.
    """
    run, log = place / "run", place / "told.txt"
    shutil.copytree(base, run)
    process = start(data, run, log, restarts)
    stage = run / "world_model"
    moment = rng.randrange(5, 30)
    while reached(stage) < moment and process.poll() is None:
        time.sleep(0.02)
    time.sleep(rng.uniform(0, 0.2))
    number, victims = HARMS[harm]
    pids, reported = workers(process.pid), reached(stage)
    if process.poll() is not None or len(pids) < 2:
        assert process.wait(timeout=600) == 0, log.read_text()[-3000:]
        return "too late", 0.0, 0.0
    try:
        for victim in victims:
            os.kill(pids[victim], number)
        began, named, renewed = time.monotonic(), 0.0, 0.0
        while not (named and renewed):
            time.sleep(0.05)
            took = time.monotonic() - began
            assert took < LIMIT, (
                f"{harm}: {'no restart' if named else 'no error that names the rank'} in {took:.0f} s\n{log.read_text()[-3000:]}"
            )
            if not named and names(log.read_text(), number, victims):
                named = took
            now = workers(process.pid)
            if not renewed and (process.poll() is not None or (len(now) == 2 and not set(now.values()) & set(pids.values()))):
                renewed = took
        code = process.wait(timeout=900)
    finally:
        left = [process.pid, *workers(process.pid).values()] if process.poll() is None else []
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
    assert reached(stage) >= reported, f"{harm}: step {reported} is lost"
    assert (code == 0) == bool(restarts), f"{harm}: exit {code}\n{log.read_text()[-3000:]}"
    return "restarted, ended" if code == 0 else "ended with that error", named, renewed


def reached(stage: Path) -> int:
    newest = newest_checkpoint(stage)
    return -1 if newest is None else step_of(newest)


def names(text: str, number: int, victims: list[int]) -> bool:
    """Whether an error names a rank that was harmed: the other rank's, or, where all were killed, torchrun's."""
    if number == signal.SIGSTOP:
        return f"rank {victims[0]} has not been heard of" in text
    return any(f"rank {each} has gone" in text or f"(exitcode: -9) local_rank: {each}" in text for each in victims)


def same(one: Path, other: Path, case: str) -> None:
    """Every tensor and all else of the last checkpoints, and the loss histories, are equal to the bit.

    Not the files: in which order a file of shards has its tensors depends on the process's seed of hashes.
    """
    (tensors, state), (others, its) = load_checkpoint(newest_checkpoint(one)), load_checkpoint(newest_checkpoint(other))
    assert state == its and state["step"] == STEPS, f"{case}: state.json differs"
    assert tensors.keys() == others.keys(), case
    for group, named in tensors.items():
        assert named.keys() == others[group].keys(), case
        for name, tensor in named.items():
            assert tensor.dtype == others[group][name].dtype and torch.equal(tensor, others[group][name]), f"{case}: {group} {name} differs"
    assert history(one) == history(other), f"{case}: the loss history differs"


def campaign(place: Path, cases: int, seed: int, harms: tuple[str, ...] = tuple(HARMS)) -> list[tuple[float, float]]:
    """-> (seconds to the error that names the rank, seconds to new workers or to the end) of each case. Raises AssertionError."""
    rng, data, base = random.Random(seed), make_clips(place / "clips"), place / "base"
    log = place / "told.txt"
    words = ["stage=video_tokenizer", f"data={data}", f"run={base}", *TINY, "steps=6", "checkpoint_every=3"]
    assert Child(words, log).wait() == 0, log.read_text()[-2000:]
    whole = place / "whole"
    shutil.copytree(base, whole)
    assert start(data, whole, log, 0).wait(timeout=300) == 0, log.read_text()[-3000:]
    results = []
    for case in range(cases):
        harm, restarts = harms[case % len(harms)], 0 if case % 4 == 3 else 1
        folder = place / f"case-{case}"
        became = "too late"
        while became == "too late":  # it had ended before it was harmed: not a case
            folder.mkdir()
            became, named, renewed = one_case(data, base, folder, harm, rng, restarts)
            if became == "restarted, ended":
                same(whole / "world_model", folder / "run" / "world_model", f"case {case}, {harm}")
            shutil.rmtree(folder)
        results.append((named, renewed))
        how = f"restart allowed, new workers in {renewed:.1f} s" if restarts else f"no restart, ended in {renewed:.1f} s"
        print(f"case {case}: {harm}, {how}: named in {named:.1f} s, {became}", flush=True)
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
    named, renewed = (max(column) for column in zip(*done, strict=True))
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"slowest to an error that names the rank {named:.1f} s, to new workers or the end {renewed:.1f} s")
    print(f"{len(done)} cases, {time.monotonic() - started:.0f} s, peak memory of a process {peak:.0f} MiB")
    print(f"{len(done)} passed, 0 failed")
