"""Rollouts of an evaluation in several processes, one thread each: on a CPU two rollouts side by side take half the time of two in
turn, while two threads in one rollout gain little. What they make is what one process makes."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

from wfm_ar.rollout.robots import robots_of
from wfm_ar.rollout.world import Prompt, Rollout, World, load_world

_worlds: dict[str, World] = {}  # of a worker: as each robot acts in it, "" where there is one or none


class Workers:
    """`count` processes that have loaded the world in `folder`. A context: they end with it."""

    def __init__(self, folder: Path, count: int) -> None:
        # spawn: a fork would copy torch's thread pool in whatever state it is
        spawn = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(count, mp_context=spawn, initializer=_start, initargs=(str(folder),))

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: Any) -> None:
        self._pool.shutdown(cancel_futures=True)

    def generate(self, batches: Iterable[tuple[str, Sequence[Prompt], dict[str, Any]]]) -> Iterator[list[Rollout]]:
        """Batches of (robot, prompts, settings of World.generate_batch) -> their rollouts, in order."""
        return self._pool.map(_generate, batches)

    def each(self, work: Callable[[World, Any], Any], items: Iterable[Any]) -> Iterator[Any]:
        """work(world, item) of each item, in order; `work` is a function of a module."""
        return self._pool.map(_work, ((work, item) for item in items))


def _start(folder: str) -> None:
    torch.set_num_threads(1)
    world = load_world(folder)
    _worlds.update({"": world} | robots_of(world))


def _generate(batch: tuple[str, Sequence[Prompt], dict[str, Any]]) -> list[Rollout]:
    robot, prompts, settings = batch
    return _worlds[robot].generate_batch(prompts, **settings)


def _work(job: tuple[Callable[[World, Any], Any], Any]) -> Any:
    work, item = job
    return work(_worlds[""], item)
