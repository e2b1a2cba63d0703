"""What the launchers choose (tiles, registers, chunks, warps), timed beside other choices on a GPU: is it still the best one there?

    python kernels/benchmarks/choices.py [words that a choice's name holds]

Every choice is checked against the reference first. Times as in the benchmarks, in turns, with the first one as it ships.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from wfm_kernels.attention import triton as attention  # noqa: E402
from wfm_kernels.benchmark import registry, timing  # noqa: E402
from wfm_kernels.linear_cross_entropy import triton as loss_rows  # noqa: E402
from wfm_kernels.shared_prefix import triton as shared_prefix  # noqa: E402

loss = sys.modules["wfm_kernels.linear_cross_entropy"]  # the plain attribute is the function
ROUNDS = 15


@dataclass(frozen=True, kw_only=True)
class Choice:
    """One thing that a launcher decides: a case it matters for, and by label what else it could be, as module attributes."""

    name: str
    maker: Callable[..., registry.Case]
    shape: dict[str, int]
    others: dict[str, list[tuple[ModuleType, str, Any]]]


def tile(block_n: int, stages: int, registers: int) -> list[tuple[ModuleType, str, Any]]:
    """Other tiles of keys for launches of few query rows; those of many keep theirs."""
    own = attention.tile_shape

    def shape(rows: int, *arguments, **keywords):
        block_m, shipped_n, block_d, options = own(rows, *arguments, **keywords)
        if block_m > 16:
            return block_m, shipped_n, block_d, options
        return block_m, block_n, block_d, options | dict(num_stages=stages, maxnreg=registers)

    return [(attention, "tile_shape", shape)]


CHOICES = [
    Choice(
        # as it ships 396 of the 512 blocks fit an H100 or H200 at once, by their registers; with 128 registers all do
        name="shared prefix, tile of the suffixes",
        maker=registry.shared_prefix,
        shape=dict(B=64, N=32, H=8, P=4096, L=256, K=128),
        others={
            f"{n} keys, {stages} stages, {registers} registers": tile(n, stages, registers)
            for n, stages, registers in ((32, 4, 128), (32, 3, 128), (32, 4, 168), (64, 2, 168))
        },
    ),
    Choice(
        name="shared prefix, chunks of the past",
        maker=registry.shared_prefix,
        shape=dict(B=64, N=32, H=8, P=4096, L=256, K=128),
        others={f"{n} chunks": [(shared_prefix, "CHUNKS", n)] for n in (4, 6, 16)},
    ),
    Choice(
        name="one row, chunks",
        maker=registry.decode,
        shape=dict(B=1, N=32, H=8, L=4096, K=128),
        others={f"{n} chunks": [(attention, "MAX_CHUNKS", n)] for n in (8, 12, 32)},
    ),
    Choice(
        name="one row, tile",
        maker=registry.decode,
        shape=dict(B=1, N=32, H=8, L=4096, K=128),
        others={f"{n} keys, {s} stages": tile(n, s, 168) for n, s in ((64, 4), (64, 5), (32, 4))},
    ),
    Choice(
        # as it ships 18 chunks of 1,792 rows and one of 512, 0.57 GB beside the inputs. With 244 MiB two chunks fewer add to the matrix's
        # gradient, and that of the hidden states has 128 tiles of 128 x 128, not 112, for 132 multiprocessors: 0.59 GB, of the goal's 0.6
        name="loss, bytes of a chunk of logits",
        maker=registry.vocabulary_loss,
        shape=dict(R=32768, D=1024, V=65536),
        others={f"{m} MiB": [(loss, "CHUNK_BYTES", loss.CHUNK_BYTES | {"cuda": m << 20})] for m in (128, 244)},
    ),
    Choice(
        # with 32 a multiprocessor holds two rows at a time: the second sweep may find them in the L2 cache
        name="loss, warps of a row",
        maker=registry.vocabulary_loss,
        shape=dict(R=32768, D=1024, V=65536),
        others={
            f"{w} warps, {v} at once": [(loss_rows, "WARPS", w), (loss_rows, "WIDE", v)] for w, v in ((16, 4096), (16, 8192), (32, 8192))
        },
    ),
]


@contextmanager
def chosen(other: list[tuple[ModuleType, str, Any]]) -> Iterator[None]:
    """The launchers decide so within."""
    with ExitStack() as stack:
        for module, name, value in other:
            assert hasattr(module, name), f"{module.__name__} has no {name}"
            stack.enter_context(patch.object(module, name, value))
        yield


def timers(choice: Choice, case: registry.Case, device: str) -> dict[str, Callable[[], float]]:
    """By label what times a run, captured under that choice. Raises WrongNumbers."""
    expected, made = case.reference().float(), {}
    for label, other in ({"as it ships": []} | choice.others).items():
        with chosen(other):
            error = (case.ours().float() - expected).abs().max().item()
            if not error <= case.tolerance:
                raise timing.WrongNumbers(f"{choice.name}, {label}: error {error}, allowed {case.tolerance}")
            made[label] = timing.timer(case.ours, device)
    return made


def report(choice: Choice, device: str) -> None:
    """Prints the times of every choice and what part they are of the time as it ships."""
    torch.manual_seed(0)
    case = choice.maker(device=device, dtype=registry.dtype_of(device), **choice.shape)
    once = timers(choice, case, device)
    seconds = {label: [] for label in once}
    for _ in range(ROUNDS):
        for label, run in once.items():
            seconds[label].append(run())
    print(f"{choice.name} ({case.name})")
    own = sorted(seconds["as it ships"])[ROUNDS // 2]
    for label, times in seconds.items():
        low, median, high = (sorted(times)[i] for i in (0, ROUNDS // 2, -1))
        print(f"  {label:40} {1e6 * median:9.1f} us ({1e6 * low:.1f} .. {1e6 * high:.1f})  {median / own:.2f} of the time as it ships")


if __name__ == "__main__":
    if not torch.cuda.is_available():
        sys.exit("choices.py: torch sees no CUDA device, expected one: these are choices for a GPU")
    words = " ".join(sys.argv[1:])
    for each in CHOICES:
        if words in each.name:
            report(each, "cuda")
