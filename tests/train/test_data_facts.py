"""What the data are like: a camera that stands still or moves, channels that never change, clips spread over the set."""

import numpy as np
import tiny_robot

from wfm_ar.data.formats import open_episodes
from wfm_ar.train.budget import STILL
from wfm_ar.train.data_facts import data_facts, some_clips, still_share


def test_facts_of_a_set(tmp_path):
    episodes = open_episodes(tiny_robot.write_robot(tmp_path, clips=5, frames=9))
    facts = data_facts(episodes.of_split("train"), episodes.of_split("val"))
    assert (facts.clips, facts.held_out, facts.frames, facts.median_frames, facts.fps) == (3, 2, 27, 9, 10)
    assert (facts.height, facts.width, facts.texts, facts.robots) == (48, 64, 2, 1)
    assert facts.channels == ("dx", "dy") and facts.constant == ("grip",)
    assert facts.still_share > 0.9
    same = data_facts(episodes, episodes)
    assert same.held_out == 0 and same.clips == 5


def test_a_moving_camera_is_found():
    world = np.random.default_rng(0).integers(0, 256, (16, 128, 3)).repeat(4, 0)
    moving = np.stack([world[:, 3 * t : 3 * t + 64] for t in range(20)]).astype(np.uint8)
    still = moving[:1].repeat(20, 0)
    still[:, 10:20, 10:20] = 255 * np.arange(20).reshape(-1, 1, 1, 1) % 251
    assert still_share(moving) < 0.2 < STILL < 0.9 < still_share(still)


def test_some_clips_are_spread_over_the_set(tmp_path):
    episodes = open_episodes(tiny_robot.write_robot(tmp_path, clips=6, frames=4))
    assert [one.id for one in some_clips(episodes, 3)] == ["000", "002", "005"]
    assert some_clips(episodes, 9) is episodes
