import contextlib
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from wfm_ar.train.watchdog import StopSignal, Watchdog


def stand_still():
    time.sleep(60)


def loop(run: Path, what: str) -> None:
    with Watchdog(run, {"data": 0.3, "step": 0.0}, every=0.05, grace=0.5) as watchdog, StopSignal(watchdog):
        if what == "fast":
            for step in range(20):
                with watchdog.section("data", step):
                    time.sleep(0.03)
            return
        if what == "data":
            with watchdog.section("data", 7):
                stand_still()
        with watchdog.section("step", 9):
            for _ in range(2 if what == "twice" else 1):
                os.kill(os.getpid(), signal.SIGTERM)
            stand_still()


def end_of(what: str, run: Path) -> tuple[int, str]:
    """A child that runs `loop` -> (exit code, what it said on stderr)."""
    told = run.with_name("stderr")
    if (child := os.fork()) == 0:
        with contextlib.suppress(BaseException), open(told, "w") as file:
            os.dup2(file.fileno(), 2)
            sys.stderr = os.fdopen(2, "w")
            loop(run, what)
            os._exit(0)
        os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), told.read_text()


@pytest.mark.parametrize(
    ("what", "code", "line"),
    [("data", 2, "data of step 7 has taken"), ("signal", 143, "told to stop, but step of step 9 did not end")],
)
def test_what_hangs_is_named_and_ended(tmp_path, what, code, line):
    run = tmp_path / "run"
    run.mkdir()
    began = time.monotonic()
    got, told = end_of(what, run)
    assert got == code and line in told and told.count("\n") == 1 and "resume=auto" in told
    assert "in stand_still" in (run / "hang.txt").read_text()
    assert time.monotonic() - began < 30


@pytest.mark.parametrize(("what", "code"), [("twice", -signal.SIGTERM), ("fast", 0)])
def test_what_does_not_hang_is_left_alone_and_a_second_signal_is_final(tmp_path, what, code):
    run = tmp_path / "run"
    run.mkdir()
    assert end_of(what, run) == (code, "") and not os.listdir(run)
