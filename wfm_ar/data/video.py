"""Video and image files to uint8 arrays and back; the only file that imports av.

Reading promises all the frames or an error: what was decoded is counted against what the container declares, so a
truncated file never passes as a short clip. Decoding uses one thread, because frame threading (`thread_type = "AUTO"`)
drops the last H.264 frames of a stream without a word. Only regular local files are opened, and only as video containers:
a playlist that names other files or addresses is not a video here.
"""

import io
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np

from wfm_ar.data.files import refuse_existing, write_atomic
from wfm_ar.errors import BadClip

CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".avi": "avi"}  # suffix -> libavformat name, for writing
VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".webm", ".avi")  # what a bare folder of videos may hold
_DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,ogg,flv,gif,h264,hevc,ivf,obu,asf"
_IMAGE_CODECS = {b"\x89PNG": "png", b"\xff\xd8\xff": "mjpeg"}  # first bytes -> decoder


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a container says of its first video stream."""

    frames: int  # declared, or duration times rate where the container (mkv) does not say; 0 if neither is known
    fps: float
    height: int  # pixels
    width: int  # pixels
    codec: str
    duration_s: float  # 0.0 if unknown


def video_info(path: str | Path) -> VideoInfo:
    """Reads the header only. Raises BadClip for what is not a video."""
    with _open(path) as (container, stream):
        fps = _rate(stream)
        duration = _duration(container, stream)
        frames = stream.frames or round(duration * fps)
        context = stream.codec_context
        return VideoInfo(frames=frames, fps=fps, height=context.height, width=context.width, codec=context.name, duration_s=duration)


def read_video(path: str | Path, start: int = 0, count: int | None = None) -> np.ndarray:
    """Frames `start` to `start + count` (to the end for None) as uint8 [T, H, W, 3] RGB, T >= 1.

    Raises BadClip if the file is no video, is truncated or damaged, or has not all of the frames asked for.
    """
    if start < 0 or (count is not None and count < 1):
        raise BadClip(f"{path}: got start {start} and count {count}, expected start >= 0 and count >= 1; fix: ask for frames")
    with _open(path) as (container, stream):
        if start and count is not None and _constant_rate(stream):
            frames = _read_after_seek(container, stream, start, count)
            if frames is not None:
                return frames
    with _open(path) as (container, stream):
        return _read_from_start(container, stream, start, count, str(path))


def count_frames(path: str | Path) -> int:
    """Frames really stored in the file, counted without decoding. Raises BadClip if there are fewer than declared."""
    with _open(path) as (container, stream):
        shown = hidden = 0
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise BadClip(f"{path}: frame {shown} is cut off, expected a whole video; fix: copy or encode the file again")
            if packet.size:
                hidden += packet.is_discard
                shown += not packet.is_discard
        _check_count(container, stream, shown, hidden, str(path))
        return shown


def _read_from_start(container, stream, start: int, count: int | None, where: str) -> np.ndarray:
    end = math.inf if count is None else start + count
    frames: list[np.ndarray] = []
    seen = hidden = 0
    for packet in container.demux(stream):
        hidden += bool(packet.size) and packet.is_discard
        for frame in packet.decode():
            if frame.is_corrupt or packet.is_corrupt:
                raise BadClip(f"{where}: frame {seen} is damaged, expected a whole video; fix: copy or encode the file again")
            if start <= seen < end:
                frames.append(_to_rgb(frame, frames, where))
            seen += 1
        if seen >= end:
            break  # all that was asked for is here
    if seen < end:
        _check_count(container, stream, seen, hidden, where)
    if not frames or (count is not None and len(frames) < count):
        asked = f"frames {start} to {end - 1}" if count else f"frame {start}"
        raise BadClip(f"{where}: got {seen} frames in all, expected {asked} too; fix: ask for frames that exist")
    return np.stack(frames)


def _read_after_seek(container, stream, start: int, count: int) -> np.ndarray | None:
    """The frames, found from their time stamps after a jump to the key frame before them; None where that is not sure."""
    rate, base, origin = stream.average_rate, stream.time_base, stream.start_time or 0
    container.seek(origin + int(start / rate / base), stream=stream, backward=True)
    frames: list[np.ndarray] = []
    expected = None
    for frame in container.decode(stream):
        if frame.pts is None or frame.is_corrupt:
            return None
        index = round((frame.pts - origin) * base * rate)
        if index > start if expected is None else index != expected:
            return None  # the jump went too far, or frames are not evenly spaced
        expected = index + 1
        if index >= start:
            frames.append(_to_rgb(frame, frames, ""))
            if len(frames) == count:
                return np.stack(frames)
    return None


def _to_rgb(frame, earlier: list[np.ndarray], where: str) -> np.ndarray:
    image_HWC = frame.to_ndarray(format="rgb24")
    if earlier and image_HWC.shape != earlier[0].shape:
        sizes = f"{earlier[0].shape[:2]} and {image_HWC.shape[:2]}"
        raise BadClip(f"{where}: got frames of {sizes} pixels, expected one size; fix: encode the video again")
    return image_HWC


def _check_count(container, stream, shown: int, hidden: int, where: str) -> None:
    """`hidden` frames are stored but cut away by the container's edit list."""
    declared = stream.frames
    if not declared:  # mkv and webm tell only durations; the whole file's may be that of a longer sound track
        declared = round(_duration(container, stream) * _rate(stream))
        if "DURATION" not in stream.metadata and len(container.streams) > 1:
            declared = math.floor(declared * 0.99) - 1
    if shown + hidden < declared:
        raise BadClip(
            f"{where}: got {shown + hidden} frames, expected {declared} as the file declares: it is truncated or damaged; "
            "fix: copy or encode it again"
        )
    if not shown:
        raise BadClip(f"{where}: got 0 frames, expected at least 1; fix: leave this file out")


@contextmanager
def _open(path: str | Path) -> Iterator[tuple]:
    """(container, first video stream); every error of libav becomes one BadClip line."""
    path = Path(path)
    if not path.is_file():
        what = "is not a regular file" if path.exists() else "does not exist"
        raise BadClip(f"{path}: {what}, expected a local video file; fix: check the path")
    try:
        # the prefix keeps names such as "http:x" or "concat:x" from being taken for addresses
        options = {"protocol_whitelist": "file", "format_whitelist": _DEMUXERS}
        with av.open(f"file:{path}", "r", options=options) as container:
            streams = [s for s in container.streams.video if "attached_pic" not in str(s.disposition)]
            if not streams:
                raise BadClip(f"{path}: got no video stream, expected one; fix: give a file with pictures")
            stream = streams[0]
            stream.thread_type, stream.codec_context.thread_count = "NONE", 1
            yield container, stream
    except av.FFmpegError as error:
        reason = error.strerror or type(error).__name__
        raise BadClip(f"{path}: cannot be read as video ({reason}): truncated or no video; fix: copy or encode it again") from error


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


def write_video(
    path: str | Path,
    frames_THWC: np.ndarray,
    fps: float,
    *,
    crf: int = 16,
    lossless: bool = False,
    overwrite: bool = False,
    sync: bool = True,
) -> None:
    """Writes uint8 [T, H, W, 3] RGB frames as H.264 (.mp4, .mov, .mkv, .avi); the same frames give the same bytes.

    `lossless=True` keeps every bit (libx264rgb, qp 0). Otherwise H and W must be even (4:2:0 chroma). The encoded clip is
    held in memory and reaches the disk whole or not at all. Raises BadClip, OutputExists, NoSpace.
    """
    write_clips(path, [frames_THWC], fps, crf=crf, lossless=lossless, overwrite=overwrite, sync=sync)


def write_clips(
    path: str | Path,
    clips: Iterable[np.ndarray],
    fps: float,
    *,
    crf: int = 16,
    lossless: bool = False,
    overwrite: bool = False,
    sync: bool = True,
) -> list[int]:
    """`write_video` of clips of one size one after the other, each beginning with a key frame -> their numbers of frames.

    Only one clip's frames are held at a time. Raises BadClip, OutputExists, NoSpace.
    """
    path = Path(path)
    if path.suffix.lower() not in CONTAINERS:
        raise BadClip(f"{path}: got suffix {path.suffix!r}, expected one of {sorted(CONTAINERS)}; fix: rename the output")
    if not (isinstance(fps, (int, float, Fraction)) and math.isfinite(fps) and fps > 0):
        raise BadClip(f"{path}: got fps {fps!r}, expected a number above 0; fix: give the frames per second")
    refuse_existing(path, overwrite)
    size, counts = (), []

    def checked() -> Iterator[np.ndarray]:
        nonlocal size
        for clip in clips:
            clip = _check_frames(clip, str(path))
            height, width = clip.shape[1:3]
            if not lossless and (height % 2 or width % 2):
                raise BadClip(f"{path}: got {width}x{height} pixels, expected even sides; fix: crop one pixel or write lossless")
            if size and (height, width) != size:
                raise BadClip(f"{path}: got clips of {size} and {(height, width)} pixels, expected one size; fix: resize them first")
            size = (height, width)
            counts.append(len(clip))
            yield clip

    try:
        content = _encode(checked(), CONTAINERS[path.suffix.lower()], Fraction(fps).limit_denominator(1001), crf, lossless)
    except av.FFmpegError as error:
        height, width = size
        raise BadClip(f"{path}: cannot be encoded ({error.strerror}), got {width}x{height} pixels; fix: try a smaller size") from error
    write_atomic(path, content, overwrite=overwrite, sync=sync)
    return counts


def _encode(clips: Iterator[np.ndarray], container_format: str, rate: Fraction, crf: int, lossless: bool) -> bytes:
    buffer, first = io.BytesIO(), next(clips)
    # bitexact: no encoder versions, dates or random ids in the file
    with av.open(buffer, "w", format=container_format, options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264rgb" if lossless else "libx264", rate=rate)
        stream.height, stream.width = first.shape[1:3]
        stream.pix_fmt = "rgb24" if lossless else "yuv420p"
        stream.thread_count = 1
        quality = {"qp": "0"} if lossless else {"crf": str(crf)}
        stream.options = {"preset": "veryfast", "threads": "1", **quality}
        for frames_THWC in chain([first], clips):
            for t, image_HWC in enumerate(frames_THWC):
                # converted here: left to the encoder, the first clip of a process came out with other pixels than the same clip later
                frame = av.VideoFrame.from_ndarray(image_HWC, format="rgb24").reformat(format=stream.pix_fmt)
                if t == 0 and frames_THWC is not first:
                    frame.pict_type = av.video.frame.PictureType.I  # so that reading a later clip begins here and not in the one before
                container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def _check_frames(frames_THWC: np.ndarray, where: str) -> np.ndarray:
    frames_THWC = np.asarray(frames_THWC)
    if frames_THWC.ndim != 4 or frames_THWC.shape[3] != 3 or frames_THWC.dtype != np.uint8 or 0 in frames_THWC.shape:
        raise BadClip(
            f"{where}: got {frames_THWC.dtype} {list(frames_THWC.shape)}, expected uint8 [T, H, W, 3] with T >= 1; "
            "fix: stack RGB frames of values 0..255"
        )
    return np.ascontiguousarray(frames_THWC)


def read_image(path: str | Path) -> np.ndarray:
    """A PNG or JPEG file as a one-frame clip, uint8 [1, H, W, 3]. Raises BadClip."""
    path = Path(path)
    if not path.is_file():
        raise BadClip(f"{path}: does not exist or is not a regular file, expected an image; fix: check the path")
    return decode_image(path.read_bytes(), str(path))[None]


def decode_image(content: bytes, where: str) -> np.ndarray:
    """The bytes of a PNG or JPEG -> uint8 [H, W, 3]. Raises BadClip, beginning with `where`."""
    codec = next((name for magic, name in _IMAGE_CODECS.items() if content.startswith(magic)), None)
    if codec is None:
        raise BadClip(f"{where}: got neither a PNG nor a JPEG, expected one; fix: convert the image to PNG")
    try:
        decoder = av.CodecContext.create(codec, "r")
        frames = decoder.decode(av.Packet(content)) + decoder.decode(None)
    except av.FFmpegError as error:
        raise BadClip(f"{where}: cannot be read as {codec} ({error.strerror}): damaged; fix: copy the image again") from error
    if len(frames) != 1 or frames[0].is_corrupt:
        raise BadClip(f"{where}: got {len(frames)} whole pictures, expected 1: damaged; fix: copy the image again")
    return frames[0].to_ndarray(format="rgb24")


def write_image(path: str | Path, image_HWC: np.ndarray, *, overwrite: bool = False) -> None:
    """Writes uint8 [H, W, 3] as PNG, wholly or not at all. Raises BadClip, OutputExists, NoSpace."""
    path = Path(path)
    image_HWC = _check_frames(np.asarray(image_HWC)[None], str(path))[0]
    if path.suffix.lower() != ".png":
        raise BadClip(f"{path}: got suffix {path.suffix!r}, expected .png; fix: rename the output")
    encoder = av.CodecContext.create("png", "w")
    encoder.height, encoder.width = image_HWC.shape[:2]
    encoder.pix_fmt, encoder.time_base = "rgb24", Fraction(1, 25)
    packets = encoder.encode(av.VideoFrame.from_ndarray(image_HWC, format="rgb24")) + encoder.encode(None)
    write_atomic(path, b"".join(bytes(packet) for packet in packets), overwrite=overwrite)


def resize_crop(frames_THWC: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [T, H, W, 3] -> uint8 [T, height, width, 3]: the largest centred part of the wanted aspect, resized.

    Every new pixel is the mean of the old area it covers; where the picture grows, it is linear between pixel centres.
    """
    frames_THWC = _check_frames(frames_THWC, "resize")
    if height < 1 or width < 1:
        raise BadClip(f"resize: got {height}x{width}, expected at least 1x1 pixels; fix: give the tokenizer's size")
    rows, columns = frames_THWC.shape[1:3]
    if (rows, columns) == (height, width):
        return frames_THWC
    scale = min(rows / height, columns / width)
    keep_rows, keep_columns = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (rows - keep_rows) // 2, (columns - keep_columns) // 2
    frames_THWC = frames_THWC[:, top : top + keep_rows, left : left + keep_columns]
    down, across = _resampling(keep_rows, height), _resampling(keep_columns, width)
    resized = np.empty((len(frames_THWC), height, width, 3), np.uint8)
    for t, image_HWC in enumerate(frames_THWC):  # one at a time: a float copy of a long clip would not fit
        thin = np.tensordot(down, image_HWC.astype(np.float32), axes=(1, 0))
        resized[t] = np.rint(np.einsum("hwc,xw->hxc", thin, across, optimize=True)).clip(0, 255)
    return resized


def _resampling(old: int, new: int) -> np.ndarray:
    """float32 [new, old], rows sum to 1: area means to shrink, linear interpolation to grow."""
    if new <= old:
        edges = np.linspace(0, old, new + 1)
        pixel = np.arange(old)
        overlap = np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)
        weights = overlap.clip(min=0)
    else:
        centre = ((np.arange(new) + 0.5) * old / new - 0.5).clip(0, old - 1)
        weights = (1 - np.abs(centre[:, None] - np.arange(old))).clip(min=0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
