"""Which packet of a file holds which frame, and when it is shown: what makes a part of a file that part of the whole.

Frames are numbered in the order in which they are shown. The tables are the container's own, read without libav where that can be,
and kept for the next part of the same file. Where a file does not tell (AVI has no times, and its codec may reorder frames; a GIF's
pictures need those before them), `find` knows nothing, and the frames have to be counted from the first one.
"""

import os
from array import array
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from wfm_ar.decoding import avi, gif, matroska, mp4
from wfm_ar.decoding.limits import Refused

_RATE_SLACK, _TICK = 0.01, 1e-3  # part of a rate; s, what Matroska rounds times to
_MOST_FRAMES = 1_000_000  # of one file, nine hours: more than may be decoded at once, as a part may be asked for
_KEPT_FRAMES = 2_000_000  # of all tables together, 20 bytes each


class FrameTable(NamedTuple):
    """The frames of one video stream."""

    frames: int  # shown ones
    packets: int  # stored ones
    hidden: int  # packets at the beginning that an edit list hides
    places: array  # of the packets, in the order of the file's bytes
    numbers: array | None  # which frame each holds, -1 for none; None where nothing tells before decoding
    times: array  # seconds after the first frame, in the order shown; empty where every frame lasts equally long
    rate: float = 0.0  # frames a second, where the container tells in its own way
    empty: frozenset[int] = frozenset()  # AVI: chunks without a picture, the one before is shown again

    def find(self, place: int | None) -> int | None:
        """The number of the frame that the packet at `place` holds; None where that is not known, or it is not shown."""
        if self.numbers is None or place is None:
            return None
        i = bisect_left(self.places, place)
        known = i < len(self.places) and self.places[i] == place and self.numbers[i] >= 0
        return self.numbers[i] if known else None

    def chunk(self, place: int | None, otherwise: int) -> int:
        """Which packet lies at `place`, counted in the order of the file."""
        i = len(self.places) if place is None else bisect_left(self.places, place)
        return i if i < len(self.places) and self.places[i] == place else otherwise


class FrameTables:
    """The tables of the files that were read last, known by what the system says of a file: its number, size and time."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple, FrameTable] = OrderedDict()

    def look(self, fd: int) -> None:
        """Walks through an AVI, GIF or Matroska file that is not known yet, before libav opens it: where such a
        file is damaged, or was never filled, libav searches all the rest of it, byte by byte, for something to show.

        Raises Refused for a file that contradicts itself, is damaged or cut off.
        """
        if any(known[:-1] == _key_of(fd) for known in self._known):
            return
        head = os.pread(fd, 12, 0)
        if head[:4] == b"RIFF" and head[8:] == b"AVI ":
            avi.stored_frames(fd, _MOST_FRAMES)
        elif head[:4] == b"\x1a\x45\xdf\xa3":
            matroska.stored_frames(fd, 0, _MOST_FRAMES)
        elif head[:4] == b"GIF8":
            gif.stored_frames(fd, _MOST_FRAMES)

    def of(self, fd: int, container, stream) -> FrameTable:
        """The table of `stream`. Reads a fragmented MP4 through to its end: the container has to be opened anew.

        Raises Refused for a file that contradicts itself, is damaged or cut off.
        """
        key = (*_key_of(fd), stream.index)
        table = self._known.pop(key, None) or _table(fd, container, stream)
        self._known[key] = table
        while len(self._known) > 1 and sum(one.packets for one in self._known.values()) > _KEPT_FRAMES:
            self._known.popitem(last=False)
        return table


def _key_of(fd: int) -> tuple[int, ...]:
    about = os.fstat(fd)
    return about.st_dev, about.st_ino, about.st_size, about.st_mtime_ns


def _table(fd: int, container, stream) -> FrameTable:
    name = container.format.name
    if name.startswith("mov"):
        found = mp4.samples(fd, stream.id)
        if found is None:
            return _from_packets(container, stream, mp4.declared(fd, stream.id).samples)
        return _from_times(found.places, found.times, found.ticks_per_second, found.hidden)
    if name.startswith("matroska"):
        index = [one.index for one in container.streams.video if not is_picture(one)].index(stream.index)
        stored = matroska.stored_frames(fd, index, _MOST_FRAMES)
        return _from_times(stored.places, stored.times, stored.ticks_per_second, frozenset())
    if name == "gif":  # each picture is drawn over those before it: frames are counted from the first one
        found = gif.stored_frames(fd, _MOST_FRAMES)
        seconds = array("d", (time / gif.TICKS for time in found.times))
        count = len(found.places)
        return FrameTable(count, count, 0, found.places, None, seconds if count > 1 else array("d"), rate=found.rate)
    chunks = avi.stored_frames(fd, _MOST_FRAMES)
    context = stream.codec_context
    in_order = not (context.codec.reorder and context.has_b_frames)
    numbers = array("l", range(len(chunks.places))) if in_order else None
    return FrameTable(len(chunks.places), len(chunks.places) - len(chunks.empty), 0, chunks.places, numbers, array("d"), empty=chunks.empty)


def _from_times(places: array | None, times: list[int], ticks_per_second: float, hidden: frozenset[int]) -> FrameTable:
    shown = sorted((i for i in range(len(times)) if i not in hidden), key=times.__getitem__)
    seconds = array("d", ((times[i] - times[shown[0]]) / ticks_per_second for i in shown))
    if seconds and seconds[-1] <= 0:
        seconds = array("d")  # no times at all
    numbers = None
    if places is not None and len({times[i] for i in shown}) == len(shown):
        number_of = array("l", [-1]) * len(times)
        for number, i in enumerate(shown):
            number_of[i] = number
        order = sorted(range(len(places)), key=places.__getitem__)
        places, numbers = array("Q", (places[i] for i in order)), array("l", (number_of[i] for i in order))
    return FrameTable(len(shown), len(times), len(hidden), places or array("Q"), numbers, seconds)


def _from_packets(container, stream, declared: int) -> FrameTable:
    """From what libav finds on the way through the file, where nothing may be hidden."""
    places, times, hidden, sure = array("Q"), [], 0, True
    for packet in container.demux(stream):
        if packet.size:
            sure = sure and packet.pts is not None and packet.pos is not None and packet.pos >= 0
            hidden += packet.is_discard
            places.append(packet.pos if sure and packet.pos is not None else 0)
            times.append(packet.pts if sure else 0)
            if len(times) > _MOST_FRAMES:
                raise Refused(f"got more than {_MOST_FRAMES} frames, expected fewer; fix: cut it into shorter clips")
    if len(times) - hidden < declared:
        raise Refused(
            f"got {len(times) - hidden} frames, expected {declared} as the file declares: it is truncated or damaged; "
            "fix: copy or encode it again"
        )
    return _from_times(places if sure else None, times, float(1 / stream.time_base), frozenset())


def evenly_spaced(times: Sequence[float]) -> bool:
    """Whether each time is nearer to its own place on an even scale than to another; true of fewer than three."""
    if len(times) < 3:
        return True
    step = (times[-1] - times[0]) / (len(times) - 1)
    return step > 0 and all(abs(at - times[0] - number * step) < 0.5 * step for number, at in enumerate(times))


def rate_of_times(times: Sequence[float], declared: float) -> float:
    """Frames a second: the declared rate where the times agree with it; else theirs, between most frames where they are uneven."""
    if len(times) < 2 or times[-1] <= 0:
        return declared
    own = (len(times) - 1) / times[-1]
    if not evenly_spaced(times):
        steps = sorted(later - earlier for earlier, later in zip(times, times[1:], strict=False))
        usual = [step for step in steps if 0.5 < step / (steps[len(steps) // 2] or 1) < 1.5]  # without pauses
        own = len(usual) / sum(usual) if usual else own
    return declared if declared and abs(own / declared - 1) <= _RATE_SLACK + _TICK / times[-1] else round(own, 3)


def is_picture(stream) -> bool:
    """A cover picture, not a video."""
    return "attached_pic" in str(stream.disposition)
