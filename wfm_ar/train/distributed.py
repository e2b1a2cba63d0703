"""Several processes, one run: `torchrun --nproc_per_node=2 -m wfm_ar train ...`.

Weights, gradients and optimiser state are sharded over all ranks (FSDP2, Zhao et al. 2023, arXiv 2304.11277); gloo on the CPU,
NCCL on GPUs. The micro-batches of a step (`accumulate`) are dealt out to the ranks, so that one configuration means one run:
the same samples, losses and gradients on one rank or on many, up to rounding. A run can be resumed on another number of ranks.

A rank that dies takes the others with it: torchrun ends or restarts them all. One that stands still (stopped, swapped out, its
host gone) is noticed by the others, which read each other's heartbeats in the run folder and end with its name.
"""

import contextlib
import faulthandler
import os
import re
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from wfm_ar.errors import BadConfig, WfmError
from wfm_ar.train.heartbeat import Heartbeat

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

METHODS = (
    "features",
    "condition",
    "latents",
)  # of our networks, beside `forward`, that losses call: they too must gather the weights first
TOGETHER = 300.0  # seconds in which all ranks must have started


class Ranks:
    """One process alone. `Group` has the same methods over several."""

    rank, size, first = 0, 1, True
    here = 1  # ranks on this machine

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
    """All ranks that torchrun started."""

    def __init__(self, device: torch.device, heartbeat: Heartbeat):
        import torch.distributed as dist
        from torch.distributed.device_mesh import init_device_mesh

        # Hangs are found by heartbeats and by section, not by this time-out: waiting for another rank may be right for hours.
        backend, limit = "nccl" if device.type == "cuda" else "gloo", timedelta(days=1)
        store, self.rank, self.size = _meeting_place(limit)
        dist.init_process_group(backend, store=store, rank=self.rank, world_size=self.size, timeout=limit)
        self.dist, self.device, self.heartbeat = dist, device, heartbeat
        self.first, self.here = self.rank == 0, int(os.environ.get("LOCAL_WORLD_SIZE", self.size))
        self.mesh = init_device_mesh(device.type, (self.size,), mesh_dim_names=("shard",))

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
        self.heartbeat.doing = (section, step)

    @contextlib.contextmanager
    def one_after_another(self) -> Iterator[None]:
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()


def _meeting_place(limit: timedelta) -> tuple["Store", int, int]:
    """-> (where the ranks tell each other their addresses, this rank, their number).

    torchrun's default rendezvous keeps one store over all restarts, with the addresses of dead ranks in it: a rank that reads one
    before the new one is there finds nobody, or waits to be found. So each start has keys of its own. Where several nodes take
    part their counts of restarts can differ, and torchrun's c10d rendezvous, which is made for them, has a new store each time.
    """
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    store, rank, size = next(rendezvous("env://", timeout=limit))
    if os.environ.get("GROUP_WORLD_SIZE", "1") == "1":
        store = PrefixStore(f"start-{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    return store, rank, size


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
    heartbeat = Heartbeat(run, int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]), silence)
    late = threading.Timer(TOGETHER, _never_together)
    late.daemon = True
    late.start()
    ranks = None
    with heartbeat:
        try:
            ranks = Group(place, heartbeat)
            late.cancel()
            heartbeat.all_here()
            yield ranks
            ranks.wait()
        except RuntimeError as error:
            if not re.search(r"gloo|nccl|connection|Dist(Backend|Network|Store)", f"{type(error).__name__} {error}", re.IGNORECASE):
                raise
            who = " and ".join(f"rank {each}" for each in heartbeat.gone()) or "another rank"
            what = str(error).strip().splitlines()[0][:160]
            raise WfmError(
                f"{run}: {who} has gone ({what}); checkpoints are whole; fix: see its own message, then run again with resume=auto"
            ) from error
        finally:
            late.cancel()
            if ranks is not None:
                ranks.dist.destroy_process_group()


def _never_together() -> None:
    rank, size = os.environ["RANK"], os.environ["WORLD_SIZE"]
    text = f"rank {rank}: the {size} ranks did not find each other in {TOGETHER:.0f} s, expected all at {os.environ.get('MASTER_ADDR')}"
    print(f"wfm train: {text}; fix: look at the ones that are missing, and at the network", file=sys.stderr, flush=True)
    faulthandler.dump_traceback(all_threads=True)
    os._exit(2)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a DTensor, gathered from the ranks; other tensors as they are."""
    full = getattr(tensor, "full_tensor", None)
    return tensor if full is None else full()


def local(tensor: torch.Tensor) -> torch.Tensor:
    """This rank's part of a DTensor; other tensors as they are."""
    own = getattr(tensor, "to_local", None)
    return tensor if own is None else own()
