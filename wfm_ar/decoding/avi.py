"""Which frames an AVI file stores, found from its chunks without decoding.

An AVI stores no times: a frame follows another at the file's rate, and an empty chunk stands for the frame before it, shown again.
The lists must lie one after another to the end of the file, and the chunks of the first video stream must be as many as its
header says.
"""

import os
import struct
from array import array
from collections.abc import Iterator
from typing import NamedTuple

from wfm_ar.decoding.limits import Refused


class _Chunk(NamedTuple):
    kind: bytes  # for a list, its own type
    start: int
    end: int
    is_list: bool


class Stored(NamedTuple):
    """The chunks of the first video stream, in order."""

    places: array  # of each, bytes from the start of the file
    empty: frozenset[int]  # chunks of no bytes


def stored_frames(fd: int, most: int) -> Stored:
    """Raises Refused where the file is damaged or cut off."""
    size = os.fstat(fd).st_size
    riffs = list(_chunks(fd, 0, size))
    if not riffs or riffs[0].kind != b"AVI " or any(riff.kind not in (b"AVI ", b"AVIX") for riff in riffs):
        raise _damaged("no list of chunks, expected an AVI")
    lists = [chunk for riff in riffs for chunk in _chunks(fd, riff.start, riff.end)]
    headers = [chunk for chunk in lists if chunk.kind == b"hdrl"]
    if len(headers) != 1:
        raise _damaged(f"{len(headers)} headers, expected one")
    number, length = _video_stream(fd, headers[0])
    places, empty = array("Q"), []
    for movie in (chunk for chunk in lists if chunk.kind == b"movi"):
        for chunk in _chunks(fd, movie.start, movie.end):
            records = _chunks(fd, chunk.start, chunk.end) if chunk.is_list and chunk.kind == b"rec " else (chunk,)
            for record in records:
                _check_kind(record)
                if record.kind[:2] != number or record.kind[2:] not in (b"dc", b"db"):
                    continue
                if record.start == record.end:
                    empty.append(len(places))
                places.append(record.start)
                if len(places) > most:
                    raise Refused(f"got more than {most} frames, expected fewer; fix: cut it into shorter clips")
    if len(places) < length:
        raise Refused(
            f"got {len(places)} frames, expected {length} as the file declares: it is truncated or damaged; fix: copy or encode it again"
        )
    return Stored(places, frozenset(empty))


def _check_kind(chunk: _Chunk) -> None:
    """A stream's chunk is two digits and a kind; anything else that libav would skip may be a damaged frame."""
    stream, kind = chunk.kind[:2], chunk.kind[2:]
    if chunk.kind in (b"JUNK", b"idx1") or kind == b"ix" or stream == b"ix":
        return
    if not (stream.isdigit() and kind in (b"dc", b"db", b"wb", b"tx", b"pc")):
        raise _damaged(f"a chunk {chunk.kind.decode('latin1')!r} among the frames, expected a known one")


def _video_stream(fd: int, header: _Chunk) -> tuple[bytes, int]:
    """(two digits of its chunks, frames declared) of the first video stream."""
    streams = [chunk for chunk in _chunks(fd, header.start, header.end) if chunk.kind == b"strl"]
    for index, stream in enumerate(streams):
        for chunk in _chunks(fd, stream.start, stream.end):
            if chunk.kind == b"strh":
                content = os.pread(fd, 48, chunk.start)
                if content[:4] == b"vids" and len(content) >= 36:
                    return b"%02d" % index, struct.unpack_from("<I", content, 32)[0]
    raise _damaged("no video stream in the header, expected one")


def _chunks(fd: int, start: int, end: int) -> Iterator[_Chunk]:
    while start < end:
        head = os.pread(fd, 12, start)
        if len(head) < 8 or end - start < 8:
            if end - start == 1:
                return  # padding
            raise _damaged(f"{end - start} bytes after the last chunk, expected none")
        kind, length = struct.unpack_from("<4sI", head)
        if kind == b"\0\0\0\0":  # a file that was never filled is gigabytes of these
            raise _damaged("zeros where a chunk should begin, expected one or the end")
        stop = start + 8 + length
        if stop > end:
            raise Refused(
                f"a chunk ends {stop - end} bytes beyond its place, expected it inside: truncated or damaged; fix: copy or encode it again"
            )
        is_list = kind in (b"RIFF", b"LIST")
        if is_list and (length < 4 or len(head) < 12):
            raise _damaged("a list without a type, expected one")
        yield _Chunk(head[8:12] if is_list else kind, start + (12 if is_list else 8), stop, is_list)
        start = stop + length % 2


def _damaged(what: str) -> Refused:
    return Refused(f"got {what}: damaged; fix: copy or encode it again")
