"""Everything a run needs to go on exactly where it stopped: into a checkpoint's tensors and state, and out of them.

Tensors: weights, averaged weights, optimiser moments. State: the step (which is the data position: batches are a function of
seed and step), bad steps, what the steps since the last log line said, random generators, a validation that is still due.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wfm_ar.errors import BadCheckpoint, WfmError
from wfm_ar.train.checkpoint import check_tensors, load_checkpoint, load_weights, newest_checkpoint, step_of
from wfm_ar.train.distributed import Ranks
from wfm_ar.train.optimizer import WeightAverage
from wfm_ar.train.rng import restore_rng
from wfm_ar.train.sharded_checkpoint import placed_like

GROUPS = ("model", "ema", "optimizer")
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # AdamW's, of every trained parameter


def pack(model: nn.Module, average: WeightAverage, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of a checkpoint by group."""
    names: dict[Any, str] = {p: name for name, p in model.named_parameters()}
    moments = {f"{names[p]}/{key}": value for p, state in optimizer.state.items() for key, value in state.items()}
    return {"model": model.state_dict(), "ema": average.model.state_dict(), "optimizer": moments}


def unpack(
    run: Path, resume: str, stage, model: nn.Module, average: WeightAverage, optimizer: torch.optim.Optimizer, ranks: Ranks
) -> tuple[int, dict, dict[str, dict[str, torch.Tensor]]]:
    """Load the checkpoint that `resume` names into model, average, optimiser and generators.

    -> (step to go on at, its state, its other tensors by group); (0, {}, {}) where there is none. Raises BadCheckpoint, WfmError.
    """
    newest = newest_checkpoint(run) if ranks.first else None
    there = ranks.from_first(step_of(newest) if newest else -1)
    newest = None if there < 0 else run / f"step-{there:06d}"
    folder = newest if resume in ("auto", "never") else Path(resume)
    if folder is None:
        return 0, {}, {}
    if resume == "never":
        raise WfmError(f"{run}: holds checkpoint {folder.name} already; fix: resume=auto goes on, or choose run=<another folder>")
    tensors, state = load_checkpoint(folder)
    if newest is not None and state.get("step", 0) < there:
        raise WfmError(
            f"{run}: holds {newest.name}, which is later than {folder.name}; fix: choose run=<another folder>, or remove the later ones"
        )
    _check_settings(stage, state, folder)
    where = str(folder)
    load_weights(model, tensors["model"], where)
    load_weights(average.model, tensors["ema"], where)
    _settle_frozen(model, average.model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    moments = {key: value for key, value in tensors.get("optimizer", {}).items() if key.rpartition("/")[0] not in frozen}
    expected = {f"{name}/{key}": (() if key == "step" else tuple(p.shape), p.dtype) for name, p in trained.items() for key in MOMENTS}
    expected |= {key: ((), torch.float32) for key in expected if key.endswith("/step")}
    if moments:  # none yet where every step so far was skipped
        check_tensors(expected, moments, f"{where}: optimizer")
    for key, value in moments.items():
        name, _, field = key.rpartition("/")
        # torch keeps the count of steps on the CPU
        optimizer.state[trained[name]][field] = value if field == "step" else placed_like(value, trained[name])
    if "rng" in state:
        restore_rng(state["rng"])
    if ranks.first:
        print(f"{stage.name}: going on from {folder}", flush=True)
    return state["step"], state, {group: named for group, named in tensors.items() if group not in GROUPS}


@torch.no_grad()
def _settle_frozen(model: nn.Module, averaged: nn.Module) -> None:
    """Frozen weights, and then the running statistics, take their averaged values: what is released must not drift any more."""
    if all(p.requires_grad for p in model.parameters()):
        return
    mine, theirs = ([*m.parameters(), *m.buffers()] for m in (model, averaged))
    for own, other in zip(mine, theirs, strict=True):
        if not own.requires_grad:
            own.copy_(other)


def _check_settings(stage, state: dict, folder: Path) -> None:
    described = json.loads(json.dumps(stage.describe()))["model"]  # as JSON gives it back: tuples are lists
    told = getattr(stage, "earlier", {}) | state.get("describe", {}).get("model", {})
    if state.get("stage") != stage.name or told != described:
        differing = sorted(k for k in described.keys() | told.keys() if told.get(k) != described.get(k))
        raise BadCheckpoint(
            f"{folder}: was trained with other settings ({', '.join(differing) or 'stage'}); fix: choose run=<another folder>"
        )
