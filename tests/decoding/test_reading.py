"""A part of a file is that part of the whole, for every codec and container that is accepted, any start and count."""

import os
import random
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from numbered_clip import numbers, write_numbered

from wfm_ar.data.video import count_frames, read_video, video_info
from wfm_ar.decoding import reading
from wfm_ar.decoding.frame_table import FrameTables
from wfm_ar.decoding.limits import DecodeLimits
from wfm_ar.decoding.pictures import Sink
from wfm_ar.errors import BadClip

FRAMES = 40
X265 = "log-level=none:pools=1:frame-threads=1"
CODECS = {  # name -> (encoder, pixels, options, containers, pictures between two key frames)
    "h264": ("libx264", "yuv420p", {"bf": "0"}, "mp4 mov mkv avi fragments", (1, 7, 100)),
    "h264 B-frames": ("libx264", "yuv420p", {"bf": "3", "b-pyramid": "normal"}, "mp4 mov mkv avi fragments", (2, 7, 100)),
    "h264 open GOP": ("libx264", "yuv420p", {"bf": "2", "x264-params": "open-gop=1"}, "mp4 mkv avi", (7,)),
    "h264 intra refresh": ("libx264", "yuv420p", {"bf": "0", "x264-params": "intra-refresh=1"}, "mp4 mkv avi", (12,)),
    "h265 B-frames": ("libx265", "yuv420p", {"x265-params": f"{X265}:open-gop=0:bframes=2"}, "mp4 mkv", (7,)),
    "h265 open GOP": ("libx265", "yuv420p", {"x265-params": f"{X265}:open-gop=1:bframes=3"}, "mp4 mkv fragments", (12,)),
    "mpeg4": ("mpeg4", "yuv420p", {"bf": "0"}, "mp4 mkv avi", (1, 7)),
    "mpeg4 B-frames": ("mpeg4", "yuv420p", {"bf": "2"}, "mp4 mkv avi fragments", (7, 100)),
    "mpeg2 B-frames": ("mpeg2video", "yuv420p", {"bf": "2"}, "mp4 mkv avi", (7,)),
    "mpeg1 B-frames": ("mpeg1video", "yuv420p", {"bf": "2"}, "mp4 mkv avi", (7,)),
    "msmpeg4": ("msmpeg4", "yuv420p", {}, "mov mkv avi", (7,)),
    "vp8": ("libvpx", "yuv420p", {"deadline": "realtime", "cpu-used": "8"}, "webm mkv avi", (7,)),
    "vp9": ("libvpx-vp9", "yuv420p", {"cpu-used": "8", "lag-in-frames": "10", "auto-alt-ref": "1"}, "mp4 webm avi", (7, 100)),
    "av1": ("libsvtav1", "yuv420p", {"preset": "10", "crf": "15", "svtav1-params": "lp=1"}, "mp4 webm", (7,)),
    "ffv1": ("ffv1", "yuv420p", {}, "mp4 mkv avi", (1, 7)),
    "mjpeg": ("mjpeg", "yuvj420p", {}, "mp4 mov mkv avi", (1,)),
    "png": ("png", "rgb24", {}, "mp4 mov avi", (1,)),
    "huffyuv": ("huffyuv", "yuv422p", {}, "avi", (1,)),
    "raw": ("rawvideo", "yuv420p", {}, "mkv avi", (1,)),
    "prores": ("prores_ks", "yuv422p10le", {}, "mov mkv", (1,)),
    "qtrle": ("qtrle", "rgb24", {}, "mov", (7,)),
}
EVEN, PAUSED = None, [i + 5 * (i > 15) + 2 * (i > 30) for i in range(FRAMES)]


def written(folder: Path, container: str, codec: str, apart: int, times: list[int] | None) -> Path:
    encoder, pixels, options, _, _ = CODECS[codec]
    path = folder / f"a{apart}.{'mp4' if container == 'fragments' else container}"
    more = {"movflags": "+frag_keyframe+empty_moov"} if container == "fragments" else {}
    rate = 25 if codec.startswith(("mpeg1", "mpeg2")) else 10
    write_numbered(path, range(FRAMES), rate, codec=encoder, pixels=pixels, times=times, container_options=more, g=str(apart), **options)
    return path


@pytest.mark.parametrize(("codec", "container"), [(codec, one) for codec, how in CODECS.items() for one in how[3].split()])
def test_a_part_is_that_part_of_the_whole(tmp_path, codec, container):
    rng = random.Random(f"{codec} {container}")
    for apart in CODECS[codec][4]:
        for times in (EVEN, PAUSED) if container != "avi" else (EVEN,):
            path = written(tmp_path, container, codec, apart, times)
            whole = read_video(path)
            assert numbers(whole) == list(range(FRAMES)) and count_frames(path) == video_info(path).frames == FRAMES
            windows = [(0, 1), (0, 9), (FRAMES - 1, 1), (FRAMES - 9, 9), (1, FRAMES - 1), (7, 1), (14, 2)]
            windows += [(start := rng.randrange(FRAMES), rng.randint(1, min(9, FRAMES - start))) for _ in range(16)]
            for start, count in windows:
                np.testing.assert_array_equal(read_video(path, start, count), whole[start : start + count], f"{start} {count}")
            np.testing.assert_array_equal(read_video(path, 23), whole[23:])
            with pytest.raises(BadClip, match=f"got {FRAMES} frames in all, expected frame {FRAMES} too"):
                read_video(path, FRAMES)


@pytest.mark.parametrize("container", ["mp4", "mkv", "fragments", "avi"])
def test_a_window_costs_its_own_frames(tmp_path, container):
    """A few frames of a long file are found by a jump, wherever that is safe: not by decoding all that lies before."""
    path = written(tmp_path, container, "h264" if container == "avi" else "h264 B-frames", 7, EVEN)
    decoded = []
    fd = os.open(path, os.O_RDONLY)
    with tempfile.TemporaryFile() as file:
        reading.read(fd, 30, 3, Sink(file.fileno(), DecodeLimits()), decoded.append, FrameTables())
    os.close(fd)
    assert 3 <= len(decoded) <= 14


@pytest.mark.parametrize("codec", ["mpeg4", "h264", "mpeg2 B-frames"])
def test_a_key_frame_that_is_none(tmp_path, codec):
    """A list of key frames that names others: what is decoded from there on shows the wrong pixels, and no error."""
    path = written(tmp_path, "mp4", codec, 12, EVEN)
    whole, content = read_video(path), bytearray(path.read_bytes())
    at = content.index(b"stss") + 12
    count = struct.unpack_from(">I", content, at - 4)[0]
    struct.pack_into(f">{count}I", content, at, 1, *(18 + i for i in range(count - 1)))
    path.write_bytes(content)
    for start in range(16, 30):
        np.testing.assert_array_equal(read_video(path, start, 2), whole[start : start + 2], str(start))


@pytest.mark.parametrize("codec", ["mjpeg", "mpeg4", "mpeg4 B-frames"])
def test_frames_that_an_avi_skips_are_shown_again(tmp_path, codec):
    """A recorder that could not keep up writes chunks of no bytes."""
    times = [0, 1, 2, 5, 6, 7, 8, 12, 13, 14]
    encoder, pixels, options, _, _ = CODECS[codec]
    write_numbered(tmp_path / "a.avi", range(10), codec=encoder, pixels=pixels, times=times, **options)
    whole = read_video(tmp_path / "a.avi")
    if "B-frames" not in codec:
        assert numbers(whole) == [0, 1, 2, 2, 2, 3, 4, 5, 6, 6, 6, 6, 7, 8, 9]
    shown = numbers(whole)
    assert sorted(set(shown)) == list(range(10)) and shown == sorted(shown)
    assert len(whole) == count_frames(tmp_path / "a.avi") == video_info(tmp_path / "a.avi").frames
    for start in range(len(whole)):
        for count in (1, 2, len(whole) - start):
            if start + count <= len(whole):
                np.testing.assert_array_equal(read_video(tmp_path / "a.avi", start, count), whole[start : start + count])
