"""Corrupt video files: the short form of tools/campaigns/hostile_videos.py, and the cases that long runs found."""

import struct

import hostile_videos as campaign
import pytest

from wfm_ar.data.video import read_video
from wfm_ar.decoding import pool
from wfm_ar.errors import BadClip

CLIPS = {name: how for name, *how in campaign.KINDS}


def test_four_hundred_files_none_silently_short(tmp_path):
    report = campaign.run(400, 0, tmp_path)
    assert report.failures == [] and report.cases == 400
    assert report.outcomes["refused"] > 200 and report.outcomes["full"] > 50
    assert pool.child_ids() == []


@pytest.mark.parametrize("name", CLIPS)
def test_every_sound_clip_is_read_whole(tmp_path, name):
    """Else refusing everything would pass."""
    path = tmp_path / name
    path.write_bytes(campaign.make_clip(*CLIPS[name]))
    assert campaign.check(campaign.Case(path, None, campaign.FRAMES)) == "full"
    assert len(read_video(path, 3, 6)) == 6


def with_field(content: bytes, box: bytes, at: int, value: int, nth: int = 0) -> bytes:
    start = [begin for kind, begin, _ in campaign.boxes(content, 0, len(content)) if kind == box][nth]
    return content[: start + at] + struct.pack(">I", value) + content[start + at + 4 :]


@pytest.mark.parametrize(
    ("name", "box", "at", "value", "nth"),
    [
        ("h264-fragments.mp4", b"trun", 4, int.from_bytes(b"mdat"), 1),  # a fragment without its run: 8 of 12 frames
        ("h264-fragments.mp4", b"trun", 4, int.from_bytes(b"free"), 0),
        ("h264-fragments.mp4", b"traf", 4, int.from_bytes(b"free"), 1),
        ("h264-fragments.mp4", b"tfhd", 0, 0, 0),  # a header that swallows the run behind it
        ("h264.mp4", b"elst", 20, 8, 0),  # an edit that begins just after the first frame: libav drops it
        ("h264-b-frames.mp4", b"elst", 20, 2049, 0),
        ("h264.mp4", b"elst", 16, 500, 0),  # an edit that ends early: the last frames are hidden
        ("h264.mp4", b"mvhd", 20, 4000, 0),  # the edit's length in another unit
        ("h264.mp4", b"stts", 16, 6, 0),  # times of half of the samples
        ("h264.mp4", b"stsz", 16, 6, 0),  # sizes of half of the samples
        ("h264.mp4", b"stsc", 20, 6, 0),
        ("h264-index-first.mp4", b"ctts", 20, 1, 0),  # the first frame shown earlier, before the edit begins
    ],
)
def test_what_long_runs_found(tmp_path, name, box, at, value, nth):
    path = tmp_path / name
    path.write_bytes(with_field(campaign.make_clip(*CLIPS[name]), box, at, value, nth))
    with pytest.raises(BadClip, match="; fix: "):
        read_video(path)


@pytest.mark.parametrize("length", [900, 1500])
def test_known_bad_cuts(tmp_path, length):
    """A file cut inside its first frame crashes some readers (PyAV #2344) or gives no frames and no error."""
    for name, how in CLIPS.items():
        content = campaign.make_clip(*how)
        path = tmp_path / name
        path.write_bytes(content[:length])
        with pytest.raises(BadClip, match="; fix: "):
            read_video(path)


def test_a_hundred_thousand_frames_in_a_small_file(tmp_path):
    """Twelve pictures, played 8,000 times by the tables: more samples than the file has room for."""
    content = campaign.make_clip(*CLIPS["h264.mp4"])
    path = tmp_path / "long.mp4"
    path.write_bytes(with_field(with_field(content, b"stts", 16, 100_000), b"stsz", 16, 100_000))
    with pytest.raises(BadClip, match="damaged"):
        read_video(path)


def test_no_file_is_opened_but_the_one_asked_for(tmp_path, monkeypatch):
    """A playlist beside a sound clip does not lead to it, and neither does a name with a protocol."""
    (tmp_path / "other.mp4").write_bytes(campaign.make_clip(*CLIPS["mpeg4.mp4"]))
    (tmp_path / "list.mp4").write_bytes(b"#EXTM3U\n#EXTINF:1,\nother.mp4\n#EXT-X-ENDLIST\n")
    monkeypatch.chdir(tmp_path)
    for path in ("list.mp4", "concat:other.mp4", "file:other.mp4", "subfile,,start,0,end,0,,:other.mp4"):
        with pytest.raises(BadClip):
            read_video(path)
    assert len(read_video("other.mp4")) == campaign.FRAMES
