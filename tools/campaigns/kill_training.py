"""SIGKILL while training (reliability goal R1): no checkpoint that was reported is ever lost, and what is resumed ends with the
same bytes as what was never killed.

    python tools/campaigns/kill_training.py --kills 200

Runs of `wfm train` of all three stages, a save every third step, are killed at random moments - at least every other one while
a checkpoint is being written, which the child tells operation by operation - and started again until they end.
"""

import argparse
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from campaign_figures import figures, write_figures
from training_runs import STAGES, TINY, Child, history, make_clips, until

from wfm_ar.data.files import sha256_of
from wfm_ar.train.checkpoint import newest_checkpoint, step_of

STEPS, EVERY = 30, 3
WORKERS = dict(zip(STAGES, (2, 0, 1), strict=True))


@dataclass
class Report:
    kills: int = 0
    inside: int = 0  # of them while a checkpoint was being written
    runs: int = 0  # that came to their end, and were compared
    slowest: float = 0.0  # seconds from a start to its kill or end
    exits: Counter = field(default_factory=Counter)  # exit code, negative for a signal -> how many starts ended with it


def words(stage: str, data: Path, run: Path, steps: int = STEPS) -> list[str]:
    often = [f"steps={steps}", f"checkpoint_every={EVERY}", "val_every=10", f"num_workers={WORKERS[stage]}"]
    return [f"stage={stage}", f"data={data}", f"run={run}", *TINY, *often]


def campaign(place: Path, kills: int, seed: int, stages: tuple[str, ...] = STAGES) -> Report:
    """Raises AssertionError with the case's number where a promise is broken."""
    rng, report = random.Random(seed), Report()
    data, base = make_clips(place / "clips"), place / "base"
    log = place / "told.txt"
    assert Child(words("video_tokenizer", data, base, steps=6), log).wait() == 0, log.read_text()[-2000:]
    wholes, typical = {}, {}
    for stage in stages:
        whole = place / "whole" / stage
        if stage != "video_tokenizer":
            shutil.copytree(base, whole)
        began = time.monotonic()
        assert Child(words(stage, data, whole), log).wait() == 0, log.read_text()[-2000:]
        wholes[stage], typical[stage] = whole / stage, time.monotonic() - began
    while report.kills < kills:
        stage = stages[report.runs % len(stages)]
        run = place / f"run-{report.runs}"
        if stage != "video_tokenizer":
            shutil.copytree(base, run)
        reported = -1
        while True:
            began = time.monotonic()
            child = Child(words(stage, data, run), log)
            code = wait_for_the_moment(child, rng, typical[stage]) if report.kills < kills else child.wait()
            report.slowest = max(report.slowest, time.monotonic() - began)
            report.exits[code] += 1
            case = f"{stage}, seed {seed}, kill {report.kills}, last told {child.told[-1:]}"
            assert code in (0, -9), f"{case}: exit {code}\n{log.read_text()[-2000:]}"
            saves = [line for line in child.told if line.startswith("done ")]
            if saves:
                reported = step_of(Path(saves[-1].split()[1]))
            newest = newest_checkpoint(run / stage)
            assert reported < 0 or (newest is not None and step_of(newest) >= reported), f"{case}: step {reported} is lost"
            if code == 0:
                break
            report.kills += 1
            report.inside += bool(child.told) and not child.told[-1].startswith("done")
        same(wholes[stage], run / stage, f"{stage}, seed {seed}, run {report.runs}")
        shutil.rmtree(run)
        report.runs += 1
        print(f"{report.kills} kills, {report.inside} inside a save, {report.runs} runs the same as one never killed", flush=True)
    return report


def wait_for_the_moment(child: Child, rng: random.Random, typical: float) -> int:
    """Kill inside a save, at its n-th operation, or at any time. -> exit code."""
    operation = rng.randrange(1, 24) if rng.random() < 0.6 else None
    seconds = rng.uniform(0.05, typical)
    for _ in until(60 if operation else seconds):
        if (code := child.ended()) is not None:
            return code
        saving = [line for line in child.listen() if not line.startswith("done")]
        if operation and len(saving) >= operation:
            break
    return child.kill()


def same(whole: Path, run: Path, case: str) -> None:
    """The last checkpoints and the loss histories of two runs are the same bytes."""
    one, other = newest_checkpoint(whole), newest_checkpoint(run)
    assert step_of(one) == step_of(other) == STEPS, case
    for path in sorted(one.iterdir()):
        assert sha256_of(path) == sha256_of(other / path.name), f"{case}: {path.name} differs"
    assert history(whole) == history(run), f"{case}: the loss history differs"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to leave the figures")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = campaign(Path(folder), options.kills, options.seed)
        except AssertionError as error:
            print(error)
            print("0 passed, 1 failed")
            sys.exit(1)
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"slowest start-to-kill {result.slowest:.1f} s, peak memory {usage.ru_maxrss / 1024:.0f} MiB, {time.monotonic() - began:.0f} s")
    print(f"{result.kills} passed, 0 failed")
    numbers = dict(cases=result.kills, failures=0, bugs=result.exits[70], slowest_seconds=result.slowest)
    outcomes = {"inside a save": result.inside, "elsewhere": result.kills - result.inside}
    write_figures(options.json, figures("kills while training", **numbers, seconds=time.monotonic() - began, outcomes=outcomes))
