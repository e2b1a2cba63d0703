"""Held-out clips: the first ones that are long enough, in file order, at the tokenizer's size."""

from dataclasses import replace

import numpy as np
import pytest

from wfm_ar.data.episodes import write_episode, write_episodes
from wfm_ar.data.formats import open_episodes
from wfm_ar.errors import BadData
from wfm_ar.evaluate.heldout import HeldOut
from wfm_ar.schema import ActionChannel, ActionSchema

SCHEMA = ActionSchema(channels=(ActionChannel(name="dx", unit="m", low=-1, high=1),), rate_hz=10)


@pytest.fixture
def folder(tmp_path):
    """Six episodes of 9, 5, 9, 9 (train), 9, 9 frames; the last has a text alone."""
    rng = np.random.default_rng(0)
    records = []
    for i, length in enumerate((9, 5, 9, 9, 9, 9)):
        extra = {"actions": rng.normal(size=(length - 1, 1)), "state": {"peg_xy": rng.normal(size=(length, 2))}} if i < 5 else {}
        frames = np.full((length, 32, 48, 3), 40 * i, np.uint8)
        split = "train" if i == 3 else "val"
        records.append(write_episode(tmp_path, id=f"e{i}", frames_THWC=frames, fps=10, split=split, text=f"text {i}", **extra))
    write_episodes(tmp_path, records, SCHEMA)
    return tmp_path


def test_the_first_long_enough_episodes_of_the_split_in_file_order(folder):
    clips = HeldOut(open_episodes(folder, "val"), count=3, num_frames=9, height=16, width=16)
    assert [clip.id for clip in clips] == ["e0", "e2", "e4"] and clips.too_short == 1
    assert clips[1].frames.shape == (9, 16, 16, 3) and abs(int(clips[1].frames.mean()) - 80) <= 2
    assert clips[1].actions.shape == (8, 1) and clips[1].peg_xy.shape == (9, 2) and clips[1].text == "text 2"


def test_long_episodes_are_cut_and_missing_parts_are_none(folder):
    clips = HeldOut(open_episodes(folder, "val"), count=None, num_frames=5, height=32, width=48)
    assert len(clips) == 5 and clips.too_short == 0
    assert clips[0].frames.shape == (5, 32, 48, 3) and clips[0].actions.shape == (4, 1) and clips[0].peg_xy.shape == (5, 2)
    assert clips[4].actions is None and clips[4].peg_xy is None


def test_no_episode_long_enough_is_one_clear_line(folder):
    with pytest.raises(BadData, match="no held-out episode of 33 frames or more, the longest has 9; fix: set frames lower"):
        HeldOut(open_episodes(folder, "val"), count=3, num_frames=33, height=16, width=16)


def test_of_several_robots_each_is_looked_at(folder):
    episodes = open_episodes(folder, "val")
    robots = tuple(replace(episode, embodiment="hand" if i > 2 else "arm") for i, episode in enumerate(episodes))
    clips = HeldOut(replace(episodes, episodes=robots), count=1, num_frames=9, height=16, width=16)
    assert [(clip.id, clip.robot) for clip in clips] == [("e0", "arm"), ("e4", "hand")]
