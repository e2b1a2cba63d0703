"""How long a thing takes: seconds of some runs, by the wall clock or in the process's own CPU-seconds, on any device."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch


@dataclass(frozen=True)
class Spread:
    """Seconds of some runs."""

    seconds: tuple[float, ...]

    @property
    def middle(self) -> float:
        return median(self.seconds)

    def __str__(self) -> str:
        return f"{self.middle:.4g} s ({min(self.seconds):.4g} to {max(self.seconds):.4g})"

    def over(self, count: int) -> "Spread":
        """Seconds of each of `count` equal parts of a run."""
        return Spread(tuple(seconds / count for seconds in self.seconds))

    def times(self, other: "Spread") -> str:
        """How many times longer this took than `other`, run in turns with it: of the medians, and of each round."""
        each = [mine / theirs for mine, theirs in zip(self.seconds, other.seconds, strict=True)]
        return f"{self.middle / other.middle:.1f}x ({min(each):.1f} to {max(each):.1f})"


@dataclass(frozen=True)
class Clock:
    """What seconds are. The process's own CPU-seconds tell more on a busy machine; with more than one thread they add up."""

    device: str
    cpu: bool = False  # CPU-seconds, else wall-clock

    def time(self, run: Callable[[], object], times: int, warm: int = 0) -> Spread:
        """Seconds of each of `times` runs, after `warm` that do not count."""
        now = time.process_time if self.cpu else time.perf_counter
        seconds = []
        for _ in range(warm + times):
            self._wait()
            begun = now()
            run()
            self._wait()
            seconds.append(now() - begun)
        return Spread(tuple(seconds[warm:]))

    def in_turns(self, runs: Mapping[str, Callable[[], object]], rounds: int, warm: int = 0) -> dict[str, Spread]:
        """The same for several things, one after the other in every round: a machine that slows down slows all of them."""
        taken: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(warm + rounds):
            for name, run in runs.items():
                seconds = self.time(run, 1).seconds
                taken[name] += seconds if turn >= warm else ()
        return {name: Spread(tuple(seconds)) for name, seconds in taken.items()}

    def _wait(self) -> None:
        if self.device != "cpu":
            torch.cuda.synchronize()
