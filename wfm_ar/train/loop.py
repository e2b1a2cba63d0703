"""THE training loop. It knows steps, optimisers, checkpoints and progress; what is trained is a Stage.

Everything random is a function of (seed, step): the batch of step s does not depend on how the run got there, so a resumed
run repeats an uninterrupted one bit for bit.
"""

import json
import math
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from wfm_ar.errors import BadCheckpoint, WfmError
from wfm_ar.train.checkpoint import RunLock, load_checkpoint, load_weights, save_checkpoint, verified_checkpoints
from wfm_ar.train.metrics import Progress, RunLog
from wfm_ar.train.optimizer import WeightAverage, build_optimizer, learning_rate
from wfm_ar.train.settings import LoopConfig

Batch = dict[str, torch.Tensor]


class Stage(Protocol):
    """What one stage brings: a network, its batches, its loss, and what to look at."""

    name: str
    model: nn.Module

    def batch(self, step: int, size: int, seed: int) -> Batch:
        """CPU tensors of step `step`; a pure function of its arguments, callable from a thread."""

    def loss(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """-> (scalar loss, scalars to log). `generator` is the only randomness allowed."""

    def validate(self, model: nn.Module, device: torch.device) -> tuple[dict[str, float], dict[str, torch.Tensor]]:
        """-> (numbers, pictures uint8 [H, W, 3]) of the averaged weights on the held-out split."""

    def describe(self) -> dict:
        """JSON that a checkpoint carries: the network's configuration and what the data were."""


def train(stage: Stage, config: LoopConfig, run: Path, resume: str = "auto") -> Path:
    """Train `stage` to `config.steps` and return the last checkpoint folder.

    resume: "auto" = go on from the newest checkpoint of `run` that verifies, "never" = refuse a folder that has one, or a
    checkpoint folder. SIGTERM and SIGINT finish the step, save, and exit 143 / 130.
    """
    with RunLock(run):
        return _train(stage, config, run, resume)


def _train(stage: Stage, config: LoopConfig, run: Path, resume: str) -> Path:
    if config.threads:
        torch.set_num_threads(config.threads)
    device = torch.device("cuda" if config.device == "auto" and torch.cuda.is_available() else config.device.replace("auto", "cpu"))
    half = config.precision == "bf16" or (config.precision == "auto" and device.type == "cuda")
    model = stage.model.to(device).train()
    optimizer = build_optimizer(model, config.optimizer)
    average = WeightAverage(model, config.optimizer.ema)
    start, history = _resume(run, resume, stage, model, average, optimizer)
    if config.compile:
        model.compile(dynamic=False)  # in place: names, and so checkpoints, stay as they are
    if start >= config.steps:
        print(f"{stage.name}: {run} has its {config.steps} steps already", flush=True)
        return verified_checkpoints(run)[-1]

    log = RunLog(run, start)
    progress = Progress(stage.name, start, config.steps)
    stop = _StopSignal()
    bad, bad_in_a_row = history.get("bad_steps", 0), 0
    folder, saved = None, -1
    recent: list[dict[str, torch.Tensor]] = []  # what the steps since the last log line said
    seconds = time.monotonic()
    for step, micro_batches in _batches(stage, config, start):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config.steps, config.optimizer)
        generator = torch.Generator(device).manual_seed((config.seed << 32) + step)
        logs = _gradients(stage, model, micro_batches, generator, device, half)
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.grad_clip or math.inf)
        logs["grad_norm"] = norm
        if torch.isfinite(norm) and torch.isfinite(logs["loss"]):
            optimizer.step()
            average.update(model, step)
            bad_in_a_row = 0
        else:  # the update is skipped, so that the weights stay finite
            bad, bad_in_a_row = bad + 1, bad_in_a_row + 1
            progress.say(f"step {step}: loss or gradient is not finite; update skipped ({bad_in_a_row} in a row)")
        optimizer.zero_grad(set_to_none=True)
        recent.append(logs)
        done = step + 1

        if done % config.log_every == 0 or done == config.steps:
            numbers = {name: sum(float(each[name]) for each in recent) / len(recent) for name in logs}
            recent.clear()
            now = time.monotonic()
            numbers["samples_per_s"] = config.log_every * config.batch_size * config.accumulate / (now - seconds)
            seconds = now
            log.write(done, {"lr": optimizer.param_groups[0]["lr"], "bad_steps": bad} | numbers)
            progress.update(done, numbers)
        last = done == config.steps or stop.received or bad_in_a_row >= config.max_bad_steps
        if done % config.val_every == 0 or done == config.steps:
            numbers, pictures = stage.validate(average.model, device)
            log.write(done, {f"val_{name}": value for name, value in numbers.items()}, pictures)
            progress.say(f"step {done} validation: " + ", ".join(f"{k} {v:.4g}" for k, v in numbers.items()))
            seconds = time.monotonic()
        if (done % config.checkpoint_every == 0 or last) and done != saved:
            state = {"step": done, "stage": stage.name, "bad_steps": bad, "describe": stage.describe()}
            folder, saved = save_checkpoint(run, done, _tensors(model, average, optimizer), state, config.keep), done
        if last:
            break
    log.close()
    progress.close()
    if bad_in_a_row >= config.max_bad_steps:
        raise WfmError(f"{run}: {bad_in_a_row} steps in a row were not finite; fix: lower optimizer.lr or look at the data")
    if stop.received:
        print(f"{stage.name}: stopped by signal after step {saved}; go on with resume=auto", flush=True)
        sys.exit(128 + stop.received)
    return folder


def _gradients(stage, model, micro_batches, generator, device, half) -> dict[str, torch.Tensor]:
    """Accumulate gradients over the micro-batches; -> mean of what they log, with the loss."""
    total: dict[str, torch.Tensor] = {}
    for batch in micro_batches:
        batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            loss, logs = stage.loss(model, batch, generator)
        (loss / len(micro_batches)).backward()
        for name, value in ({"loss": loss} | logs).items():
            total[name] = total.get(name, 0) + torch.as_tensor(value).detach() / len(micro_batches)
    return total


def _batches(stage: Stage, config: LoopConfig, start: int) -> Iterator[tuple[int, list[Batch]]]:
    """(step, its micro-batches) from `start` on, prepared ahead by `num_workers` threads."""

    def prepare(step: int) -> list[Batch]:
        first = step * config.accumulate
        return [stage.batch(first + i, config.batch_size, config.seed) for i in range(config.accumulate)]

    if not config.num_workers:
        for step in range(start, config.steps):
            yield step, prepare(step)
        return
    with ThreadPoolExecutor(config.num_workers) as pool:
        ahead = {s: pool.submit(prepare, s) for s in range(start, min(start + config.num_workers + 1, config.steps))}
        try:
            for step in range(start, config.steps):
                batch = ahead.pop(step).result()
                if (later := step + config.num_workers + 1) < config.steps:
                    ahead[later] = pool.submit(prepare, later)
                yield step, batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _tensors(model: nn.Module, average: WeightAverage, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, torch.Tensor]]:
    names = {p: name for name, p in model.named_parameters()}
    moments = {f"{names[p]}/{key}": value for p, state in optimizer.state.items() for key, value in state.items()}
    return {"model": model.state_dict(), "ema": average.model.state_dict(), "optimizer": moments}


def _resume(run: Path, resume: str, stage: Stage, model, average: WeightAverage, optimizer) -> tuple[int, dict]:
    """Load the checkpoint that `resume` names into model, average and optimiser; -> (step to go on at, its state)."""
    found = verified_checkpoints(run) if resume in ("auto", "never") else [Path(resume)]
    if not found:
        return 0, {}
    if resume == "never":
        raise WfmError(f"{run}: holds checkpoint {found[-1].name} already; fix: resume=auto goes on, or choose run=<another folder>")
    tensors, state = load_checkpoint(found[-1])
    described = json.loads(json.dumps(stage.describe()))  # as JSON gives it back: tuples are lists
    if state["stage"] != stage.name or state["describe"]["model"] != described["model"]:
        differing = [k for k, v in described["model"].items() if state["describe"].get("model", {}).get(k) != v]
        raise BadCheckpoint(
            f"{found[-1]}: was trained with other settings ({', '.join(differing) or 'stage'}); fix: choose run=<another folder>"
        )
    load_weights(model, tensors["model"], str(found[-1]))
    load_weights(average.model, tensors["ema"], str(found[-1]))
    _settle_frozen(model, average.model)
    by_name = dict(model.named_parameters())
    for key, value in tensors["optimizer"].items():
        name, _, field = key.rpartition("/")
        value = value if field == "step" else value.to(by_name[name].device)
        optimizer.state[by_name[name]][field] = value
    print(f"{stage.name}: going on from {found[-1]}", flush=True)
    return state["step"], state


@torch.no_grad()
def _settle_frozen(model: nn.Module, averaged: nn.Module) -> None:
    """Frozen weights, and then the running statistics, take their averaged values: what is released must not drift any more."""
    if all(p.requires_grad for p in model.parameters()):
        return
    mine, theirs = ([*m.parameters(), *m.buffers()] for m in (model, averaged))
    for own, other in zip(mine, theirs, strict=True):
        if not own.requires_grad:
            own.copy_(other)


class _StopSignal:
    """Notes the first SIGTERM or SIGINT; a second one ends the process at once."""

    def __init__(self):
        self.received = 0
        try:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._note)
        except ValueError:  # not in the main thread (tests, notebooks): signals stay with their owner
            pass

    def _note(self, number, frame):
        self.received = number
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)
