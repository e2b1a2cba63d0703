"""RLDS episodes: real ones of BridgeData, and small ones of our own with every mistake in them."""

import json
from pathlib import Path

import numpy as np
import pytest
import tfrecord_maker as maker

from wfm_ar.data import check_data, open_episodes, rlds, write_image, write_video
from wfm_ar.data.fingerprint import origins
from wfm_ar.data.tfrecord import read_record
from wfm_ar.errors import BadActions, BadClip, BadConfig, BadData

example, write_records = maker.example, maker.write_records

REAL = Path(__file__).parents[3] / "shared" / "real" / "octo_bridge"


def picture(value: int, folder: Path, size: int = 8) -> bytes:
    path = folder / f"{value}-{size}.png"
    if not path.exists():
        write_image(path, np.full((size, size, 3), value, np.uint8))
    return path.read_bytes()


@pytest.fixture
def make(tmp_path):
    """make(**changed features of the second episode) -> folder of three episodes of 4 steps, 2-D actions, two cameras."""

    def build(**changes):
        records = []
        for i in range(3):
            features = {
                "steps__observation__front": [picture(40 * i + t, tmp_path) for t in range(4)],
                "steps__observation__wrist": [picture(200 + t, tmp_path, 4) for t in range(4)],
                "steps__observation__state": np.arange(12, dtype=np.float32),
                "steps__action": np.arange(8, dtype=np.float32) + i,
                "steps__language_instruction": [b"push"] * 4,
            }
            if i == 1:
                features = {k: v for k, v in (features | changes).items() if v is not None}
            records.append(example(**features))
        folder = tmp_path / "set"
        folder.mkdir(exist_ok=True)
        write_records(folder / "some.tfrecord-00000-of-00001", records)
        return folder

    return build


@pytest.mark.skipif(not REAL.is_dir(), reason="real clips octo_bridge are not beside this checkout")
def test_real_bridge_episodes():
    episodes = open_episodes(REAL)
    assert len(episodes) == 25 and episodes.format == "rlds" and episodes.schema.width == 7 and episodes[0].fps == 5
    assert episodes[3].text == "turn lever vertical to front" and {e.split for e in episodes} == {"train", "val"}
    assert episodes.num_frames(3) == 10 and episodes.load_actions(3).shape == (9, 7)
    whole = episodes.load_frames(3)
    assert whole.shape == (10, 64, 64, 3) and (episodes.load_frames(3, 4, 2) == whole[4:6]).all()
    assert whole.mean() == pytest.approx(120.25, abs=0.5)
    channels = episodes.schema.channels
    assert (channels[6].low, channels[6].high, channels[6].motion) == (0, 1, "")  # the gripper, a few times half open
    assert all(channel.motion == "delta" for channel in channels[:6])  # measured against the state
    tiled = open_episodes(REAL, camera="tile")
    assert tiled.load_frames(0, 0, 1).shape == (1, 128, 128, 3) and (tiled.load_frames(3, 0, 1)[0, :64, :64] == whole[0]).all()


def test_windows_cameras_state_and_rate(make):
    folder = make()
    episodes = open_episodes(folder, fps=4)
    assert (episodes.load_frames(2, 1, 2)[:, 0, 0, 0] == [81, 82]).all() and episodes[0].fps == 4 == episodes.schema.rate_hz
    assert (episodes.load_actions(1) == [[1, 2], [3, 4], [5, 6]]).all()  # the last step's action leads nowhere
    assert episodes.load_state(0)["state"].shape == (4, 3)
    assert (
        "front of 2" in episodes.about()
        and "assumed" not in episodes.about()
        and "5 frames a second assumed" in open_episodes(folder).about()
    )
    wrist = open_episodes(folder, camera="wrist")
    assert wrist.load_frames(0).shape == (4, 4, 4, 3)
    both = open_episodes(folder, camera="tile").load_frames(0)
    assert both.shape == (4, 4, 8, 3) and (both[:, :, :4, 0] == np.arange(4)[:, None, None]).all() and (both[0, :, 4:] == 200).all()
    with pytest.raises(BadConfig, match="camera: got 'wirst'.*did you mean.*wrist.*fix"):
        open_episodes(folder, camera="wirst")
    with pytest.raises(BadClip, match="record 0: got 4 steps, expected frames 3 to 4 too"):
        episodes.load_frames(0, 3, 2)


def test_dictionaries_of_actions_are_joined_in_the_order_of_their_names(make):
    parts = {
        "steps__action": None,
        "steps__action__b_grip": np.arange(4, dtype=np.float32),
        "steps__action__a_arm": np.arange(4, 8).astype(np.float32),
    }
    episodes = open_episodes(make(**parts))
    assert (episodes.load_actions(1) == [[4, 0], [5, 1], [6, 2]]).all()


@pytest.mark.parametrize(
    ("changes", "error", "line"),
    [
        ({"steps__action": np.zeros(7, np.float32)}, BadActions, r"record 1: got \[7\] action numbers for 4 steps"),
        ({"steps__action": np.zeros(12, np.float32)}, BadActions, r"got actions of \[2, 3\] numbers, expected one width"),
        ({"steps__action": np.full(8, np.nan, np.float32)}, BadActions, r"record 1: got nan in row 0, column 0 \(a0\)"),
        ({"steps__observation__front": None}, BadData, "record 1: has no pictures of steps/observation/front"),
        ({"steps__language_instruction": [b"\xff\xfe"]}, BadData, "record 1: .* is not UTF-8"),
    ],
)
def test_one_line_a_mistake(make, changes, error, line):
    with pytest.raises(error, match=line) as caught:
        open_episodes(make(**changes))
    assert "\n" not in str(caught.value) and "; fix: " in str(caught.value)


def test_damage_is_found_when_frames_or_actions_are_taken(make):
    folder = make()
    path = next(folder.iterdir())
    whole = bytearray(path.read_bytes())
    episodes = open_episodes(folder)
    (folder / "actions.json").write_text(json.dumps(episodes.schema.to_json()))  # or opening would read all actions, and find it
    whole[episodes[1].source.offset + 200] ^= 1  # inside a picture: opening does not look there
    path.write_bytes(whole)
    damaged = open_episodes(folder)
    assert damaged.load_frames(0).shape == (4, 8, 8, 3)
    for look in (damaged.load_frames, damaged.load_actions):
        with pytest.raises(BadData, match="record 1: does not match its check sum"):
            look(1)


def test_no_pictures_and_no_episodes(tmp_path):
    write_records(tmp_path / "a.tfrecord", [example(steps__action=np.zeros(4, np.float32))])
    with pytest.raises(BadData, match="record 0: got no pictures in"):
        open_episodes(tmp_path)
    (tmp_path / "a.tfrecord").write_bytes(b"")
    with pytest.raises(BadData, match="is empty"):
        open_episodes(tmp_path / "a.tfrecord")


def test_a_long_episode_is_read_whole_once(make, monkeypatch):
    """Its sum is looked at with the first window; every other window, and the actions, cost what they hold."""
    episodes, calls = open_episodes(make()), []
    monkeypatch.setattr(rlds, "read_record", lambda *place: calls.append(place) or read_record(*place))
    whole = episodes.load_frames(1)
    for start in range(4):
        assert (episodes.load_frames(1, start, 1) == whole[start]).all()
    assert episodes.load_actions(1).shape == (3, 2) and episodes.load_state(1).keys() == {"state"} and len(calls) == 1
    assert [int(frame[0, 0, 0]) for frame in whole] == [40, 41, 42, 43]


def test_opening_does_not_read_the_pictures(make, monkeypatch):
    monkeypatch.setattr(rlds, "read_record", lambda *place: pytest.fail("a record was read whole"))
    assert open_episodes(make()).schema.width == 2


def test_damage_that_makes_no_number_is_told_as_damage(make):
    folder = make()
    path = next(folder.iterdir())
    content = bytearray(path.read_bytes())
    at = content.rindex((np.arange(8, dtype="<f4") + 2).tobytes())  # the actions of the last record
    content[at + 4 : at + 8] = np.array([np.nan], "<f4").tobytes()
    path.write_bytes(content)
    with pytest.raises(BadData, match="record 2: does not match its check sum"):
        open_episodes(folder)


def test_a_record_is_known_by_its_own_bytes_and_cameras(make):
    before = origins(open_episodes(make()))
    after = origins(open_episodes(make(steps__observation__front=[picture(90 + t, make().parent) for t in range(4)])))
    assert [a.frames == b.frames for a, b in zip(before, after, strict=True)] == [True, False, True]
    wrist = origins(open_episodes(make(), camera="wrist"))
    assert len({origin.frames for origin in (*before, *wrist)}) == 6 and wrist[0].actions == before[0].actions


def test_a_row_beside_the_last_step_may_hold_anything(make):
    rows = np.arange(1, 9, dtype=np.float32)
    rows[6:] = np.nan
    assert (open_episodes(make(steps__action=rows)).load_actions(1) == [[1, 2], [3, 4], [5, 6]]).all()
    rows[5] = np.inf
    with pytest.raises(BadActions, match=r"record 1: got inf in row 2, column 1 \(a1\), expected finite numbers"):
        open_episodes(make(steps__action=rows))


def test_a_camera_and_a_text_that_begin_empty(make, tmp_path):
    """Both exist; the empty pictures are black, and counted."""
    wrist = [b"", b"", picture(202, tmp_path, 4), picture(203, tmp_path, 4)]
    folder = make(steps__observation__wrist=wrist, steps__language_instruction=[b"", b"", b"lift", b"lift"])
    episodes = open_episodes(folder, camera="wrist")
    assert episodes.load_frames(1)[:, 0, 0, 0].tolist() == [0, 0, 202, 203] and episodes.load_frames(1, 0, 2).shape == (2, 4, 4, 3)
    assert "2 empty pictures of steps/observation/wrist are shown black" in episodes.about()
    assert [episode.text for episode in episodes] == ["push", "lift", "push"] and "texts change" not in episodes.about()
    assert open_episodes(folder, camera="tile").load_frames(1)[1, :, 4:].max() == 0 and check_data(folder) == []
    with pytest.raises(BadData, match="record 1: has no pictures of steps/observation/wrist"):
        open_episodes(make(steps__observation__wrist=[b""] * 4), camera="wrist")


def test_a_camera_that_only_later_episodes_have(make, tmp_path):
    folder = make(steps__observation__extra=[picture(5 * t, tmp_path) for t in range(4)])
    assert "front of 2" in open_episodes(folder).about() and check_data(folder) == []
    with pytest.raises(BadData, match="record 0: has no pictures of steps/observation/extra"):
        open_episodes(folder, camera="extra")


def test_texts_that_change_in_an_episode(make):
    folder = make(steps__language_instruction=[b"", b"reach", b"lift", b""])
    first, parted = open_episodes(folder), open_episodes(folder, text="frame")
    assert [episode.text for episode in first] == ["push", "reach", "push"]
    assert "texts change in 1 of 3 episodes: the first is taken" in first.about()
    name = first[1].id
    assert [(e.id, e.text) for e in parted][1:3] == [(f"{name}@0", "reach"), (f"{name}@2", "lift")] and len(parted) == 4
    told = "1 of 3 episodes are parted where their texts change (text=frame): 2 parts of 2 to 3 frames with a text each"
    assert told in parted.about() and parted[1].split == parted[2].split
    assert parted.num_frames(2) == 2 and (parted.load_frames(2) == first.load_frames(1, 2, 2)).all()
    assert (parted.load_frames(1) == first.load_frames(1, 0, 3)).all()  # with the frame that "reach" led to
    rows = np.concatenate([parted.load_actions(1), parted.load_actions(2)])  # none is lost or doubled
    assert (rows == first.load_actions(1)).all()
    assert (parted.load_state(2)["state"] == first.load_state(1)["state"][2:]).all()
    with pytest.raises(BadClip, match="record 1: got 2 steps, expected frames 1 to 2 too"):
        parted.load_frames(2, 1, 2)
    assert len({origin.frames for origin in origins(parted)}) == 4
    with pytest.raises(BadConfig, match="text: got 'frames'"):
        open_episodes(folder, text="frames")


def test_only_rlds_parts_by_text(make, tmp_path):
    folder = make(steps__language_instruction=[b"reach", b"reach", b"lift", b"lift"])
    (tmp_path / "clips").mkdir()
    write_video(tmp_path / "clips/a.mp4", np.zeros((3, 16, 16, 3), np.uint8), 5)
    with pytest.raises(BadConfig, match="text: got 'frame', but .*clips is no RLDS"):
        open_episodes(tmp_path / "clips", text="frame")
    assert len(open_episodes(f"{folder}:{tmp_path / 'clips'}", text="frame")) == 5
