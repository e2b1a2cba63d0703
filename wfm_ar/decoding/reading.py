"""Frames out of a video file: all of them, or a part that is the same part of the whole.

Every packet is told the number of its frame before it is decoded, and the decoder hands that number on with the picture: so each
picture is known by name, whatever the times of the container, the order of the codec, or the place where a jump into the file landed.
Where the numbers do not follow one another, the file is read from its beginning, and at its end counted against what the container's
own tables declare: a truncated or damaged file never passes as a short clip.
"""

from typing import Any

from av.error import FFmpegError

from wfm_ar.decoding.frame_table import FrameTable, FrameTables
from wfm_ar.decoding.limits import Refused
from wfm_ar.decoding.pictures import Progress, Sink, check_count, check_end, check_pixels, limit_frames, nothing_missing, open_video

_BACK = (0, 24, 240)  # frames before the wanted one to jump to, one after the other: a jump may land behind its aim


def read(fd: int, start: int, count: int | None, sink: Sink, progress: Progress, tables: FrameTables) -> None:
    """Frames `start` to `start + count` (to the end for None) into the sink. Raises Refused unless they are all there."""
    limits = sink.limits
    with open_video(fd, limits) as (container, stream):
        sink.aspect, table = stream.sample_aspect_ratio, tables.of(fd, container, stream)
    end = table.frames if count is None else start + count
    if end > table.frames or start >= end:
        asked = f"frame {start}" if end - start <= 1 else f"frames {start} to {end - 1}"
        raise Refused(f"got {table.frames} frames in all, expected {asked} too; fix: ask for frames that exist")
    if table.numbers is not None and (start, end) != (0, table.frames):
        for aim in (*(start - back for back in _BACK if back < start), 0):
            sink.clear()
            with open_video(fd, limits) as (container, stream):
                if _read_numbered(container, stream, table, aim, start, end, sink, progress):
                    return
    sink.clear()
    with open_video(fd, limits) as (container, stream), nothing_missing(stream.codec_context.name):
        _read_in_order(container, stream, table, start, end, sink, progress)


def _read_numbered(container, stream, table: FrameTable, aim: int, start: int, end: int, sink: Sink, progress: Progress) -> bool:
    """From the key frame before frame `aim` on; False where what comes out is not surely the frames that were asked for."""
    if aim:
        container.seek(_time_of(stream, table, aim), stream=stream, backward=True)
    before: Any = None
    begun, expected = False, 0
    try:
        for packet in container.demux(stream):
            if packet.size:
                number = table.find(packet.pos)
                if packet.is_corrupt or (number is None and not packet.is_discard):
                    return False
                if not begun and number is not None and number > start:
                    return False  # what is shown before this key frame may need what lies before it
                packet.pts, begun = number, True
            for frame in packet.decode():
                number = frame.pts
                if frame.is_corrupt or number is None or (number > start if before is None else number < expected):
                    return False
                if aim and before is None and not frame.key_frame:
                    return False  # the container says key frame, the picture does not
                for again in range(expected, number) if before is not None else ():
                    if again not in table.empty:
                        return False
                    _put(before, again, start, end, sink)
                check_pixels(frame.width, frame.height, sink.limits)
                progress(frame.width * frame.height)
                _put(frame, number, start, end, sink)
                expected, before = number + 1, frame
                if expected >= end:
                    return sink.frames == end - start
        while before is not None and expected in table.empty:
            _put(before, expected, start, end, sink)
            expected += 1
    except FFmpegError:
        return False  # for want of what lies before the jump, or damaged: reading from the beginning will tell
    return sink.frames == end - start


def _read_in_order(container, stream, table: FrameTable, start: int, end: int, sink: Sink, progress: Progress) -> None:
    """From the first frame on, each one counted as it comes out of the decoder."""
    seen = decoded = sent = hidden = 0
    before: Any = None  # the latest frame that came out
    highest = -1  # the packet of the latest one
    chunk = waiting = 0  # AVI: the chunk that is next, and empty ones passed whose frame is still to come
    for packet in container.demux(stream):
        place = len(table.places) if not packet.size else table.chunk(packet.pos, chunk) if table.empty else chunk
        waiting += sum(one in table.empty for one in range(chunk, place))
        chunk = place + 1
        if before is not None:
            for number in range(seen, seen + waiting):
                _put(before, number, start, end, sink)
            seen, waiting = seen + waiting, 0
        if packet.size:
            packet.pts = None if packet.is_discard else sent
            hidden += packet.is_discard
            sent += not packet.is_discard
        for frame in packet.decode():
            if frame.is_corrupt or packet.is_corrupt:
                raise Refused(f"frame {seen} is damaged, expected a whole video; fix: copy or encode the file again")
            check_pixels(frame.width, frame.height, sink.limits)
            progress(frame.width * frame.height)
            _put(frame, seen, start, end, sink)
            seen, decoded, before = seen + 1, decoded + 1, frame
            highest = max(highest, -1 if frame.pts is None else frame.pts)
            limit_frames(seen, sink.limits)
        if end <= seen and end < table.frames and highest == decoded - 1:
            return  # all that was asked for is here, and each packet up to now gave its frame
    for number in range(seen, seen + waiting) if before is not None else ():
        _put(before, number, start, end, sink)
        seen += 1
    if decoded != sent:
        raise Refused(f"got {decoded} frames from {sent} stored ones, expected one of each: it is damaged; fix: copy or encode it again")
    check_count(table, decoded, hidden)
    check_end(table, container, stream)
    if seen < end:
        raise Refused(f"got {seen} frames, expected {table.frames} as the file declares; fix: copy or encode it again")


def _put(frame: Any, number: int, start: int, end: int, sink: Sink) -> None:
    if start <= number < end:
        sink.put(frame)


def _time_of(stream, table: FrameTable, number: int) -> int:
    """When a frame is shown, in ticks of the stream."""
    rate = stream.average_rate or stream.base_rate or stream.guessed_rate or 1
    seconds = table.times[number] if table.times else number / float(rate)
    return max(-(1 << 61), min(1 << 61, (stream.start_time or 0) + round(seconds / float(stream.time_base))))
