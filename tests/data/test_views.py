"""A set seen at a lower rate, or upside down: frame, action and state belong together as before."""

import numpy as np
import pytest

from wfm_ar.cli import main
from wfm_ar.data import check_data, summarize, write_episode, write_episodes, write_video
from wfm_ar.data.convert import convert_set
from wfm_ar.data.fingerprint import origins
from wfm_ar.data.formats import open_episodes
from wfm_ar.errors import BadClip, BadConfig
from wfm_ar.schema import ActionChannel, ActionSchema, MixedSchema

CHANNELS = (
    ActionChannel(name="dx", unit="m", low=-1, high=2, motion="delta"),
    ActionChannel(name="x", unit="m", low=0, high=50, motion="absolute"),
    ActionChannel(name="vx", unit="m/s", low=0, high=50, motion="velocity"),
    ActionChannel(name="grip", unit="", low=0, high=1, discrete=True),
    ActionChannel(name="fixed", unit="m", low=0.5, high=0.5, constant=True, motion="delta"),
)
ROWS = np.arange(20, dtype=np.float32)


def frames(count):
    """Frame t is of brightness 10 * t, and darker below."""
    out = np.zeros((count, 16, 16, 3), np.uint8)
    out[:] = 10 * np.arange(count)[:, None, None, None]
    out[:, 8:] //= 2
    return out


def own_set(root, rate=30, channels=CHANNELS, count=21):
    actions = np.stack([ROWS / 10, ROWS, ROWS, ROWS % 2, np.full(20, 0.5)], 1).astype(np.float32)[: count - 1, : len(channels)]
    records = []
    for name, split in (("a", "train"), ("b", "val")):
        keys = dict(fps=rate, split=split, text="go", actions=actions, state={"t": np.arange(count), "name": np.array(["cube"])})
        records.append(write_episode(root, id=name, frames_THWC=frames(count), lossless=True, **keys))
    write_episodes(root, records, ActionSchema(channels=channels, rate_hz=rate))
    return root


def brightness(frames_THWC):
    return (frames_THWC[:, 0, 0, 0] // 10).tolist()


def test_thinned_frames_actions_and_state_stay_together(tmp_path):
    whole, thin = open_episodes(own_set(tmp_path)), open_episodes(tmp_path, fps=10)
    assert thin[0].fps == 10 and thin.num_frames(0) == 7 and brightness(thin.load_frames(0)) == [0, 3, 6, 9, 12, 15, 18]
    assert brightness(thin.load_frames(0, 2, 3)) == [6, 9, 12] and thin.load_state(0)["t"].tolist() == [0, 3, 6, 9, 12, 15, 18]
    assert thin.load_state(0)["name"].tolist() == ["cube"]
    expected = [[(3 * k + 1) * 0.3, 3 * k + 2, 3 * k + 1, (3 * k + 2) % 2, 0.5] for k in range(6)]
    assert np.allclose(thin.load_actions(0), expected)
    assert [(c.low, c.high) for c in thin.schema.channels] == [(-3, 6), (0, 50), (0, 50), (0, 1), (0.5, 0.5)] and thin.schema.rate_hz == 10
    assert "2 of 2 episodes thinned from 30 to 10 frames a second" in thin.about()
    assert "actions summed (dx); held (x, grip); averaged (vx)" in thin.about()
    with pytest.raises(BadClip, match="episode a: got 7 frames at 10 a second, expected frames 5 to 7 too"):
        thin.load_frames(0, 5, 3)
    both = [origins(one) for one in (whole, thin)]
    assert all(a.frames != b.frames and a.actions != b.actions for a, b in zip(*both, strict=True))
    assert open_episodes(tmp_path, fps=29.97).load_frames(0).shape == (21, 16, 16, 3)  # one rate


def test_an_odd_ratio_and_long_gaps(tmp_path):
    own_set(tmp_path / "a")
    thin = open_episodes(tmp_path / "a", fps=20)
    assert brightness(thin.load_frames(0)) == [0, 1, 3, 4, 6, 7, 9, 10, 12, 13, 15, 16, 18, 19]
    assert np.allclose(thin.load_actions(0)[:3, 0], [0.0, 0.3, 0.3]) and thin.schema.channels[0].high == 4
    (tmp_path / "long").mkdir()
    write_video(tmp_path / "long/a.mp4", np.repeat(frames(25), 10, 0), 50, lossless=True)
    slow = open_episodes(tmp_path / "long", fps=0.5)  # a frame of a hundred
    assert brightness(slow.load_frames(0)) == [0, 10, 20] and brightness(slow.load_frames(0, 1, 2)) == [10, 20]


def test_a_thinned_set_is_converted_and_checked_as_it_is_seen(tmp_path):
    own_set(tmp_path / "a")
    assert check_data(tmp_path / "a", fps=10) == [] and summarize(tmp_path / "a", fps=10).frames == 14
    convert_set(open_episodes(tmp_path / "a", fps=10, flip="vertical"), tmp_path / "b", "episodes", lossless=True)
    made, seen = open_episodes(tmp_path / "b"), open_episodes(tmp_path / "a", fps=10)
    assert check_data(tmp_path / "b") == [] and made[0].fps == 10 and (made.load_actions(0) == seen.load_actions(0)).all()
    assert (made.load_frames(0)[:, ::-1] == seen.load_frames(0)).all()


def test_what_cannot_be_thinned(tmp_path):
    own_set(tmp_path / "a", channels=(ActionChannel(name="q", unit="", low=0, high=2), *CHANNELS[1:]))
    line = r"fps: .*: channel 'q' does not say whether it is a step or a place, .*; fix: give its motion in .*a/actions.json"
    with pytest.raises(BadConfig, match=line):
        open_episodes(tmp_path / "a", fps=10)
    with pytest.raises(BadConfig, match="fps: got 60, but .* has 30 frames a second, expected at most that"):
        open_episodes(tmp_path / "a", fps=60)


def test_robots_of_two_rates_thin_alone(tmp_path):
    """The slower one keeps its rate and its rows."""
    paths = own_set(tmp_path / "fast"), own_set(tmp_path / "slow", rate=10, channels=CHANNELS[:2])
    mixed = open_episodes(":".join(map(str, paths)), fps=10)
    assert isinstance(mixed.schema, MixedSchema) and [part.rate_hz for _, part in mixed.schema.embodiments] == [10, 10]
    assert [mixed.num_frames(i) for i in range(4)] == [7, 7, 21, 21] and mixed.load_actions(0).shape == (6, 5)
    assert (mixed.load_actions(2)[:, 1] == ROWS).all() and brightness(mixed.load_frames(2))[:4] == [0, 1, 2, 3]
    assert "2 of 4 episodes thinned from 30 to 10" in mixed.about()
    untouched = open_episodes(":".join(map(str, paths)))
    assert [part.rate_hz for _, part in untouched.schema.embodiments] == [30, 10]


def test_pictures_stored_bottom_row_first(tmp_path, capsys):
    own_set(tmp_path)
    plain, turned = open_episodes(tmp_path), open_episodes(tmp_path, flip="vertical")
    assert (turned.load_frames(0, 3, 2) == plain.load_frames(0, 3, 2)[:, ::-1]).all() and turned.load_frames(0)[3, 0, 0, 0] == 15
    assert "turned upside down" in turned.about() and (turned.load_actions(0) == plain.load_actions(0)).all()
    assert origins(turned)[0].frames != origins(plain)[0].frames
    with pytest.raises(BadConfig, match='flip: got .vertcal. \\(did you mean "vertical"'):
        open_episodes(tmp_path, flip="vertcal")
    assert main(["data", "check", str(tmp_path), "sheet=null", "flip=vertical"]) == 0
    assert "turned upside down" in capsys.readouterr().out
