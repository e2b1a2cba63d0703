"""Opening foreign files, what their containers say, and pictures; reading.py takes frames out of them.

av is imported here, in reading.py and in data/video.py (which encodes), nowhere else. Decoding uses one thread, because frame
threading (`thread_type = "AUTO"`) drops the last H.264 frames of a stream without a word. Only containers that declare their frames
are opened, and only codecs that clips come in.
"""

import math
import os
import struct
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import av
import av.logging
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter

from wfm_ar.decoding import gif, mp4
from wfm_ar.decoding.frame_table import FrameTable, FrameTables, evenly_spaced, is_picture, rate_of_times
from wfm_ar.decoding.limits import DecodeLimits, Refused
from wfm_ar.decoding.orientation import AS_STORED, of_exif, of_matrix, shown_size, turns

DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif"
CODECS = (
    "h264,hevc,libdav1d,av1,vp8,vp9,libvpx,libvpx-vp9,mpeg4,msmpeg4v1,msmpeg4v2,msmpeg4,mpeg1video,mpeg2video,mjpeg,"
    "ffv1,ffvhuff,huffyuv,utvideo,rawvideo,png,prores,dnxhd,magicyuv,qtrle,gif,webp,bmp"
)
_IMAGE_CODECS = {b"\x89PNG": "png", b"\xff\xd8\xff": "mjpeg", b"GIF8": "gif"}  # first bytes -> decoder

Progress = Callable[[int], None]  # told how many more pixels were worked on; may raise


class Sink:
    """Pixels on their way out: rgb24 frames of one size, one after another in a file."""

    def __init__(self, fd: int, limits: DecodeLimits):
        self.fd, self.limits = fd, limits
        self.aspect: Fraction | None = None  # of a pixel, width to height
        self.convert = VideoReformatter()  # one for all frames: it keeps the tables of the conversion
        self.clear()

    def clear(self) -> None:
        # what an earlier call left is written over: its memory is there already, which saves a tenth of the time
        os.lseek(self.fd, 0, os.SEEK_SET)
        self.frames, self.size, self.orientation, self._stored = 0, (0, 0), AS_STORED, (0, 0, 0)

    def put(self, frame: av.VideoFrame) -> None:
        """Raises Refused for a frame of another size or turned otherwise than those before, and for more than the limits allow."""
        stored = (frame.height, frame.width, frame.rotation)
        if not self.frames:
            width, height = shown_size(frame.width, frame.height, self.aspect)
            check_pixels(width, height, self.limits)
            self.size, self.orientation, self._stored = (height, width), orientation_of(frame), stored
        elif stored != self._stored:
            told = f"got frames of {self._stored[:2]} and {stored[:2]} pixels, turned by {self._stored[2]} and {stored[2]} degrees"
            raise Refused(f"{told}, expected all alike; fix: encode the video again")
        height, width = self.size
        most = self.limits.output_bytes // max(1, 3 * height * width)
        if self.frames >= most:
            raise Refused(f"got more than {most} frames of {width}x{height} pixels, expected fewer at once; fix: read it in parts")
        plane = self.convert.reformat(frame, width=width, height=height, format="rgb24").planes[0]
        pixels, stride, row = memoryview(plane), plane.line_size, 3 * width
        if stride != row:
            pixels = memoryview(b"".join([pixels[y * stride : y * stride + row] for y in range(height)]))
        left = pixels[: height * row]
        while left:
            left = left[os.write(self.fd, left) :]
        self.frames += 1


def info(fd: int, limits: DecodeLimits, tables: FrameTables) -> dict[str, Any]:
    """What the container says: frames, fps, codec, duration_s; height and width as shown, and whether that is turned or stretched."""
    with open_video(fd, limits) as (container, stream):
        about = {"codec": stream.codec_context.name, "duration_s": duration_of(container, stream)}
        width, height = shown_size(stream.codec_context.width, stream.codec_context.height, stream.sample_aspect_ratio)
        about["stretched"] = (width, height) != (stream.codec_context.width, stream.codec_context.height)
        table = tables.of(fd, container, stream)
        about["frames"], about["even"] = table.frames, evenly_spaced(table.times)
        declared = rate_of(stream) if about["even"] else float(stream.base_rate or 0)
        about["fps"] = table.rate or rate_of_times(table.times, declared)
        may_turn = _may_turn(fd, container, stream)
    orientation = AS_STORED
    if may_turn:
        with open_video(fd, limits) as (container, stream):
            orientation = orientation_of(next(container.decode(stream)))
    if turns(orientation):
        width, height = height, width
    return about | {"width": width, "height": height, "turned": orientation != AS_STORED}


def _may_turn(fd: int, container, stream) -> bool:
    """Whether the first frame has to be asked how it is turned."""
    if container.format.name.startswith("mov"):
        return any(a <= 0 or b or c or d <= 0 for a, b, _, c, d, *_ in mp4.matrices(fd, stream.id))
    return container.format.name.startswith("matroska")


def orientation_of(frame: av.VideoFrame) -> int:
    """How a frame is to be turned. Raises Refused for what is no quarter turn."""
    try:
        side_data: Any = frame.side_data
        found = next((bytes(one) for one in side_data if one.type.name == "DISPLAYMATRIX"), None)
    except ValueError:  # among side data of a kind that av does not know
        return {-90: 6, 90: 8, 180: 3, -180: 3}.get(round(frame.rotation), AS_STORED)
    return AS_STORED if found is None else of_matrix(struct.unpack("=9i", found[:36]))


def count(fd: int, limits: DecodeLimits, progress: Progress, tables: FrameTables) -> int:
    """Frames really stored in the file, without decoding. Raises Refused if there are fewer than declared."""
    with open_video(fd, limits) as (container, stream):
        shown = hidden = 0
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise Refused(f"frame {shown} is cut off, expected a whole video; fix: copy or encode the file again")
            if packet.size:
                if not shown + hidden and not packet.is_keyframe and container.format.name.startswith("matroska"):
                    raise Refused(
                        "begins with a frame that needs another before it, expected a key frame; fix: copy or encode the file again"
                    )
                hidden += packet.is_discard
                shown += not packet.is_discard
                progress(1000)
                limit_frames(shown + hidden, limits)
    with open_video(fd, limits) as (container, stream):
        table = tables.of(fd, container, stream)
        check_count(table, shown, hidden)
        check_end(table, container, stream)
        return table.frames


def times(fd: int, limits: DecodeLimits, tables: FrameTables) -> array:
    """When each frame is shown, doubles, seconds after the first."""
    with open_video(fd, limits) as (container, stream):
        rate, table = rate_of(stream), tables.of(fd, container, stream)
        return table.times or array("d", (number / rate for number in range(table.frames if rate else 0)))


def read_image(fd: int, sink: Sink) -> None:
    """A PNG or JPEG file, or the first picture of a GIF, as one frame."""
    size = os.fstat(fd).st_size
    if size > sink.limits.image_bytes:
        raise Refused(f"got an image of {size} bytes, expected at most {sink.limits.image_bytes}; fix: a smaller picture")
    head = os.pread(fd, 4, 0)
    codec = next((name for magic, name in _IMAGE_CODECS.items() if head.startswith(magic)), None)
    if codec is None:
        raise Refused("got neither a PNG, a JPEG nor a GIF, expected one of them; fix: convert the image to PNG")
    content = os.pread(fd, gif.stored_frames(fd, sink.limits.frames).first_end if codec == "gif" else size, 0)
    try:
        decoder: Any = av.CodecContext.create(codec, "r")
        decoder.options = {"max_pixels": str(sink.limits.pixels)}
        decoder.thread_type, decoder.thread_count = "NONE", 1
        with nothing_missing(codec):
            frames = decoder.decode(av.Packet(content)) + decoder.decode(None)
    except FFmpegError as error:
        raise Refused(f"cannot be read as {codec} ({_reason(error)}): damaged; fix: copy the image again") from error
    if len(frames) != 1 or frames[0].is_corrupt:
        raise Refused(f"got {len(frames)} whole pictures, expected 1: damaged; fix: copy the image again")
    sink.put(frames[0])
    sink.orientation = of_exif(content)


@contextmanager
def nothing_missing(codec: str) -> Iterator[None]:
    """Raises Refused where libav leaves a part of a GIF's picture as it was, of which it tells its log alone."""
    if codec != "gif":
        yield
        return
    av.logging.set_level(av.logging.ERROR)
    try:
        with av.logging.Capture() as told:
            yield
    finally:
        av.logging.set_level(None)
    if any(name == "gif" for _, name, _ in told):
        raise Refused("has a picture that is damaged, expected whole ones; fix: copy or make it again")


def check_count(table: FrameTable, shown: int, hidden: int) -> None:
    """Raises Refused unless as many packets were shown, and hidden by an edit list, as the container declares."""
    if shown + hidden < table.packets:
        raise Refused(
            f"got {shown + hidden} frames, expected {table.packets} as the file declares: it is truncated or damaged; "
            "fix: copy or encode it again"
        )
    if hidden > table.hidden:
        raise Refused(
            f"got {shown} frames and {hidden} hidden ones, expected at most {table.hidden} hidden by an edit list; "
            "fix: copy or encode it again"
        )
    if not shown:
        raise Refused("got 0 frames, expected at least 1; fix: leave this file out")


def check_end(table: FrameTable, container, stream) -> None:
    """Raises Refused where a Matroska file of even times lasts longer than its frames."""
    rate = rate_of(stream)
    if not container.format.name.startswith("matroska") or not rate or not evenly_spaced(table.times):
        return
    begin = float((stream.start_time or 0) * stream.time_base)
    declared = round((duration_of(container, stream) - begin) * rate)
    if "DURATION" not in stream.metadata and len(container.streams) > 1:  # the length may be that of the sound
        declared = math.floor(declared * 0.99) - 1
    if table.frames < declared:
        raise Refused(
            f"got {table.frames} frames, expected {declared} from the file's length: it is truncated or damaged; "
            "fix: copy or encode it again"
        )


@contextmanager
def open_video(fd: int, limits: DecodeLimits) -> Iterator[tuple]:
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
            streams = [stream for stream in container.streams.video if not is_picture(stream)]
            if not streams:
                raise Refused("got no video stream, expected one; fix: give a file with pictures")
            stream = streams[0]
            context = stream.codec_context
            if context is None:  # a stream whose codec libav does not know, or a file cut inside its first frame
                raise Refused(
                    "cannot be read as video (no decoder for its first stream): truncated or no video; fix: copy or encode it again"
                )
            if context.codec.name not in CODECS.split(","):  # the list given to libav binds its own look at the file, not what av opens
                known = "H.264, H.265, AV1, VP9, MPEG-4 or another codec that clips come in"
                raise Refused(f"is encoded as {context.codec.name}, expected {known}; fix: `ffmpeg -i in out.mp4`")
            stream.thread_type, context.thread_count = "NONE", 1
            check_pixels(context.width, context.height, limits)
            yield container, stream
    except FFmpegError as error:
        raise Refused(f"cannot be read as video ({_reason(error)}): truncated or no video; fix: copy or encode it again") from error


def _reason(error: FFmpegError) -> str:
    return error.strerror or type(error).__name__


def check_pixels(width: int, height: int, limits: DecodeLimits) -> None:
    if width * height > limits.pixels:
        raise Refused(f"got frames of {width}x{height} pixels, expected at most {limits.pixels} in all; fix: encode it smaller")


def limit_frames(seen: int, limits: DecodeLimits) -> None:
    if seen > limits.frames:
        raise Refused(f"got more than {limits.frames} frames, expected fewer; fix: cut it into shorter clips")


def rate_of(stream) -> float:
    return float(stream.average_rate or stream.guessed_rate or 0)


def duration_of(container, stream) -> float:
    if stream.duration:
        return float(stream.duration * stream.time_base)
    if "DURATION" in stream.metadata:  # mkv keeps each stream's in a tag, "00:00:10.333000000"
        parts = stream.metadata["DURATION"].split(":")
        try:
            return sum(float(part) * unit for part, unit in zip(parts, (3600, 60, 1), strict=True))
        except ValueError:
            pass  # not in that form: the file's duration is the next best
    return container.duration / 1e6 if container.duration else 0.0
