"""The format of a path is found by looking; folders of videos with actions and texts beside them; several sets as one."""

import os
from pathlib import Path

import numpy as np
import pytest

from wfm_ar.data import check_data, open_episodes, write_episode, write_episodes, write_video
from wfm_ar.data.formats import format_of
from wfm_ar.errors import BadActions, BadConfig, BadData
from wfm_ar.schema import ActionChannel, ActionSchema, MixedSchema

REAL = Path(__file__).parents[3] / "shared" / "real"
FRAMES = np.random.default_rng(0).integers(0, 256, (5, 16, 16, 3), dtype=np.uint8)


def own_set(root, width, rate=10, name="dx"):
    channels = tuple(ActionChannel(name=f"{name}{i}", unit="m", low=-1, high=1, bins=8) for i in range(width))
    actions = np.linspace(-1, 1, 4 * width, dtype=np.float32).reshape(4, width)
    records = [
        write_episode(root, id=i, frames_THWC=FRAMES, fps=rate, split=s, text="go", actions=actions)
        for i, s in (("a", "train"), ("b", "val"))
    ]
    write_episodes(root, records, ActionSchema(channels=channels, rate_hz=rate))
    return root


@pytest.mark.parametrize(
    ("files", "kind"),
    [
        (["episodes.jsonl", "a.tfrecord"], "episodes"),
        (["meta/info.json", "meta/episodes.jsonl", "videos/a.mp4"], "lerobot"),
        (["sub/a-train.tfrecord-00000-of-00002"], "rlds"),
        (["sub/a.hdf5"], "hdf5"),
        (["a.mp4"], "folder"),
    ],
)
def test_format_is_found(tmp_path, files, kind):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert format_of(tmp_path) == (kind, tmp_path)
    if kind in ("rlds", "hdf5"):
        assert format_of(tmp_path / files[0]) == (kind, tmp_path / files[0])


def test_paths_that_are_no_data(tmp_path):
    (tmp_path / "a.csv").touch()
    for path, line in (
        (tmp_path / "a.csv", "is a file of no known kind"),
        (tmp_path / "no", "is not a folder"),
        (tmp_path, "got neither episodes.jsonl nor any"),
    ):
        with pytest.raises(BadData, match=line):
            open_episodes(path)
    with pytest.raises(BadConfig, match="fps: got -1"):
        open_episodes(tmp_path, fps=-1)


@pytest.fixture
def folder(tmp_path):
    """Three videos with .npz of a row a frame and constant last channels, one of them with a text."""
    for i in range(3):
        write_video(tmp_path / f"{i}.mp4", FRAMES + np.uint8(i), 20)
        actions = np.concatenate([np.random.default_rng(i).normal(size=(5, 2)), np.zeros((5, 1))], 1).astype(np.float32)
        np.savez(tmp_path / f"{i}.npz", actions)
    (tmp_path / "1.txt").write_text("open the drawer\n")
    return tmp_path


def test_videos_with_actions_and_texts(folder):
    episodes = open_episodes(folder)
    assert episodes.format == "bridge" and [e.text for e in episodes] == [None, "open the drawer", None]
    assert [c.constant for c in episodes.schema.channels] == [False, False, True] and episodes.schema.rate_hz == 20
    assert (episodes.load_actions(2) == np.load(folder / "2.npz")["arr_0"][:4]).all()
    assert "1 of them constant and left out" in episodes.about()
    (folder / "0.npz").unlink()
    assert open_episodes(folder).load_actions(0) is None


@pytest.mark.parametrize(
    ("arrays", "error", "line"),
    [
        ({"arr_0": np.zeros((3, 3), np.float32)}, BadActions, "got 3 actions for 5 frames, expected 4 or 5"),
        ({"arr_0": np.zeros((5, 2), np.float32)}, BadActions, "expected one width"),
        ({"other": np.zeros((5, 3), np.float32)}, BadData, "expected one of .*arr_0"),
        ({"arr_0": np.array([["a"] * 3] * 5)}, BadActions, "expected numbers"),
        ({"arr_0": np.array([None])}, BadData, "cannot be read"),
    ],
)
def test_npz_with_a_mistake(folder, arrays, error, line):
    np.savez(folder / "1.npz", **arrays)
    with pytest.raises(error, match=line) as caught:
        open_episodes(folder).load_actions(1)
    assert "\n" not in str(caught.value) and "; fix: " in str(caught.value)


def test_texts_and_links_that_cannot_be(folder, tmp_path_factory):
    (folder / "0.txt").write_bytes(b"\xff\xff")
    with pytest.raises(BadData, match="0.txt: got no UTF-8 text"):
        open_episodes(folder)
    (folder / "0.txt").unlink()
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "x.npz"
    elsewhere.write_bytes((folder / "0.npz").read_bytes())
    (folder / "0.npz").unlink()
    os.symlink(elsewhere, folder / "0.npz")
    with pytest.raises(BadData, match="leads out of the folder"):
        open_episodes(folder)


def test_folders_called_train_and_val_are_splits(tmp_path):
    for name in ("train/a.mp4", "train/b.mp4", "validation/c.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_video(tmp_path / name, FRAMES, 10)
    assert [e.split for e in open_episodes(tmp_path)] == ["train", "train", "val"]


def test_robots_of_several_sets_are_told_apart(tmp_path):
    first, second, third = own_set(tmp_path / "arm", 2), own_set(tmp_path / "hand", 3, rate=5), own_set(tmp_path / "twin", 2)
    write_video(tmp_path / "bare" / "a.mp4", FRAMES, 10) if (tmp_path / "bare").mkdir() is None else None
    mixed = open_episodes(":".join(str(path) for path in (first, second, third, tmp_path / "bare")))
    assert isinstance(mixed.schema, MixedSchema) and mixed.schema.names == ("arm", "hand")  # the twin has the arm's schema
    assert [(e.id, e.embodiment) for e in mixed][1:5] == [("arm/b", "arm"), ("hand/a", "hand"), ("hand/b", "hand"), ("twin/a", "arm")]
    assert (
        mixed.load_actions(2).shape == (4, 3)
        and mixed.schema_of(2).rate_hz == 5
        and mixed.load_actions(6) is None
        and mixed[6].embodiment is None
    )
    assert (mixed.load_frames(3) == open_episodes(second).load_frames(1)).all() and mixed.num_frames(3) == 5
    assert len(mixed.of_split("val")) >= 3 and mixed.about().count("\n") == 4
    same = open_episodes(f"{first}:{third}")
    assert isinstance(same.schema, ActionSchema) and same.load_actions(3).shape == (4, 2)


def test_a_set_of_several_robots_of_our_own(tmp_path):
    mixed = open_episodes(f"{own_set(tmp_path / 'arm', 2)}:{own_set(tmp_path / 'hand', 3)}")
    root = tmp_path / "both"
    records = [
        write_episode(root, id=f"e{i}", frames_THWC=FRAMES, fps=10, split=e.split, actions=mixed.load_actions(i), embodiment=e.embodiment)
        for i, e in enumerate(mixed)
    ]
    write_episodes(root, records, mixed.schema)
    again = open_episodes(root)
    assert again.schema == mixed.schema and [e.embodiment for e in again] == ["arm", "arm", "hand", "hand"]
    assert (again.load_actions(2) == mixed.load_actions(2)).all()
    text = (root / "episodes.jsonl").read_text()
    (root / "episodes.jsonl").write_text(text.replace('"hand"', '"hund"', 1))
    with pytest.raises(BadData, match=r"episodes.jsonl line 3: embodiment: got 'hund'.*hand.*expected one of"):
        open_episodes(root)


@pytest.mark.skipif(not REAL.is_dir(), reason="real clips are not beside this checkout")
def test_real_bridge_clips():
    episodes = open_episodes(REAL / "bridge")
    assert len(episodes) == 9 and episodes[0].fps == 20 and episodes.schema.width == 10
    assert [c.constant for c in episodes.schema.channels] == [False] * 7 + [True] * 3
    assert episodes.load_actions(0).shape == (39, 10) and episodes.load_frames(0, 5, 3).shape == (3, 256, 256, 3)


def test_wishes_that_a_format_has_no_use_for(folder, tmp_path_factory):
    """Alone they are refused; among several sets they go to those that can use them."""
    with pytest.raises(BadConfig, match="camera: got 'top', but .* has one view an episode"):
        open_episodes(folder, camera="top")
    with pytest.raises(BadConfig, match="fps: got 25, but .* has 20 frames a second, expected at most that"):
        open_episodes(folder, fps=25)
    h5py, other = pytest.importorskip("h5py", reason="needs h5py, the extra [hdf5]"), tmp_path_factory.mktemp("demos")
    with h5py.File(other / "a.hdf5", "w") as file:
        file["data/demo_0/actions"] = np.arange(10, dtype=np.float32).reshape(5, 2)
        for name, value in (("front", 1), ("wrist", 2)):
            file[f"data/demo_0/obs/{name}_image"] = np.full((5, 8, 8, 3), value, np.uint8)
    both = open_episodes(f"{folder}:{other}", camera="wrist_image", fps=19.9)
    assert [episode.fps for episode in both] == [20, 20, 20, 19.9] and both.load_frames(3).max() == 2 and both.view == ":wrist_image"
    with pytest.raises(BadConfig, match="has one view"):
        open_episodes(f"{folder}:{folder}", camera="top")


def test_a_folder_above_data_sets_offers_them(tmp_path):
    own_set(tmp_path / "many/a", 2), own_set(tmp_path / "many/sub/b", 2), own_set(tmp_path / "deep/mine", 2)
    (tmp_path / "many/lero/meta").mkdir(parents=True)
    (tmp_path / "many/lero/meta/info.json").write_text("{}")
    write_video(tmp_path / "many/clip.mp4", FRAMES, 10)
    with pytest.raises(BadData, match=r"many: holds 3 data sets below it, a \(episodes.jsonl\), lero \(LeRobot\), sub/b") as caught:
        open_episodes(tmp_path / "many")
    root = tmp_path / "many"
    assert str(caught.value).endswith(f"; fix: data={root / 'a'}:{root / 'lero'}:{root / 'sub/b'}")
    with pytest.raises(BadData, match=rf"deep: holds a data set below it, mine \(episodes.jsonl\), .*; fix: data={tmp_path}/deep/mine$"):
        open_episodes(tmp_path / "deep")
    assert len(open_episodes(tmp_path / "deep/mine")) == 2


def test_a_part_of_a_data_set_names_the_whole(tmp_path):
    own_set(tmp_path / "mine", 2)
    with pytest.raises(BadData, match=rf"videos: is a part of a data set \(episodes.jsonl\), .*; fix: data={tmp_path}/mine$"):
        open_episodes(tmp_path / "mine/videos")
    (tmp_path / "lero/meta").mkdir(parents=True)
    (tmp_path / "lero/meta/info.json").write_text("{}")
    inner = tmp_path / "lero/videos/top/chunk-000"
    inner.mkdir(parents=True)
    write_video(inner / "file-000.mp4", FRAMES, 10)
    for path in (inner, inner.parent, inner.parents[1], tmp_path / "lero/meta"):
        with pytest.raises(BadData, match=rf"is a part of a data set \(LeRobot\), .*; fix: data={tmp_path}/lero$"):
            open_episodes(path)


def test_sets_of_tfds_and_files_of_two_formats(tmp_path):
    for name in ("one/1.0.0", "two/1.0.0"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "x-train.tfrecord-00000-of-00001").touch()
        (tmp_path / name / "features.json").touch()
    assert format_of(tmp_path / "one") == ("rlds", tmp_path / "one")
    with pytest.raises(BadData, match=r"holds 2 data sets below it, one/1.0.0 \(RLDS\), two/1.0.0 \(RLDS\)"):
        format_of(tmp_path)
    (tmp_path / "one/demo.hdf5").touch()
    with pytest.raises(BadData, match="holds files of two formats .*tfrecord.* and demo.hdf5.*, expected one"):
        format_of(tmp_path / "one")


@pytest.mark.parametrize("suffix", [".npy", ".csv", ".json", ".parquet"])
def test_actions_in_a_form_that_is_not_read_are_named(folder, suffix):
    assert "not read" not in open_episodes(folder).about()
    (folder / f"0{suffix}").write_bytes(b"1")
    assert f"1 file (0{suffix}) is not read: actions are taken from a.npz" in open_episodes(folder).about()
    for path in folder.glob("*.npz"):
        path.unlink()
    (folder / f"2{suffix}").write_bytes(b"1")
    (folder / "actions.json").write_text('{"rate_hz": 20, "channels": [{"name": "x", "unit": "", "low": 0, "high": 1}]}')
    episodes = open_episodes(folder)
    assert episodes.format == "videos" and f"2 files ({suffix}; the first is 0{suffix}) are not read" in episodes.about()


def test_a_row_beside_the_last_frame_may_hold_anything(folder):
    rows = np.load(folder / "1.npz")["arr_0"]
    rows[-1] = np.nan
    np.savez(folder / "1.npz", rows)
    episodes = open_episodes(folder)
    assert (episodes.load_actions(1) == rows[:4]).all()
    rows[2, 1] = np.inf
    np.savez(folder / "1.npz", rows)
    with pytest.raises(BadActions, match=r"1.npz: got inf in row 2, column 1 \(a1\), expected finite"):
        open_episodes(folder)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_texts_saved_on_windows(folder, encoding):
    """A byte order mark is no part of the text; without one only UTF-8 is known."""
    (folder / "1.txt").write_bytes("schieb den Würfel\r\n".encode(encoding))
    if encoding == "utf-16-le":
        with pytest.raises(BadData, match="1.txt: got no UTF-8 text"):
            open_episodes(folder)
    else:
        assert open_episodes(folder)[1].text == "schieb den Würfel"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_an_index_and_a_schema_saved_on_windows(tmp_path, encoding):
    root = own_set(tmp_path / "set", 2)
    plain = open_episodes(root)
    for name in ("episodes.jsonl", "actions.json"):
        (root / name).write_bytes((root / name).read_text().replace("\n", "\r\n").encode(encoding))
    marked = open_episodes(root)
    assert [e.id for e in marked] == ["a", "b"] and marked.schema == plain.schema and check_data(root) == []
    (root / "episodes.jsonl").write_bytes((root / "episodes.jsonl").read_bytes()[:101])  # UTF-16 cut in half a letter
    with pytest.raises(BadData, match="episodes.jsonl"):
        open_episodes(root)
