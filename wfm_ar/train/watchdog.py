"""What hangs, by name: a thread that knows which section of the loop is running and since when.

A section that outlasts its limit ends the process with one line that names it, and the stacks of all threads in `hang.txt` of
the run folder: a run that stands still for a week is worse than one that can be started again. The thread also notices a stop
signal that the loop does not come to act upon.
"""

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wfm_ar.train.distributed import ALONE, Ranks

SECTIONS = ("data", "step", "validation", "checkpoint")
GRACE = 25.0  # seconds from a stop signal to the end, whatever the loop is doing; a save under way has its own limit


class Watchdog:
    """`limits`: seconds by section; 0 or a missing one: no limit."""

    def __init__(self, run: Path, limits: dict[str, float], ranks: Ranks = ALONE, *, every: float = 0.5, grace: float = GRACE):
        self.run, self.limits, self.ranks, self.every, self.grace = run, limits, ranks, every, grace
        self.step, self.signal = 0, 0
        self._now: tuple[str, float] | None = None  # section, monotonic time of its beginning
        self._signalled = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self._done.set()
        self._thread.join()

    @contextlib.contextmanager
    def section(self, name: str, step: int) -> Iterator[None]:
        """What the loop does inside, at `step`."""
        before, self._now, self.step = self._now, (name, time.monotonic()), step
        self.ranks.at(name, step)
        try:
            yield
        finally:
            self._now = before

    def told_to_stop(self, number: int) -> None:
        """A signal has come: from now on the process has `grace` seconds."""
        self.signal, self._signalled = number, time.monotonic()

    def _watch(self) -> None:
        while not self._done.wait(self.every):
            now, current = time.monotonic(), self._now
            name, began = current or ("setup", now)
            limit = self.limits.get(name, 0)
            if limit and now - began > limit:
                text = f"{name} of step {self.step} has taken {now - began:.0f} s, expected at most {limit:.0f} s"
                self._end(text, f"mend what hangs and run again with resume=auto, or raise watchdog.{name}", 2)
            if self.signal and name != "checkpoint" and now - self._signalled > self.grace:
                text = f"told to stop, but {name} of step {self.step} did not end within {self.grace:.0f} s; the last checkpoint is whole"
                self._end(text, "run again with resume=auto", 128 + self.signal)

    def _end(self, what: str, fix: str, code: int) -> None:
        """One line, the stacks, and out: the main thread cannot be woken, so nothing is cleaned up."""
        stacks = self.run / "hang.txt"
        with contextlib.suppress(OSError), open(stacks, "w") as file:
            faulthandler.dump_traceback(file, all_threads=True)
        print(f"wfm train: {self.run}: {what}; stacks in {stacks}; fix: {fix}", file=sys.stderr, flush=True)
        os._exit(code)


class StopSignal:
    """Notes the first SIGTERM or SIGINT; a second one ends the process at once. Handlers are put back at the end."""

    def __init__(self, watchdog: Watchdog):
        self.received, self._watchdog, self._may_raise = 0, watchdog, False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        with contextlib.suppress(ValueError):  # not in the main thread (tests, notebooks): signals stay with their owner
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, frame) -> None:
        self.received = number
        self._watchdog.told_to_stop(number)
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)
        if self._may_raise:
            raise Interrupted

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """What is inside may be broken off by a signal (Interrupted): it can be long, and can be done again."""
        self._may_raise = True
        try:
            if self.received:
                raise Interrupted
            yield
        finally:
            self._may_raise = False


class Interrupted(BaseException):
    """A stop signal came inside `StopSignal.interrupting`; no `except Exception` of a stage may swallow it."""
