"""SIGKILL while a verb writes, and two processes that write one output.

    python tools/campaigns/kill_writers.py --kills 100 --pairs 20

Kills: every verb that writes is run in a forked child, which an audit hook kills at its n-th file operation below the output,
n drawn anew each time; half of the runs are to replace an older output (`overwrite=true`). Then the same words are run again.
Nothing may be lost (right after the kill an older folder or the new one stands whole under its name), no rerun may be refused
unless the output is whole, and behind the rerun the same files lie there as of an undisturbed run, and no other.

Pairs: two processes begin at once with one out= and different sources. At most one may say that it is done, and what is there
is that one's.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import hydra  # all that the verbs import along their way, once: a child then costs what it does
import matplotlib.backends.backend_agg
import matplotlib.figure
import numpy as np
from campaign_figures import figures, write_figures
from hostile_checkpoints import tiny_world

import wfm_ar.cosmos.convert
import wfm_ar.verbs.data_convert
import wfm_ar.verbs.data_curate
import wfm_ar.verbs.demo
import wfm_ar.verbs.evaluate
import wfm_ar.verbs.generate
import wfm_ar.verbs.plan
import wfm_ar.verbs.tokenize
from wfm_ar.cli import main
from wfm_ar.data.claims import HIDDEN
from wfm_ar.data.episodes import write_episode, write_episodes
from wfm_ar.data.files import PART, sha256_of
from wfm_ar.data.video import write_image
from wfm_ar.schema import ActionChannel, ActionSchema

IMPORTED = (hydra, matplotlib, wfm_ar)
OPERATIONS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod", "os.utime", "os.link", "os.symlink"}
SAME = (".mp4", ".npy", ".npz", ".safetensors", ".jsonl", ".parquet")  # files of which the same words make the same bytes


@dataclass(frozen=True)
class Case:
    """A verb at tiny size. `{place}` in its words is the folder of sources, `{out}` the output."""

    name: str
    words: tuple[str, ...]
    out: str = "out"
    older: tuple[str, ...] = ()  # words that make another output of the same name; empty: it replaces none
    folder: bool = False  # the output is a folder that is replaced as a whole

    def line(self, place: Path, out: Path, *more: str) -> list[str]:
        return [word.format(place=place, out=out / self.out) for word in (*self.words, *more)]


WORLD, SET, BATCH = "world={place}/world", "data={place}/set", ("frames=3", "batch={place}/prompts.jsonl")
EVERY_PIECE = ("min_seconds=0.1", "min_motion=0", "duplicate_distance=null", "shots=false")
CASES = (
    Case("generate", ("generate", WORLD, "frames=5", "text=go left", "out={out}"), "clip.mp4", ("seed=1",)),
    Case("generate batch=", ("generate", WORLD, *BATCH, "batch_size=1", "out={out}"), "clips", ("seed=1",)),
    Case(
        "generate save=lerobot",
        ("generate", WORLD, *BATCH, "save=lerobot", "out={out}"),
        older=("seed=1",),
        folder=True,
    ),
    Case(
        "plan",
        ("plan", WORLD, "image={place}/now.png", "goal={place}/goal.png", "samples=4", "rounds=1", "elites=2", "frames=3", "out={out}"),
        "plan.mp4",
        ("seed=1",),
    ),
    Case(
        "evaluate",
        ("evaluate", WORLD, SET, "frames=5", "episodes=2", "tokenizer_episodes=1", "speed_runs=0", "demo=false", "out={out}"),
        older=("seed=1",),
    ),
    Case("demo", ("demo", WORLD, SET, "episodes=1", "out={out}"), older=("seed=1",)),
    Case("data convert", ("data", "convert", "src={place}/set", "out={out}"), older=("src={place}/other",), folder=True),
    Case(
        "data convert format=lerobot",
        ("data", "convert", "src={place}/set", "format=lerobot", "out={out}"),
        older=("src={place}/other",),
        folder=True,
    ),
    Case("data curate", ("data", "curate", "src={place}/set", *EVERY_PIECE, "out={out}")),
    Case("tokenize", ("tokenize", WORLD, SET, "workers=1", "clips_per_shard=2", "out={out}")),
    Case(
        "tokenize video=",
        ("tokenize", WORLD, "video={place}/set/videos/0.mp4", "out={out}"),
        "tokens.npy",
        ("video={place}/other/videos/0.mp4",),
    ),
    Case(
        "cosmos convert",
        ("cosmos", "convert", "src={place}/release", "height=64", "width=96", "dtype=float32", "diffusion_decoder=false", "out={out}"),
        older=("dtype=bfloat16",),
        folder=True,
    ),
    Case("cosmos synth", ("cosmos", "synth", "name=4b", "out={out}"), older=("seed=1",), folder=True),
)


@dataclass
class Report:
    kills: int = 0
    by_verb: Counter = field(default_factory=Counter)
    pairs: int = 0
    refused: int = 0  # of the pairs' processes
    failures: list[str] = field(default_factory=list)
    exits: Counter = field(default_factory=Counter)  # of all command lines: exit code, negative for a signal -> how many
    slowest: float = 0.0
    seconds: float = 0.0


def sources(place: Path, cases: tuple[Case, ...]) -> None:
    """What the verbs read."""
    tiny_world(place / "world")
    schema = ActionSchema(channels=(ActionChannel(name="dx", unit="m", low=-1, high=1, bins=5),), rate_hz=10)
    for seed, name in enumerate(("set", "other")):
        rng = np.random.default_rng(seed)
        records = [
            write_episode(
                place / name,
                id=str(i),
                frames_THWC=rng.integers(0, 255, (9, 16, 16, 3), dtype=np.uint8),
                fps=10,
                split="val" if i else "train",
                text="go left",
                actions=np.zeros((8, 1)),
            )
            for i in range(3)
        ]
        write_episodes(place / name, records, schema)
        write_image(place / ("now.png", "goal.png")[seed], rng.integers(0, 255, (16, 16, 3), dtype=np.uint8))
    (place / "prompts.jsonl").write_text("".join(json.dumps({"id": f"row{i}"}) + "\n" for i in range(3)))
    if any("{place}/release" in word for case in cases for word in case.words) and main(
        ["cosmos", "synth", "name=4b", f"out={place / 'release'}"]
    ):
        raise SystemExit("the release cannot be made")


def forked(do: Callable[[], int | None], log: Path) -> int:
    """`do()` in a child that writes to `log` -> its exit code, negative for a signal."""
    if (child := os.fork()) == 0:
        code = 99
        try:
            os.dup2(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
            os.dup2(1, 2)
            sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
            code = do() or 0
            sys.stdout.flush()
            sys.stderr.flush()
        except BaseException:
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def counted(out: Path, at: int, told: int) -> None:
    """From now on this process's file operations below `out` are counted, written to the file `told`, and at the `at`-th it is killed."""
    count, below = 0, str(out)

    def hook(event: str, arguments: tuple) -> None:
        nonlocal count
        if event == "ctypes.dlsym":
            ours = "renameat2" in str(arguments[-1])
        elif event == "open":
            ours = str(arguments[0]).startswith(below) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        else:
            ours = event in OPERATIONS and str(arguments[0]).startswith(below)
        if ours:
            count += 1
            os.pwrite(told, str(count).encode(), 0)
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def run(words: list[str], out: Path, log: Path, at: int = 0) -> tuple[int, int]:
    """One command line -> (exit code, file operations). `at`: the one before which it is killed, 0 for none."""
    with tempfile.TemporaryFile() as told:

        def do() -> int:
            counted(out, at, told.fileno())
            return main(words)

        code = forked(do, log)
        return code, int(os.pread(told.fileno(), 20, 0) or 0)


def content(out: Path) -> dict[str, str]:
    """name -> SHA-256 of every file below, or its kind where a clock is in it."""
    files = sorted(path for path in out.rglob("*") if not path.is_dir())
    return {str(path.relative_to(out)): sha256_of(path) if path.suffix in SAME else "" for path in files}


def litter(out: Path) -> list[str]:
    return [
        path.name
        for path in out.rglob(".*")
        if HIDDEN.fullmatch(path.name) or PART.fullmatch(path.name) or path.name.startswith((".lock", ".tmp"))
    ]


def campaign(place: Path, kills: int, seed: int, cases: tuple[Case, ...] = CASES) -> Report:
    rng, report, began = random.Random(seed), Report(), time.monotonic()
    log = place / "log.txt"
    assert forked(lambda: sources(place, cases), log) == 0, log.read_text()[-2000:]
    wholes: dict[tuple[str, bool], tuple[dict[str, str], int]] = {}
    for k in range(kills):
        case = cases[k % len(cases)]
        replacing = bool(case.older) and rng.random() < 0.5
        if (case.name, replacing) not in wholes:
            wholes[case.name, replacing] = undisturbed(place, case, replacing, log)
        whole, operations = wholes[case.name, replacing]
        at = rng.randint(1, operations)
        started = time.monotonic()
        failure = one_kill(place, case, replacing, at, whole, log, report.exits)
        report.slowest = max(report.slowest, time.monotonic() - started)
        report.kills += 1
        report.by_verb[case.name] += 1
        if failure:
            what = "older output, " if replacing else ""
            report.failures.append(f"FAILED kill {k}, seed {seed}: {case.name}, {what}operation {at} of {operations}: {failure}")
            print(report.failures[-1], flush=True)
    report.seconds += time.monotonic() - began
    return report


def undisturbed(place: Path, case: Case, replacing: bool, log: Path) -> tuple[dict[str, str], int]:
    """-> what lies there after a run that is not killed, and how many file operations it took."""
    out = place / "whole" / f"{case.name}-{replacing}"
    if replacing:
        code, _ = run(case.line(place, out, *case.older), out, log)
        assert code == 0, f"{case.name}: {log.read_text()[-2000:]}"
        shutil.copytree(out, place / "older" / case.name)
    code, operations = run(case.line(place, out, *["overwrite=true"][:replacing]), out, log)
    assert code == 0, f"{case.name}: {log.read_text()[-2000:]}"
    return content(out), operations


def one_kill(place: Path, case: Case, replacing: bool, at: int, whole: dict[str, str], log: Path, exits: Counter) -> str:
    """-> what is wrong, or nothing; both exit codes are counted."""
    out = place / "out"
    shutil.rmtree(out, ignore_errors=True)
    words = case.line(place, out, *["overwrite=true"][:replacing])
    older = {}
    if replacing:
        shutil.copytree(place / "older" / case.name, out)
        older = content(out)
    code, _ = run(words, out, log, at)
    exits[code] += 1
    if code not in (0, -signal.SIGKILL):
        return f"exit {code} instead of the kill: {log.read_text()[-300:]}"
    if replacing and case.folder:
        there = {f"{case.out}/{name}": digest for name, digest in content(out / case.out).items()}
        if there not in (older, whole):
            return "LOST: neither the older nor the new one stands whole under its name"
    code, _ = run(words, out, log)
    exits[code] += 1
    told = log.read_text()
    if code == 2 and "exists already" in told + "is there already" and content(out) == whole:
        code = 0  # refused, as the output is whole
    if code:
        return f"REFUSED: the rerun ended with {code}: {told[-300:]}"
    if left := litter(out):
        return f"LITTER: {left}"
    if content(out) != whole:
        odd = sorted(set(content(out).items()) ^ set(whole.items()))
        return f"LOST: other files than of an undisturbed run: {odd[:6]}"
    return ""


PAIRS = ("data convert", "data convert format=lerobot", "generate save=lerobot", "generate", "evaluate")


def pairs(place: Path, count: int, seed: int, report: Report, cases: tuple[Case, ...] = CASES) -> None:
    """Two processes, one out=, other words. `place` holds the sources."""
    rng, cases, began = random.Random(seed), [case for case in cases if case.name in PAIRS], time.monotonic()
    for k in range(count):
        case, out = cases[k % len(cases)], place / "both"
        shutil.rmtree(out, ignore_errors=True)
        alone = []
        lines = [case.line(place, out), case.line(place, out, *case.older)]
        for number, more in enumerate(((), case.older)):
            one = place / "alone" / f"{case.name}-{number}"
            if not one.exists():
                assert run(case.line(place, one, *more), one, place / "log.txt")[0] == 0
            alone.append(content(one))
        children = []
        for number, line in enumerate(lines):
            if (child := os.fork()) == 0:
                os._exit(forked(lambda line=line: main(line), place / f"log{number}.txt") % 256)
            children.append(child)
            time.sleep(rng.choice((0, 0, 0.01, 0.1)))
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        report.exits.update(codes)
        done = [number for number, code in enumerate(codes) if code == 0]
        report.pairs += 1
        report.refused += len(codes) - len(done)
        told = [(place / f"log{number}.txt").read_text()[-200:] for number in (0, 1)]
        if len(done) != 1 or any(code not in (0, 2) for code in codes) or content(out) != alone[done[0]] or litter(out):
            report.failures.append(f"FAILED pair {k}, seed {seed}: {case.name}: exits {codes}, litter {litter(out)}: {told}")
            print(report.failures[-1], flush=True)
    report.seconds += time.monotonic() - began


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbs", help="the cases to run, by name, with commas between them; all of them if left out")
    parser.add_argument("--json", type=Path, help="where to leave the figures")
    options = parser.parse_args()
    chosen = tuple(case for case in CASES if not options.verbs or case.name in options.verbs.split(","))
    with tempfile.TemporaryDirectory() as folder:
        found = campaign(Path(folder), options.kills, options.seed, chosen)
        pairs(Path(folder), options.pairs, options.seed, found, chosen)
    outcomes = {"kills": found.kills, "pairs": found.pairs}
    numbers = dict(cases=found.kills + found.pairs, failures=len(found.failures), bugs=found.exits[70])
    times = dict(slowest_seconds=found.slowest, seconds=found.seconds)
    write_figures(options.json, figures("kills and pairs of writers", **numbers, **times, outcomes=outcomes))
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    verbs = ", ".join(f"{count} {name}" for name, count in found.by_verb.items())
    print(f"{found.kills} kills ({verbs}); {found.pairs} pairs, of whose processes {found.refused} were refused")
    print(f"slowest case {found.slowest:.1f} s, peak memory {memory:.0f} MiB, {found.seconds:.0f} s")
    print(f"{found.kills + found.pairs - len(found.failures)} passed, {len(found.failures)} failed")
    sys.exit(bool(found.failures))
