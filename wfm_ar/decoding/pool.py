"""Our side of the decoding children: starts them when needed, keeps idle ones for the next call, kills those that misbehave.

`decode` is the one way from a foreign video or picture file to pixels, for training, evaluation and generation alike, and
`read_arrays` the one from HDF5 and Parquet files to numbers. A child gets the opened file, never its path, so what was checked to be a
regular file is what is read. One that crashes, hangs or takes too much is killed and the file refused in one line; the process
that asked goes on. Children end with their parent, however it ends: their socket closes.
"""

import atexit
import json
import math
import os
import re
import resource
import select
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wfm_ar.decoding.limits import DecodeLimits, most_bytes
from wfm_ar.errors import BadClip, BadData, WfmError

LIMITS = DecodeLimits()
OF_ARRAYS = DecodeLimits(cpu_seconds=3.0)  # a damaged HDF5 file may keep its reader busy for ever
_KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "SYSTEMROOT", "TMPDIR", "LANG")
_START_SECONDS = 120.0  # to import av on a machine that is very busy
_ANSWER_BYTES = 1 << 16
_ANY_CLIP_BYTES = 1 << 30  # of pixels, that the smallest file may hold
_KEPT_BYTES = 64 << 20  # of a child's pixel file from call to call
_SPUN = 1024  # files that used up their CPU time, remembered
_NUMBERS = re.compile(r"[<>|=][fiub]\d{1,2}")


class Decoded(NamedTuple):
    """A child's answer: uint8 [T, H, W, 3] or None, arrays of numbers, and what else it said."""

    frames: np.ndarray | None
    arrays: list[np.ndarray]
    answer: dict[str, Any]


def decode(path: str | Path, do: str, *, start: int = 0, count: int | None = None, limits: DecodeLimits = LIMITS) -> Decoded:
    """do: "read" (frames `start` to `start + count`), "count", "info", "times" or "image". Raises BadClip, in one line with the path."""
    source = _open_regular(path, "an image" if do == "image" else "a local video file", BadClip)
    return _decode(source, str(path), do, start, count, limits)


def read_arrays(path: str | Path, do: str, expected: str, *, limits: DecodeLimits = OF_ARRAYS, **request: Any) -> list[np.ndarray]:
    """What a child reads of a file of arrays: `do` and `request` as child.py knows them. Raises BadData, in one line with the path."""
    source = _open_regular(path, expected, BadData)
    return _ask({"do": do, **request}, source, str(path), limits, BadData).arrays


def decode_bytes(content: bytes, where: str, do: str, *, limits: DecodeLimits = LIMITS) -> Decoded:
    """Like `decode`, of a file's content; errors begin with `where`."""
    source = _anonymous_file()
    os.pwrite(source, content, 0)
    return _decode(source, where, do, 0, None, limits)


def _decode(source: int, where: str, do: str, start: int, count: int | None, limits: DecodeLimits) -> Decoded:
    """Closes `source`."""
    most = max(_ANY_CLIP_BYTES, most_bytes(os.fstat(source).st_size))
    limits = replace(limits, output_bytes=min(limits.output_bytes, most))
    return _ask({"do": do, "start": start, "count": count}, source, where, limits, BadClip)


def _ask(request: dict[str, Any], source: int, where: str, limits: DecodeLimits, kind: type[WfmError]) -> Decoded:
    """A child's answer, or its refusal as an error of this kind. Closes `source`."""
    try:
        decoded = _POOL.ask({**request, "limits": limits.to_json()}, source, limits)
    except _Died as died:
        raise kind(f"{where}: {died}, expected a sound file; fix: copy or make the file again, or leave it out") from None
    finally:
        os.close(source)
    if "error" in decoded.answer:
        raise kind(f"{where}: {decoded.answer['error']}")
    return decoded


def _open_regular(path: str | Path, expected: str, kind: type[WfmError]) -> int:
    """An open file, regular for sure. Not blocking: a pipe without a writer would hold us for ever."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | getattr(os, "O_CLOEXEC", 0))
    except (FileNotFoundError, NotADirectoryError):
        raise kind(f"{path}: does not exist, expected {expected}; fix: check the path") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise kind(f"{path}: cannot be opened ({reason}), expected {expected}; fix: check the path and its permissions") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise kind(f"{path}: is not a regular file, expected {expected}; fix: check the path")
    return fd


def _anonymous_file() -> int:
    """An open file without a name, in memory where the system has such."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("wfm-frames", os.MFD_CLOEXEC)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def upright(frames_THWC: np.ndarray, orientation: int) -> np.ndarray:
    """Frames as they are shown, from frames as they are stored; orientation: 1 to 8, see orientation.py."""
    if orientation >= 5:
        frames_THWC = frames_THWC.swapaxes(1, 2)
    if orientation in (2, 3, 6, 7):
        frames_THWC = frames_THWC[:, :, ::-1]
    if orientation in (3, 4, 7, 8):
        frames_THWC = frames_THWC[:, ::-1]
    return np.ascontiguousarray(frames_THWC)


def _frames(target: int, shape: list[int] | None, limits: DecodeLimits) -> np.ndarray | None:
    """The pixels, copied into memory of our own: nothing a child does later reaches them."""
    if shape is None:
        return None
    sides = [int(n) for n in shape]
    size = math.prod(sides)
    if len(sides) != 4 or min(sides) < 1 or sides[3] != 3 or size > limits.output_bytes or os.fstat(target).st_size < size:
        raise _Died(f"the decoder answered with a clip of shape {sides} that it does not have", crashed=True)
    frames_THWC = np.empty(shape, np.uint8)
    _fill(target, frames_THWC, 0)
    if size > _KEPT_BYTES:
        os.ftruncate(target, 0)
    return frames_THWC


def _arrays(target: int, described: list[list], limits: DecodeLimits) -> list[np.ndarray]:
    """Arrays that lie one after the other, [(dtype, shape)]; like `_frames`, in memory of our own."""
    out, at = [], 0
    for dtype, shape in described:
        size = math.prod(shape) * np.dtype(dtype).itemsize if _NUMBERS.fullmatch(dtype) and min([0, *shape]) >= 0 else -1
        if size < 0 or at + size > min(limits.output_bytes, os.fstat(target).st_size):
            raise _Died(f"the decoder answered with an array {dtype:.20} {shape} that it does not have", crashed=True)
        array = np.empty(shape, dtype)
        _fill(target, array, at)
        at += size
        out.append(array)
    if at > _KEPT_BYTES:
        os.ftruncate(target, 0)
    return out


def _fill(target: int, array: np.ndarray, at: int) -> None:
    view, done = array.reshape(-1).view(np.uint8).data, 0
    while done < len(view):
        got = os.preadv(target, [view[done : done + (1 << 30)]], at + done)
        assert got > 0, "the child took bytes away again"
        done += got


class _Died(Exception):
    """Why a child is no more, as part of a sentence. `crashed`: by itself, not by a limit; `spun`: all its CPU time is gone."""

    def __init__(self, reason: str, crashed: bool, spun: bool = False):
        super().__init__(reason)
        self.crashed, self.spun = crashed, spun


class _Child:
    """One decoding process and the socket to it."""

    def __init__(self) -> None:
        self.served = 0
        self.buffer = b""
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        self.target = _anonymous_file()  # where it puts pixels
        self.channel, theirs = socket.socketpair()
        root = str(Path(__file__).resolve().parents[2])
        variables = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        variables["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([root, *(os.path.abspath(place) for place in sys.path if place)]))
        with theirs:
            self.process = subprocess.Popen(
                self.command(theirs.fileno()),
                env=variables,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self.errors,
            )
        self.ready = False

    def command(self, fd: int) -> list[str]:
        """-P and -S: no module from the working folder, no start-up files; what it may import is what we may."""
        return [sys.executable, "-P", "-S", "-m", "wfm_ar.decoding.child", str(fd)]

    def ask(self, request: dict[str, Any], source: int, limits: DecodeLimits) -> Decoded:
        if not self.ready:
            self._wait(_START_SECONDS)
            self.ready = True
        self.served += 1
        try:
            socket.send_fds(self.channel, [json.dumps(request).encode() + b"\n"], [source, self.target])
        except OSError:
            raise self._end() from None
        while True:
            answer = self._wait(limits.silence_seconds)
            if "working" not in answer:
                stored = _frames(self.target, answer.get("shape"), limits)
                frames = None if stored is None else upright(stored, answer.get("orientation", 1))
                return Decoded(frames, _arrays(self.target, answer.get("arrays", []), limits), answer)

    def _wait(self, seconds: float) -> dict[str, Any]:
        """The child's next line."""
        deadline = time.monotonic() + seconds
        while b"\n" not in self.buffer:
            left = deadline - time.monotonic()
            readable, _, _ = (
                select.select([self.channel], [], [], max(left, 0)) if self.channel.fileno() < 1000 else _poll(self.channel, left)
            )
            if not readable:
                self.close()
                raise _Died(f"the decoder gave no sign of life for {seconds:g} s and was stopped", crashed=False)
            try:
                part = self.channel.recv(_ANSWER_BYTES)
            except OSError:
                part = b""
            if not part or len(self.buffer) > _ANSWER_BYTES:
                raise self._end()
            self.buffer += part
        line, _, self.buffer = self.buffer.partition(b"\n")
        try:
            answer = json.loads(line)
            assert isinstance(answer, dict)
        except (ValueError, AssertionError):
            raise self._end() from None
        return answer

    def _end(self) -> _Died:
        """What became of a child that is silent for good."""
        try:
            code = self.process.wait(5)
        except subprocess.TimeoutExpired:
            code = None
        if not self.ready:
            self.errors.seek(0)
            lines = self.errors.read(1 << 16).decode(errors="replace").strip().splitlines()
            self.close()
            raise WfmError(f"video decoder: cannot start ({lines[-1] if lines else code}); fix: check that `python -c 'import av'` works")
        self.close()
        if code == -signal.SIGPROF:
            return _Died("the decoder used up its CPU time without getting on and was stopped", crashed=False, spun=True)
        name = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        return _Died(f"the decoder crashed on it ({name})", crashed=True)

    def close(self) -> None:
        """Kills the process, and waits so that it leaves no zombie."""
        self.process.kill()
        self.process.wait()
        self._close_files()

    def forget(self) -> None:
        """After a fork: the child belongs to the other process; only our copies of the files are closed."""
        self._close_files()
        self.process.returncode = 0  # or its end would be waited for here

    def _close_files(self) -> None:
        self.channel.close()
        self.errors.close()
        if self.target >= 0:
            os.close(self.target)
            self.target = -1


def _poll(channel: socket.socket, seconds: float) -> tuple[list, list, list]:
    """select for file numbers that select cannot take."""
    poll = select.poll()
    poll.register(channel, select.POLLIN)
    return [channel] if poll.poll(max(seconds, 0) * 1000) else [], [], []


class _Pool:
    """The children of this process: at most one a core, and two at least."""

    def __init__(self) -> None:
        self.free = threading.Condition()
        self.idle: list[_Child] = []
        self.busy: set[_Child] = set()
        self.most = max(2, os.cpu_count() or 1)
        self.spun: OrderedDict[tuple, str] = OrderedDict()  # what was asked of a file that used up all CPU time, and what was said

    def ask(self, request: dict[str, Any], source: int, limits: DecodeLimits) -> Decoded:
        """A child's answer. One that had served before and crashes may have died of an earlier file: a fresh one tries again.

        Where a child spun in vain, the same question about the same file is not tried again: checking and opening would spin each.
        """
        about = os.fstat(source)
        asked = (about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns, json.dumps(request))
        if (told := self.spun.get(asked)) is not None:
            raise _Died(told, crashed=False, spun=True)
        while True:
            child = self._take()
            served = child.served
            try:
                answer = child.ask(request, source, limits)
            except _Died as died:
                self._drop(child)
                if died.spun:
                    self.spun[asked] = str(died)
                    if len(self.spun) > _SPUN:
                        self.spun.popitem(last=False)
                if not (died.crashed and served):
                    raise
            except BaseException:  # an interrupt: the child is in the middle of something that nobody waits for
                child.close()
                self._drop(child)
                raise
            else:
                self._give(child)
                return answer

    def _take(self) -> _Child:
        with self.free:
            self.free.wait_for(lambda: self.idle or len(self.busy) < self.most)
            child = self.idle.pop() if self.idle else None
            child = child or _Child()
            self.busy.add(child)
            return child

    def _give(self, child: _Child) -> None:
        with self.free:
            self.busy.discard(child)
            self.idle.append(child)
            self.free.notify()

    def _drop(self, child: _Child) -> None:
        with self.free:
            self.busy.discard(child)
            self.free.notify()

    def children(self) -> list[_Child]:
        return [*self.idle, *self.busy]


_POOL = _Pool()  # of this process: children are worth keeping from call to call, whoever calls


def child_ids() -> list[int]:
    """Process ids of the children that are alive, for tests and campaigns."""
    return [child.process.pid for child in _POOL.children()]


def peak_memory() -> int:
    """Bytes of resident memory that the largest child which ended so far used."""
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def close() -> None:
    """Ends all children; the next call starts new ones."""
    for child in _POOL.children():
        child.close()
    _POOL.idle.clear()


def _after_fork() -> None:
    global _POOL
    for child in _POOL.children():
        child.forget()
    _POOL = _Pool()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(close)
