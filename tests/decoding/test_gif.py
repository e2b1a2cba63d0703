"""GIFs: whole, part by part, at uneven times, as a picture; damaged and cut off they are refused in one line."""

import io
import os
import random
import struct

import numpy as np
import pytest
from PIL import Image

from wfm_ar.data.video import count_frames, frame_times, read_image, read_video, video_info, write_video
from wfm_ar.data.video_files import even_numbers
from wfm_ar.decoding import gif
from wfm_ar.decoding.limits import Refused
from wfm_ar.errors import BadClip, OutputExists

HEADER = b"GIF89a" + struct.pack("<HHBBB", 4, 2, 0x80, 0, 0) + bytes((0, 0, 0, 255, 255, 255))  # 4x2, two colours
PICTURE = b"\x2c" + struct.pack("<HHHHB", 0, 0, 4, 2, 0) + b"\x02\x03\x44\x7e\x05\x00"  # 8 pixels of one colour


def blocks(few=24, height=24, width=32) -> np.ndarray:
    """A square that moves over another colour: a few colours, which a GIF keeps."""
    clip = np.full((few, height, width, 3), (40, 90, 200), np.uint8)
    for t in range(few):
        clip[t, 4:12, t : t + 8] = (250, 200, 10 * t)
    return clip


def control(delay: int) -> bytes:
    return b"\x21\xf9\x04" + struct.pack("<BHB", 0, delay, 0) + b"\x00"


def stored(path, content: bytes) -> gif.Stored:
    path.write_bytes(content)
    fd = os.open(path, os.O_RDONLY)
    try:
        return gif.stored_frames(fd, 1000)
    finally:
        os.close(fd)


@pytest.mark.parametrize(("fps", "count"), [(10, 24), (15, 24), (12.5, 3), (50, 24), (3, 1)])
def test_written_frames_and_their_rate_come_back(tmp_path, fps, count):
    path, clip = tmp_path / "a.gif", blocks(count)
    write_video(path, clip, fps)
    assert np.abs(read_video(path).astype(int) - clip).max() <= 8 and count_frames(path) == count
    info = video_info(path)
    assert (info.frames, info.height, info.width, info.codec, info.even) == (count, 24, 32, "gif", True)
    assert info.fps == pytest.approx(fps, rel=0.005 if count > 1 else 0.02)
    assert info.duration_s == pytest.approx(count / fps, abs=0.006)
    first = path.read_bytes()
    write_video(path, clip, fps, overwrite=True)
    assert path.read_bytes() == first
    with pytest.raises(OutputExists):
        write_video(path, clip, fps)


def test_a_part_is_the_part_of_the_whole_and_a_picture_is_the_first(tmp_path):
    path = tmp_path / "a.gif"
    write_video(path, blocks(), 10)
    whole = read_video(path)
    for start, end in ((0, 24), (0, 1), (7, 9), (23, 24)):
        assert np.array_equal(read_video(path, start, end - start), whole[start:end])
    assert np.array_equal(read_image(path), whole[:1])
    with pytest.raises(BadClip, match="got 24 frames in all, expected frames 20 to 24 too"):
        read_video(path, 20, 5)


def test_odd_sides_and_what_stands_still(tmp_path):
    for name, clip in (("odd.gif", blocks(3, 33, 17)), ("still.gif", np.repeat(blocks(1), 5, 0)), ("dot.gif", blocks(2, 1, 1))):
        write_video(tmp_path / name, clip, 10)
        assert np.abs(read_video(tmp_path / name).astype(int) - clip).max() <= 8


@pytest.mark.parametrize(
    ("fps", "lossless", "words"),
    [(60, False, "got 60 frames a second, expected at most 50"), (10, True, "256 colours"), (0, False, "expected a number above 0")],
)
def test_what_a_gif_cannot_hold(tmp_path, fps, lossless, words):
    with pytest.raises(BadClip, match=words):
        write_video(tmp_path / "a.gif", blocks(2), fps, lossless=lossless)
    assert not os.listdir(tmp_path)


def test_uneven_times_are_told_and_shown_evenly(tmp_path):
    """From another writer, which joins alike frames: the second is on for a whole second."""
    pictures, content = [Image.fromarray(frame) for frame in blocks(4)], io.BytesIO()
    pictures[0].save(content, format="gif", save_all=True, append_images=pictures[1:], duration=[100, 1000, 100, 0], loop=0)
    path = tmp_path / "a.gif"
    path.write_bytes(content.getvalue())
    assert frame_times(path) == pytest.approx([0, 0.1, 1.1, 1.2])
    assert not video_info(path).even
    assert even_numbers(path, 10).tolist() == [0, *[1] * 10, 2, 3]


def test_blocks_are_walked_through(tmp_path):
    comment, text = b"\x21\xfe\x03abc\x00", b"\x21\x01\x01x\x02yz\x00"
    found = stored(tmp_path / "a.gif", HEADER + comment + control(7) + PICTURE + text + control(0) + PICTURE + PICTURE + b"\x3b")
    assert found.times.tolist() == [0, 7, 17] and found.total == 27  # what is told to last nothing lasts a tenth of a second
    assert found.places[0] == len(HEADER) and found.first_end == len(HEADER + comment + control(7) + PICTURE)
    assert found.rate == 0 and stored(tmp_path / "a.gif", HEADER + (control(4) + PICTURE) * 3 + b"\x3b").rate == 0
    nearly = b"".join(control(delay) + PICTURE for delay in (7, 6, 7, 7, 6))
    assert stored(tmp_path / "a.gif", HEADER + nearly + b"\x3b").rate == 15


def test_every_cut_is_refused(tmp_path):
    content = HEADER + control(7) + PICTURE + control(7) + PICTURE + b"\x3b"
    assert len(stored(tmp_path / "a.gif", content).places) == 2
    for end in range(6, len(content)):
        with pytest.raises(Refused, match="ends before its last block"):
            stored(tmp_path / "a.gif", content[:end])
    write_video(tmp_path / "whole.gif", blocks(), 10)
    whole = (tmp_path / "whole.gif").read_bytes()
    for name, read in (("video", read_video), ("image", read_image), ("info", video_info)):
        (tmp_path / f"{name}.gif").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(BadClip, match=rf"{name}\.gif: ends before its last block"):
            read(tmp_path / f"{name}.gif")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (HEADER + b"\x3b", "no picture"),
        (HEADER + PICTURE + b"\x3b" + PICTURE, "16 bytes behind its end"),
        (HEADER + PICTURE + b"\x00" + b"\x3b", "a block 0x00"),
        (HEADER + b"\x21\xf9\x05" + bytes(6) + PICTURE + b"\x3b", "a graphic control block of 5 bytes"),
        (HEADER + PICTURE * 1001 + b"\x3b", "more than 1000 frames"),
        (HEADER + PICTURE[:-1] + b"\x04\x01\x02\x03\x04" + PICTURE[-1:] + b"\x3b", "sub-blocks of 3, 3 and 4 bytes in one picture"),
        (HEADER + PICTURE[:-1] + b"\x01\x01\x03abc" + PICTURE[-1:] + b"\x3b", "sub-blocks of 3, 1 and 3 bytes in one picture"),
        (b"GIF88a" + HEADER[6:] + PICTURE + b"\x3b", "no header"),
    ],
)
def test_what_is_not_whole_is_refused(tmp_path, content, words):
    with pytest.raises(Refused, match=words):
        stored(tmp_path / "a.gif", content)


def test_the_last_block_of_a_picture_may_be_shorter(tmp_path):
    content = HEADER + (PICTURE[:-1] + b"\x03abc\x02de" + PICTURE[-1:]) * 2 + b"\x3b"
    assert len(stored(tmp_path / "a.gif", content).places) == 2


def test_damaged_it_has_all_its_pictures_or_is_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (9, 20, 30, 3), dtype=np.uint8)
    write_video(tmp_path / "a.gif", noise, 10)
    whole, refused = (tmp_path / "a.gif").read_bytes(), 0
    for seed in range(400):
        rng, damaged = random.Random(seed), bytearray(whole)
        start, end = sorted(rng.randrange(len(whole)) for _ in range(2))
        if seed % 2:
            damaged[start] = rng.choice((0, 0x21, 0x2C, 0x3B, 0xFF, rng.randrange(256)))
        else:
            del damaged[start:end]
        try:
            assert len(stored(tmp_path / "b.gif", bytes(damaged)).places) == 9
        except Refused:
            refused += 1
    assert 200 <= refused < 400


def test_a_picture_that_stops_in_its_middle_is_refused(tmp_path):
    """libav shows the rest of it as it was, and tells its log alone."""
    noise = np.random.default_rng(0).integers(0, 255, (3, 40, 56, 3), dtype=np.uint8)
    write_video(tmp_path / "a.gif", noise, 10)
    whole = bytearray((tmp_path / "a.gif").read_bytes())
    refused = 0
    for at in range(900, 2500, 100):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        (tmp_path / "b.gif").write_bytes(damaged)
        try:
            assert read_video(tmp_path / "b.gif").shape == noise.shape
        except BadClip as error:
            assert str(error).count("\n") == 0
            refused += "has a picture that is damaged" in str(error)
    assert refused


def test_a_huge_screen_is_refused_before_it_is_drawn(tmp_path):
    path = tmp_path / "a.gif"
    path.write_bytes(HEADER[:6] + struct.pack("<HH", 65535, 65535) + HEADER[10:] + PICTURE + b"\x3b")
    for read in (read_video, read_image):
        with pytest.raises(BadClip, match="a.gif: "):
            read(path)
