"""Where the networks of a world lie: on its device, or on the CPU until they are needed."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn


class Placement:
    """The networks of a world by name. Those that `stay` lie on the CPU and come to `device` only while they work."""

    def __init__(self, modules: Mapping[str, nn.Module], device: torch.device | str = "cpu", stay: frozenset[str] = frozenset()) -> None:
        self.modules, self.device, self.stay = modules, torch.device(device), stay
        self._working: Counter[str] = Counter()

    @contextmanager
    def at_work(self, *names: str) -> Iterator[None]:
        """Brings those of the named networks that stay on the CPU to the device, and back; in an outer `at_work` they are there."""
        waiting = [name for name in names if name in self.stay]
        for name in waiting:
            if not self._working[name]:
                self.modules[name].to(self.device)
        self._working.update(waiting)
        try:
            yield
        finally:
            self._working.subtract(waiting)
            for name in waiting:
                if not self._working[name]:
                    self.modules[name].to("cpu")
