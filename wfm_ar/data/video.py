"""Video and image files to uint8 arrays and back.

Reading promises all the frames or an error: what was decoded is counted against what the container declares, so a truncated
file never passes as a short clip. Foreign files are decoded by wfm_ar.decoding, in a child process with limits on memory,
time, frames and pixels; only regular local files are opened, and only as video containers: a playlist that names other files
or addresses is not a video here. Writing encodes our own frames, here.
"""

import io
import math
import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from wfm_ar.data.files import refuse_existing, write_atomic
from wfm_ar.data.listing import refuse_pointer
from wfm_ar.decoding.limits import DecodeLimits, most_bytes
from wfm_ar.decoding.pool import LIMITS, Decoded, decode, decode_bytes
from wfm_ar.errors import BadClip, BadData
from wfm_ar.framing import CENTRE, framing

CONTAINERS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".avi": "avi"}  # suffix -> libavformat name, for writing
# x264's AVX-512 code for macroblock trees reads memory that was never written: with it the bytes vary from run to run
_REPEATABLE = {"x264-params": "asm=ssse3"} if platform.machine().lower() in ("x86_64", "amd64") else {}
# What is written in files for players, by ITU-T H.273: screen colours; Y'CbCr by BT.601 in limited range, or R'G'B' in full range
_YUV_COLOURS = {"color_primaries": 1, "color_trc": 1, "colorspace": 6, "color_range": 1}
_RGB_COLOURS = {"color_primaries": 1, "color_trc": 1, "colorspace": 0, "color_range": 2}
GIF = ".gif"
GIF_TICKS, GIF_RATE, GIF_SIDE = 100, 50, 65535  # a second; frames a second that viewers show; pixels a side
VIDEO_SUFFIXES = (".mp4", ".mkv", ".mov", ".webm", ".avi")  # what a bare folder of videos may hold


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What a container says of its first video stream."""

    frames: int  # stored ones that are shown, by the container's tables
    fps: float  # of uneven times, between most of the frames
    height: int  # square pixels, as shown
    width: int
    codec: str
    duration_s: float  # 0.0 if unknown
    turned: bool = False  # it is shown otherwise than stored: turned by quarters, or mirrored
    even: bool = True  # frames follow one another evenly, to half a frame
    stretched: bool = False  # its pixels are not square: it is shown wider or higher than stored


def video_info(path: str | Path, *, limits: DecodeLimits = LIMITS) -> VideoInfo:
    """Reads the header only. Raises BadClip for what is not a video."""
    return VideoInfo(**_decoded(path, "info", limits=limits).answer["info"])


def read_video(path: str | Path, start: int = 0, count: int | None = None, *, limits: DecodeLimits = LIMITS) -> np.ndarray:
    """Frames `start` to `start + count` (to the end for None) as uint8 [T, H, W, 3] RGB, T >= 1.

    Raises BadClip if the file is no video, is truncated or damaged, has not all of the frames asked for, or costs more than
    `limits`. Safe to call from threads and in worker processes.
    """
    if start < 0 or (count is not None and count < 1):
        raise BadClip(f"{path}: got start {start} and count {count}, expected start >= 0 and count >= 1; fix: ask for frames")
    frames_THWC = _decoded(path, "read", start=int(start), count=None if count is None else int(count), limits=limits).frames
    assert frames_THWC is not None
    return frames_THWC


def read_frames(path: str | Path, numbers: np.ndarray, *, limits: DecodeLimits = LIMITS) -> np.ndarray:
    """The frames of ascending `numbers` [T], which may repeat, as uint8 [T, H, W, 3]. All between the first and last are decoded.

    Raises BadClip.
    """
    first, last = int(numbers[0]), int(numbers[-1])
    frames_THWC = read_video(path, first, last - first + 1, limits=limits)
    return frames_THWC if np.array_equal(numbers, np.arange(first, last + 1)) else frames_THWC[numbers - first]


def frame_times(path: str | Path, *, limits: DecodeLimits = LIMITS) -> np.ndarray:
    """When each frame is shown, float64 [T] seconds after the first, from the container's tables. Raises BadClip."""
    return _decoded(path, "times", limits=limits).arrays[0]


def count_frames(path: str | Path, *, limits: DecodeLimits = LIMITS) -> int:
    """Frames really stored in the file, counted without decoding. Raises BadClip if there are fewer than declared."""
    return int(_decoded(path, "count", limits=limits).answer["count"])


def _decoded(path: str | Path, *asked, **how) -> Decoded:
    """`decode`, where a Git LFS pointer in the file's place is called that."""
    try:
        return decode(path, *asked, **how)
    except BadClip:
        try:
            refuse_pointer(Path(path))
        except BadData as error:
            raise BadClip(str(error)) from None
        raise


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
    """Writes uint8 [T, H, W, 3] RGB frames as H.264 (.mp4, .mov, .mkv, .avi) or GIF; the same frames give the same bytes.

    `lossless=True` keeps every bit (libx264rgb, qp 0). Otherwise H and W must be even (4:2:0 chroma). A GIF has 256 colours,
    chosen for the clip, any size, and repeats. The encoded clip is held in memory and reaches the disk whole or not at all.
    Raises BadClip, OutputExists, NoSpace.
    """
    if Path(path).suffix.lower() == GIF:
        _write_gif(Path(path), _check_frames(frames_THWC, str(path)), fps, lossless=lossless, overwrite=overwrite, sync=sync)
        return
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
        raise BadClip(f"{path}: got suffix {path.suffix!r}, expected one of {sorted(CONTAINERS)} or {GIF}; fix: rename the output")
    _check_rate(path, fps)
    refuse_existing(path, overwrite)
    av = _libav()
    size: Any = ()  # (height, width) from the first clip on
    counts: list[int] = []

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
        content = _encode(av, checked(), CONTAINERS[path.suffix.lower()], Fraction(fps).limit_denominator(1001), crf, lossless)
    except av.FFmpegError as error:
        height, width = size
        raise BadClip(f"{path}: cannot be encoded ({error.strerror}), got {width}x{height} pixels; fix: try a smaller size") from error
    write_atomic(path, content, overwrite=overwrite, sync=sync)
    return counts


def _check_rate(path: Path, fps: float) -> None:
    if not (isinstance(fps, (int, float, Fraction)) and math.isfinite(fps) and fps > 0):
        raise BadClip(f"{path}: got fps {fps!r}, expected a number above 0; fix: give the frames per second")


def _write_gif(path: Path, frames_THWC: np.ndarray, fps: float, *, lossless: bool, overwrite: bool, sync: bool) -> None:
    _check_rate(path, fps)
    height, width = frames_THWC.shape[1:3]
    if lossless:
        raise BadClip(f"{path}: got lossless=True, expected False: a GIF has 256 colours; fix: write an .mkv")
    if fps > GIF_RATE:
        got = f"got {fps:g} frames a second, expected at most {GIF_RATE}, as viewers show a GIF"
        raise BadClip(f"{path}: {got}; fix: write an .mp4, or fewer frames")
    if max(height, width) > GIF_SIDE:
        raise BadClip(f"{path}: got {width}x{height} pixels, expected sides up to {GIF_SIDE}; fix: resize them first")
    refuse_existing(path, overwrite)
    write_atomic(path, _encode_gif(_libav(), frames_THWC, fps), overwrite=overwrite, sync=sync)


def _encode_gif(av: ModuleType, frames_THWC: np.ndarray, fps: float) -> bytes:
    """One table of colours for the whole clip, and no dither: that would flicker where a picture stands still."""
    buffer, count, (height, width) = io.BytesIO(), len(frames_THWC), frames_THWC.shape[1:3]
    graph, tick = av.filter.Graph(), Fraction(1, GIF_TICKS)
    shown_at = [round(GIF_TICKS * t / fps) for t in range(count + 1)]
    source = graph.add_buffer(width=width, height=height, format="rgb24", time_base=tick)
    both, colours = graph.add("split"), graph.add("palettegen", "reserve_transparent=0")
    mapped, sink = graph.add("paletteuse", "dither=none"), graph.add("buffersink")
    source.link_to(both)
    both.link_to(colours, 0, 0)
    both.link_to(mapped, 1, 0)
    colours.link_to(mapped, 0, 1)
    mapped.link_to(sink)
    graph.configure()
    options = {"fflags": "+bitexact", "loop": "0", "final_delay": str(shown_at[count] - shown_at[count - 1])}
    with av.open(buffer, "w", format="gif", options=options) as container:
        stream = container.add_stream("gif", rate=GIF_TICKS)
        stream.width, stream.height, stream.pix_fmt, stream.time_base = width, height, "pal8", tick
        stream.codec_context.time_base = tick
        for t, image_HWC in enumerate(frames_THWC):
            frame = av.VideoFrame.from_ndarray(image_HWC, format="rgb24")
            frame.pts, frame.time_base = shown_at[t], tick
            graph.push(frame)
        graph.push(None)
        for _ in range(count):
            container.mux(stream.encode(graph.pull()))
        container.mux(stream.encode())
    return buffer.getvalue()


def _encode(av: ModuleType, clips: Iterator[np.ndarray], container_format: str, rate: Fraction, crf: int, lossless: bool) -> bytes:
    buffer, first = io.BytesIO(), next(clips)
    # bitexact: no encoder versions, dates or random ids in the file
    with av.open(buffer, "w", format=container_format, options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264rgb" if lossless else "libx264", rate=rate)
        stream.height, stream.width = first.shape[1:3]
        stream.pix_fmt = "rgb24" if lossless else "yuv420p"
        for name, value in (_RGB_COLOURS if lossless else _YUV_COLOURS).items():  # or players guess them by the picture's size
            setattr(stream.codec_context, name, value)
        stream.thread_count = 1
        quality = {"qp": "0"} if lossless else {"crf": str(crf)}
        stream.options = {"preset": "veryfast", "threads": "1", **_REPEATABLE, **quality}
        for frames_THWC in chain([first], clips):
            for t, image_HWC in enumerate(frames_THWC):
                # converted here: left to the encoder, the first clip of a process came out with other pixels than the same clip later
                frame = av.VideoFrame.from_ndarray(image_HWC, format="rgb24").reformat(format=stream.pix_fmt)
                if t == 0 and frames_THWC is not first:
                    frame.pict_type = av.video.frame.PictureType.I  # so that reading a later clip begins here and not in the one before
                container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def codecs(names: Sequence[str], mode: str) -> dict[str, bool]:
    """Which of these codecs the video library has, to read with (mode "r") or to write with ("w")."""
    av, found = _libav(), {}
    for name in names:
        try:
            av.Codec(name, mode)
        except ValueError:  # UnknownCodecError is one
            found[name] = False
        else:
            found[name] = True
    return found


def _libav() -> ModuleType:
    """Imported when something is written, so that commands which only read do without it."""
    import av

    return av


def _check_frames(frames_THWC: np.ndarray, where: str) -> np.ndarray:
    frames_THWC = np.asarray(frames_THWC)
    if frames_THWC.ndim != 4 or frames_THWC.shape[3] != 3 or frames_THWC.dtype != np.uint8 or 0 in frames_THWC.shape:
        raise BadClip(
            f"{where}: got {frames_THWC.dtype} {list(frames_THWC.shape)}, expected uint8 [T, H, W, 3] with T >= 1; "
            "fix: stack RGB frames of values 0..255"
        )
    return np.ascontiguousarray(frames_THWC)


def read_image(path: str | Path, *, limits: DecodeLimits = LIMITS) -> np.ndarray:
    """A PNG or JPEG file, or the first picture of a GIF, as a one-frame clip, uint8 [1, H, W, 3]. Raises BadClip."""
    frames_THWC = _decoded(path, "image", limits=limits).frames
    assert frames_THWC is not None
    return frames_THWC


def decode_image(content: bytes, where: str, *, limits: DecodeLimits = LIMITS) -> np.ndarray:
    """The bytes of a PNG or JPEG -> uint8 [H, W, 3]. Raises BadClip, beginning with `where`."""
    frames_THWC = decode_bytes(content, where, "image", limits=limits).frames
    assert frames_THWC is not None
    return frames_THWC[0]


def decode_images(contents: Sequence[bytes], places: Sequence[str], *, limits: DecodeLimits = LIMITS) -> np.ndarray:
    """The bytes of PNG or JPEG pictures of one size -> uint8 [T, H, W, 3]; errors begin with the place of the picture. Raises BadClip."""
    most = min(limits.output_bytes, most_bytes(sum(map(len, contents))))
    frames_THWC: np.ndarray = np.empty((0, 0, 0, 3), np.uint8)
    for t, (content, place) in enumerate(zip(contents, places, strict=True)):
        image_HWC = decode_image(content, place, limits=limits)
        if t == 0:
            if len(contents) * image_HWC.nbytes > most:
                size = f"{len(contents)} pictures of {image_HWC.shape[1]}x{image_HWC.shape[0]} pixels"
                raise BadClip(f"{place}: got {size}, expected at most {most} bytes of pixels at once; fix: make them smaller, or fewer")
            frames_THWC = np.empty((len(contents), *image_HWC.shape), np.uint8)
        _, height, width, _ = frames_THWC.shape
        if image_HWC.shape != frames_THWC.shape[1:]:
            told = f"got a picture of {image_HWC.shape[1]}x{image_HWC.shape[0]} pixels"
            raise BadClip(f"{place}: {told}, expected {width}x{height}; fix: write them in one size")
        frames_THWC[t] = image_HWC
    return frames_THWC


def write_image(path: str | Path, image_HWC: np.ndarray, *, overwrite: bool = False) -> None:
    """Writes uint8 [H, W, 3] as PNG, wholly or not at all. Raises BadClip, OutputExists, NoSpace."""
    path = Path(path)
    image_HWC = _check_frames(np.asarray(image_HWC)[None], str(path))[0]
    if path.suffix.lower() != ".png":
        raise BadClip(f"{path}: got suffix {path.suffix!r}, expected .png; fix: rename the output")
    av = _libav()
    encoder = av.CodecContext.create("png", "w")
    encoder.height, encoder.width = image_HWC.shape[:2]
    encoder.pix_fmt, encoder.time_base = "rgb24", Fraction(1, 25)
    packets = encoder.encode(av.VideoFrame.from_ndarray(image_HWC, format="rgb24")) + encoder.encode(None)
    write_atomic(path, b"".join(bytes(packet) for packet in packets), overwrite=overwrite)


def resize_crop(frames_THWC: np.ndarray, height: int, width: int, crop: str = CENTRE, where: str = "resize") -> np.ndarray:
    """uint8 [T, H, W, 3] -> uint8 [T, height, width, 3]; `crop` (framing.py) says what of the picture is kept.

    Every new pixel is the mean of the old area it covers; where the picture grows, it is linear between pixel centres.
    Raises BadClip, beginning with `where`, for a crop that reaches beyond the picture.
    """
    frames_THWC = _check_frames(frames_THWC, where)
    if height < 1 or width < 1:
        raise BadClip(f"{where}: got {width}x{height}, expected at least 1x1 pixels; fix: give the tokenizer's size")
    rows, columns = frames_THWC.shape[1:3]
    (top, left, keep_rows, keep_columns), target, *_ = framing(rows, columns, height, width, crop, where)
    if (top, left, keep_rows, keep_columns) == (0, 0, height, width):
        return frames_THWC
    frames_THWC = frames_THWC[:, top : top + keep_rows, left : left + keep_columns]
    down, across = _resampling(keep_rows, target.height), _resampling(keep_columns, target.width)
    resized = np.zeros((len(frames_THWC), height, width, 3), np.uint8)
    inside = resized[:, target.top : target.top + target.height, target.left : target.left + target.width]
    for t, image_HWC in enumerate(frames_THWC):  # one at a time: a float copy of a long clip would not fit
        thin = np.tensordot(down, image_HWC.astype(np.float32), axes=(1, 0))
        inside[t] = np.rint(np.einsum("hwc,xw->hxc", thin, across, optimize=True)).clip(0, 255)
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
