import errno
import io
import os
import random
from fractions import Fraction

import av
import numpy as np
import pytest

from wfm_ar.data import files as files_module
from wfm_ar.data import read_image, read_video, resize_crop, video_info, write_image, write_video
from wfm_ar.data.video import count_frames
from wfm_ar.errors import BadClip, NoSpace, OutputExists


def make_clip(num_frames=13, height=32, width=48, seed=0) -> np.ndarray:
    """A smooth moving pattern, so that H.264 can show it well."""
    t, y, x = np.mgrid[:num_frames, :height, :width] / 8.0
    waves = [np.sin(x + t + seed), np.cos(y - t), np.sin(x + y + 2 * t)]
    return np.stack([127 + 100 * wave for wave in waves], axis=-1).astype(np.uint8)


def make_noise(num_frames=13, height=32, width=48) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


def psnr(a, b) -> float:
    return 10 * np.log10(255**2 / max(((a.astype(float) - b) ** 2).mean(), 1e-9))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".avi"])
@pytest.mark.parametrize("num_frames", [1, 2, 13])
def test_written_frames_come_back(tmp_path, suffix, num_frames):
    clip = make_clip(num_frames)
    path = tmp_path / f"clip{suffix}"
    write_video(path, clip, 10)
    back = read_video(path)
    assert back.shape == clip.shape and back.dtype == np.uint8
    assert psnr(back, clip) > 30
    assert count_frames(path) == num_frames
    info = video_info(path)
    assert (info.frames, info.fps, info.height, info.width, info.codec) == (num_frames, 10.0, 32, 48, "h264")
    assert info.duration_s == pytest.approx(num_frames / 10, abs=0.11)
    assert os.listdir(tmp_path) == [path.name]  # no temporary file left


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("size", [(32, 48), (31, 47)])
def test_lossless_keeps_every_bit(tmp_path, suffix, size):
    noise = make_noise(5, *size)
    write_video(tmp_path / f"a{suffix}", noise, 24, lossless=True)
    np.testing.assert_array_equal(read_video(tmp_path / f"a{suffix}"), noise)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".avi"])
@pytest.mark.parametrize("lossless", [False, True])
def test_written_clips_say_which_colours_they_hold(tmp_path, suffix, lossless):
    """Without the tags players take large pictures for BT.709, and show other colours than were written."""
    write_video(tmp_path / f"a{suffix}", np.full((3, 64, 64, 3), (200, 40, 90), np.uint8), 10, lossless=lossless)
    with av.open(str(tmp_path / f"a{suffix}")) as container:
        frame = next(container.decode(video=0))
    told = (frame.color_primaries, frame.color_trc, frame.colorspace, frame.color_range)
    assert tuple(map(int, told)) == ((1, 1, 0, 2) if lossless else (1, 1, 6, 1))
    if not lossless:
        luma = 16 + (65.738 * 200 + 129.057 * 40 + 25.064 * 90) / 256  # of BT.601; by BT.709 it would be 83
        assert frame.to_ndarray()[:64].mean() == pytest.approx(luma, abs=1)
    shown = read_video(tmp_path / f"a{suffix}").astype(int)
    assert np.abs(shown - (200, 40, 90)).max() <= (0 if lossless else 4)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_same_frames_same_bytes(tmp_path, suffix):
    for name in "ab":
        write_video(tmp_path / f"{name}{suffix}", make_clip(), 10)
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_the_bytes_do_not_vary_with_what_lies_in_memory(tmp_path):
    """They did, at some sizes, where the processor has AVX-512."""
    rng = np.random.default_rng(0)
    still = np.kron(rng.integers(0, 255, (16, 20, 3), np.uint8), np.ones((8, 8, 1), np.uint8))
    frames = np.stack([np.roll(still, t, 1) for t in range(12)])
    seen = set()
    for _ in range(12):
        junk = [rng.bytes(int(rng.integers(1000, 400_000))) for _ in range(20)]
        del junk
        write_video(tmp_path / "a.mp4", frames, 10, overwrite=True)
        seen.add((tmp_path / "a.mp4").read_bytes())
    assert len(seen) == 1


def test_what_stands_still_stays_still(tmp_path):
    """A codec that repaints the background by a grey level or two gives the tokenizer changes where there are none."""
    y, x = np.mgrid[0:96, 0:144]
    table = np.stack([60 + x // 2, 80 + y // 2, 120 + (x // 12 + y // 12) % 2 * 30], -1).astype(np.uint8)
    frames = np.repeat(table[None], 24, 0)
    for t, frame in enumerate(frames):
        frame[70:86, 4 + 4 * t : 20 + 4 * t] = 220, 30, 30
    write_video(tmp_path / "a.mp4", frames, 10)
    above = read_video(tmp_path / "a.mp4")[:, :60].astype(int)
    assert np.abs(np.diff(above, axis=0)).mean((1, 2, 3)).max() < 0.05


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_part_is_the_part_of_the_whole(tmp_path, suffix):
    path = tmp_path / f"long{suffix}"
    write_long(path, make_clip(300, 16, 16))
    whole = read_video(path)
    for start, count in [(0, 1), (0, 300), (7, 3), (49, 1), (50, 2), (51, 60), (123, 17), (299, 1), (290, 10)]:
        np.testing.assert_array_equal(read_video(path, start, count), whole[start : start + count])
    np.testing.assert_array_equal(read_video(path, 280), whole[280:])
    with pytest.raises(BadClip, match="got 300 frames in all, expected frames 290 to 300 too"):
        read_video(path, 290, 11)
    with pytest.raises(BadClip, match="expected frame 300"):
        read_video(path, 300)
    for start, count in [(-1, None), (0, 0), (0, -2)]:
        with pytest.raises(BadClip, match="start >= 0 and count >= 1"):
            read_video(path, start, count)


def write_long(path, clip, times=None) -> None:
    """With key frames every 50 frames and B-frames; `times` gives uneven time stamps (1/30 s)."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt, stream.gop_size, stream.max_b_frames = "yuv420p", 50, 2
        for i, image in enumerate(clip):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = int(i if times is None else times[i]), Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_a_part_of_an_unevenly_timed_clip(tmp_path):
    path = tmp_path / "uneven.mp4"
    times = np.cumsum(np.random.default_rng(0).integers(1, 5, 200))
    write_long(path, make_clip(200, 16, 16), times)
    whole = read_video(path)
    assert len(whole) == 200
    for start, count in [(30, 2), (99, 20), (150, 50)]:
        np.testing.assert_array_equal(read_video(path, start, count), whole[start : start + count])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".avi", ".mov"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.98])
def test_a_truncated_file_is_never_a_short_clip(tmp_path, suffix, share):
    path = tmp_path / f"clip{suffix}"
    write_video(path, make_noise(40), 10)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    for read in (read_video, count_frames):
        with pytest.raises(BadClip) as caught:
            read(path)
        assert str(path) in str(caught.value) and "; fix: " in str(caught.value) and "\n" not in str(caught.value)


def test_a_truncated_file_with_its_index_in_front(tmp_path):
    path = tmp_path / "fast.mp4"
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        for image in make_noise(40):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    assert len(read_video(path)) == 40
    path.write_bytes(path.read_bytes()[:-2000])
    for read in (read_video, count_frames):
        with pytest.raises(BadClip, match="truncated"):
            read(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"hello", b"#EXTM3U\n#EXTINF:1,\nother.mp4\n", b"ffconcat version 1.0\nfile other.mp4\n", random.Random(0).randbytes(5000)],
    ids=["empty", "text", "playlist", "list of files", "noise"],
)
def test_what_is_no_video_is_refused(tmp_path, content):
    write_video(tmp_path / "other.mp4", make_clip(3), 10)
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    for read in (read_video, count_frames, video_info):
        with pytest.raises(BadClip, match="clip.mp4"):
            read(path)


def test_only_regular_local_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    for path in (tmp_path / "none.mp4", tmp_path, tmp_path / "pipe.mp4", "http://127.0.0.1/a.mp4", "concat:a.mp4|b.mp4"):
        with pytest.raises(BadClip, match="expected a local video file"):
            read_video(path)
    odd = tmp_path / "concat:a|b %03d.mp4"
    write_video(odd, make_clip(3), 10)
    assert len(read_video(odd)) == 3


def test_sound_alone_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(BadClip, match="no video stream"):
        read_video(tmp_path / "a.mp4")


@pytest.mark.parametrize(
    ("frames", "fps", "name", "words"),
    [
        (np.zeros((0, 8, 8, 3), np.uint8), 10, "a.mp4", "expected uint8"),
        (np.zeros((2, 8, 8), np.uint8), 10, "a.mp4", "expected uint8"),
        (np.zeros((2, 8, 8, 3), np.float32), 10, "a.mp4", "got float32"),
        (np.zeros((2, 7, 8, 3), np.uint8), 10, "a.mp4", "even sides"),
        (np.zeros((2, 8, 8, 3), np.uint8), 0, "a.mp4", "fps 0"),
        (np.zeros((2, 8, 8, 3), np.uint8), float("nan"), "a.mp4", "fps nan"),
        (np.zeros((2, 8, 8, 3), np.uint8), 10, "a.webm", "suffix"),
        (np.zeros((2, 8, 8, 3), np.uint8), 10, "a", "suffix"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, frames, fps, name, words):
    with pytest.raises(BadClip, match=words):
        write_video(tmp_path / name, frames, fps)
    assert os.listdir(tmp_path) == []


def test_nothing_is_overwritten_unasked(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"precious")
    with pytest.raises(OutputExists, match="overwrite=true"):
        write_video(path, make_clip(3), 10)
    assert path.read_bytes() == b"precious"
    write_video(path, make_clip(3), 10, overwrite=True)
    assert len(read_video(path)) == 3
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(OutputExists):
        write_video(tmp_path / "folder.mp4", make_clip(3), 10, overwrite=True)


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    write_video(path, make_clip(3), 10)
    before = path.read_bytes()

    class FullFile(io.BytesIO):
        def __init__(self, name, mode):
            super().__init__()
            open(name, mode).close()

        def write(self, content):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files_module, "open", FullFile, raising=False)
    with pytest.raises(NoSpace, match="no space left"):
        write_video(path, make_clip(4), 10, overwrite=True)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["a.mp4"]


def test_images(tmp_path):
    image = make_noise(1, 31, 47)[0]
    write_image(tmp_path / "a.png", image)
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), image[None])
    with pytest.raises(OutputExists):
        write_image(tmp_path / "a.png", image)
    with pytest.raises(BadClip, match="expected .png"):
        write_image(tmp_path / "a.jpg", image)
    content = (tmp_path / "a.png").read_bytes()
    for bad in (b"", b"hello", content[:20], content[: len(content) // 2]):
        (tmp_path / "b.png").write_bytes(bad)
        with pytest.raises(BadClip, match="b.png"):
            read_image(tmp_path / "b.png")
    with pytest.raises(BadClip, match="does not exist"):
        read_image(tmp_path / "none.png")


def test_resize_is_an_area_mean():
    clip = make_noise(2, 64, 96)
    expected = clip.reshape(2, 32, 2, 48, 2, 3).mean(axis=(2, 4))
    assert np.abs(resize_crop(clip, 32, 48) - expected).max() <= 0.5 + 1e-4
    assert resize_crop(clip, 64, 96) is clip or (resize_crop(clip, 64, 96) == clip).all()


def test_resize_crops_the_middle():
    clip = np.zeros((1, 40, 100, 3), np.uint8)
    clip[:, :, 30:70] = 200  # the centred square
    assert (resize_crop(clip, 20, 20) == 200).all()
    tall = clip.transpose(0, 2, 1, 3)
    assert (resize_crop(tall, 20, 20) == 200).all()
    assert (resize_crop(clip, 64, 64) == 200).all()


@pytest.mark.parametrize("old", [(48, 48), (33, 57), (7, 200), (1, 1)])
@pytest.mark.parametrize("new", [(32, 32), (16, 48), (100, 31), (1, 1)])
def test_resize_any_shape_keeps_a_flat_colour(old, new):
    clip = np.full((2, *old, 3), (10, 120, 255), np.uint8)
    resized = resize_crop(clip, *new)
    assert resized.shape == (2, *new, 3) and (resized == (10, 120, 255)).all()
