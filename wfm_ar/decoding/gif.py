"""Which pictures a GIF stores and when each is shown, found from its blocks without decoding.

A GIF counts no pictures: it is whole where its blocks follow one another up to the trailer and nothing lies
behind that. It knows hundredths of a second, so a rate such as 15 a second is only nearly even in it.
"""

import os
import struct
from array import array
from typing import NamedTuple

from wfm_ar.decoding.limits import Refused

TICKS = 100  # a second
_HEADER, _TRAILER, _IMAGE, _EXTENSION, _CONTROL = 13, 0x3B, 0x2C, 0x21, 0xF9
_SHORTEST, _USUAL = 2, 10  # hundredths: viewers show what is told to last less than the first as long as the second
_WINDOW = 1 << 20  # bytes that are held at once


class Stored(NamedTuple):
    """The pictures of a GIF in order."""

    places: array  # of each, bytes from the start of the file
    times: array  # of each, hundredths of a second after the first
    total: int  # hundredths, the last picture's time included
    first_end: int  # where the blocks of the first picture end
    rate: int  # whole pictures a second that explain unequal times, to a hundredth; 0 where none does, and for equal ones


def stored_frames(fd: int, most: int) -> Stored:
    """Raises Refused where the file is damaged, cut off, or has more than `most` pictures."""
    content = _Bytes(fd)
    head = content.at(0, _HEADER)
    if head[:6] not in (b"GIF87a", b"GIF89a"):
        raise _damaged("no header, expected a GIF")
    at, start, delay, clock, first_end = _HEADER + _table_bytes(head[10]), None, 0, 0, 0
    places, times = array("Q"), array("Q")
    while (kind := content.at(at, 1)[0]) != _TRAILER:
        start = at if start is None else start
        if kind == _EXTENSION:
            if content.at(at + 1, 1)[0] == _CONTROL:
                size, _, delay = struct.unpack("<BBH", content.at(at + 2, 4))
                if size != 4:
                    raise _damaged(f"a graphic control block of {size} bytes, expected 4")
            at = _behind(content, at + 2)
        elif kind == _IMAGE:
            at = _behind(content, at + 11 + _table_bytes(content.at(at + 9, 1)[0]), of_picture=True)
            places.append(start)
            times.append(clock)
            clock, start, delay = clock + (delay if delay >= _SHORTEST else _USUAL), None, 0
            first_end = first_end or at
            if len(places) > most:
                raise Refused(f"got more than {most} frames, expected fewer; fix: cut it into shorter clips")
        else:
            raise _damaged(f"a block 0x{kind:02x}, expected a picture, an extension or the end")
    if content.size > at + 1:
        raise _damaged(f"{content.size - at - 1} bytes behind its end, expected none")
    if not places:
        raise _damaged("no picture, expected one or more")
    return Stored(places, times, clock, first_end, _whole_rate(times, clock))


def _table_bytes(flags: int) -> int:
    """Of the table of colours that a descriptor with these flags has behind it."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _behind(content: "_Bytes", at: int, of_picture: bool = False) -> int:
    """Where the chain of sub-blocks that begins at `at` has ended.

    Encoders fill all sub-blocks of a picture alike but the last. A chain in which others differ has a damaged length,
    and may have swallowed the pictures behind it.
    """
    usual = last = content.at(at, 1)[0]
    while length := content.at(at, 1)[0]:
        if of_picture and (last != usual or length > usual):
            raise _damaged(f"sub-blocks of {usual}, {last} and {length} bytes in one picture, expected all alike but the last")
        at, last = at + 1 + length, length
    return at + 1


def _whole_rate(times: array, total: int) -> int:
    if all(time * len(times) == number * total for number, time in enumerate(times)):
        return 0
    rate = round(TICKS * len(times) / total)
    even = all(abs(TICKS * number / max(1, rate) - time) <= 1 for number, time in enumerate([*times, total]))
    return rate if even else 0


class _Bytes:
    """A file's bytes, of which a window is held."""

    def __init__(self, fd: int):
        self.fd, self.size, self.start, self.window = fd, os.fstat(fd).st_size, 0, b""

    def at(self, place: int, count: int) -> bytes:
        """Raises Refused where the file ends before."""
        if place + count > self.size:
            raise Refused("ends before its last block, expected a whole GIF: truncated or damaged; fix: copy or make it again")
        if not self.start <= place <= self.start + len(self.window) - count:
            self.start, self.window = place, os.pread(self.fd, _WINDOW, place)
        found = self.window[place - self.start : place - self.start + count]
        if len(found) < count:
            raise Refused("became shorter while it was read; fix: read it once it is whole")
        return found


def _damaged(what: str) -> Refused:
    return Refused(f"got {what}: damaged; fix: copy or make it again")
