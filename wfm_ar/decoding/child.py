"""The decoding child: answers one request at a time on a socket until its other end closes, within limits it cannot exceed.

A request is a line of JSON with two open files, the video to read and the file that takes the pixels; the answer is a line of
JSON. Nothing but av and the standard library is imported (and h5py or pyarrow, once their files come): the child starts in a tenth of a
second and its address space, which is limited, is its own. It knows no path and needs none.
"""

import json
import os
import signal
import socket
import sys
import time
from typing import Any

from wfm_ar.decoding.limits import DecodeLimits, Refused

resource: Any
try:
    import resource
except ImportError:  # pragma: no cover - not a POSIX system
    resource = None

_MOST = 1 << 16  # bytes of a request


def main(fd: int) -> None:
    """Serves requests from the socket `fd`; returns when the other end is gone."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):  # meant for the parent, which ends us by closing the socket or with SIGKILL
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    _set(resource.RLIMIT_CORE, 0)
    from wfm_ar.decoding import pictures, reading
    from wfm_ar.decoding.frame_table import FrameTables

    tables = FrameTables()
    channel = socket.socket(fileno=fd)
    _send(channel, {"ready": os.getpid()})
    while True:
        line, files = _receive(channel)
        if not line:
            return
        request = json.loads(line)
        limits = DecodeLimits(**request["limits"])
        work = _Work(channel, limits)
        try:
            answer = _answer(pictures, reading, tables, request, files, limits, work)
        except Refused as refused:
            answer = {"error": str(refused)}
        except MemoryError:
            answer = {
                "error": f"needs more than {limits.memory_bytes >> 20} MiB to read, expected less; fix: make it smaller",
                "last": True,
            }
        except Exception as error:  # whatever else a hostile file makes av or h5py raise is that file's fault
            kind = {"hdf5": "HDF5", "parquet": "Parquet"}.get(request["do"].split()[0], "video")
            answer = {"error": f"cannot be read as {kind} ({type(error).__name__}): damaged; fix: copy or make it again"}
        work.done()
        for one in files:
            os.close(one)
        _send(channel, answer)
        if "last" in answer:
            return  # after a failed allocation, who knows what is left: the next request gets a new child


def _answer(pictures, reading, tables, request: dict, files: list[int], limits: DecodeLimits, work: "_Work") -> dict:
    if len(files) != 2:
        raise Refused("cannot be read (no file came with the request); fix: raise the limit of open files")
    source, target = files
    what = request["do"]
    if " " in what:
        return _answer_arrays(request, source, target, limits, work)
    if what != "image":
        tables.look(source)
    if what == "info":
        return {"info": pictures.info(source, limits, tables)}
    if what == "count":
        return {"count": pictures.count(source, limits, work.progress, tables)}
    if what == "times":
        times = pictures.times(source, limits, tables)
        os.pwrite(target, times.tobytes(), 0)
        return {"arrays": [("<f8", [len(times)])]}
    sink = pictures.Sink(target, limits)
    if what == "image":
        pictures.read_image(source, sink)
    else:
        reading.read(source, request["start"], request["count"], sink, work.progress, tables)
    return {"shape": [sink.frames, *sink.size, 3], "orientation": sink.orientation}


def _answer_arrays(request: dict, source: int, target: int, limits: DecodeLimits, work: "_Work") -> dict:
    """The readers of HDF5 and Parquet are imported once they are asked for: their packages are optional, and take their time."""
    kind, what = request["do"].split()
    if kind == "hdf5":
        from wfm_ar.decoding import hdf5_file

        if what == "arrays":
            place = (request["group"], request["names"], request["start"], request["count"])
            return {"arrays": hdf5_file.read(source, *place, target, limits, work.progress)}
        return _put(target, json.dumps(hdf5_file.survey(source, limits, work.progress)).encode())
    from wfm_ar.decoding import parquet_file

    if what == "names":
        return _put(target, json.dumps(parquet_file.names(source)).encode())
    if what == "rows":
        return _put(target, parquet_file.rows(source, request["columns"], request["without"], limits, work.progress))
    if what == "arrays":
        return _put(target, *parquet_file.arrays(source, request["columns"], limits, work.progress))
    return _put(target, *parquet_file.images(source, request["column"], request["rows"], limits, work.progress))


def _put(target: int, *contents) -> dict:
    """Bytes and arrays one after the other in the file `target`, and what they are."""
    os.lseek(target, 0, os.SEEK_SET)
    for content in contents:
        left = memoryview(content).cast("B") if len(content) else b""
        while left:
            left = left[os.write(target, left) :]
    return {"arrays": [("|u1", [len(one)]) if isinstance(one, bytes) else (one.dtype.str, one.shape) for one in contents]}


class _Work:
    """The CPU time of one request, which grows with what was decoded, and a heartbeat for a patient parent."""

    def __init__(self, channel: socket.socket, limits: DecodeLimits):
        self.channel, self.rate = channel, limits.pixels_per_cpu_second
        self.granted = time.process_time() + limits.cpu_seconds
        self.pixels, self.told = 0.0, time.monotonic()
        _set(resource.RLIMIT_AS, limits.memory_bytes)
        self._grant()

    def progress(self, pixels: int) -> None:
        self.pixels += pixels
        if self.pixels >= self.rate:  # whole seconds: often enough
            seconds, self.pixels = divmod(self.pixels, self.rate)
            self.granted += seconds
            self._grant()
        now = time.monotonic()
        if now - self.told > 1:
            self.told = now
            _send(self.channel, {"working": True})

    def _grant(self) -> None:
        """SIGPROF ends the process when the time is up. It is counted from now on, and not with RLIMIT_CPU: the kernel holds that against
        ticks, of which a process that works in short bursts gets too few, so that one which has lived long could spin for a minute.
        """
        signal.setitimer(signal.ITIMER_PROF, max(0.01, self.granted - time.process_time()))

    @staticmethod
    def done() -> None:
        """The answer is made: waiting for the next question is not limited."""
        signal.setitimer(signal.ITIMER_PROF, 0)


def _set(kind: int, value: int) -> None:
    hard = resource.getrlimit(kind)[1]
    try:
        resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))
    except (ValueError, OSError):
        pass  # a system without this limit: the parent's clock remains


def _receive(channel: socket.socket) -> tuple[bytes, list[int]]:
    """The next line and the files that came with it; b"" at the end."""
    line, files = b"", []
    while not line.endswith(b"\n"):
        part, more, _, _ = socket.recv_fds(channel, _MOST, 2)
        files += more
        line += part
        if not part or len(line) > _MOST:
            return b"", files
    return line, files


def _send(channel: socket.socket, message: dict) -> None:
    try:
        channel.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        os._exit(0)  # the parent is gone, and with it the reason to go on


if __name__ == "__main__":
    main(int(sys.argv[1]))
    os._exit(0)  # nothing to tidy up, and libav's own end may stumble over what a file left behind
