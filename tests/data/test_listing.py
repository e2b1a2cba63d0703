"""Which files are data: no leftovers, no links out but to a hub cache's own blobs, no Git LFS pointers."""

import os

import numpy as np
import pytest
import tfrecord_maker as maker

from wfm_ar.data import check_data, open_episodes, read_image, video_info, write_image, write_video
from wfm_ar.data.json_files import read_json
from wfm_ar.data.listing import files_below, is_data, refuse_pointer, stays_inside
from wfm_ar.errors import BadClip, BadData
from wfm_ar.schema import ActionChannel, ActionSchema

FRAMES = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"ab" * 32 + b"\nsize 12345678\n"
MAC = b"\x00\x05\x16\x07" + bytes(60)  # what a Mac leaves as ._NAME on other file systems
RECORDS = "x-train.tfrecord-00000-of-00001"


def rlds_set(root, tmp_path):
    root.mkdir(parents=True)
    write_image(tmp_path / "a.png", FRAMES[0])
    pictures = [(tmp_path / "a.png").read_bytes()] * 3
    one = maker.example(steps__observation__image=pictures, steps__action=np.arange(6, dtype=np.float32))
    maker.write_records(root / RECORDS, [one, one])
    return root


@pytest.mark.parametrize(
    ("name", "read"),
    [("a.mp4", True), (RECORDS, True), ("._a.mp4", False), ("a.mp4.part", False), ("a.mp4.crdownload", False),
     (RECORDS + ".metadata", False), (RECORDS + ".idx", False),
     (".a.mp4.X.incomplete", False), ("a.mp4~", False), ("a.incomplete.mp4", True)],
)  # fmt: skip
def test_names_of_data(name, read):
    assert is_data(name) == read


def test_leftovers_beside_sound_files(tmp_path):
    root = rlds_set(tmp_path / "set", tmp_path)
    cache = root / ".cache/huggingface/download"
    cache.mkdir(parents=True)
    for path in (cache / (RECORDS + ".metadata"), root / (RECORDS + ".metadata"), root / (RECORDS + ".lock"), root / ("._" + RECORDS)):
        path.write_bytes(MAC)
    assert files_below(root) == [root / RECORDS]
    assert [episode.id for episode in open_episodes(root)] == [f"{RECORDS}:0", f"{RECORDS}:1"] and check_data(root) == []


def test_leftovers_in_a_lerobot_set(tmp_path):
    pytest.importorskip("pyarrow", reason="needs pyarrow, the extra [lerobot]")
    from wfm_ar.data.lerobot_write import Clip, write_lerobot

    made = [Clip(id=f"e{i}", split="train", text=None, frames=FRAMES, actions=np.zeros((4, 1), np.float32)) for i in range(2)]
    schema = ActionSchema(channels=(ActionChannel(name="dx", unit="m", low=-1, high=1),), rate_hz=10)
    write_lerobot(tmp_path / "set", made, fps=10, schema=schema)
    (tmp_path / "set/meta/episodes/chunk-000/._file-000.parquet").write_bytes(MAC)
    assert len(open_episodes(tmp_path / "set")) == 2 and check_data(tmp_path / "set") == []
    for file in ("meta/episodes/chunk-000/file-000.parquet", "data/chunk-000/file-000.parquet", "meta/info.json"):
        content = (tmp_path / "set" / file).read_bytes()
        (tmp_path / "set" / file).write_bytes(POINTER)
        with pytest.raises(BadData, match=f"{file}: .*Git LFS pointer"):
            open_episodes(tmp_path / "set")
        (tmp_path / "set" / file).write_bytes(content)


def test_links_of_a_hub_cache_are_followed_and_no_others(tmp_path):
    """hub/datasets--x--y/snapshots/REVISION/videos/a.mp4 -> ../../../blobs/HASH"""
    repository = tmp_path / "hub/datasets--x--y"
    snapshot = repository / "snapshots/0123abc"
    (snapshot / "videos").mkdir(parents=True)
    (repository / "blobs").mkdir()
    write_video(tmp_path / "a.mp4", FRAMES, 10)
    (tmp_path / "a.mp4").rename(repository / "blobs/77aa")
    os.symlink("../../../blobs/77aa", snapshot / "videos/a.mp4")
    for root in (snapshot, snapshot / "videos"):
        episodes = open_episodes(root)
        assert len(episodes) == 1 and episodes.load_frames(0).shape == FRAMES.shape
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("0123abc")
    os.symlink("../../../refs/main", snapshot / "videos/b.mp4")  # in the repository, and no blob
    assert not stays_inside(snapshot, snapshot / "videos/b.mp4")
    with pytest.raises(BadData, match="leads out of the folder"):
        open_episodes(snapshot)


def test_blobs_that_lead_elsewhere_are_not_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/secret").write_text("x")
    snapshot = tmp_path / "hub/datasets--x--y/snapshots/0"
    snapshot.mkdir(parents=True)
    os.symlink(tmp_path / "elsewhere", tmp_path / "hub/datasets--x--y/blobs")
    os.symlink("../../blobs/secret", snapshot / "a")
    assert not stays_inside(snapshot, snapshot / "a")
    plain = tmp_path / "plain/snapshots/0"  # a name that a hub cache never has
    (tmp_path / "plain/blobs").mkdir(parents=True)
    plain.mkdir(parents=True)
    (tmp_path / "plain/blobs/1").write_text("x")
    os.symlink("../../blobs/1", plain / "a")
    assert not stays_inside(plain, plain / "a")


@pytest.mark.parametrize("name", ["a.mp4", RECORDS, "a.hdf5"])
def test_a_pointer_is_called_one(tmp_path, name):
    if name.endswith("hdf5"):
        pytest.importorskip("h5py", reason="needs h5py, the extra [hdf5]")
    (tmp_path / name).write_bytes(POINTER)
    line = f"{name}: .*is a Git LFS pointer to a file of 12345678 bytes, .*; fix: run `git lfs pull` in its repository"
    with pytest.raises((BadData, BadClip), match=line):
        open_episodes(tmp_path)
    defects = [str(defect) for defect in check_data(tmp_path)]
    assert len(defects) == 1 and "Git LFS pointer" in defects[0] and defects[0].startswith(f"{tmp_path / name}: ")


def test_pointers_beside_a_clip_and_as_a_prompt(tmp_path):
    write_video(tmp_path / "a.mp4", FRAMES, 10)
    for suffix in (".npz", ".txt"):
        (tmp_path / f"a{suffix}").write_bytes(POINTER)
        with pytest.raises(BadData, match=f"a{suffix}: is a Git LFS pointer"):
            open_episodes(tmp_path)
        (tmp_path / f"a{suffix}").unlink()
    (tmp_path / "b.png").write_bytes(POINTER)
    for read in (read_image, video_info):
        with pytest.raises(BadClip, match="b.png: is a Git LFS pointer"):
            read(tmp_path / "b.png")
    with pytest.raises(ValueError, match="Git LFS pointer"):
        read_json(tmp_path / "b.png")
    assert refuse_pointer(tmp_path / "a.mp4") == tmp_path / "a.mp4" and refuse_pointer(tmp_path / "no") == tmp_path / "no"
