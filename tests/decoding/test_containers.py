"""What containers say of their frames, read without libav: mp4.py, matroska.py, avi.py."""

import os
import struct
import time
from fractions import Fraction

import av
import numpy as np
import pytest
from numbered_clip import write_numbered

from wfm_ar.data import read_video, video_info
from wfm_ar.data.video import count_frames
from wfm_ar.decoding import avi, matroska, mp4
from wfm_ar.decoding.limits import Refused
from wfm_ar.errors import BadClip


def make(path, frames=9, container=None, codec="libx264", container_options=None, smooth=False, **options) -> None:
    """smooth: a picture that wanders, of which an encoder makes B-frames; else noise."""
    clip = np.random.default_rng(0).integers(0, 255, (frames, 32, 32, 3), dtype=np.uint8)
    if smooth:
        t, y, x = np.mgrid[:frames, :32, :32] / 8.0
        clip = (127 + 90 * np.stack((np.sin(x + t), np.cos(y - t), np.sin(x + y + 2 * t)), -1) + clip / 16).astype(np.uint8)
    with av.open(str(path), "w", format=container, options=container_options or {}) as out:
        stream = out.add_stream(codec, rate=Fraction(10))
        stream.width, stream.height, stream.pix_fmt, stream.options = 32, 32, "yuv420p", {"threads": "1", **options}
        for i, image in enumerate(clip):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 10)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


@pytest.fixture
def fd_of():
    opened = []

    def open_(path) -> int:
        opened.append(os.open(path, os.O_RDONLY))
        return opened[-1]

    yield open_
    for fd in opened:
        os.close(fd)


@pytest.mark.parametrize("bf", ["0", "2"])
def test_samples_of_an_mp4(tmp_path, fd_of, bf):
    make(tmp_path / "a.mp4", bf=bf)
    assert mp4.declared(fd_of(tmp_path / "a.mp4"), 1) == mp4.Declared(9, 0)
    with pytest.raises(Refused, match="no track 7"):
        mp4.declared(fd_of(tmp_path / "a.mp4"), 7)


def test_samples_of_fragments(tmp_path, fd_of):
    make(tmp_path / "a.mp4", g="3", container_options={"movflags": "+frag_keyframe+empty_moov"})
    assert mp4.declared(fd_of(tmp_path / "a.mp4"), 1) == mp4.Declared(9, 0)
    content = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "b.mp4").write_bytes(content[: content.rindex(b"mfra") - 4])
    with pytest.raises(Refused, match="fragmented MP4 without an index at its end"):
        mp4.declared(fd_of(tmp_path / "b.mp4"), 1)


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_fragment_that_is_not_called_one(tmp_path, fd_of, which):
    """Its frames would be passed over as media data that nobody names."""
    make(tmp_path / "a.mp4", g="3", container_options={"movflags": "+frag_keyframe+empty_moov"})
    content, at = (tmp_path / "a.mp4").read_bytes(), -1
    for _ in range(which + 1):
        at = content.index(b"moof", at + 1)
    (tmp_path / "b.mp4").write_bytes(content[:at] + b"mdat" + content[at + 4 :])
    with pytest.raises(Refused, match="media data behind media data"):
        mp4.declared(fd_of(tmp_path / "b.mp4"), 1)
    with pytest.raises(BadClip):
        read_video(tmp_path / "b.mp4")


@pytest.mark.parametrize("how", [{"bf": "0"}, {"bf": "2", "preset": "medium", "smooth": True}], ids=["in order", "reordered"])
@pytest.mark.parametrize("first", [3, 6])
def test_a_cut_by_edit_list_shows_the_rest(tmp_path, fd_of, first, how):
    """As `ffmpeg -ss ... -c copy` leaves it: what lies before the cut is stored, and not shown."""
    make(tmp_path / "whole.mp4", **how)
    with av.open(str(tmp_path / "whole.mp4")) as whole:
        with av.open(str(tmp_path / "cut.mp4"), "w", options={"avoid_negative_ts": "disabled"}) as out:
            stream = out.add_stream_from_template(whole.streams.video[0])
            for packet in whole.demux(video=0):
                if packet.size:  # the same packets: encoding twice now and then gives other ones on a busy machine
                    earlier = int(Fraction(first, 10) / packet.time_base)
                    packet.pts, packet.dts, packet.stream = packet.pts - earlier, packet.dts - earlier, stream
                    out.mux(packet)
    assert mp4.declared(fd_of(tmp_path / "cut.mp4"), 1) == mp4.Declared(9, first)
    assert video_info(tmp_path / "cut.mp4").frames == count_frames(tmp_path / "cut.mp4") == 9 - first
    np.testing.assert_array_equal(read_video(tmp_path / "cut.mp4"), read_video(tmp_path / "whole.mp4")[first:])


@pytest.mark.parametrize("shift", [0, 2, 1024])
def test_a_frame_whose_display_time_was_moved_before_the_cut(tmp_path, fd_of, shift):
    """One damaged offset and the edit list would hide a frame that belongs to the clip."""
    make(tmp_path / "a.mp4", bf="2", preset="medium", smooth=True)
    content = bytearray((tmp_path / "a.mp4").read_bytes())
    at = content.index(b"ctts") + 4
    runs = struct.unpack_from(">I", content, at + 4)[0]
    offsets = [struct.unpack_from(">Ii", content, at + 8 + 8 * i) for i in range(runs)]
    latest = next(i for i in range(runs) if offsets[i] == (1, 4096))  # a frame that others are stored behind and shown before
    assert mp4.declared(fd_of(tmp_path / "a.mp4"), 1) == mp4.Declared(9, 0)
    struct.pack_into(">i", content, at + 12 + 8 * latest, shift)
    (tmp_path / "b.mp4").write_bytes(content)
    try:
        assert len(read_video(tmp_path / "b.mp4")) == 9
    except BadClip as refused:
        assert "; fix: " in str(refused)
    else:
        assert shift == 1024  # then it lies behind the cut, and is shown


def test_things_behind_the_index_do_no_harm(tmp_path):
    make(tmp_path / "a.mp4")
    with open(tmp_path / "a.mp4", "ab") as file:
        file.write(b"\x00\x00\x01\x00SEFT" + bytes(40))
    assert len(read_video(tmp_path / "a.mp4")) == 9


def test_blocks_of_a_matroska(tmp_path, fd_of):
    make(tmp_path / "a.mkv", g="3", container_options={"cluster_time_limit": "300"})
    fd = fd_of(tmp_path / "a.mkv")
    assert matroska.stored_frames(fd, 0, 100).times == [100 * i for i in range(9)]
    with pytest.raises(Refused, match="more than 3 frames"):
        matroska.stored_frames(fd, 0, 3)
    with pytest.raises(Refused, match="1 video tracks, expected number 1"):
        matroska.stored_frames(fd, 1, 100)
    content = (tmp_path / "a.mkv").read_bytes()
    second = content.index(b"\x1f\x43\xb6\x75", content.index(b"\x1f\x43\xb6\x75") + 4)
    (tmp_path / "b.mkv").write_bytes(content[:second] + b"\x1f\x43\xb6\x74" + content[second + 4 :])  # a cluster that is none
    with pytest.raises(Refused, match="element 0x1f43b674 in the segment"):
        matroska.stored_frames(fd_of(tmp_path / "b.mkv"), 0, 100)
    with pytest.raises(BadClip, match="; fix: "):
        read_video(tmp_path / "b.mkv")


def test_a_matroska_without_its_first_block(tmp_path, fd_of):
    """A block that became a void: what is left begins in the middle of a group of pictures."""
    make(tmp_path / "a.mkv")
    content = bytearray((tmp_path / "a.mkv").read_bytes())
    first = matroska.stored_frames(fd_of(tmp_path / "a.mkv"), 0, 100).places[0]
    content[content.rindex(b"\xa3", 0, first)] = 0xEC
    (tmp_path / "b.mkv").write_bytes(content)
    with pytest.raises(BadClip, match="begins with a frame that needs another before it"):
        count_frames(tmp_path / "b.mkv")
    with pytest.raises(BadClip, match="damaged"):
        read_video(tmp_path / "b.mkv")


@pytest.mark.parametrize("block", [0, 4, 8])
def test_a_matroska_block_of_no_track(tmp_path, fd_of, block):
    """A flipped bit in a block's track number; it would be passed over as another track's."""
    make(tmp_path / "a.mkv")
    content = bytearray((tmp_path / "a.mkv").read_bytes())
    content[matroska.stored_frames(fd_of(tmp_path / "a.mkv"), 0, 100).places[block]] ^= 0x10
    (tmp_path / "b.mkv").write_bytes(content)
    with pytest.raises(Refused, match=r"a block of track 17, expected one of \[1\]"):
        matroska.stored_frames(fd_of(tmp_path / "b.mkv"), 0, 100)
    with pytest.raises(BadClip):
        read_video(tmp_path / "b.mkv")


@pytest.mark.parametrize("flipped", [0x04, 0x08])
def test_a_matroska_block_that_became_a_number(tmp_path, fd_of, flipped):
    """A flipped bit in a block's id makes it the cluster's place or the size of the one before, and its frame is gone."""
    make(tmp_path / "a.mkv")
    content = bytearray((tmp_path / "a.mkv").read_bytes())
    place = matroska.stored_frames(fd_of(tmp_path / "a.mkv"), 0, 100).places[8]
    content[content.rindex(b"\xa3", 0, place)] ^= flipped
    (tmp_path / "b.mkv").write_bytes(content)
    with pytest.raises(Refused, match="bytes in a cluster, expected a short number"):
        matroska.stored_frames(fd_of(tmp_path / "b.mkv"), 0, 100)


def test_a_live_matroska_cannot_be_known_whole(tmp_path):
    make(tmp_path / "a.mkv", container_options={"live": "1"})
    with pytest.raises(BadClip, match="was not finished when it was written"):
        read_video(tmp_path / "a.mkv")


@pytest.mark.parametrize("codec", ["h263", "flv", "wmv2", "snow", "h261"])
def test_codecs_that_are_not_on_the_list(tmp_path, codec):
    """Whichever decoders libav has: these are not opened."""
    size = (144, 176) if codec in ("h263", "h261") else (64, 96)
    write_numbered(tmp_path / "a.avi", range(6), codec=codec, size=size)
    for look in (read_video, video_info, count_frames):
        with pytest.raises(BadClip, match=f"a.avi: is encoded as {codec}, expected H.264, .*; fix: `ffmpeg"):
            look(tmp_path / "a.avi")


def test_vvc_is_not_opened(tmp_path):
    """No encoder is at hand: the sample entry of an H.264 file says it is VVC."""
    make(tmp_path / "a.mp4")
    (tmp_path / "b.mp4").write_bytes((tmp_path / "a.mp4").read_bytes().replace(b"avc1\0\0\0\0", b"vvc1\0\0\0\0"))
    with pytest.raises(BadClip, match="is encoded as vvc, expected H.264"):
        read_video(tmp_path / "b.mp4")


def test_chunks_of_an_avi(tmp_path, fd_of):
    make(tmp_path / "a.avi", codec="mpeg4")
    assert len(avi.stored_frames(fd_of(tmp_path / "a.avi"), 100).places) == 9
    content = (tmp_path / "a.avi").read_bytes()
    at = content.index(b"00dc", content.index(b"movi"))
    (tmp_path / "b.avi").write_bytes(content[:at] + b"00xx" + content[at + 4 :])
    with pytest.raises(Refused, match="a chunk '00xx' among the frames"):
        avi.stored_frames(fd_of(tmp_path / "b.avi"), 100)
    header = content.index(b"strh") + 8 + 32
    (tmp_path / "c.avi").write_bytes(content[:header] + struct.pack("<I", 12) + content[header + 4 :])
    with pytest.raises(Refused, match="got 9 frames, expected 12"):
        avi.stored_frames(fd_of(tmp_path / "c.avi"), 100)


GIGABYTES = 8 << 30


def never_filled(content: bytes, what: str) -> bytes:
    """The beginning of a file that is to have 8 GB, of which no more is on the disk."""
    if what == "after its end":
        return content
    if what == "after its head":
        return content[:64]
    if what == "in its middle":
        return content[: len(content) // 2]
    if what == "moov":  # of 8 GB
        at = content.index(b"moov") - 4
        return content[:at] + struct.pack(">I4sQ", 1, b"moov", GIGABYTES - at) + content[at + 8 :]
    segment, cluster = content.index(b"\x18\x53\x80\x67"), content.index(b"\x1f\x43\xb6\x75")
    longer = content[: segment + 4] + (1 << 56 | GIGABYTES - segment - 12).to_bytes(8, "big") + content[segment + 12 : cluster + 4]
    return longer + (1 << 56 | GIGABYTES - cluster - 12).to_bytes(8, "big") + content[cluster + 12 :][:200]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        *((f"a.{kind}", what) for kind in ("avi", "mkv") for what in ("after its end", "after its head", "in its middle")),
        ("a.mkv", "cluster"),
        *((f"a.{kind}", what) for kind in ("mp4", "mov") for what in ("after its head", "in its middle", "moov")),
    ],
)
def test_gigabytes_that_were_never_filled_are_told_at_once(tmp_path, name, what):
    """A download or a recorder reserves the whole file first. libav alone reads all of it in search of more."""
    make(tmp_path / name, codec="mpeg4" if name.endswith("avi") else "libx264")
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(never_filled(content, what))
    os.truncate(tmp_path / name, GIGABYTES)
    for look in (video_info, count_frames, read_video):
        began = time.perf_counter()
        with pytest.raises(BadClip, match=f"{name}: .*(damaged|truncated or no video); fix: copy or encode it again"):
            look(tmp_path / name)
        assert time.perf_counter() - began < 3


def test_an_avi_as_long_as_one_list_can_be(tmp_path):
    """Its 4 GB hold nine frames, and zeros where more were to come."""
    make(tmp_path / "a.avi", codec="mpeg4")
    content, whole = bytearray((tmp_path / "a.avi").read_bytes()), (4 << 30) - 2
    movie = content.index(b"movi")
    content[4:8], content[movie - 4 : movie] = struct.pack("<I", whole - 8), struct.pack("<I", whole - movie)
    (tmp_path / "a.avi").write_bytes(content)
    os.truncate(tmp_path / "a.avi", whole)
    began = time.perf_counter()
    with pytest.raises(BadClip, match="got zeros where a chunk should begin, expected one or the end"):
        read_video(tmp_path / "a.avi")
    assert time.perf_counter() - began < 3
