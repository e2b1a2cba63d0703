"""Heartbeats: a file of each rank in the run folder, written every second by a thread of it and read by the other ranks.

They begin before the ranks have found each other, so that one that stands still is named whatever it was doing. Silence is
counted in looks, about one a second, and not by a clock: hosts whose clocks differ, a machine that slept and a starved one that
looks late itself are not taken for a dead rank. Knows nothing of collectives.
"""

import contextlib
import json
import os
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

NAME = ".rank-{}"  # of a rank's file
EVERY = 1.0  # seconds


@dataclass
class Heard:
    """What is known of another rank."""

    changed: int = -1  # its file's time of change, in ns
    looks: int = 0  # at the file since then
    began: bool = False  # that file is of this start and not of an earlier one
    section: str = "setup"
    step: int = 0


class Heartbeat:
    """`silence`: looks without a sign after which a rank is taken for lost, which ends this process with that rank's name."""

    def __init__(self, run: Path, rank: int, size: int, silence: float):
        self.run, self.rank, self.silence = run, rank, silence
        self.doing, self.together = ("setup", 0), False
        # all ranks of one start on one host have the same parent
        self.start = [socket.gethostname(), *_identity(os.getppid()), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")]
        self.others = {other: Heard() for other in range(size) if other != rank}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._live, name="heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self.run.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self._ended.set()
        self._thread.join()

    def all_here(self) -> None:
        """All ranks have found each other: from now on one that was never heard of is missed too."""
        for heard in self.others.values():
            heard.looks = 0
        self.together = True

    def gone(self, seconds: float = 3.0) -> list[int]:
        """The ranks on this host whose process has ended. Waits a moment for the first: a connection ends before its process does."""
        end = time.monotonic() + seconds
        while not (found := [other for other in self.others if self._has_ended(other)]) and time.monotonic() < end:
            time.sleep(0.1)
        return found

    def _has_ended(self, other: int) -> bool:
        about = _read(self.run / NAME.format(other))[1]
        return bool(about) and about["start"] == self.start and _identity(about["process"][0]) != tuple(about["process"])

    def _live(self) -> None:
        while True:
            self._give()
            if self._ended.wait(EVERY):
                return
            for other, heard in self.others.items():
                self._look(self.run / NAME.format(other), heard)
                if (heard.began or self.together) and heard.looks > self.silence and not self._ended.is_set():
                    self._end(other, heard)

    def _give(self) -> None:
        own, part = self.run / NAME.format(self.rank), self.run / (NAME.format(self.rank) + ".part")
        about = {"section": self.doing[0], "step": self.doing[1], "start": self.start, "process": _identity(os.getpid())}
        try:
            part.write_text(json.dumps(about))
            os.replace(part, own)
        except OSError:  # a full disk is the checkpoint's matter: without a byte to spare the time of change is a sign
            with contextlib.suppress(OSError):
                own.touch()

    def _look(self, sign: Path, heard: Heard) -> None:
        heard.looks += 1
        changed, about = _read(sign)
        if changed not in (-1, heard.changed):
            heard.began |= heard.changed != -1
            heard.changed, heard.looks = changed, 0
        heard.began |= bool(about) and about["start"] == self.start
        if about and heard.began:
            heard.section, heard.step = about["section"], about["step"]

    def _end(self, other: int, heard: Heard) -> None:
        where = f"in {heard.section} of step {heard.step}" if heard.began else "before its first heartbeat"
        text = f"rank {other} has not been heard of for {heard.looks * EVERY:.0f} s, last {where}; the run stops, its checkpoints are whole"
        print(f"wfm train: {text}; fix: look at that rank, then run again with resume=auto", file=sys.stderr, flush=True)
        os._exit(2)


def _identity(pid: int) -> tuple[int, int]:
    """(number, time of its start): numbers alone come again, in containers soon. (0, 0) where it has ended, or cannot be known."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0, 0
    return (0, 0) if fields[0] in "ZX" else (pid, int(fields[19]))  # Z: ended, and listed for its parent still


def _read(sign: Path) -> tuple[int, dict]:
    """(time of its last change in ns, what it says) of a rank's file; (-1, {}) where there is none yet."""
    changed, about = -1, {}
    with contextlib.suppress(OSError, ValueError), open(sign) as file:
        changed = os.fstat(file.fileno()).st_mtime_ns
        about = json.loads(file.read())
    return changed, about
