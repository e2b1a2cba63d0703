import json
import os

import numpy as np
import pytest

from wfm_ar.data import check_data, open_episodes, write_episode, write_episodes, write_video
from wfm_ar.errors import BadActions, BadClip, BadData
from wfm_ar.schema import ActionChannel, ActionSchema

SCHEMA = ActionSchema(
    channels=tuple(ActionChannel(name=name, unit="m", low=-1, high=1) for name in ("dx", "dy")),
    rate_hz=10,
)


def make_set(root, num_episodes=3, num_frames=5):
    rng = np.random.default_rng(0)
    records = []
    for i in range(num_episodes):
        record = write_episode(
            root,
            id=f"{i:03d}",
            frames_THWC=np.full((num_frames, 16, 16, 3), 40 * i, np.uint8),
            fps=10,
            split="val" if i == 0 else "train",
            text=f"do {i}",
            actions=rng.uniform(-1, 1, (num_frames - 1, 2)),
            state={"x": np.arange(num_frames) / 2, "names": np.array(["red cube"])},
        )
        records.append(record)
    write_episodes(root, records, SCHEMA)
    return root


def edit_line(root, number, **changes):
    lines = [json.loads(line) for line in (root / "episodes.jsonl").read_text().splitlines()]
    lines[number - 1].update(changes)
    (root / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_what_is_written_comes_back(tmp_path):
    episodes = open_episodes(make_set(tmp_path))
    assert (len(episodes), episodes.format, episodes.schema) == (3, "episodes", SCHEMA)
    assert [e.id for e in episodes] == ["000", "001", "002"]
    assert episodes[2].text == "do 2" and episodes[2].fps == 10.0 and episodes[-1] is episodes[2]
    assert episodes.load_frames(2).shape == (5, 16, 16, 3)
    assert np.abs(episodes.load_frames(2, start=1, count=2).astype(int) - 80).max() <= 2
    actions = episodes.load_actions(1)
    assert actions.shape == (4, 2) and actions.dtype == np.float32
    state = episodes.load_state(0)
    np.testing.assert_array_equal(state["x"], [0, 0.5, 1, 1.5, 2])
    assert state["names"].tolist() == ["red cube"]
    assert open_episodes(tmp_path / "episodes.jsonl").episodes == episodes.episodes


def test_same_input_same_bytes(tmp_path):
    for name in "ab":
        make_set(tmp_path / name)
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_splits(tmp_path):
    make_set(tmp_path)
    assert [e.id for e in open_episodes(tmp_path, "val")] == ["000"]
    assert [e.id for e in open_episodes(tmp_path, "train")] == ["001", "002"]
    with pytest.raises(BadData, match="no episode of split 'test'"):
        open_episodes(tmp_path, "test")
    with pytest.raises(BadData, match='did you mean "train"'):
        open_episodes(tmp_path, "trian")


def test_the_error_names_the_line(tmp_path):
    make_set(tmp_path)
    edit_line(tmp_path, 3, id="001")
    with pytest.raises(BadData, match=r"episodes.jsonl line 3: id '001' is that of line 2 too"):
        open_episodes(tmp_path)


def test_a_link_inside_the_folder_is_fine(tmp_path):
    make_set(tmp_path / "real")
    (tmp_path / "alias").symlink_to(tmp_path / "real")
    assert len(open_episodes(tmp_path / "alias")) == 3
    os.rename(tmp_path / "real/videos/001.mp4", tmp_path / "real/other.mp4")
    (tmp_path / "real/videos/001.mp4").symlink_to("../other.mp4")
    assert open_episodes(tmp_path / "real").load_frames(1).shape[0] == 5
    (tmp_path / "real/videos/001.mp4").unlink()
    (tmp_path / "real/videos/001.mp4").symlink_to("/etc/passwd")
    with pytest.raises(BadData, match="line 2: video is .* leads out"):
        open_episodes(tmp_path / "real")


def test_missing_and_bad_files_are_named_when_read(tmp_path):
    make_set(tmp_path)
    (tmp_path / "videos/000.mp4").unlink()
    np.save(tmp_path / "actions/001.npy", np.zeros((4, 3), np.float32))
    np.save(tmp_path / "actions/002.npy", np.zeros((4, 2)))
    (tmp_path / "states/001.npz").write_bytes(b"PK\3\4 no zip")
    (tmp_path / "states/002.npz").unlink()
    episodes = open_episodes(tmp_path)
    with pytest.raises(BadClip, match="000.mp4"):
        episodes.load_frames(0)
    with pytest.raises(BadActions, match=r"001.npy: got shape \[4, 3\], expected \[N, 2\]"):
        episodes.load_actions(1)
    with pytest.raises(BadActions, match="002.npy: got float64"):
        episodes.load_actions(2)
    for i in (1, 2):
        with pytest.raises(BadData, match=f"00{i}.npz"):
            episodes.load_state(i)


@pytest.mark.parametrize("rows", [0, 3, 5, 12])
def test_action_rows_that_are_not_those_of_the_frames(tmp_path, rows):
    """A log at three times the rate has three times the rows: its first ones belong to other frames."""
    make_set(tmp_path)
    np.save(tmp_path / "actions/001.npy", np.zeros((rows, 2), np.float32))
    found = open_episodes(tmp_path)
    assert found.load_actions(0).shape == (4, 2)
    with pytest.raises(BadActions) as caught:
        found.load_actions(1)
    assert str(caught.value).startswith(f"{tmp_path}/actions/001.npy: got {rows} actions for 5 frames, expected 4; fix: ")
    (defect,) = check_data(tmp_path)
    assert (defect.line, defect.what) == (2, f"{tmp_path}/actions/001.npy: got {rows} actions for 5 frames, expected 4")
    with pytest.raises(BadActions, match=f"got {rows} actions for 5 frames"):  # through several sets too
        open_episodes(f"{tmp_path}:{tmp_path}").load_actions(4)


def test_pickles_are_not_loaded(tmp_path):
    make_set(tmp_path)
    np.save(tmp_path / "actions/000.npy", np.array([object()]), allow_pickle=True)
    np.savez(tmp_path / "states/000.npz", a=np.array([object()]), allow_pickle=True)
    episodes = open_episodes(tmp_path)
    for load in (episodes.load_actions, episodes.load_state):
        with pytest.raises(BadData, match="cannot be read"):
            load(0)


def test_actions_need_a_schema(tmp_path):
    make_set(tmp_path)
    (tmp_path / "actions.json").unlink()
    with pytest.raises(BadData, match="actions.json: does not exist"):
        open_episodes(tmp_path)
    (tmp_path / "actions.json").write_text('{"rate_hz": 10}')
    with pytest.raises(BadData, match="actions.json: .*'channels' is missing"):
        open_episodes(tmp_path)


def test_a_bare_folder_of_videos(tmp_path):
    clip = np.zeros((3, 16, 16, 3), np.uint8)
    for name in ("b.mp4", "sub/a.mkv", "c.MOV", "d.avi"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_video(tmp_path / name, clip, 25)
    (tmp_path / "notes.txt").write_text("no video")
    (tmp_path / "._b.mp4").write_bytes(b"finder rubbish")
    episodes = open_episodes(tmp_path)
    assert episodes.format == "videos" and episodes.schema is None
    assert [e.id for e in episodes] == ["b.mp4", "c.MOV", "d.avi", "sub/a.mkv"]
    assert {(e.text, e.actions, e.state, e.fps) for e in episodes} == {(None, None, None, 25.0)}
    assert [e.split for e in episodes].count("val") >= 1 and [e.split for e in episodes].count("train") >= 1
    assert episodes.load_actions(0) is None and episodes.load_state(0) is None and len(episodes.load_frames(3)) == 3


def test_one_video_is_a_set_too(tmp_path):
    write_video(tmp_path / "a.mp4", np.zeros((3, 16, 16, 3), np.uint8), 25)
    assert len(open_episodes(tmp_path)) == 1


def test_what_is_no_data_set(tmp_path):
    with pytest.raises(BadData, match="got neither episodes.jsonl nor any"):
        open_episodes(tmp_path)
    with pytest.raises(BadData, match="is not a folder"):
        open_episodes(tmp_path / "none")
    (tmp_path / "episodes.jsonl").write_text("")
    with pytest.raises(BadData, match="is empty"):
        open_episodes(tmp_path)


def test_an_id_cannot_lead_out(tmp_path):
    for name in ("../a", "a/b", "..", ".hidden", ""):
        with pytest.raises(BadData, match="plain name"):
            write_episode(tmp_path, id=name, frames_THWC=np.zeros((1, 16, 16, 3), np.uint8), fps=10, split="train")


def test_copied_episodes_are_a_data_set_of_their_own(tmp_path):
    from wfm_ar.data.episodes import copy_episodes, write_episode

    schema = ActionSchema(channels=(ActionChannel(name="dx", unit="m", low=-1, high=1),), rate_hz=10)
    frames = np.zeros((5, 16, 16, 3), np.uint8)
    records = [
        write_episode(
            tmp_path / "all", id=f"e{i}", frames_THWC=frames, fps=10, split="val", text=f"t{i}", actions=np.zeros((4, 1), np.float32)
        )
        for i in range(3)
    ]
    write_episodes(tmp_path / "all", records, schema)
    whole = open_episodes(tmp_path / "all")
    copy_episodes(whole, [2, 0], tmp_path / "some")
    some = open_episodes(tmp_path / "some", "val")
    assert [e.id for e in some] == ["e2", "e0"] and some.schema == schema and some[0].text == "t2"
    assert some[0].video.read_bytes() == whole[2].video.read_bytes()
    assert np.array_equal(some.load_actions(1), whole.load_actions(0))


@pytest.mark.parametrize("name", ["episodes.jsonl", "meta/info.json", "meta/episodes.jsonl"])
def test_a_pipe_is_no_index(tmp_path, name):
    """Nobody writes to it: reading it would wait for ever."""
    (tmp_path / "meta").mkdir()
    if name.startswith("meta"):
        pytest.importorskip("pyarrow", reason="needs pyarrow, the extra [lerobot]")
    if name == "meta/episodes.jsonl":
        features = {"observation.images.a": {"dtype": "video"}}
        (tmp_path / "meta/info.json").write_text(json.dumps({"codebase_version": "v2.1", "fps": 5, "features": features}))
    os.mkfifo(tmp_path / name)
    with pytest.raises(BadData, match="it is not a regular file") as caught:
        open_episodes(tmp_path)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert [str(defect) for defect in check_data(tmp_path)] == [str(caught.value)]
