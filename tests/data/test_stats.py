import numpy as np
import pytest

from wfm_ar.data.episodes import write_episode, write_episodes
from wfm_ar.data.stats import BINS, channel_stats, data_stats
from wfm_ar.data.video import write_video
from wfm_ar.schema import ActionChannel, ActionSchema

SCHEMA = ActionSchema(
    channels=(
        ActionChannel(name="dx", unit="m", low=-1, high=1),
        ActionChannel(name="still", unit="", low=0, high=1),
        ActionChannel(name="narrow", unit="", low=-50, high=50),
    ),
    rate_hz=10,
)


def frames(count: int, size: int = 16) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 255, (count, size, size, 3), dtype=np.uint8)


def test_numbers_of_a_small_set(tmp_path):
    actions = np.zeros((9, 3), np.float32)
    actions[:, 0], actions[:, 2] = np.linspace(-1, 1, 9), np.linspace(0, 1, 9)
    records = [
        write_episode(tmp_path, id="a", frames_THWC=frames(10), fps=10, split="train", text="Push the red cube", actions=actions),
        write_episode(tmp_path, id="b", frames_THWC=frames(10), fps=10, split="train", text="push the ball's box", actions=actions),
        write_episode(tmp_path, id="c", frames_THWC=frames(4, 32), fps=5, split="train"),
    ]
    write_episodes(tmp_path, records, SCHEMA)
    seen = []
    stats = data_stats(tmp_path, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert stats.frames == (10, 10, 4) and stats.seconds == pytest.approx((1.0, 1.0, 0.8))
    assert stats.rates == {5.0: 1, 10.0: 2} and stats.sizes == {(16, 16): 2, (32, 32): 1} and stats.splits == {"train": 3}
    assert stats.words == {"push": 2, "the": 2, "red": 1, "cube": 1, "ball's": 1, "box": 1}
    assert (stats.with_text, stats.with_actions, stats.with_state, len(stats.texts)) == (2, 2, 0, 2)
    dx, still, narrow = stats.channels
    assert (dx.minimum, dx.maximum, dx.count, dx.clipped) == (-1, 1, 18, 0) and dx.mean == pytest.approx(0) and sum(dx.counts) == 18
    assert len(dx.edges) == BINS + 1 and (still.minimum, still.maximum, still.std) == (0, 0, 0)
    told = "\n".join(stats.notes)
    for words in (
        "'still': is 0 throughout",
        "'narrow': uses 1 % of its range",
        "frame rates differ: 5, 10",
        "2 picture sizes",
        "episodes of fewer than 5 frames, too few to learn motion from: 1",
        "1 of 3 episodes have no text",
        "nothing is held out",
    ):
        assert words in told
    assert len(stats.notes) == 7


def test_a_value_at_the_limit_is_not_clipped():
    schema = ActionSchema(channels=(ActionChannel(name="x", unit="", low=-0.1, high=0.1),), rate_hz=10)
    values = np.array([[-0.1], [0.1], [0.0], [0.11]], np.float32)
    assert channel_stats("", schema, values, 0).clipped == 0.25


def test_a_folder_of_videos(tmp_path):
    write_video(tmp_path / "a.mp4", frames(6), 10)
    write_video(tmp_path / "b.mp4", frames(7), 10)
    stats = data_stats(tmp_path)
    assert stats.frames == (6, 7) and stats.channels == () and stats.words == {} and stats.notes == ()
