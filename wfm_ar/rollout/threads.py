"""How a rollout shares the threads of a CPU: some roll, the others decode frames meanwhile."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from wfm_ar.world_model.transformer import WorldModel

SMALL = 2**25  # parameters below which rolling leaves threads of the CPU to others


def shared_threads(model: WorldModel, rows: int) -> tuple[int, int]:
    """(threads of the CPU that roll, threads that may decode frames meanwhile; 0: none, they are needed).

    The calls of a small model are short: of a lone row a second thread saves nothing, and costs them all where another process
    holds its core, as it is waited for; a batch is done sooner with half the threads while the others decode frames.
    """
    threads = torch.get_num_threads()
    if threads == 1 or model.head.weight.is_cuda or sum(p.numel() for p in model.parameters()) >= SMALL:
        return threads, 0
    decoding = threads - 1 if rows == 1 else threads // 2
    return threads - decoding, decoding


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """What is inside runs on so many threads of the CPU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
