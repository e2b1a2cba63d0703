"""Several processes, one run: `torchrun --nproc_per_node=2 -m wfm_ar train ...`.

Weights, gradients and optimiser state are sharded over all ranks (FSDP2, Zhao et al. 2023, arXiv 2304.11277); gloo on the CPU,
NCCL on GPUs. The micro-batches of a step (`accumulate`) are dealt out to the ranks, so that one configuration means one run:
the same samples, losses and gradients on one rank or on many, up to rounding. A run can be resumed on another number of ranks.

A rank that dies takes the others with it: torchrun ends or restarts them all. One that stands still (stopped, swapped out, its
host gone) is noticed by the others' watchdogs, which read each other's signs of life in the run folder and end with its name.
"""

import contextlib
import faulthandler
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import torch
from torch import nn

from wfm_ar.errors import BadConfig, WfmError

METHODS = ("features", "condition")  # of our networks, beside `forward`, that losses call: they too must gather the weights first
TOGETHER = 300.0  # seconds in which all ranks must have started
LIFE = ".rank-{}"  # file of a rank's sign of life, in the run folder


class Ranks:
    """One process alone. `Group` has the same methods over several."""

    rank, size, first = 0, 1, True

    def shard(self, model: nn.Module) -> None:
        """Weights of `model` become this rank's shards, in place."""

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Over all ranks."""
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether it is so on any rank."""
        return flag

    def from_first(self, number: int) -> int:
        """What rank 0 says."""
        return number

    def wait(self) -> None:
        """Until all ranks are here."""

    def at(self, section: str, step: int) -> None:
        """What this rank does now, for the others to name should it stand still."""

    @contextlib.contextmanager
    def one_after_another(self) -> Iterator[None]:
        """Rank 0 does what is inside, then the others (who find it done)."""
        yield


ALONE = Ranks()


class Group(Ranks):
    """All ranks that torchrun started. `silence`: seconds after which a rank without a sign of life is taken for lost."""

    def __init__(self, device: torch.device, silence: float):
        import torch.distributed as dist
        from torch.distributed.device_mesh import init_device_mesh

        # Hangs are found by signs of life and by section, not by this time-out: waiting for another rank may be right for hours.
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(days=1))
        self.dist, self.device, self.silence = dist, device, silence
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.first = self.rank == 0
        self.mesh = init_device_mesh(device.type, (self.size,), mesh_dim_names=("shard",))
        self.began, self.doing = time.time(), ("setup", 0)

    def shard(self, model: nn.Module) -> None:
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        for block in getattr(model, "blocks", ()):
            fully_shard(block, mesh=self.mesh)
        fully_shard(model, mesh=self.mesh)
        for method in METHODS:
            if hasattr(model, method):
                register_fsdp_forward_method(model, method)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor.to(self.device)
        self.dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        return bool(self.sum(torch.tensor(float(flag), device=self.device)))

    def from_first(self, number: int) -> int:
        tensor = torch.tensor(number, dtype=torch.int64, device=self.device)
        self.dist.broadcast(tensor, 0)
        return int(tensor)

    def wait(self) -> None:
        self.sum(torch.zeros((), device=self.device))

    def at(self, section: str, step: int) -> None:
        self.doing = (section, step)

    def live(self, run: Path, ended: threading.Event) -> None:
        """In a thread, all along: tell the other ranks that this one lives, and look whether they do."""
        run.mkdir(parents=True, exist_ok=True)
        own, part = run / LIFE.format(self.rank), run / (LIFE.format(self.rank) + ".part")
        while not ended.wait(1):
            section, step = self.doing
            with contextlib.suppress(OSError):  # a full disk is the checkpoint's matter
                part.write_text(json.dumps({"section": section, "step": step, "pid": os.getpid()}))
                os.replace(part, own)
            for other in range(self.size):
                if other != self.rank and not ended.is_set():
                    self._look_after(other, run / LIFE.format(other), time.time())

    def _look_after(self, other: int, sign: Path, now: float) -> None:
        try:
            heard, about = sign.stat().st_mtime, json.loads(sign.read_text())
        except (OSError, ValueError):
            heard, about = 0.0, {}
        silent = now - max(heard, self.began)  # a sign of an earlier start does not count against it
        if silent > self.silence:
            where = f"in {about['section']} of step {about['step']}" if heard > self.began else "before its first sign of life"
            text = f"rank {other} has not been heard of for {silent:.0f} s, last {where}; the run stops, its checkpoints are whole"
            print(f"wfm train: {text}; fix: look at that rank, then run again with resume=auto", file=sys.stderr, flush=True)
            os._exit(2)

    @contextlib.contextmanager
    def one_after_another(self) -> Iterator[None]:
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()


def under_torchrun() -> bool:
    """Whether torchrun started this process with others beside it."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextlib.contextmanager
def all_ranks(run: Path, device: str, silence: float) -> Iterator[Ranks]:
    """The ranks of this run: ALONE, or under torchrun a Group, which is taken down at the end.

    Raises BadConfig, and WfmError where another rank has gone.
    """
    if not under_torchrun():
        yield ALONE
        return
    place = torch.device("cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu"))
    if place.type == "cuda":
        place = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        if place.index >= torch.cuda.device_count():
            raise BadConfig(f"rank {os.environ['RANK']}: got {torch.cuda.device_count()} GPUs, expected one a rank; fix: --nproc_per_node")
        torch.cuda.set_device(place)
    late = threading.Timer(TOGETHER, _never_together)
    late.daemon = True
    late.start()
    ranks, ended = Group(place, silence), threading.Event()
    late.cancel()
    thread = threading.Thread(target=ranks.live, args=(run, ended), name="sign of life", daemon=True)
    thread.start()
    try:
        yield ranks
        ranks.wait()
    except RuntimeError as error:
        if re.search(r"gloo|nccl|connection|DistBackend", f"{type(error).__name__} {error}", re.IGNORECASE):
            what = str(error).strip().splitlines()[0][:160]
            raise WfmError(
                f"{run}: another rank has gone ({what}); checkpoints are whole; fix: see its own message, then run again with resume=auto"
            ) from error
        raise
    finally:
        ended.set()
        thread.join()
        ranks.dist.destroy_process_group()


def _never_together() -> None:
    rank, size = os.environ["RANK"], os.environ["WORLD_SIZE"]
    text = f"rank {rank}: the {size} ranks did not find each other in {TOGETHER:.0f} s, expected all at {os.environ.get('MASTER_ADDR')}"
    print(f"wfm train: {text}; fix: look at the ones that are missing, and at the network", file=sys.stderr, flush=True)
    faulthandler.dump_traceback(all_threads=True)
    os._exit(2)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a DTensor, gathered from the ranks; other tensors as they are."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a DTensor; other tensors as they are."""
    return tensor.to_local() if hasattr(tensor, "to_local") else tensor
