"""The states of the process's random generators, as JSON.

The loop's own draws are a function of (seed, step) and need no state. These are for what draws from the ambient generators all
the same (dropout layers, a stage of yours): it too goes on exactly where it stopped.
"""

import contextlib
import os
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch


def seed_all(seed: int) -> None:
    """Python's, numpy's and torch's generators (all devices) from one seed."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rng_state() -> dict:
    """What `restore_rng` needs to go on from here."""
    numpys: Any = np.random.get_state()
    kind, keys, position, has_gauss, gauss = numpys
    version, numbers, spare = random.getstate()
    state = {
        "python": [version, np.array(numbers, np.uint32).tobytes().hex(), spare],
        "numpy": [kind, keys.tobytes().hex(), int(position), int(has_gauss), float(gauss)],
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
    }
    if torch.cuda.is_available():
        state["cuda"] = [one.numpy().tobytes().hex() for one in torch.cuda.get_rng_state_all()]
    return state


def restore_rng(state: dict) -> None:
    """The generators as they were at `rng_state`. CUDA's only where as many devices are there."""
    version, numbers, spare = state["python"]
    random.setstate((version, tuple(np.frombuffer(bytes.fromhex(numbers), np.uint32).tolist()), spare))
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, np.frombuffer(bytes.fromhex(keys), np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(_bytes(state["torch"]))
    cuda = state.get("cuda", [])
    if torch.cuda.is_available() and len(cuda) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([_bytes(one) for one in cuda])


@contextlib.contextmanager
def deterministic(on: bool) -> Iterator[None]:
    """torch's deterministic algorithms inside, where `on`; operations that have none raise."""
    before, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = benchmark


def _bytes(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
