"""What an MP4 or QuickTime file says about its frames, read from its boxes and compared with itself.

libav believes the first table it meets; a damaged count, edit list or time scale then gives a shorter clip without a word.
Here every table must have the size its count asks for, all must agree on the number of samples, every sample must lie inside
the file, and an edit list may hide the frames before a cut but never the end. Reads headers and tables, no picture data.
"""

import os
import struct
from array import array
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from wfm_ar.decoding.limits import Refused

TOP_LEVEL = frozenset(
    b"ftyp moov mdat free skip wide moof mfra sidx styp uuid meta udta pdin pnot PICT junk emsg prft ssix".split()
)  # a damaged type would hide what is inside
IN_MOOF = frozenset(b"mfhd traf pssh uuid meta".split())
IN_TRAF = frozenset(b"tfhd tfdt trun sbgp sgpd subs saiz saio senc uuid meta".split())
_TABLE_BYTES = 64 << 20  # of all boxes read at once; a table of 8 million samples
_REMUX = "fix: write it again with `ffmpeg -i in.mp4 out.mp4`"


class Declared(NamedTuple):
    """Samples of one track: how many there are, and how many of them the edit list hides."""

    samples: int
    hidden: int


class Samples(NamedTuple):
    """The samples of one track in the order of the file."""

    places: array | None  # bytes from the start of the file; None where the tables do not give sizes sample by sample
    times: list[int]  # when each is shown, in ticks
    ticks_per_second: int
    hidden: frozenset[int]  # samples that the edit list hides


class _Box(NamedTuple):
    kind: bytes
    start: int  # of the content
    end: int


def declared(fd: int, track_id: int) -> Declared:
    """Counts of the track with that id. Raises Refused where the file contradicts itself or cannot be whole."""
    track = _track(fd, track_id)
    if track.fragmented:
        return Declared(_fragments(fd, track.top, track_id) + _stored(fd, track.parts, track.size).count, 0)
    stored = _stored(fd, track.parts, track.size)
    return Declared(stored.count, len(_hidden(fd, track, stored)))


def samples(fd: int, track_id: int) -> Samples | None:
    """Where and when each sample of the track lies; None for a fragmented file. Raises Refused like `declared`."""
    track = _track(fd, track_id)
    if track.fragmented:
        return None
    stored = _stored(fd, track.parts, track.size)
    return Samples(stored.places, _shown_at(fd, track, stored), _times(fd, _media_header(fd, track))[0], _hidden(fd, track, stored))


def matrices(fd: int, track_id: int) -> list[tuple[int, ...]]:
    """The movie's and the track's display matrix, nine integers each."""
    track = _track(fd, track_id)
    found = []
    for box, (short, long) in ((track.movie, (36, 48)), (_only(track.parts, b"tkhd", "trak"), (40, 52))):
        content = _content(fd, box)
        at = long if content[:1] == b"\1" else short
        if len(content) < at + 36:
            raise _damaged(f"box {box.kind.decode('latin1')!r} of {len(content)} bytes, expected {at + 36} or more")
        found.append(struct.unpack_from(">9i", content, at))
    return found


class _Track(NamedTuple):
    top: list[_Box]  # boxes of the file
    movie: _Box  # its header
    parts: list[_Box]  # of the track
    fragmented: bool
    size: int  # bytes of the file


def _track(fd: int, track_id: int) -> _Track:
    size = os.fstat(fd).st_size
    top, rest = _top_level(fd, size)
    moov = _only(top, b"moov", "the file")
    inside = list(_boxes(fd, moov.start, moov.end))
    fragmented = any(one.kind == b"mvex" for one in inside)
    if fragmented:
        if rest:
            raise rest
        odd = [box.kind for box in top if box.kind not in TOP_LEVEL]
        if odd:
            raise _damaged(f"box {odd[0].decode('latin1')!r} at the top, expected a known one")
    movie = _only(inside, b"mvhd", "moov")
    for box in inside:
        if box.kind == b"trak":
            parts = list(_boxes(fd, box.start, box.end))
            header = _content(fd, _only(parts, b"tkhd", "trak"))
            (found,) = struct.unpack_from(">I", header, 20 if header[:1] == b"\1" else 12)
            if found == track_id:
                return _Track(top, movie, parts, fragmented, size)
    raise _damaged(f"no track {track_id}, expected the one that is shown")


def _top_level(fd: int, size: int) -> tuple[list[_Box], Refused | None]:
    """The boxes of the file, and what is wrong with what follows them. Some cameras put things of their own behind the index,
    which do no harm: the tables say how many samples there are, and where."""
    top: list[_Box] = []
    try:
        for box in _boxes(fd, 0, size):
            top.append(box)
    except Refused as refused:
        if not any(box.kind == b"moov" for box in top):
            raise
        return top, refused
    return top, None


class _Stored(NamedTuple):
    count: int
    deltas: list[tuple[int, int]]  # (samples, duration) runs
    places: array | None  # of each sample, bytes from the start of the file


def _stored(fd: int, parts: list[_Box], size: int) -> _Stored:
    """The sample tables of a track, which must agree."""
    stbl = _tables(fd, parts)
    deltas = _pairs(fd, _only(stbl, b"stts", "stbl"))
    sizes = _only([box for box in stbl if box.kind in (b"stsz", b"stz2")] or stbl, None, "stsz")
    content = _content(fd, sizes)
    fixed, count = struct.unpack_from(">II", content, 4)
    if sizes.kind == b"stz2":
        expected, fixed, lengths = 12 + (count * (fixed & 255) + 7) // 8, 0, None
    else:
        expected = 12 + (0 if fixed else 4 * count)
        lengths = None if fixed else _numbers(content[12:], "I")
    if len(content) != expected:
        raise _damaged(f"a table of sample sizes of {len(content)} bytes, expected {expected} for {count} samples")
    if sum(run for run, _ in deltas) != count:
        raise _damaged(f"times of {sum(run for run, _ in deltas)} samples but sizes of {count}, expected the same number")
    return _Stored(count, deltas, _places(fd, stbl, count, fixed, lengths, size))


def _hidden(fd: int, track: _Track, stored: _Stored) -> frozenset[int]:
    """The samples that the edit list hides: some first ones at most. Raises Refused where it hides others."""
    edits = [box for box in track.parts if box.kind == b"edts"]
    lists = [box for one in edits for box in _boxes(fd, one.start, one.end) if box.kind == b"elst"]
    if not lists:
        return frozenset()
    media_scale, movie_scale = _times(fd, _media_header(fd, track))[0], _times(fd, track.movie)[0]
    shown = [edit for edit in _edits(fd, lists[0]) if edit[1] != -1]
    if len(shown) != 1 or shown[0][2] != 65536:
        raise Refused(f"got an edit list of {len(shown)} pieces, expected one played at its own speed; {_REMUX}")
    length, first, _ = shown[0]
    times = _shown_at(fd, track, stored)
    if not times:
        return frozenset()
    order = sorted(range(len(times)), key=times.__getitem__)
    lasting = [stored.deltas[-1][1]] * len(times)  # of each sample, until the next is shown: not one length for all
    for i, following in zip(order, order[1:], strict=False):
        lasting[i] = times[following] - times[i]
    end = first + length * media_scale / max(movie_scale, 1)
    tick = media_scale / max(movie_scale, 1)  # the list's lengths are rounded to the movie's time scale
    hidden = [i for i, at in enumerate(times) if at < first]
    lost = sum(at > end - lasting[i] / 4 + tick for i, at in enumerate(times)) if length else 0
    if lost:
        raise Refused(f"got an edit list that hides the last {lost} of {len(times)} frames, expected all to the end; {_REMUX}")
    if hidden:
        steps = [lasting[i] for i in order[: len(hidden)]]
        overshoot = length and end > times[order[-1]] + lasting[order[-1]] + 1.5 * tick
        # by the standard a frame that begins a little before the cut is shown, but libav drops it
        dropped = any(first - times[i] < lasting[i] / 4 for i in hidden)
        # frames that are stored at even times are shown at even times, in another order at most: one that is not was moved
        moved = _even(stored.deltas) and any(lasting[i] != stored.deltas[0][1] for i in order[:-1])
        odd = (
            len(hidden) == len(times)
            or max(hidden) > len(hidden) + 16
            or max(steps) > 1.5 * max(1, max(delta for _, delta in stored.deltas))
        )
        if overshoot or dropped or moved or odd:
            raise Refused(f"got an edit list that hides {len(hidden)} frames and fits the rest badly, expected all of them; {_REMUX}")
    return frozenset(hidden)


def _even(deltas: list[tuple[int, int]]) -> bool:
    """Whether all samples last equally long in (samples, duration) runs, but for the last one, which may be cut."""
    return len({delta for _, delta in deltas}) == 1 or (len(deltas) == 2 and deltas[1][0] == 1)


def _shown_at(fd: int, track: _Track, stored: _Stored) -> list[int]:
    """When each sample is shown, in the track's time scale."""
    boxes = [box for box in _tables(fd, track.parts) if box.kind == b"ctts"]
    times, now = [], 0
    for run, delta in stored.deltas:
        times += range(now, now + run * delta, delta) if delta else [now] * run
        now += run * delta
    if boxes:
        offsets = _pairs(fd, boxes[0], signed=True)
        if sum(run for run, _ in offsets) != stored.count:
            raise _damaged(f"display times of {sum(run for run, _ in offsets)} samples, expected {stored.count}")
        shifts = [shift for run, shift in offsets for _ in range(run)]
        times = [at + shift for at, shift in zip(times, shifts, strict=True)]
    return times


def _places(fd: int, stbl: list[_Box], count: int, fixed: int, lengths: array | None, size: int) -> array | None:
    """Where each sample lies; None where sizes are not told sample by sample. Raises Refused unless all lie in the file."""
    place = _only([box for box in stbl if box.kind in (b"stco", b"co64")] or stbl, None, "stco")
    content = _content(fd, place)
    (chunks,) = struct.unpack_from(">I", content, 4)
    starts = _numbers(content[8:], "I" if place.kind == b"stco" else "Q")
    if len(starts) != chunks:
        raise _damaged(f"places of {len(starts)} chunks, expected {chunks}")
    content = _content(fd, _only(stbl, b"stsc", "stbl"))
    (runs,) = struct.unpack_from(">I", content, 4)
    numbers = _numbers(content[8:], "I")
    if len(numbers) != 3 * runs:
        raise _damaged(f"a chunk map of {len(numbers)} numbers, expected {3 * runs}")
    firsts = [*numbers[0::3], chunks + 1]
    if any(later <= earlier for earlier, later in zip(firsts, firsts[1:], strict=False)) or (runs and firsts[0] != 1):
        raise _damaged("a chunk map out of order, expected chunks 1, 2, ...")
    held = sum((later - earlier) * each for earlier, later, each in zip(firsts, firsts[1:], numbers[1::3], strict=False))
    if held != count:
        raise _damaged(f"chunks of {held} samples, expected {count}")
    if lengths is None and not fixed:
        return None
    sample, places = 0, array("Q")
    for chunk, each in ((c, n) for a, b, n in zip(firsts, firsts[1:], numbers[1::3], strict=False) for c in range(a, b)):
        stop, end = sample + each, starts[chunk - 1]
        for length in [fixed] * each if lengths is None else lengths[sample:stop]:
            places.append(end)
            end += length
        if end > size:
            raise Refused(
                f"samples {sample} to {stop - 1} lie beyond the end of the file, expected them inside: it is truncated or damaged; "
                "fix: copy or encode it again"
            )
        sample = stop
    return places


def _fragments(fd: int, top: list[_Box], track_id: int) -> int:
    """Samples in the fragments of a track. Only the index at the end tells that no fragment is missing."""
    if top[-1].kind != b"mfra":
        raise Refused(f"is a fragmented MP4 without an index at its end, which tells whether it is whole; {_REMUX}")
    media = [box.kind for box in top if box.kind in (b"moof", b"mdat")]
    if any(kind == following == b"mdat" for kind, following in pairwise(media)):
        raise _damaged("media data behind media data, expected a fragment that says what they are")
    count = 0
    for moof in (box for box in top if box.kind == b"moof"):
        inside = list(_boxes(fd, moof.start, moof.end))
        _known(inside, IN_MOOF)
        for traf in (box for box in inside if box.kind == b"traf"):
            parts = list(_boxes(fd, traf.start, traf.end))
            _known(parts, IN_TRAF)
            if struct.unpack_from(">I", _content(fd, _only(parts, b"tfhd", "traf")), 4)[0] == track_id:
                runs = [_run_length(_content(fd, box)) for box in parts if box.kind == b"trun"]
                if not runs:
                    raise _damaged("a fragment without runs of samples, expected some")
                count += sum(runs)
    return count


def _known(boxes: list[_Box], kinds: frozenset[bytes]) -> None:
    odd = [box.kind for box in boxes if box.kind not in kinds]
    if odd or not boxes:
        raise _damaged(
            f"box {odd[0].decode('latin1')!r} in a fragment, expected a known one" if odd else "an empty fragment, expected runs"
        )


def _run_length(content: bytes) -> int:
    flags = int.from_bytes(content[1:4], "big")
    (count,) = struct.unpack_from(">I", content, 4)
    fields = sum(bool(flags & bit) for bit in (0x100, 0x200, 0x400, 0x800))
    expected = 8 + 4 * bool(flags & 1) + 4 * bool(flags & 4) + 4 * fields * count
    if len(content) != expected:
        raise _damaged(f"a run of {count} samples in {len(content)} bytes, expected {expected}")
    return count


def _boxes(fd: int, start: int, end: int) -> Iterator[_Box]:
    """The boxes that lie one after another from `start` to exactly `end`."""
    for _ in range(1_000_000):
        if start == end:
            return
        head = os.pread(fd, 16, start)
        if end - start < 8 or len(head) < 8:
            if not any(head[: end - start]):
                return  # QuickTime ends some lists with a zero word
            raise _damaged(f"{end - start} bytes after the last box, expected none")
        length, kind = struct.unpack_from(">I4s", head)
        header = 8
        if length == 1:
            if len(head) < 16:
                raise _damaged("a box that is cut off, expected its length")
            (length,), header = struct.unpack_from(">Q", head, 8), 16
        elif length == 0 and kind == b"mdat":  # to the end; inside others it would swallow what follows
            length = end - start
        if length < header:
            raise _damaged(f"a box of {length} bytes, expected {header} at least")
        if start + length > end:
            raise Refused(
                f"box {kind.decode('latin1')!r} ends {start + length - end} bytes beyond its place, expected it inside: truncated or "
                "damaged; fix: copy or encode it again"
            )
        yield _Box(kind, start + header, start + length)
        start += length
    raise _damaged("more than a million boxes, expected a few")


def _only(boxes: list[_Box], kind: bytes | None, where: str) -> _Box:
    found = [box for box in boxes if kind is None or box.kind == kind]
    if len(found) != 1:
        name = kind.decode() if kind else where
        raise _damaged(f"{len(found)} {name} boxes in {where}, expected one")
    return found[0]


def _inside(fd: int, boxes: list[_Box], kind: bytes) -> Iterator[_Box]:
    box = _only(boxes, kind, "its place")
    return _boxes(fd, box.start, box.end)


def _media_header(fd: int, track: _Track) -> _Box:
    return _only(list(_inside(fd, track.parts, b"mdia")), b"mdhd", "mdia")


def _tables(fd: int, parts: list[_Box]) -> list[_Box]:
    minf = list(_inside(fd, list(_inside(fd, parts, b"mdia")), b"minf"))
    return list(_inside(fd, minf, b"stbl"))


def _content(fd: int, box: _Box) -> bytes:
    """All of a small box; at least 24 bytes come back, zeros where the box is shorter than its fields."""
    if box.end - box.start > _TABLE_BYTES:
        raise Refused(f"got a table of {box.end - box.start} bytes, expected at most {_TABLE_BYTES}; fix: cut it into shorter clips")
    content = os.pread(fd, box.end - box.start, box.start)
    if len(content) < 8:
        raise _damaged(f"box {box.kind.decode('latin1')!r} of {len(content)} bytes, expected at least 8")
    return content


def _numbers(content: bytes, kind: str) -> array:
    """Big-endian unsigned integers."""
    numbers = array({"I": "I", "Q": "Q"}[kind])
    numbers.frombytes(content[: len(content) - len(content) % numbers.itemsize])
    numbers.byteswap()
    return numbers


def _pairs(fd: int, box: _Box, signed: bool = False) -> list[tuple[int, int]]:
    """(run, value) pairs of stts or ctts."""
    content = _content(fd, box)
    (runs,) = struct.unpack_from(">I", content, 4)
    if len(content) != 8 + 8 * runs:
        raise _damaged(f"box {box.kind.decode()!r} of {len(content)} bytes, expected {8 + 8 * runs} for {runs} runs")
    pairs = list(struct.iter_unpack(">Ii" if signed else ">II", content[8:]))
    if sum(run for run, _ in pairs) > _TABLE_BYTES // 8:
        raise _damaged(f"box {box.kind.decode()!r} for {sum(run for run, _ in pairs)} samples, expected at most {_TABLE_BYTES // 8}")
    return pairs


def _times(fd: int, box: _Box) -> tuple[int, int]:
    """(units a second, duration) of mvhd or mdhd."""
    content = _content(fd, box)
    form, at = (">IQ", 20) if content[:1] == b"\1" else (">II", 12)
    if len(content) < at + struct.calcsize(form):
        raise _damaged(f"box {box.kind.decode()!r} of {len(content)} bytes, expected more")
    scale, duration = struct.unpack_from(form, content, at)
    if not scale:
        raise _damaged("a time scale of 0, expected units a second")
    return scale, duration


def _edits(fd: int, box: _Box) -> list[tuple[int, int, int]]:
    """(length in the movie's units, first in the track's, speed in 1/65536) of each piece; first -1 is a pause."""
    content = _content(fd, box)
    form = ">Qqi" if content[:1] == b"\1" else ">Iii"
    (count,) = struct.unpack_from(">I", content, 4)
    if len(content) != 8 + count * struct.calcsize(form):
        raise _damaged(f"an edit list of {len(content)} bytes, expected {8 + count * struct.calcsize(form)} for {count} pieces")
    return list(struct.iter_unpack(form, content[8:]))


def _damaged(what: str) -> Refused:
    return Refused(f"got {what}: damaged; fix: copy or encode it again")
