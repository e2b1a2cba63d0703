"""Corrupt and hostile video files: each must give the full clip or one clear line, never a short clip, never a dead process.

Run `python tools/campaigns/hostile_videos.py` from the checkout. Clips are made here, in every container and codec at hand, and
damaged: cut at every 64 bytes, single fields of boxes set to odd values, dimension lies, noise, swapped parts, wrong kinds.
"""

import io
import os
import random
import struct
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import hostile
import numpy as np

from wfm_ar.data.video import count_frames, read_video, video_info
from wfm_ar.decoding import pool
from wfm_ar.errors import BadClip

FRAMES, HEIGHT, WIDTH = 12, 48, 64
KINDS = (  # name, container, codec, container options, codec options
    ("mpeg4.mp4", "mp4", "mpeg4", {}, {}),
    ("h264.mp4", "mp4", "libx264", {}, {"preset": "ultrafast"}),
    ("h264-b-frames.mp4", "mp4", "libx264", {}, {"preset": "medium", "bf": "2"}),
    ("h264-index-first.mp4", "mp4", "libx264", {"movflags": "+faststart"}, {"preset": "veryfast"}),
    ("h264-fragments.mp4", "mp4", "libx264", {"movflags": "+frag_keyframe+empty_moov"}, {"preset": "veryfast", "g": "4"}),
    ("h264.mov", "mov", "libx264", {}, {"preset": "veryfast"}),
    ("h264.mkv", "matroska", "libx264", {"cluster_time_limit": "300"}, {"preset": "veryfast"}),
    ("vp9.webm", "webm", "libvpx-vp9", {}, {"deadline": "realtime", "cpu-used": "8"}),
    ("ffv1.mkv", "matroska", "ffv1", {}, {}),
    ("mpeg4.avi", "avi", "mpeg4", {}, {}),
    ("mjpeg.avi", "avi", "mjpeg", {}, {}),
    ("rgb8.gif", "gif", "gif", {}, {}),
)
CONTAINER_BOXES = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"dinf", b"moof", b"traf", b"mvex", b"udta", b"mfra"}
FIELDS = (
    b"stts",
    b"stsz",
    b"stsc",
    b"stco",
    b"ctts",
    b"elst",
    b"mvhd",
    b"tkhd",
    b"mdhd",
    b"stsd",
    b"hdlr",
    b"stss",
    b"trun",
    b"tfhd",
    b"tfra",
)


class Case(NamedTuple):
    """A damaged file and the number of frames of the sound one."""

    path: Path
    content: bytes | None  # None: something at `path` that is no file
    frames: int


def make_clip(container: str, codec: str, options: dict, codec_options: dict, frames: int = FRAMES) -> bytes:
    """A moving pattern with some noise, `frames` frames at 10 fps."""
    rng = np.random.default_rng(0)
    t, y, x = np.mgrid[:frames, :HEIGHT, :WIDTH] / 8.0
    clip = np.stack([127 + 90 * np.sin(x + t), 127 + 90 * np.cos(y - t), 127 + 90 * np.sin(x + y + 2 * t)], -1)
    clip = (clip + rng.integers(-8, 8, clip.shape)).clip(0, 255).astype(np.uint8)
    handle, name = tempfile.mkstemp()  # a real file: moving the index to the front reads it again
    os.close(handle)
    with av.open(name, "w", format=container, options={"fflags": "+bitexact", **options}) as out:
        stream = out.add_stream(codec, rate=Fraction(10))
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = {"mjpeg": "yuvj420p", "ffv1": "bgr0", "gif": "rgb8"}.get(codec, "yuv420p")
        stream.thread_count = 1
        stream.options = {"threads": "1", **codec_options}
        for image in clip:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode())
    content = Path(name).read_bytes()
    os.unlink(name)
    return content


def boxes(content: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """(type, start with header, end) of all boxes of an MP4, inner ones too."""
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", content, start)
        stop = start + size if 8 <= size <= end - start else end
        yield kind, start, stop
        if kind in CONTAINER_BOXES:
            yield from boxes(content, start + 8, stop)
        start = stop


def edited_box(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """One field of one box changed, the rest left as it was."""
    found = list(boxes(content, 0, len(content)))
    wanted = [box for box in found if box[0] in FIELDS] if rng.random() < 0.8 else found
    kind, start, end = rng.choice(wanted or found)
    name, what = kind.decode("latin1"), rng.choice(("field", "field", "field", "field", "size", "type", "gone", "twice"))
    if what == "field" and end - start > 12:
        at = start + 8 + 4 * rng.randrange((end - start - 8) // 4)
        (old,) = struct.unpack_from(">I", content, at)
        new = rng.choice((*hostile.INTERESTING, old + 1, old - 1, old // 2, old * 2, old ^ (1 << rng.randrange(32)))) & 0xFFFFFFFF
        return f"{name} +{at - start}: {old} -> {new}", content[:at] + struct.pack(">I", new) + content[at + 4 :]
    if what == "size":
        (old,) = struct.unpack_from(">I", content, start)
        new = rng.choice((0, 1, 8, old - 1, old + 1, old + 8, old * 2, 0xFFFFFFFF)) & 0xFFFFFFFF
        return f"{name} size {old} -> {new}", content[:start] + struct.pack(">I", new) + content[start + 4 :]
    if what == "gone":
        return f"{name} gone", content[:start] + content[end:]
    if what == "twice":
        return f"{name} twice", content[:end] + content[start:end] + content[end:]
    other = rng.choice((b"free", b"moov", b"mdat", rng.randbytes(4)))
    return f"{name} type {other!r}", content[: start + 4] + other + content[start + 8 :]


def dimension_lie(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    """Width and height in the header made others."""
    lie = rng.choice(((1, 1), (0, 0), (65535, 65535), (4096, 4096), (WIDTH * 2, HEIGHT), (HEIGHT, WIDTH), (7, 3)))
    edited = bytearray(content)
    for kind, start, end in boxes(content, 0, len(content)):
        if kind == b"stsd" and end - start >= 52:
            struct.pack_into(">HH", edited, start + 16 + 32, *lie)
        if kind == b"tkhd" and rng.random() < 0.5:
            struct.pack_into(">HxxH", edited, end - 8, *lie)
    return f"dimensions {lie}", bytes(edited)


def wrong_kinds(folder: Path, clip: bytes) -> Iterator[tuple[str, Case]]:
    """What is no video at all, or one that is out of the ordinary but sound."""
    (folder / "other.mp4").write_bytes(clip)
    audio = io.BytesIO()
    with av.open(audio, "w", format="mp4") as out:
        stream = out.add_stream("aac", rate=16000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 16000
        out.mux(stream.encode(sound))
        out.mux(stream.encode())
    contents = {
        "empty": b"",
        "text": b"hello\n" * 50,
        "playlist": b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:1,\nother.mp4\n#EXT-X-ENDLIST\n",
        "far playlist": b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n",
        "concat": b"ffconcat version 1.0\nfile 'other.mp4'\n",
        "sdp": b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "dash": b"<?xml version='1.0'?><MPD><Period><AdaptationSet><BaseURL>file:///etc/passwd</BaseURL></AdaptationSet></Period></MPD>",
        "script": b"#!/bin/sh\ntouch /tmp/never\n",
        "zip": b"PK\x03\x04" + bytes(400),
        "sound": audio.getvalue(),
        "noise": random.Random(0).randbytes(20_000),
        "zeros": bytes(100_000),
        "ftyp alone": clip[:32],
        "raw stream": make_clip("h264", "libx264", {}, {"preset": "ultrafast"}),
        "transport stream": make_clip("mpegts", "libx264", {}, {"preset": "ultrafast"}),
        "gif": b"GIF89a" + bytes(200),
        "900 bytes": clip[:900],
    }
    for name, content in contents.items():
        yield name, Case(folder / "odd.mp4", content, FRAMES)
    os.mkfifo(folder / "pipe.mp4")
    (folder / "folder.mp4").mkdir()
    (folder / "zero.mp4").symlink_to("/dev/zero")
    (folder / "nowhere.mp4").symlink_to("nothing-there.mp4")
    (folder / "loop.mp4").symlink_to("loop.mp4")
    for name in ("pipe.mp4", "folder.mp4", "zero.mp4", "nowhere.mp4", "loop.mp4", "missing.mp4", "nul\0.mp4", "x" * 300):
        yield name[:20], Case(folder / name, None, FRAMES)
    for name in (
        "http://127.0.0.1:9/a.mp4",
        "concat:other.mp4|other.mp4",
        "subfile,,start,0,end,9,,:other.mp4",
        "crypto:other.mp4",
        "pipe:0",
    ):
        yield name, Case(Path(name), None, FRAMES)


def cases(count: int, seed: int, folder: Path) -> Iterator[tuple[str, Case]]:
    """`count` damaged files; a third are cuts at multiples of 64 bytes, the rest edits."""
    clips = {name: make_clip(*how) for name, *how in KINDS}
    odd = list(wrong_kinds(folder, clips["h264.mp4"]))[:count]
    yield from odd
    left = count - len(odd)
    cuts = [(name, at) for name, clip in clips.items() for at in range(64, len(clip), 64)]
    rng = random.Random(seed)
    rng.shuffle(cuts)
    for name, at in cuts[: left // 3]:
        yield f"{name} cut at {at}", Case(folder / name, clips[name][:at], FRAMES)
    for i in range(left - min(left // 3, len(cuts))):
        rng = random.Random(f"{seed}-{i}")
        name = rng.choice(list(clips))
        content, how = clips[name], rng.random()
        boxed = name.endswith(("mp4", "mov"))
        edit = edited_box if boxed and how < 0.6 else dimension_lie if boxed and how < 0.7 else hostile.mangled
        if edit is hostile.mangled and how > 0.9:  # headers are where the lies are; the first and the last bytes hold them
            label, head = hostile.mangled(content[:600], rng)
            yield f"{name} head: {label} [{i}]", Case(folder / name, head + content[600:], FRAMES)
            continue
        label, content = edit(content, rng)
        yield f"{name} {label} [{i}]", Case(folder / name, content, FRAMES)


def check(case: Case) -> str:
    """ "full", "refused" or "longer"; Failure for a short clip without an error, or an error that is not one line."""
    if case.content is not None:
        case.path.write_bytes(case.content)
    outcome = "refused"
    try:
        clip = read_video(case.path)
        if len(clip) < case.frames:
            raise hostile.Failure(f"silently short: {len(clip)} frames of {case.frames}")
        outcome = "full" if len(clip) == case.frames else "longer"
    except BadClip as error:
        hostile.one_line(error)
    for look in (lambda: count_frames(case.path) < case.frames, lambda: len(read_video(case.path, 5, 4)) != 4):
        try:
            if look():
                raise hostile.Failure("silently short when counted or read in part")
        except BadClip as error:
            hostile.one_line(error)
    try:
        video_info(case.path)
    except BadClip as error:
        hostile.one_line(error)
    return outcome


def run(count: int, seed: int, folder: Path) -> hostile.Report:
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / "failed"

    def keep(label: str, case: Case) -> None:
        if case.content is not None:
            kept.mkdir(exist_ok=True)
            (kept / ("".join(c if c.isalnum() else "-" for c in label) + case.path.suffix)).write_bytes(case.content)

    before = pool.peak_memory()  # of children this process had earlier: the system only tells the largest of all
    report = hostile.run_cases("hostile videos", cases(count, seed, folder), check, hostile.cpu_seconds, keep)
    pool.close()
    if pool.peak_memory() > max(before, 1 << 30):
        report.failures.append(f"FAILED a child used {pool.peak_memory() >> 20} MiB, expected at most 1024")
    return report


if __name__ == "__main__":
    hostile.main(run, 5000, __doc__)
