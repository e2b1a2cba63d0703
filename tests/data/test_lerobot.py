"""LeRobot data sets: the real ones with their quirks, v2.1 and v3.0 of our own, and every mistake in one line."""

import json
from pathlib import Path

import numpy as np
import pytest

from wfm_ar.data import open_episodes, write_image, write_video
from wfm_ar.data.fingerprint import origins
from wfm_ar.data.lerobot_write import CAMERA, Clip, write_lerobot
from wfm_ar.errors import BadActions, BadClip, BadConfig, BadData, OutputExists
from wfm_ar.schema import ActionChannel, ActionSchema

pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow, the extra [lerobot]")
parquet = pytest.importorskip("pyarrow.parquet")

REAL = Path(__file__).parents[3] / "shared" / "real" / "lerobot_v3"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="real data sets lerobot_v3 are not beside this checkout")
SCHEMA = ActionSchema(
    channels=(ActionChannel(name="dx", unit="m", low=-1, high=1, motion="delta"), ActionChannel(name="grip", unit="", low=0, high=1)),
    rate_hz=10,
)
LENGTHS = (5, 3, 7)


def clips(text="push"):
    rng = np.random.default_rng(0)
    return [
        Clip(
            id=f"e{i}",
            split=split,
            text=text if i else None,
            frames=rng.integers(0, 256, (length, 16, 24, 3), np.uint8),
            actions=rng.uniform(0, 1, (length - 1, 2)).astype(np.float32),
            states={"pose": rng.normal(size=(length, 2, 2)), "gear": np.arange(length), "name": np.array(["cube"])},
        )
        for i, (length, split) in enumerate(zip(LENGTHS, ("train", "val", "train"), strict=True))
    ]


@pytest.fixture
def v3(tmp_path):
    write_lerobot(tmp_path / "set", clips(), fps=10, schema=SCHEMA, lossless=True)
    return tmp_path / "set"


@pytest.fixture
def v21(tmp_path):
    """A v2.1 set as LeRobot wrote them: files an episode, JSON lines; its second camera is one of pictures in the table."""
    root = tmp_path / "old"
    features = {
        "action": {"dtype": "float32", "shape": [2], "names": {"motors": ["joint_0", "joint_0"]}, "units": ["rad", ""]},
        "observation.images.top": {"dtype": "video", "shape": [16, 24, 3], "names": None},
        "observation.images.depth": {"dtype": "video", "shape": [16, 24, 3], "video_info": {"video.is_depth_map": True}},
        "observation.images.wrist": {"dtype": "image", "shape": [8, 8, 3], "names": None},
    } | {name: {"dtype": "int64", "shape": [1], "names": None} for name in ("frame_index", "episode_index", "index", "task_index")}
    info = {"codebase_version": "v2.1", "fps": 10, "chunks_size": 2, "splits": {"train": "0:2", "test": "2:2", "val": "2:3"},
            "data_path": "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
            "video_path": "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4", "features": features}  # fmt: skip
    (root / "meta").mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    (root / "meta/tasks.jsonl").write_text('{"task_index": 0, "task": "lift"}\n{"task_index": 1, "task": "drop"}\n')
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps({"episode_index": i, "length": n}) + "\n" for i, n in enumerate(LENGTHS)))
    for i, length in enumerate(LENGTHS):
        data, video = (root / info[key].format(episode_chunk=i // 2, episode_index=i, video_key="observation.images.top")
                       for key in ("data_path", "video_path"))  # fmt: skip
        for path in (data, video):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_video(video, np.full((length, 16, 24, 3), 60 * i, np.uint8), 10, lossless=True)
        pictures = []
        for t in range(length):
            write_image(root / "one.png", np.full((8, 8, 3), 10 * i + t, np.uint8), overwrite=True)
            pictures.append({"bytes": (root / "one.png").read_bytes(), "path": None})
        order = list(reversed(range(length)))  # rows need not be in order
        table = {
            "action": [[float(t), 0.5] for t in order],
            "observation.images.wrist": pictures[::-1],
            "frame_index": order,
            "episode_index": [i] * length,
            "index": order,
            "task_index": [i % 2] * length,
        }
        kinds = pyarrow.list_(pyarrow.float64())
        columns = {name: pyarrow.array(values, kinds if name == "action" else None) for name, values in table.items()}
        parquet.write_table(pyarrow.table(columns), data)
    return root


def edit_info(root, **changes):
    path = root / "meta/info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_episodes(root, change):
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(change(parquet.read_table(path).to_pylist())), path)


@needs_real
@pytest.mark.parametrize(
    ("name", "size", "frames", "fps", "width", "text", "mean"),
    [
        ("bridge", (480, 640), 29, 5, 7, "Put the pot to the left of the purple item.", 104.60),  # no indices, no stats, other templates
        ("fractal", (256, 320), 37, 3, 7, "move orange near green rice chip bag", 73.22),  # AV1, the text is the index
        ("robomind_franka", (720, 1280), 90, 30, 8, "Close the trash can by pressing down from the back.", 118.56),  # three cameras
    ],
)
def test_real_sets(name, size, frames, fps, width, text, mean):
    episodes = open_episodes(REAL / name)
    assert (len(episodes), episodes.format, episodes[0].fps, episodes[0].text) == (1, "lerobot", fps, text)
    assert episodes.num_frames(0) == frames and episodes.load_actions(0).shape == (frames - 1, width) == (frames - 1, episodes.schema.width)
    window = episodes.load_frames(0, 2, 4)
    assert window.shape == (4, *size, 3) and window.mean() == pytest.approx(mean, abs=0.3)
    assert "LeRobot v3.0, 1 episode" in episodes.about() and all(len(values) == frames for values in episodes.load_state(0).values())


@needs_real
def test_real_channels_are_named_and_measured():
    channels = open_episodes(REAL / "fractal").schema.channels
    assert [c.name for c in channels] == ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]
    assert [c.motion for c in channels[:3]] == ["delta"] * 3 and channels[3].rotation == "euler" and channels[6].discrete
    joints = open_episodes(REAL / "robomind_franka").schema.channels[:7]
    assert all(c.motion == "absolute" and c.rotation == "joint" for c in joints)


def test_layout_is_the_standard_one(v3):
    info = json.loads((v3 / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0" and info["fps"] == 10 and info["total_frames"] == 15 and info["splits"] == {"train": "0:3"}
    assert info["features"][CAMERA]["shape"] == [16, 24, 3] and info["features"]["action"]["names"] == ["dx", "grip"]
    data = parquet.read_table(v3 / "data/chunk-000/file-000.parquet")
    assert str(data.schema.field("action").type).startswith("fixed_size_list<") and str(data.schema.field("timestamp").type) == "float"
    assert data["episode_index"].to_pylist() == [0] * 5 + [1] * 3 + [2] * 7 and data["index"].to_pylist() == list(range(15))
    rows = parquet.read_table(v3 / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    times = [(row[f"videos/{CAMERA}/from_timestamp"], row[f"videos/{CAMERA}/to_timestamp"]) for row in rows]
    assert times == [(0, 0.5), (0.5, 0.8), (0.8, 1.5)]  # three episodes in one mp4
    assert [(row["dataset_from_index"], row["dataset_to_index"]) for row in rows] == [(0, 5), (5, 8), (8, 15)]
    assert {row[f"{key}/{part}_index"] for row in rows for key in ("data", f"videos/{CAMERA}") for part in ("chunk", "file")} == {0}
    tasks = parquet.read_table(v3 / "meta/tasks.parquet")
    assert tasks["__index_level_0__"].to_pylist() == ["", "push"] and json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == [
        "__index_level_0__"
    ]
    stats, actions = json.loads((v3 / "meta/stats.json").read_text()), np.array(data["action"].to_pylist())
    assert stats["action"]["mean"] == pytest.approx(actions.mean(0)) and stats["action"]["count"] == [15]
    assert stats["action"]["q99"] == pytest.approx(np.quantile(actions, 0.99, axis=0))
    assert np.shape(stats[CAMERA]["mean"]) == (3, 1, 1) and np.ravel(stats[CAMERA]["mean"]) == pytest.approx(0.5, abs=0.05)
    assert rows[1]["stats/action/max"] == pytest.approx(actions[5:8].max(0))


def test_round_trip_is_identical(v3):
    episodes = open_episodes(v3)
    assert episodes.schema == SCHEMA and not episodes.schema_made
    for i, clip in enumerate(clips()):
        assert (episodes[i].id, episodes[i].split, episodes[i].text, episodes[i].fps) == (clip.id, clip.split, clip.text, 10)
        assert (episodes.load_frames(i) == clip.frames).all() and (episodes.load_actions(i) == clip.actions).all()
        assert (episodes.load_frames(i, 1, 2) == clip.frames[1:3]).all()
        state = episodes.load_state(i)
        assert state.keys() == {"pose", "gear"} and (state["pose"] == clip.states["pose"]).all() and state["pose"].dtype == np.float64
    last = parquet.read_table(v3 / "data/chunk-000/file-000.parquet")["action"].to_pylist()[4]
    assert last == [0, clips()[0].actions[-1, 1]]  # the last row leads nowhere: no step, and the grip as it was


def test_files_are_closed_when_they_are_full(tmp_path, monkeypatch):
    monkeypatch.setattr("wfm_ar.data.lerobot_write.PIXELS", {True: 16 * 24 * 8, False: 1})
    monkeypatch.setattr("wfm_ar.data.lerobot_write.ROWS", 8)
    write_lerobot(tmp_path / "set", iter(clips()), fps=10, schema=SCHEMA, lossless=True)
    assert len(list((tmp_path / "set/videos").rglob("*.mp4"))) == len(list((tmp_path / "set/data").rglob("*.parquet"))) == 2
    episodes = open_episodes(tmp_path / "set")
    for i, clip in enumerate(clips()):
        assert (episodes.load_frames(i) == clip.frames).all() and (episodes.load_actions(i) == clip.actions).all()


def test_v21_with_pictures_in_the_table(v21):
    episodes = open_episodes(v21)
    assert [e.text for e in episodes] == ["lift", "drop", "lift"] and [e.split for e in episodes] == ["train", "train", "val"]
    assert "LeRobot v2.1" in episodes.about() and "observation.images.top of 2" in episodes.about()  # depth is no camera
    assert [c.name for c in episodes.schema.channels] == ["joint_0", "joint_0_2"] and episodes.schema.channels[0].unit == "rad"
    assert episodes.schema.channels[1].constant and (episodes.load_actions(1) == [[0, 0.5], [1, 0.5]]).all()
    assert (episodes.load_frames(2, 3, 2) == 120).all() and episodes.load_frames(2).shape == (7, 16, 24, 3)
    both = open_episodes(v21, camera="tile").load_frames(1)
    assert both.shape == (3, 8, 16, 3) and (both[:, :, 8:, 0] == np.array([10, 11, 12])[:, None, None]).all()
    assert open_episodes(v21 / "meta" / "episodes.jsonl").format == "lerobot"


def test_a_set_that_does_not_say_where_its_data_lie(v3):
    """As the real Bridge set: no file indices, and templates with names of their own."""
    edit_episodes(v3, lambda rows: [{k: row[k] for k in ("episode_index", "length", "tasks")} for row in rows])
    edit_info(v3, data_path="data/chunk-{episode_chunk:03d}/file-{episode_file:03d}.parquet")
    episodes = open_episodes(v3)
    for i, clip in enumerate(clips()):
        assert (episodes.load_frames(i) == clip.frames).all() and (episodes.load_actions(i) == clip.actions).all()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"codebase_version": "v1.6"}, "codebase_version is 'v1.6', expected v2.0, v2.1 or v3.0"),
        ({"fps": 0}, "fps is 0, expected a number above 0"),
        ({"features": {"action": {"dtype": "float32", "shape": [2]}}}, "expected a video or image"),
        ({"features": []}, "features is no object of objects"),
        ({"chunks_size": 0}, "chunks_size, data_path or video_path is of the wrong kind"),
        ({"data_path": "data/{episode.__class__}.parquet"}, "does not exist"),
        ({"data_path": "data/{secret}.parquet"}, "has the field {secret}, expected one of"),
        ({"data_path": "../other/{chunk_index:03d}.parquet"}, "leads out of the folder"),
        ({"data_path": "data/chunk-{chunk_index:9999999d}.parquet"}, "has the field|does not exist"),
        ({"video_path": "videos/{video_key}/no.mp4"}, "no.mp4: does not exist"),
    ],
)
def test_info_with_a_mistake(v3, changes, line):
    edit_info(v3, **changes)
    with pytest.raises(BadData, match=line) as caught:
        open_episodes(v3)
    assert "\n" not in str(caught.value) and "; fix: " in str(caught.value)


def test_rows_that_do_not_fit(v3):
    edit_episodes(v3, lambda rows: [row | {"length": row["length"] + (row["episode_index"] == 1)} for row in rows])
    (v3 / "actions.json").unlink()
    with pytest.raises(BadData, match="got 3 rows of episode 1, expected frames 0 to 3"):
        open_episodes(v3)
    edit_episodes(v3, lambda rows: [row | {"length": 0} for row in rows])
    with pytest.raises(BadData, match="got episode 0 of length 0"):
        open_episodes(v3)


def test_damaged_files(v3):
    data = v3 / "data/chunk-000/file-000.parquet"
    whole = data.read_bytes()
    data.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadData, match="file-000.parquet: cannot be read .*expected a Parquet file"):
        open_episodes(v3).load_actions(0)
    data.unlink()
    with pytest.raises(BadData, match="does not exist"):
        open_episodes(v3)
    (v3 / "meta/info.json").write_text("{")
    with pytest.raises(BadData, match="info.json: cannot be read as JSON"):
        open_episodes(v3)


def test_frames_that_are_not_there(v3):
    episodes = open_episodes(v3)
    with pytest.raises(BadClip, match="episode 1: got 3 frames, expected frames 2 to 3 too"):
        episodes.load_frames(1, 2, 2)
    edit_info(v3, fps=20)
    with pytest.raises(BadClip, match="plays at 10 frames a second, expected 20"):
        open_episodes(v3).load_frames(0)
    with pytest.raises(BadConfig, match="camera: got 'top'"):
        open_episodes(v3, camera="top")


def test_what_cannot_be_written(tmp_path):
    first, second, *_ = clips()
    smaller = Clip(id="s", split="train", text=None, frames=second.frames[:, :8], actions=second.actions, states=second.states)
    for bad, line in (([first, smaller], "episode s: has "), ([], "got no clips")):
        with pytest.raises(BadData, match=line):
            write_lerobot(tmp_path / "set", bad, fps=10, schema=SCHEMA)
        assert list(tmp_path.iterdir()) == []  # nothing half done
    (tmp_path / "set").mkdir()
    (tmp_path / "set/mine.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputExists):
            write_lerobot(tmp_path / "set", [first], fps=10, schema=SCHEMA, overwrite=overwrite)


def test_fingerprints_tell_episodes_of_a_shared_file_and_cameras_apart(v3, v21):
    shared = origins(open_episodes(v3))
    assert len({origin.frames for origin in shared}) == 3 and open_episodes(v3)[0].video == open_episodes(v3)[1].video
    top, wrist, both = (origins(open_episodes(v21, camera=camera)) for camera in ("top", "wrist", "tile"))
    assert len({origin.frames for origin in (*top, *wrist, *both)}) == 9
    video = open_episodes(v21)[1].video
    video.write_bytes(video.read_bytes() + b"\0")
    assert [a.frames == b.frames for a, b in zip(top, origins(open_episodes(v21)), strict=True)] == [True, False, True]
    assert origins(open_episodes(v21, camera="wrist")) == wrist


@pytest.mark.parametrize("with_schema", [False, True])
def test_a_row_beside_the_last_frame_may_hold_anything(v3, with_schema):
    """The sets of others often end each episode in NaN."""
    if not with_schema:
        (v3 / "actions.json").unlink()
    expected, file = open_episodes(v3).load_actions(1), v3 / "data/chunk-000/file-000.parquet"
    table = parquet.read_table(file)
    rows, nan = table.column("action").to_pylist(), [float("nan")] * 2

    def write(*odd):
        values = [nan if i in odd else row for i, row in enumerate(rows)]
        column = pyarrow.array(values, table.schema.field("action").type)
        parquet.write_table(table.set_column(table.schema.get_field_index("action"), "action", column), file)

    write(4, 7, 14)  # the last rows of three episodes
    episodes = open_episodes(v3)
    assert (episodes.load_actions(1) == expected).all() and np.isfinite(episodes.load_actions(2)).all()
    write(4, 6, 14)
    with pytest.raises(BadActions, match=r"file-000.parquet episode 1: got .*row 1\b"):
        open_episodes(v3).load_actions(1)
