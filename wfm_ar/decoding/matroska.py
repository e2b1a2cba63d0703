"""Which frames a Matroska or WebM file stores, and when each is shown, found from its elements without decoding.

libav looks for the next cluster after damage and goes on, a few frames short. Here the elements must lie one after another to
the very end of the file, each of a known kind.
"""

import os
from array import array
from collections.abc import Iterator
from typing import NamedTuple

from wfm_ar.decoding.limits import Refused

_EBML, _SEGMENT, _TRACKS, _CLUSTER = 0x1A45DFA3, 0x18538067, 0x1654AE6B, 0x1F43B675
_VOID, _CRC = 0xEC, 0xBF
_IN_SEGMENT = {_TRACKS, _CLUSTER, _VOID, _CRC, 0x114D9B74, 0x1549A966, 0x1254C367, 0x1C53BB6B, 0x1043A770, 0x1941A469}
_SIMPLE_BLOCK, _BLOCK_GROUP, _BLOCK = 0xA3, 0xA0, 0xA1
_TIME = 0xE7  # of a cluster
_PLACE, _BEFORE = 0xA7, 0xAB  # of a cluster: where it lies, and how long the one before it is
_IN_CLUSTER = {_SIMPLE_BLOCK, _BLOCK_GROUP, _VOID, _CRC, _TIME, _PLACE, _BEFORE, 0x5854}
_LONGEST = {_TIME: 8, _PLACE: 8, _BEFORE: 8, _CRC: 4}  # bytes; a flipped bit makes a block one of these
_INFO, _SCALE, _USUAL_SCALE = 0x1549A966, 0x2AD7B1, 1_000_000  # nanoseconds a tick
_TRACK, _NUMBER, _TYPE = 0xAE, 0xD7, 0x83
_VIDEO = 1


class _Element(NamedTuple):
    kind: int
    start: int  # of the content
    end: int


class Stored(NamedTuple):
    """The blocks of a video track, in the order of the file."""

    places: array  # of each, bytes from the start of the file
    times: list[int]  # when each is shown, in ticks
    ticks_per_second: float


def stored_frames(fd: int, track_index: int, most: int) -> Stored:
    """Of the `track_index`-th video track. Raises Refused where the file is damaged, cut off, or was never finished."""
    size = os.fstat(fd).st_size
    top = [element for element in _elements(fd, 0, size, "the file") if element.kind not in (_VOID, _CRC)]
    if [element.kind for element in top] != [_EBML, _SEGMENT]:
        raise _damaged(f"{len(top)} parts, expected a header and one segment")
    segment = list(_elements(fd, top[1].start, top[1].end, "the segment"))
    _known(segment, _IN_SEGMENT, "the segment")
    number, tracks = _track_numbers(fd, segment, track_index)
    places, times = array("Q"), []
    for cluster in (element for element in segment if element.kind == _CLUSTER):
        inside = list(_elements(fd, cluster.start, cluster.end, "a cluster"))
        _known(inside, _IN_CLUSTER, "a cluster")
        long = [element for element in inside if element.end - element.start > _LONGEST.get(element.kind, element.end)]
        if long:
            raise _damaged(f"an element {long[0].kind:#x} of {long[0].end - long[0].start} bytes in a cluster, expected a short number")
        now = next((_unsigned(fd, element) for element in inside if element.kind == _TIME), 0)
        for element in inside:
            if element.kind == _BLOCK_GROUP:
                element = next((one for one in _elements(fd, element.start, element.end, "a block group") if one.kind == _BLOCK), None)
                if element is None:
                    raise _damaged("a block group without a block, expected one")
            if element.kind in (_SIMPLE_BLOCK, _BLOCK):
                head = os.pread(fd, 12, element.start)
                track, used = _vint(head, 0, keep_marker=False)
                if track not in tracks:
                    raise _damaged(f"a block of track {track}, expected one of {sorted(tracks)}")
                if track == number:
                    if len(head) < used + 3 or head[used + 2] & 0x06:
                        raise _damaged("a block of several frames, expected one frame a block")
                    places.append(element.start)
                    times.append(now + int.from_bytes(head[used : used + 2], "big", signed=True))
        if len(places) > most:
            raise Refused(f"got more than {most} frames, expected fewer; fix: cut it into shorter clips")
    return Stored(places, times, 1e9 / _scale(fd, segment))


def _scale(fd: int, segment: list[_Element]) -> int:
    """Nanoseconds a tick."""
    for info in (element for element in segment if element.kind == _INFO):
        for field in _elements(fd, info.start, info.end, "the info"):
            if field.kind == _SCALE:
                return max(1, _unsigned(fd, field))
    return _USUAL_SCALE


def _track_numbers(fd: int, segment: list[_Element], track_index: int) -> tuple[int, set[int]]:
    """The number of the `track_index`-th video track, and those of all tracks."""
    every, videos = set(), []
    for tracks in (element for element in segment if element.kind == _TRACKS):
        for track in (one for one in _elements(fd, tracks.start, tracks.end, "the tracks") if one.kind == _TRACK):
            fields = {one.kind: one for one in _elements(fd, track.start, track.end, "a track")}
            if _NUMBER in fields:
                every.add(_unsigned(fd, fields[_NUMBER]))
                if _TYPE in fields and _unsigned(fd, fields[_TYPE]) == _VIDEO:
                    videos.append(_unsigned(fd, fields[_NUMBER]))
    if track_index >= len(videos):
        raise _damaged(f"{len(videos)} video tracks, expected number {track_index}")
    return videos[track_index], every


def _elements(fd: int, start: int, end: int, where: str) -> Iterator[_Element]:
    """The elements that lie one after another from `start` to exactly `end`."""
    while start < end:
        head = os.pread(fd, 12, start)
        kind, used = _vint(head, 0, keep_marker=True)
        length, more = _vint(head, used, keep_marker=False)
        if length == (1 << 7 * more) - 1:
            raise Refused(
                f"was not finished when it was written ({where} has no length), so nothing tells whether it is whole; "
                "fix: `ffmpeg -i in.mkv -c copy out.mkv`"
            )
        stop = start + used + more + length
        if stop > end:
            raise Refused(
                f"{where} ends {stop - end} bytes beyond its place, expected it inside: truncated or damaged; fix: copy or encode it again"
            )
        yield _Element(kind, start + used + more, stop)
        start = stop


def _vint(head: bytes, at: int, *, keep_marker: bool) -> tuple[int, int]:
    """(value, bytes used) of a variable-length integer."""
    first = head[at] if at < len(head) else 0
    used = 9 - first.bit_length()
    if not first or at + used > len(head):
        raise _damaged("a number that is none, expected an element")
    value = int.from_bytes(head[at : at + used], "big")
    return (value if keep_marker else value & ((1 << 7 * used) - 1)), used


def _unsigned(fd: int, element: _Element) -> int:
    return int.from_bytes(os.pread(fd, min(element.end - element.start, 8), element.start), "big")


def _known(elements: list[_Element], kinds: set[int], where: str) -> None:
    odd = [element for element in elements if element.kind not in kinds]
    if odd:
        raise _damaged(f"an element {odd[0].kind:#x} in {where}, expected a known one")


def _damaged(what: str) -> Refused:
    return Refused(f"got {what}: damaged; fix: copy or encode it again")
