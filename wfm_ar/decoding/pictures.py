"""Demuxing and decoding, as the child does it; the only file besides data/video.py (which encodes) that imports av.

Reading promises all the frames or a refusal: what was decoded is counted against what the container's own tables declare
(mp4.py, matroska.py, avi.py), so a truncated or damaged file never passes as a short clip. Decoding uses one thread, because
frame threading (`thread_type = "AUTO"`) drops the last H.264 frames of a stream without a word. Only containers that declare
their frames are opened, and only codecs that clips come in.
"""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import av
from av.video.reformatter import VideoReformatter

from wfm_ar.decoding import avi, matroska, mp4
from wfm_ar.decoding.limits import DecodeLimits, Refused

DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi"
CODECS = (
    "h264,hevc,libdav1d,av1,vp8,vp9,libvpx,libvpx-vp9,mpeg4,msmpeg4v1,msmpeg4v2,msmpeg4,mpeg1video,mpeg2video,mjpeg,"
    "ffv1,ffvhuff,huffyuv,utvideo,rawvideo,png,prores,dnxhd,magicyuv,qtrle,gif,webp,bmp"
)
_IMAGE_CODECS = {b"\x89PNG": "png", b"\xff\xd8\xff": "mjpeg"}  # first bytes -> decoder

Progress = Callable[[int], None]  # told how many more pixels were worked on; may raise


class Sink:
    """Pixels on their way out: rgb24 frames of one size, one after another in a file."""

    def __init__(self, fd: int, limits: DecodeLimits):
        self.fd, self.limits = fd, limits
        self.convert = VideoReformatter()  # one for all frames: it keeps the tables of the conversion
        self.clear()

    def clear(self) -> None:
        # what an earlier call left is written over: its memory is there already, which saves a tenth of the time
        os.lseek(self.fd, 0, os.SEEK_SET)
        self.frames, self.size = 0, (0, 0)

    def put(self, frame: av.VideoFrame) -> None:
        height, width = frame.height, frame.width
        if self.frames and (height, width) != self.size:
            raise Refused(f"got frames of {self.size} and {(height, width)} pixels, expected one size; fix: encode the video again")
        self.size = (height, width)
        most = self.limits.output_bytes // max(1, 3 * height * width)
        if self.frames >= most:
            raise Refused(f"got more than {most} frames of {width}x{height} pixels, expected fewer at once; fix: read it in parts")
        plane = self.convert.reformat(frame, format="rgb24").planes[0]
        pixels, stride, row = memoryview(plane), plane.line_size, 3 * width
        if stride != row:
            pixels = memoryview(b"".join([pixels[y * stride : y * stride + row] for y in range(height)]))
        left = pixels[: height * row]
        while left:
            left = left[os.write(self.fd, left) :]
        self.frames += 1


def info(fd: int, limits: DecodeLimits) -> dict[str, Any]:
    """What the container says: frames, fps, height, width, codec, duration_s."""
    with _open(fd, limits) as (container, stream):
        fps, duration, context = _rate(stream), _duration(container, stream), stream.codec_context
        frames = stream.frames or round(duration * fps)
        if container.format.name.startswith("mov"):
            count = mp4.declared(fd, stream.id)
            frames = count.samples - count.hidden
        return {
            "frames": frames,
            "fps": fps,
            "height": context.height,
            "width": context.width,
            "codec": context.name,
            "duration_s": duration,
        }


def read(fd: int, start: int, count: int | None, sink: Sink, progress: Progress) -> None:
    """Frames `start` to `start + count` into the sink. Raises Refused unless they are all there."""
    limits = sink.limits
    if start and count is not None:
        with _open(fd, limits) as (container, stream):
            if _constant_rate(stream) and _read_after_seek(container, stream, start, count, sink, progress):
                return
    sink.clear()
    with _open(fd, limits) as (container, stream):
        _read_from_start(fd, container, stream, start, count, sink, progress)


def count(fd: int, limits: DecodeLimits, progress: Progress) -> int:
    """Frames really stored in the file, without decoding. Raises Refused if there are fewer than declared."""
    with _open(fd, limits) as (container, stream):
        shown = hidden = 0
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise Refused(f"frame {shown} is cut off, expected a whole video; fix: copy or encode the file again")
            if packet.size:
                hidden += packet.is_discard
                shown += not packet.is_discard
                progress(1000)
                _limit_frames(shown + hidden, limits)
        _check_count(fd, container, stream, shown, hidden, limits)
        return shown


def read_image(fd: int, sink: Sink) -> None:
    """A PNG or JPEG file as one frame."""
    size = os.fstat(fd).st_size
    if size > sink.limits.image_bytes:
        raise Refused(f"got an image of {size} bytes, expected at most {sink.limits.image_bytes}; fix: a smaller picture")
    content = os.pread(fd, size, 0)
    codec = next((name for magic, name in _IMAGE_CODECS.items() if content.startswith(magic)), None)
    if codec is None:
        raise Refused("got neither a PNG nor a JPEG, expected one; fix: convert the image to PNG")
    try:
        decoder = av.CodecContext.create(codec, "r")
        decoder.options = {"max_pixels": str(sink.limits.pixels)}
        decoder.thread_type, decoder.thread_count = "NONE", 1
        frames = decoder.decode(av.Packet(content)) + decoder.decode(None)
    except av.FFmpegError as error:
        raise Refused(f"cannot be read as {codec} ({_reason(error)}): damaged; fix: copy the image again") from error
    if len(frames) != 1 or frames[0].is_corrupt:
        raise Refused(f"got {len(frames)} whole pictures, expected 1: damaged; fix: copy the image again")
    sink.put(frames[0])


def _read_from_start(fd: int, container, stream, start: int, count: int | None, sink: Sink, progress: Progress) -> None:
    end = math.inf if count is None else start + count
    seen = hidden = sent = 0
    even = _constant_rate(stream)  # else, nothing tells a lost frame before the end
    origin, per_tick = stream.start_time or 0, float(stream.time_base * stream.average_rate) if even else 0.0
    if container.format.name.startswith("mov"):
        mp4.declared(fd, stream.id)  # an edit list or count that lies would shift the frames
    for packet in container.demux(stream):
        if packet.size:
            hidden += packet.is_discard
            sent += not packet.is_discard
        for frame in packet.decode():
            if frame.is_corrupt or packet.is_corrupt:
                raise Refused(f"frame {seen} is damaged, expected a whole video; fix: copy or encode the file again")
            _check_pixels(frame.width, frame.height, sink.limits)
            even = even and frame.pts is not None and round((frame.pts - origin) * per_tick) == seen
            if start <= seen < end:
                sink.put(frame)
            seen += 1
            progress(frame.width * frame.height)
            _limit_frames(seen, sink.limits)
        if seen >= end and even:
            break  # all that was asked for is here, and none was lost on the way
    else:
        if seen < sent:
            raise Refused(f"got {seen} frames from {sent} stored ones, expected each: it is damaged; fix: copy or encode it again")
        _check_count(fd, container, stream, seen, hidden, sink.limits)
    if not sink.frames or (count is not None and sink.frames < count):
        asked = f"frames {start} to {end - 1}" if count else f"frame {start}"
        raise Refused(f"got {seen} frames in all, expected {asked} too; fix: ask for frames that exist")


def _read_after_seek(container, stream, start: int, count: int, sink: Sink, progress: Progress) -> bool:
    """The frames, found from their time stamps after a jump to the key frame before them; False where that is not sure."""
    rate, base, origin = stream.average_rate, stream.time_base, stream.start_time or 0
    at = origin + int(start / rate / base)
    if abs(at) >= 1 << 62:
        return False
    container.seek(at, stream=stream, backward=True)
    expected = None
    for frame in container.decode(stream):
        if frame.pts is None or frame.is_corrupt:
            return False
        index = round((frame.pts - origin) * base * rate)
        if index > start if expected is None else index != expected:
            return False  # the jump went too far, or frames are not evenly spaced
        _check_pixels(frame.width, frame.height, sink.limits)
        progress(frame.width * frame.height)
        expected = index + 1
        if index >= start:
            sink.put(frame)
            if sink.frames == count:
                return True
    return False


def _check_count(fd: int, container, stream, shown: int, hidden: int, limits: DecodeLimits) -> None:
    """`hidden` frames are stored but cut away by the container's edit list."""
    stored, may_hide = stream.frames, hidden
    name = container.format.name
    if name.startswith("mov"):
        stored, may_hide = mp4.declared(fd, stream.id)
    elif name.startswith("matroska"):
        index = [one.index for one in container.streams.video if not _is_picture(one)].index(stream.index)
        stored = max(matroska.stored_frames(fd, index, limits.frames), _from_duration(container, stream))
    elif name == "avi":
        stored = max(avi.stored_frames(fd, limits.frames), stored)
    if shown + hidden < stored:
        raise Refused(
            f"got {shown + hidden} frames, expected {stored} as the file declares: it is truncated or damaged; fix: copy or encode it again"
        )
    if hidden > may_hide:
        raise Refused(
            f"got {shown} frames and {hidden} hidden ones, expected at most {may_hide} hidden by an edit list; fix: copy or encode it again"
        )
    if not shown:
        raise Refused("got 0 frames, expected at least 1; fix: leave this file out")


def _from_duration(container, stream) -> int:
    """Frames by a Matroska file's duration, which may be that of a longer sound track."""
    declared = round(_duration(container, stream) * _rate(stream))
    if "DURATION" not in stream.metadata and len(container.streams) > 1:
        declared = math.floor(declared * 0.99) - 1
    return declared


@contextmanager
def _open(fd: int, limits: DecodeLimits) -> Iterator[tuple]:
    """(container, first video stream); every error of libav becomes one Refused line."""
    try:
        # only this open file: no protocol but `file`, no demuxer that reads others (playlists, concat)
        options = {
            "protocol_whitelist": "file",
            "format_whitelist": DEMUXERS,
            "codec_whitelist": CODECS,
            "max_pixels": str(limits.pixels),
            "max_streams": "64",
        }
        os.lseek(fd, 0, os.SEEK_SET)
        with av.open(f"file:/dev/fd/{fd}", "r", options=options) as container:
            streams = [stream for stream in container.streams.video if not _is_picture(stream)]
            if not streams:
                raise Refused("got no video stream, expected one; fix: give a file with pictures")
            stream = streams[0]
            context = stream.codec_context
            if context is None:  # a stream whose codec libav does not know, or a file cut inside its first frame
                raise Refused(
                    "cannot be read as video (no decoder for its first stream): truncated or no video; fix: copy or encode it again"
                )
            stream.thread_type, context.thread_count = "NONE", 1
            _check_pixels(context.width, context.height, limits)
            yield container, stream
    except av.FFmpegError as error:
        raise Refused(f"cannot be read as video ({_reason(error)}): truncated or no video; fix: copy or encode it again") from error


def _is_picture(stream) -> bool:
    """A cover picture, not a video."""
    return "attached_pic" in str(stream.disposition)


def _reason(error: av.FFmpegError) -> str:
    return error.strerror or type(error).__name__


def _check_pixels(width: int, height: int, limits: DecodeLimits) -> None:
    if width * height > limits.pixels:
        raise Refused(f"got frames of {width}x{height} pixels, expected at most {limits.pixels} in all; fix: encode it smaller")


def _limit_frames(seen: int, limits: DecodeLimits) -> None:
    if seen > limits.frames:
        raise Refused(f"got more than {limits.frames} frames, expected fewer; fix: cut it into shorter clips")


def _rate(stream) -> float:
    return float(stream.average_rate or stream.guessed_rate or 0)


def _constant_rate(stream) -> bool:
    return bool(stream.average_rate) and stream.average_rate == stream.base_rate and stream.time_base is not None


def _duration(container, stream) -> float:
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if "DURATION" in stream.metadata:  # mkv keeps each stream's in a tag, "00:00:10.333000000"
        parts = stream.metadata["DURATION"].split(":")
        try:
            return sum(float(part) * unit for part, unit in zip(parts, (3600, 60, 1), strict=True))
        except ValueError:
            pass  # not in that form: the file's duration is the next best
    return container.duration / 1e6 if container.duration else 0.0
