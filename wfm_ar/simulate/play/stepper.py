"""The thread that steps the worlds of all sessions, and on which everything else is done that touches them."""

import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any

import numpy as np

from wfm_ar.errors import WfmError
from wfm_ar.rollout.stream import WorldStream, step_together
from wfm_ar.simulate.play.protocol import news
from wfm_ar.simulate.play.session import Session

QUIET = 0.5  # seconds it sleeps at most, when there is nothing to do


class Stepper:
    """`call` hands it work; between two calls it makes the steps that are due, all sessions in turn."""

    def __init__(self) -> None:
        self.sessions: list[Session] = []
        self._calls: deque[tuple[Callable[[], Any], Future]] = deque()
        self._wake = threading.Condition()
        self._ends = False
        self._thread = threading.Thread(target=self._run, name="wfm-play-stepper", daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def call(self, do: Callable[[], Any]) -> Future:
        """Runs `do` on the thread, after what was handed over before."""
        done: Future = Future()
        with self._wake:
            if self._ends:
                done.set_exception(RuntimeError("the stepper has ended"))
                return done
            self._calls.append((do, done))
            self._wake.notify()
        return done

    def carry_out(self, session: Session, do: Callable[[], Any]) -> Future:
        """`call` for one session, which is told what goes wrong."""
        return self.call(lambda: self._guarded(session, do, lambda error: session.tell(news("error", text=str(error)))))

    def end(self) -> None:
        """Closes all sessions, which keep their recordings, and waits for the thread."""
        self.call(self._close_all)
        with self._wake:
            self._ends = True
            self._wake.notify()
        self._thread.join()

    def _close_all(self) -> None:
        while self.sessions:
            self.sessions.pop().close()

    def _run(self) -> None:
        while True:
            self._answer()
            due = self._due()
            if due:
                self._step(due)
            elif self._ends and not self._calls:
                return

    def _answer(self) -> None:
        """Everything that was handed over; where there is nothing to do at all, waits for it."""
        with self._wake:
            if not self._calls and not self._ends and not self._due():
                self._wake.wait(self._quiet())
            calls = list(self._calls)
            self._calls.clear()
        for do, done in calls:
            try:
                done.set_result(do())
            except BaseException as error:  # it is the caller's
                done.set_exception(error)

    def _quiet(self) -> float:
        """Seconds until the next step is due."""
        waiting = [session.next_at for session in self.sessions if session.playing]
        return max(0.0, min([QUIET, *(at - time.perf_counter() for at in waiting)]))

    def _due(self) -> list[Session]:
        now = time.perf_counter()
        return [session for session in self.sessions if session.due(now)]

    def _step(self, due: list[Session]) -> None:
        """All that is due, together where that is quicker."""
        begun = time.perf_counter()
        steps: list[tuple[Session, WorldStream, np.ndarray | None]] = []
        for session in due:
            self._guarded(
                session, lambda session=session: steps.extend((session, *one) for one in session.next_steps(begun)), session.failed
            )
        try:
            frames = step_together([stream for _, stream, _ in steps], [actions for _, _, actions in steps])
        except Exception as error:
            for session in due:
                self._guarded(session, partial(_raise, error), session.failed)
            return
        seconds = time.perf_counter() - begun
        for (session, stream, actions), made in zip(steps, frames, strict=True):
            if session in self.sessions:
                self._guarded(session, partial(session.stepped, stream, actions, made, seconds), session.failed)

    def _guarded(self, session: Session, do: Callable[[], Any], refused: Callable[[WfmError], None]) -> None:
        """A mistake of ours, or a lack of memory, ends this session; the others go on."""
        try:
            do()
        except WfmError as error:
            refused(error)
        except Exception:
            traceback.print_exc(file=sys.stderr)
            if session in self.sessions:
                self.sessions.remove(session)
            session.close()
            session.tell(news("ended", text="this session met an error of the server's and was closed; fix: reload the page"))


def _raise(error: Exception) -> None:
    raise error
