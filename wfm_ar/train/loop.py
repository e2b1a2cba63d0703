"""THE training loop. It knows steps, optimisers, checkpoints and progress; what is trained is a Stage.

Everything random is a function of (seed, step): the batch of step s does not depend on how the run got there, so a resumed
run repeats an uninterrupted one bit for bit.
"""

import contextlib
import copy
import math
import signal
import sys
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from wfm_ar.errors import BadConfig, NoSpace
from wfm_ar.train.checkpoint import RunLock, newest_checkpoint, save_checkpoint, save_sharded
from wfm_ar.train.distributed import ALONE, Ranks, whole
from wfm_ar.train.early_stop import GROUP, EarlyStop
from wfm_ar.train.guards import Buffers, Guard
from wfm_ar.train.metrics import NoLog, Progress, RunLog
from wfm_ar.train.optimizer import WeightAverage, build_optimizer, learning_rate
from wfm_ar.train.precision import TOLERANCE, bf16_by_default
from wfm_ar.train.recompute import recompute_blocks
from wfm_ar.train.resume import pack, unpack
from wfm_ar.train.rng import deterministic, restore_rng, rng_state, seed_all
from wfm_ar.train.settings import LoopConfig
from wfm_ar.train.stage_protocol import Batch, Stage
from wfm_ar.train.time_left import TimeLeft
from wfm_ar.train.validation import Validation
from wfm_ar.train.wandb_log import WandbLog
from wfm_ar.train.watchdog import StopSignal, Watchdog
from wfm_ar.train.whole_run import WholeRun


def train(
    stage: Stage, config: LoopConfig, run: Path, resume: str = "auto", ranks: Ranks = ALONE, whole_run: WholeRun | None = None
) -> Path:
    """Train `stage` to `config.steps` and return the last checkpoint folder.

    whole_run: of what run the stage is a part, where how long that takes is known.

    resume: "auto" = go on from the newest checkpoint of `run` that verifies, "never" = refuse a folder that has one, or a
    checkpoint folder. SIGTERM and SIGINT finish the step, save, and exit 143 / 130. With several `ranks` all of them call this.
    """
    if config.accumulate % ranks.size:
        raise BadConfig(
            f"accumulate: got {config.accumulate} micro-batches a step for {ranks.size} ranks, expected a multiple; "
            f"fix: accumulate={ranks.size}, and a smaller batch_size for as many samples a step"
        )
    watchdog = Watchdog(run, vars(config.watchdog), ranks)
    lock = RunLock(run) if ranks.first else contextlib.nullcontext()
    with lock, watchdog, StopSignal(watchdog) as stop, deterministic(config.deterministic):
        ranks.wait()  # for the lock
        return _train(stage, config, run, resume, ranks, watchdog, stop, whole_run)


def _train(
    stage: Stage,
    config: LoopConfig,
    run: Path,
    resume: str,
    ranks: Ranks,
    watchdog: Watchdog,
    stop: StopSignal,
    whole_run: WholeRun | None,
) -> Path:
    if config.threads:
        torch.set_num_threads(config.threads)
    device = _device(config)
    seed_all(config.seed)
    model = stage.model.to(device).train()
    average = WeightAverage(model, config.optimizer.ema)
    validation = Validation(stage, average, device, ranks, watchdog, stop)
    for each in (model, average.model):
        ranks.shard(each)
    if config.activation_checkpointing:
        recompute_blocks(model)
    optimizer = build_optimizer(model, config.optimizer)
    start, history, more = unpack(run, resume, stage, model, average, optimizer, ranks)
    half = _in_bf16(config, device, model, history, ranks)
    due = history.get("validation_due", False)
    early = EarlyStop(config.patience, config.steps, getattr(stage, "judged_by", None), average, history)
    if early.patience and GROUP in more:
        early.restore(more[GROUP], str(run))
    if config.compile:
        model.compile(dynamic=False)  # in place: names, and so checkpoints, stay as they are
    log = _log(stage, config, run, start, due) if ranks.first else NoLog()
    time_left = TimeLeft(start, config.steps, getattr(stage, "to_decode", None) if ranks.first else None)
    progress = Progress(stage.name, start, config.steps, ranks.first, time_left, whole_run)
    guard = Guard(run, config.max_bad_steps, start, history, ranks)
    recent: list[dict[str, float | torch.Tensor]] = history.get("recent", [])  # what the steps since the last log line said

    def save(done: int, due: bool) -> Path:
        state = {
            "step": done,
            "stage": stage.name,
            **guard.state(),
            **early.state(done),
            "validation_due": due,
            "recent": [{name: float(value) for name, value in each.items()} for each in recent],
            "describe": stage.describe(),
            "precision": "bf16" if half else "fp32",
            "rng": rng_state(),
        }
        with watchdog.section("checkpoint", done - 1):
            log.sync()
            tensors = pack(model, average, optimizer) | early.tensors()
            if ranks.size > 1:
                return save_sharded(run, done, tensors, state, config.keep, ranks)
            return save_checkpoint(run, done, tensors, state, config.keep)

    if due:  # the signal that ended the last run came before it
        if (found := validation.run(start, log, progress)) is None:  # and now again
            sys.exit(128 + (stop.received or signal.SIGTERM))
        early.look(start, found)
        if early.patience and (start >= config.steps or early.over):
            early.settle()
            save(start, due=False)
    if start >= config.steps or early.over:
        log.close()
        progress.close()
        progress.say(f"{run} has its {config.steps} steps already" if start >= config.steps else f"{run} {early.told(start)}")
        newest = newest_checkpoint(run)
        assert newest is not None, "the run went on from it"
        return newest
    buffers = Buffers(model)
    batches = _batches(stage, config, start, ranks)
    folder = None
    seconds = time.monotonic()
    for step in range(start, config.steps):
        with watchdog.section("data", step):
            asked = time.monotonic()
            micro_batches = next(batches)
            time_left.step(time.monotonic() - asked)
        with watchdog.section("step", step):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, config.steps, config.optimizer)
            if half and config.precision == "auto" and device.type == "cpu" and step % config.val_every == 0:
                fp32, bf16 = (_loss(stage, model, micro_batches, config.seed, device, each, buffers, ranks) for each in (False, True))
                if not abs(bf16 - fp32) <= TOLERANCE * abs(fp32):
                    half = False
                    progress.say(f"step {step}: the loss is {bf16:.4g} in bf16 and {fp32:.4g} in fp32: going on in fp32")
            buffers.begin()
            logs = _gradients(stage, model, micro_batches, config.seed, device, half, buffers)
            buffers.finish(ranks)
            logs = _mean_over(logs, ranks)
            norm = whole(nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.grad_clip or math.inf))
            logs["grad_norm"] = norm
            clips = [name for _, batch in micro_batches for name in stage.clip_ids(batch)]
            wrong = guard.passes(step, logs["loss"], norm, clips)
            if wrong is None:
                optimizer.step()
                average.update(model, step)
            else:
                buffers.undo()
                progress.say(f"step {step}: {wrong} is not finite; update skipped ({guard.in_a_row} in a row)")
                guard.check_weights(step, model, clips, ranks)
                guard.stop_if_hopeless(clips)
            optimizer.zero_grad(set_to_none=True)
        recent.append(dict(logs))
        done = step + 1

        if done % config.log_every == 0 or done == config.steps:
            numbers = _means(recent)
            recent.clear()
            now = time.monotonic()
            numbers["samples_per_s"] = config.log_every * config.batch_size * config.accumulate / (now - seconds)
            seconds = now
            log.write(done, {"lr": optimizer.param_groups[0]["lr"], "bad_steps": guard.total} | numbers)
            progress.update(done, numbers)
        due = False
        if done % config.val_every == 0 or done == config.steps:
            random = rng_state()
            found = validation.run(done, log, progress)
            due, seconds = found is None, time.monotonic()
            if found is None:  # it is broken off, and has not been
                restore_rng(random)
            else:
                early.look(done, found)
        stopping = ranks.any(bool(stop.received))
        last = done == config.steps or early.over
        if last and not due:
            early.settle()
            if line := early.told(done):
                progress.say(line)
        if done % config.checkpoint_every == 0 or last or stopping:
            try:
                folder = save(done, due)
            except NoSpace as full:
                if config.disk_full == "stop" or stopping or last:
                    raise
                progress.say(f"{full}; going on, as disk_full=continue says")
        if stopping or last:
            break
    batches.close()
    log.close()
    progress.close()
    if stopping:
        progress.say(f"stopped by signal after step {done}; go on with resume=auto")
        sys.exit(128 + (stop.received or signal.SIGTERM))
    assert folder is not None, "the last step saves"
    return folder


def _log(stage: Stage, config: LoopConfig, run: Path, start: int, due: bool) -> RunLog:
    if config.logger != "wandb":
        return RunLog(run, start, again=due)
    random = rng_state()
    beside = WandbLog(run, start, config, stage.describe())
    restore_rng(random)
    if beside.url:
        print(f"{stage.name}: {beside.url}", flush=True)
    return RunLog(run, start, again=due, beside=beside)


def _device(config: LoopConfig) -> torch.device:
    return torch.device("cuda" if config.device == "auto" and torch.cuda.is_available() else config.device.replace("auto", "cpu"))


def _in_bf16(config: LoopConfig, device: torch.device, model: nn.Module, history: dict, ranks: Ranks) -> bool:
    """Whether forward passes run in bf16. A run that left it open goes on as it began, and all its ranks work alike."""
    if config.precision != "auto":
        return config.precision == "bf16"
    if "precision" in history:
        return history["precision"] == "bf16"
    return bool(ranks.from_first(int(ranks.first and bf16_by_default(device, model))))


def step_seconds(stage: Stage, config: LoopConfig, seconds: float, least: int = 2) -> float:
    """The mean time of a step of `stage` on this machine, over about `seconds` and `least` steps or more; a first one is not counted.

    The stage's network and the random state stay as they are.
    """
    if config.threads:
        torch.set_num_threads(config.threads)
    device = _device(config)
    random, model = rng_state(), copy.deepcopy(stage.model).to(device).train()
    half = _in_bf16(config, device, model, {}, ALONE)
    if config.activation_checkpointing:
        recompute_blocks(model)
    average, optimizer, buffers = WeightAverage(model, config.optimizer.ema), build_optimizer(model, config.optimizer), Buffers(model)
    batches, count, began = _batches(stage, replace(config, steps=1 << 30), 0, ALONE), -1, time.monotonic()
    while count < least or time.monotonic() - began < seconds:
        logs = _gradients(stage, model, next(batches), config.seed, device, half, buffers)
        nn.utils.clip_grad_norm_(model.parameters(), config.optimizer.grad_clip or math.inf)
        optimizer.step()
        average.update(model, 0)
        optimizer.zero_grad(set_to_none=True)
        float(logs["loss"])  # which waits for the device
        count += 1
        began = time.monotonic() if count == 0 else began
    taken = (time.monotonic() - began) / count
    batches.close()
    restore_rng(random)
    return taken


def _gradients(stage, model, micro_batches, seed, device, half, buffers: Buffers) -> dict[str, torch.Tensor]:
    """Accumulate gradients over the micro-batches; -> mean of what they log, with the loss."""
    total: dict[str, torch.Tensor] = {}
    count = len(micro_batches)
    for index, batch in micro_batches:
        batch = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        generator = torch.Generator(device).manual_seed((seed << 32) + index)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            loss, logs = stage.loss(model, batch, generator)
        (loss / count).backward()
        buffers.after_micro_batch(count)
        for name, value in ({"loss": loss} | logs).items():
            total[name] = total.get(name, 0) + torch.as_tensor(value).detach() / count
    return total


@torch.no_grad()
def _loss(stage, model, micro_batches, seed, device, half, buffers: Buffers, ranks: Ranks) -> float:
    """The mean loss of the micro-batches of all ranks; the model's buffers stay as they are."""
    total = torch.zeros((), dtype=torch.float64)
    buffers.begin()
    for index, batch in micro_batches:
        batch = {name: tensor.to(device) for name, tensor in batch.items()}
        generator = torch.Generator(device).manual_seed((seed << 32) + index)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            total += stage.loss(model, batch, generator)[0].double().cpu() / len(micro_batches)
        buffers.undo()
    return float(ranks.sum(total)) / ranks.size


def _means(recent: list[dict[str, float | torch.Tensor]]) -> dict[str, float]:
    """The mean of each number over the steps that have it: not all kinds of steps have all."""
    names = dict.fromkeys(name for each in recent for name in each)
    values = {name: [float(each[name]) for each in recent if name in each] for name in names}
    return {name: sum(each) / len(each) for name, each in values.items()}


def _mean_over(logs: dict[str, torch.Tensor], ranks: Ranks) -> dict[str, torch.Tensor]:
    """The means of all ranks' numbers: every rank then decides alike whether the step is good."""
    if ranks.size == 1:
        return logs
    means = ranks.sum(torch.stack([value.float() for value in logs.values()])) / ranks.size
    return dict(zip(logs, means.unbind(), strict=True))


def _batches(stage: Stage, config: LoopConfig, start: int, ranks: Ranks) -> Generator[list[tuple[int, Batch]], None, None]:
    """This rank's micro-batches (number, batch) of step `start` and all after it, prepared ahead by `num_workers` threads."""

    def prepare(step: int) -> list[tuple[int, Batch]]:
        numbers = range(step * config.accumulate + ranks.rank, (step + 1) * config.accumulate, ranks.size)
        return [(number, stage.batch(number, config.batch_size, config.seed)) for number in numbers]

    if not config.num_workers:
        for step in range(start, config.steps):
            yield prepare(step)
        return
    with ThreadPoolExecutor(config.num_workers) as pool:
        ahead = {s: pool.submit(prepare, s) for s in range(start, min(start + config.num_workers + 1, config.steps))}
        try:
            for step in range(start, config.steps):
                batch = ahead.pop(step).result()
                if (later := step + config.num_workers + 1) < config.steps:
                    ahead[later] = pool.submit(prepare, later)
                yield batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
