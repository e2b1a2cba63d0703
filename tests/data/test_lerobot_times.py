"""Rows of LeRobot sets and the frames that belong to them: found by time, and refused where they contradict each other."""

import json

import numpy as np
import pytest
from numbered_clip import numbers, write_numbered

from wfm_ar.data import open_episodes, write_image
from wfm_ar.data.check import check_data
from wfm_ar.data.lerobot_times import Piece, Stretch, check_file, check_rows, nearest_frames
from wfm_ar.errors import BadClip, BadData, WfmError

pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow, the extra [lerobot]")
parquet = pytest.importorskip("pyarrow.parquet")
CAMERA = "observation.images.top"


def write_set(root, lengths, *, fps=10, rate=10, shown=None, begins=None, ends=None, stamps=None):
    """A LeRobot v3.0 set whose episodes share one file of numbered frames; row i has the action [i]."""
    starts = np.cumsum([0, *lengths[:-1]])
    begins = [start / rate for start in starts] if begins is None else begins
    ends = [begin + length / rate for begin, length in zip(begins, lengths, strict=True)] if ends is None else ends
    rows = np.concatenate([np.arange(length) for length in lengths])
    stamps = rows / fps if stamps is None else stamps
    columns = {"action": [[float(i)] for i in range(sum(lengths))], "timestamp": np.float32(stamps), "frame_index": rows,
               "episode_index": np.repeat(np.arange(len(lengths)), lengths), "index": np.arange(sum(lengths))}  # fmt: skip
    episodes = {"episode_index": list(range(len(lengths))), "length": lengths, "tasks": [["push"]] * len(lengths)}
    episodes |= {f"{key}/{part}_index": [0] * len(lengths) for key in ("data", f"videos/{CAMERA}") for part in ("chunk", "file")}
    episodes |= {f"videos/{CAMERA}/from_timestamp": list(map(float, begins)), f"videos/{CAMERA}/to_timestamp": list(map(float, ends))}
    for name, table in (("data/chunk-000/file-000", columns), ("meta/episodes/chunk-000/file-000", episodes)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pyarrow.table({key: pyarrow.array(values) for key, values in table.items()}), root / f"{name}.parquet")
    video = root / f"videos/{CAMERA}/chunk-000/file-000.mp4"
    video.parent.mkdir(parents=True, exist_ok=True)
    write_numbered(video, range(sum(lengths)) if shown is None else shown, rate, bf="2", g="12")
    features = {
        CAMERA: {"dtype": "video", "shape": [64, 96, 3], "names": None},
        "action": {"dtype": "float32", "shape": [1], "names": None},
    }
    features |= {name: {"dtype": "int64", "shape": [1], "names": None} for name in ("timestamp", "frame_index", "episode_index", "index")}
    (root / "meta/info.json").write_text(json.dumps({"codebase_version": "v3.0", "fps": fps, "features": features}))
    return root


def refused(root) -> str:
    """The one line that training, and `data check`, say of the set; both name the same place and trouble."""
    found = open_episodes(root)
    said = []
    for i in range(len(found)):
        for read in (lambda i=i: found.num_frames(i), lambda i=i: found.load_frames(i, 0, 1), lambda i=i: found.load_actions(i)):
            try:
                read()
            except WfmError as error:
                said.append(str(error))
    assert said and len(set(said)) == 1 and said[0].startswith(str(root)) and "; fix: " in said[0] and "\n" not in said[0]
    assert [str(defect) for defect in check_data(root)] == [said[0]]
    return said[0]


def test_rows_at_one_rate_and_a_file_at_another(tmp_path):
    """The file plays 0.8 % slower than info.json says: row k belongs to the frame that is shown at its time, not to frame k."""
    found = open_episodes(write_set(tmp_path / "set", [100, 100], rate=9.92))
    assert numbers(found.load_frames(0)) == [round(0.992 * k) for k in range(100)]
    assert numbers(found.load_frames(1)) == [100 + round(0.992 * k) for k in range(100)]
    assert numbers(found.load_frames(1, 40, 9)) == [100 + round(0.992 * k) for k in range(40, 49)]
    assert found.num_frames(1) == 100 and check_data(tmp_path / "set") == []


def test_the_times_of_the_rows_are_used(tmp_path):
    """Rows that were recorded with the frames carry the frames' times: then each has its own."""
    stamps = np.concatenate([np.arange(100) / 9.92] * 2)
    found = open_episodes(write_set(tmp_path / "set", [100, 100], rate=9.92, stamps=stamps))
    for i in range(2):
        assert numbers(found.load_frames(i)) == list(range(100 * i, 100 * i + 100))
        assert found.load_actions(i)[:, 0].tolist() == list(range(100 * i, 100 * i + 99))


def test_rows_that_contradict_the_rate(tmp_path):
    stamps = np.concatenate([np.arange(10) / 10, 1 + np.arange(10) / 5])
    root = write_set(tmp_path / "set", [20], stamps=stamps)
    assert "file-000.parquet episode 0: rows 10 and 11 are 0.2 s apart by their timestamps, expected 0.1" in refused(root)


def test_pictures_in_the_rows_have_times_too(tmp_path):
    root = write_set(tmp_path / "set", [6], stamps=[0, 0.1, 0.2, 0.5, 0.6, 0.7])
    write_image(tmp_path / "a.png", np.zeros((16, 16, 3), np.uint8))
    data, info = root / "data/chunk-000/file-000.parquet", json.loads((root / "meta/info.json").read_text())
    picture = {"bytes": (tmp_path / "a.png").read_bytes(), "path": None}
    parquet.write_table(parquet.read_table(data).append_column(CAMERA, pyarrow.array([picture] * 6)), data)
    info["features"][CAMERA]["dtype"] = "image"
    (root / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(BadData, match="episode 0: rows 2 and 3 are 0.3 s apart by their timestamps, expected 0.1"):
        open_episodes(root).num_frames(0)
    assert "rows 2 and 3 are 0.3 s apart" in str(check_data(root)[0])


def test_a_file_longer_than_its_rows(tmp_path):
    """A discarded take that stayed in the file, where meta/episodes knows of it and where it does not."""
    shown = [*range(12), *range(100, 106), *range(12, 36)]
    known = write_set(tmp_path / "known", [12, 14, 10], shown=shown, begins=[0, 1.2, 3.2])
    assert "file-000.mp4: 42 frames for 36 rows; 6 frames between episodes 1 and 2 belong to none" in refused(known)
    unknown = write_set(tmp_path / "unknown", [12, 14, 10], shown=shown)
    assert "file-000.mp4: got 42 frames, expected 36, as many as its 3 episodes have rows" in refused(unknown)


def test_a_file_of_one_episode(tmp_path):
    for frames in (20, 11):
        root = write_set(tmp_path / f"{frames}", [14], shown=range(frames))
        assert f"got {frames} frames, expected 14, as many as episode 0 has rows" in refused(root)


def test_episodes_that_overlap_or_are_cut(tmp_path):
    root = write_set(tmp_path / "overlap", [12, 14], begins=[0, 1.0])
    assert "episode 1 begins at 1 s, before episode 0 ends at 1.2 s" in refused(root)
    root = write_set(tmp_path / "cut", [12, 14], ends=[1.2, 2.2])
    assert "episode 1 lies from 1.2 to 2.2 s, 10 frames at 10 a second, expected 14 as it has rows" in refused(root)


def test_rows_and_frames_by_hand():
    times = np.arange(10) / 10
    np.testing.assert_array_equal(nearest_frames(times, np.array([0, 0.26, 0.9]), 10, "a"), [0, 3, 9])
    np.testing.assert_array_equal(nearest_frames(np.zeros(1), np.zeros(1), 10, "a"), [0])
    with pytest.raises(BadClip, match="a: row 1 is at 1 s, and the nearest of 10 frames 0.1 s away, expected at most half a frame"):
        nearest_frames(times, np.array([0.5, 1.0]), 10, "a")
    check_rows(np.array([0.0]), 10, "a")
    check_rows(np.array([0.0, 0.13, 0.2, 0.27]), 10, "a")  # jitter
    with pytest.raises(BadData, match="101 rows last 10.5 s by their timestamps, expected 10 at info.json's fps 10"):
        check_rows(np.arange(101) * 0.105, 10, "a")
    with pytest.raises(BadData, match="the timestamp of row 1 is no number"):
        check_rows(np.array([0.0, np.nan]), 10, "a")
    check_file(np.arange(30) / 29.97, [Piece(0, 20, Stretch("a", 0, 20 / 29.97)), Piece(1, 10, Stretch("a", 20 / 30, 1))], 30)
