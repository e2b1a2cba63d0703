"""What counts as another recording of an episode, and what does not."""

import os
import shutil
from dataclasses import replace

import numpy as np
import pytest

from wfm_ar.data import fingerprint, open_episodes, write_episode, write_episodes
from wfm_ar.data.episodes import Place
from wfm_ar.data.fingerprint import frames_fingerprint, origins
from wfm_ar.data.video import write_video
from wfm_ar.errors import BadData
from wfm_ar.schema import ActionChannel, ActionSchema


@pytest.fixture
def clips(tmp_path):
    """Two clips of noise in a folder."""
    for i in range(2):
        write_video(tmp_path / f"set/{i}.mp4", np.random.default_rng(i).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8), 10)
    return open_episodes(tmp_path / "set")


@pytest.fixture(autouse=True)
def folder(tmp_path):
    (tmp_path / "set").mkdir()


def damage(path, at):
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_copy_elsewhere_is_the_same_and_another_clip_is_not(clips, tmp_path):
    shutil.copytree(clips.path, tmp_path / "moved")  # with other times of change
    for file in (tmp_path / "moved").iterdir():
        os.utime(file, ns=(1, 1))
    before = origins(clips)
    assert origins(open_episodes(tmp_path / "moved"), workers=2) == before
    assert before[0].frames != before[1].frames and before[0].actions == before[1].actions
    os.replace(clips.path / "0.mp4", clips.path / "1.mp4")
    assert frames_fingerprint(open_episodes(clips.path), 0) == before[0].frames


@pytest.mark.parametrize("at", [0, 700, -1])
def test_any_byte_of_a_small_file_counts(clips, at):
    before = frames_fingerprint(clips, 0)
    damage(clips[0].video, at)
    assert frames_fingerprint(clips, 0) != before


def test_of_a_large_file_its_ends_its_middle_its_size_and_its_time_count(clips, monkeypatch):
    monkeypatch.setattr(fingerprint, "PIECE", 64)
    file = clips[0].video
    file.write_bytes(bytes(1000))
    os.utime(file, ns=(5, 5))
    seen = {frames_fingerprint(clips, 0)}
    for at in (0, 63, 500, 999):
        file.write_bytes(bytes(1000))
        damage(file, at)
        os.utime(file, ns=(5, 5))
        seen.add(frames_fingerprint(clips, 0))
    file.write_bytes(bytes(1001))
    os.utime(file, ns=(5, 5))
    seen.add(frames_fingerprint(clips, 0))
    file.write_bytes(bytes(1000))
    damage(file, 300)  # where nobody looks
    os.utime(file, ns=(6, 6))
    seen.add(frames_fingerprint(clips, 0))
    assert len(seen) == 7


def test_a_stretch_of_a_file_is_known_by_its_own_bytes(clips, monkeypatch, tmp_path):
    """As a record of a TFRecord file is: its neighbours may change."""
    shared = tmp_path / "shared"
    shared.write_bytes(bytes(300))
    places = {"0.mp4": Place(shared, 0, 100), "1.mp4": Place(shared, 100, 200)}
    monkeypatch.setattr(type(clips.reader), "frames_from", lambda self, episode: [places[episode.id]])
    before = origins(clips)
    damage(shared, 150)
    assert [a.frames == b.frames for a, b in zip(before, origins(clips), strict=True)] == [True, False]


def test_rate_rows_text_and_schema_count(tmp_path):
    schema = ActionSchema(channels=(ActionChannel(name="dx", unit="m", low=-1, high=1),), rate_hz=10)
    frames = np.zeros((3, 16, 16, 3), np.uint8)
    record = write_episode(tmp_path, id="a", frames_THWC=frames, fps=10, split="train", text="go", actions=np.zeros((2, 1)))
    write_episodes(tmp_path, [record], schema)
    one = open_episodes(tmp_path)
    (before,) = origins(one)
    assert before == ("a", "go", frames_fingerprint(one, 0), before.actions)
    assert frames_fingerprint(replace(one, episodes=(replace(one[0], fps=20),)), 0) != before.frames
    (wider,) = origins(replace(one, schema=replace(schema, channels=(replace(schema.channels[0], high=2),))))
    assert wider.frames == before.frames and wider.actions != before.actions
    np.save(one[0].actions, np.array([[0], [0.5]], np.float32))
    assert origins(one)[0]._replace(actions=before.actions) == before != origins(one)[0]


def test_a_file_that_is_gone_is_told(clips):
    clips[1].video.unlink()
    with pytest.raises(BadData, match=r"1.mp4: cannot be read \(No such file or directory\).*fix: restore the file"):
        origins(clips)
