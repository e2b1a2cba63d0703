"""NaN and infinities while training (reliability goal R14): none ever reaches a checkpoint, and the run goes on or says which clips.

    python tools/campaigns/not_finite.py --cases 500

Runs of `wfm train` of all three stages, a save every third step. At random steps one number is made NaN, inf or -inf: of a clip's
batch, of what a layer gives, of the loss, of a gradient, of a weight. A run that stops is started again until it ends. After each
end every number in every checkpoint file is looked at, by safetensors alone; what was skipped must be written down with its clips.
"""

import argparse
import json
import math
import random
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch
from campaign_figures import figures, write_figures
from safetensors.torch import load_file
from training_runs import STAGES, TINY, Child, make_clips

import wfm_ar.verbs.train as train_verb
from wfm_ar.train.checkpoint import newest_checkpoint, step_of

STEPS, EVERY, A_RUN = 60, 3, 12  # a run: its steps, steps between saves, injections
PLACES = ("clip", "activation", "loss", "gradient", "weight")
VALUES = (math.nan, math.inf, -math.inf)


@dataclass
class Report:
    cases: Counter = field(default_factory=Counter)  # injections by (place, what came of it)
    runs: int = 0
    stops: int = 0  # with an error of one line
    checkpoints: int = 0  # files looked at
    slowest: float = 0.0  # seconds from a start to its end
    exits: Counter = field(default_factory=Counter)  # exit code -> how many starts ended with it

    @property
    def total(self) -> int:
        return sum(self.cases.values())


class Injecting:
    """A stage in which one number is not finite at some steps. `plan`: {step: (place, value)}, each once; told when it is done."""

    def __init__(self, stage, plan: dict[int, tuple[str, float]], told: Path, rng: random.Random):
        self._stage, self._plan, self._told, self._rng = stage, dict(plan), told, rng
        self._hooks: list = []

    def __getattr__(self, name: str):
        return getattr(self._stage, name)

    def batch(self, step: int, size: int, seed: int) -> dict[str, torch.Tensor]:
        return self._stage.batch(step, size, seed) | {"step": torch.tensor(step)}

    def clip_ids(self, batch: dict[str, torch.Tensor]) -> list[str]:
        return self._stage.clip_ids({name: tensor for name, tensor in batch.items() if name != "step"})

    def loss(self, model, batch, generator):
        while self._hooks:  # of the step before, fired or not
            self._hooks.pop().remove()
        step = int(batch.pop("step"))
        place, value = self._plan.pop(step, (None, 0.0))
        trained = [p for p in model.parameters() if p.requires_grad]
        layers = [module for module in model.modules() if next(module.parameters(False), None) is not None]
        if place == "clip":
            self._tell(step, place)
            self._one_of(self._rng.choice([tensor for tensor in batch.values() if tensor.is_floating_point()]), value)
        if place == "weight":
            self._tell(step, place)
            with torch.no_grad():
                self._one_of(self._rng.choice(trained), value)

        def changed(tensor: torch.Tensor) -> torch.Tensor:
            self._tell(step, place)
            return self._one_of(tensor.clone(memory_format=torch.contiguous_format), value)

        if place == "gradient":
            self._hooks.append(self._rng.choice(trained).register_hook(changed))
        if place == "activation":
            self._hooks.append(self._rng.choice(layers).register_forward_hook(lambda module, given, out: changed(out)))
        loss, logs = self._stage.loss(model, batch, generator)
        if place == "loss":
            self._tell(step, place)
            loss = loss * value
        return loss, logs

    def _tell(self, step: int, place: str) -> None:
        with open(self._told, "a") as file:
            file.write(json.dumps({"step": step, "place": place}) + "\n")

    def _one_of(self, tensor: torch.Tensor, value: float) -> torch.Tensor:
        tensor[tuple(self._rng.randrange(size) for size in tensor.shape)] = value  # of any strides
        return tensor


def words(stage: str, data: Path, run: Path, steps: int) -> list[str]:
    often = [f"steps={steps}", f"checkpoint_every={EVERY}", "val_every=20", "num_workers=1", "max_bad_steps=4", "keep=100"]
    return [f"stage={stage}", f"data={data}", f"run={run}", *TINY, *often]


def start(stage: str, data: Path, run: Path, steps: int, plan: dict[int, tuple[str, float]], told: Path, log: Path, seed: str) -> Child:
    """A training run in a child, in which `plan` comes true."""
    train = train_verb.train

    def injecting(what, *arguments):
        return train(Injecting(what, plan, told, random.Random(seed)), *arguments)

    train_verb.train = injecting  # the child is forked with it
    try:
        return Child(words(stage, data, run, steps), log)
    finally:
        train_verb.train = train


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def look_at_all(run: Path, seen: set[Path], case: str) -> int:
    """Every number of every checkpoint not looked at before. -> files."""
    files = [path for path in sorted(run.glob("step-*/*.safetensors")) if path not in seen]
    for path in files:
        for name, tensor in load_file(path).items():
            assert bool(torch.isfinite(tensor.float()).all()), f"{case}: {path.parent.name}/{path.name}: {name} is not finite"
    seen.update(files)
    return len(files)


def campaign(place: Path, cases: int, seed: int, stages: tuple[str, ...] = STAGES, steps: int = STEPS, a_run: int = A_RUN) -> Report:
    """Raises AssertionError with the run's number where a promise is broken. A run has `steps` steps and `a_run` injections."""
    report, data, base, log = Report(), make_clips(place / "clips"), place / "base", place / "said.txt"
    plain = [f"stage={STAGES[0]}", f"data={data}", f"run={base}", *TINY, "steps=6"]
    assert Child(plain, log).wait() == 0, log.read_text()[-2000:]
    while report.total < cases:
        stage, rng = stages[report.runs % len(stages)], random.Random(f"{seed} {report.runs}")
        run, told = place / f"run-{report.runs}", place / f"told-{report.runs}.jsonl"
        if stage != STAGES[0]:
            shutil.copytree(base, run)
        own, seen, starts = run / stage, set(), 0
        plan = {step: (rng.choice(PLACES), rng.choice(VALUES)) for step in rng.sample(range(1, steps), a_run)}
        skipped: set[int] = set()
        while True:
            case, began = f"{stage}, seed {seed}, run {report.runs}, start {starts}", time.monotonic()
            left = {step: what for step, what in plan.items() if step not in {line["step"] for line in lines_of(told)}}
            said = log.stat().st_size
            code = start(stage, data, run, steps, left, told, log, case).wait()
            report.exits[code] += 1
            report.slowest = max(report.slowest, time.monotonic() - began)
            text = log.read_bytes()[said:].decode()
            assert code in (0, 2), f"{case}: exit {code}\n{text[-2000:]}"
            report.checkpoints += look_at_all(own, seen, case)
            rows = lines_of(own / "bad_steps.jsonl")
            assert all(row["clips"] for row in rows), f"{case}: a bad step without its clips"
            skipped |= {row["step"] for row in rows}
            starts += 1
            if code == 0:
                break
            report.stops += 1
            error = text.strip().splitlines()[-1]
            assert "; fix: " in error and ("clips " in error or "is not finite, so it is not saved" in error), f"{case}: {error}"
            assert starts <= 2 * a_run, f"{case}: does not come to its end\n{text[-2000:]}"
        assert step_of(newest_checkpoint(own)) == steps, case
        injected = {line["step"]: line["place"] for line in lines_of(told)}
        missing = {plan[step][0] for step in plan.keys() - injected.keys()}  # a layer or a gradient that those steps did not need
        assert missing <= {"activation", "gradient"}, f"{case}: {missing} did not happen"
        for step, what in injected.items():
            # a loss or a gradient that is not finite cannot be missed; a layer may swallow a number (tanh of inf, an unused row)
            assert step in skipped or what not in ("loss", "gradient"), f"{case}: step {step}, {what}: not skipped"
            report.cases[what, "skipped" if step in skipped else "without effect on the step"] += 1
        shutil.rmtree(run)
        report.runs += 1
        print(f"{report.total} cases, {report.runs} runs, {report.stops} stops with a named error", flush=True)
    return report


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to leave the figures")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = campaign(Path(folder), options.cases, options.seed)
        except AssertionError as error:
            print(error)
            print("0 passed, 1 failed")
            sys.exit(1)
    print(*(f"{what}, {became}: {count}" for (what, became), count in sorted(result.cases.items())), sep="\n")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"{result.runs} runs, {result.stops} stopped with an error of one line and started again, {result.checkpoints} files all finite")
    print(f"slowest start-to-end {result.slowest:.1f} s, peak memory {peak:.0f} MiB, {time.monotonic() - began:.0f} s")
    print(f"{result.total} passed, 0 failed")
    outcomes = Counter()
    for (_, became), count in result.cases.items():
        outcomes[became] += count
    numbers = dict(cases=result.total, failures=0, bugs=result.exits[70], slowest_seconds=result.slowest)
    write_figures(options.json, figures("NaN and infinities", **numbers, seconds=time.monotonic() - began, outcomes=outcomes))
