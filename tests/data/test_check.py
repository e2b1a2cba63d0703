import json

import numpy as np
import pytest
import tfrecord_maker as maker

from wfm_ar.data import check_data, open_episodes, summarize, write_episode, write_episodes, write_image, write_video
from wfm_ar.data.episodes import Episode, EpisodeSet
from wfm_ar.data.lerobot_write import Clip, write_lerobot
from wfm_ar.errors import BadClip, BadConfig, BadData
from wfm_ar.schema import ActionChannel, ActionSchema, MixedSchema

SCHEMA = ActionSchema(channels=(ActionChannel(name="dx", unit="m", low=-1, high=1),), rate_hz=10)


@pytest.fixture
def data(tmp_path):
    records = [
        write_episode(
            tmp_path,
            id=f"{i}",
            frames_THWC=np.random.default_rng(i).integers(0, 255, (6, 16, 16, 3), dtype=np.uint8),
            fps=10,
            split="val" if i == 3 else "train",
            text="go left" if i % 2 else "go right",
            actions=np.zeros((5, 1)),
            state={"x": np.zeros((6, 2))},
        )
        for i in range(4)
    ]
    write_episodes(tmp_path, records, SCHEMA)
    return tmp_path


def edit_line(root, number, **changes):
    lines = [json.loads(line) for line in (root / "episodes.jsonl").read_text().splitlines()]
    lines[number - 1].update(changes)
    (root / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def cut(path, share=0.5):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def test_a_sound_set_has_no_defects(data):
    seen = []
    assert check_data(data, on_progress=lambda done, total: seen.append((done, total))) == []
    assert check_data(data / "episodes.jsonl", decode=True) == []
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_summary(data):
    summary = summarize(data)
    assert (summary.episodes, summary.splits, summary.frames, summary.texts) == (4, {"train": 3, "val": 1}, 24, 2)
    assert (summary.with_text, summary.with_actions, summary.with_state) == (4, 4, 4)
    assert summary.seconds == pytest.approx(2.4)
    assert str(summary).startswith("episodes.jsonl, 4 episodes (3 train, 1 val), 24 frames, 0.0 min")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda root: (root / "videos/1.mp4").unlink(), "does not exist"),
        (lambda root: cut(root / "videos/1.mp4"), "truncated"),
        (lambda root: (root / "videos/1.mp4").write_bytes(b""), "cannot be read as video"),
        (lambda root: edit_line(root, 2, video="../1.mp4"), "leads out of the folder"),
        (lambda root: edit_line(root, 2, text=""), "text is ''"),
        (lambda root: edit_line(root, 2, fps=25), "plays at 10 fps, expected 25"),
        (lambda root: edit_line(root, 2, id="0"), "id '0' is that of line 1 too"),
        (lambda root: edit_line(root, 2, video="videos/0.mp4"), "0.mp4 belongs to line 1 too"),
        (lambda root: np.save(root / "actions/1.npy", np.zeros((5, 2), np.float32)), r"got shape [5, 2], expected [N, 1]"),
        (lambda root: np.save(root / "actions/1.npy", np.zeros((4, 1), np.float32)), "got 4 actions for 6 frames, expected 5"),
        (lambda root: np.save(root / "actions/1.npy", np.full((5, 1), np.nan, np.float32)), "5 NaN or infinite values"),
        (lambda root: cut(root / "actions/1.npy"), "cannot be read"),
        (lambda root: np.savez(root / "states/1.npz", x=np.zeros((5, 2))), "x has shape [5, 2], expected 6 rows"),
        (lambda root: cut(root / "states/1.npz"), "cannot be read"),
    ],
)
def test_each_defect_is_one_line_with_its_place(data, damage, words):
    damage(data)
    defects = check_data(data)
    assert [defect.line for defect in defects][:1] == [2] and {defect.line for defect in defects} == {2}
    line = str(defects[0])
    assert words in line and line.startswith(f"{data / 'episodes.jsonl'} line 2: ") and "; fix: " in line and "\n" not in line


def test_all_defects_are_listed(data):
    (data / "videos/0.mp4").unlink()
    np.save(data / "actions/2.npy", np.full((5, 1), np.inf, np.float32))
    edit_line(data, 4, split="vall")
    assert [defect.line for defect in check_data(data)] == [1, 3, 4]


def test_a_bad_schema_is_said_once(data):
    (data / "actions.json").write_text("{}")
    defects = check_data(data)
    assert len(defects) == 1 and defects[0].line is None and "actions.json: action schema: key" in str(defects[0])
    (data / "actions.json").unlink()
    assert "does not exist" in str(check_data(data)[0])


def test_a_rate_that_differs_from_the_schema(data):
    schema = json.loads((data / "actions.json").read_text())
    (data / "actions.json").write_text(json.dumps({**schema, "rate_hz": 5}))
    assert [defect.line for defect in check_data(data)] == [1, 2, 3, 4]


def test_damaged_pictures_need_decoding(data):
    path = data / "videos/2.mp4"
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + len(content) // 3
    content[start : start + 400] = bytes(400)
    path.write_bytes(bytes(content))
    assert check_data(data) == []
    assert [defect.line for defect in check_data(data, decode=True)] == [3]


def test_a_bare_folder(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, np.random.default_rng(0).integers(0, 255, (6, 16, 16, 3), dtype=np.uint8), 10)
    assert check_data(tmp_path) == []
    cut(tmp_path / "b.mp4")
    assert [defect.file for defect in check_data(tmp_path)] == [str(tmp_path / "b.mp4")]


def test_no_data_set_is_a_defect(tmp_path):
    assert "got neither" in str(check_data(tmp_path)[0])
    assert "is not a folder" in str(check_data(tmp_path / "none")[0])
    (tmp_path / "episodes.jsonl").write_text("")
    assert "is empty" in str(check_data(tmp_path)[0])


class Recorded(EpisodeSet):
    """Two episodes of some other format; the second has an action too few, and its last frame cannot be read."""

    def num_frames(self, i):
        return 5

    def load_frames(self, i, start=0, count=None):
        if i == 1 and (count is None or start + count == 5):
            raise BadClip("episode b: frame 4 is damaged, expected a whole video; fix: copy it again")
        return np.zeros((count or 5, 16, 16, 3), np.uint8)

    def load_actions(self, i):
        return np.zeros((4, 1), np.float32)

    def load_state(self, i):
        return None


@pytest.mark.parametrize("decode", [False, True])
def test_other_formats_are_checked_through_their_reader(tmp_path, monkeypatch, decode):
    episodes = [Episode(id=i, video=tmp_path, text=None, actions=tmp_path, state=None, fps=10, split="train") for i in "ab"]
    found = Recorded(path=tmp_path, format="other", schema=SCHEMA, episodes=tuple(episodes))
    monkeypatch.setattr("wfm_ar.data.check.open_any", lambda path, **how: found)
    seen = []
    defects = check_data(tmp_path, decode=decode, on_progress=lambda done, total: seen.append((done, total)))
    assert [str(defect) for defect in defects] == [
        f"{tmp_path} episode b: episode b: frame 4 is damaged, expected a whole video; fix: copy it again"
    ]
    assert seen == [(1, 2), (2, 2)]


def told(root, **how):
    """What check says of a set, without its folder; `fix` everywhere, each on one line."""
    lines = [str(defect) for defect in check_data(root, **how)]
    assert all("; fix: " in line and "\n" not in line for line in lines)
    return [line.replace(f"{root}/", "") for line in lines]


def matches(lines, *words):
    assert len(lines) == len(words), lines
    for line, word in zip(lines, words, strict=True):
        assert word in line, (word, line)


@pytest.fixture
def bridge(tmp_path):
    """Eight videos with .npz beside them."""
    frames, rng = np.random.default_rng(0).integers(0, 255, (6, 16, 16, 3), dtype=np.uint8), np.random.default_rng(1)
    for i in range(8):
        write_video(tmp_path / f"{i}.mp4", frames, 10)
        np.savez(tmp_path / f"{i}.npz", rng.normal(size=(6, 2)).astype(np.float32))
    return tmp_path


def test_every_defect_of_a_folder_with_actions(bridge):
    assert check_data(bridge) == []
    (bridge / "0.mp4").write_bytes(b"no video")
    cut(bridge / "1.mp4")
    cut(bridge / "2.npz")
    np.savez(bridge / "3.npz", np.zeros((6, 5), np.float32))
    np.savez(bridge / "4.npz", np.full((6, 2), np.nan, np.float32))
    np.savez(bridge / "5.npz", np.zeros((3, 2), np.float32))
    (bridge / "6.txt").write_bytes(b"\xff\xff")
    words = ("0.mp4: cannot be read", "1.mp4: ", "6.txt: got no UTF-8", "2.npz: cannot be read", "3.npz: got shape [5, 5], expected [N, 2]")
    matches(told(bridge), *words, "4.npz: got 10 NaN", "5.npz: got 3 actions for 6 frames")
    for i in range(8):
        (bridge / f"{i}.npz").write_bytes(b"no array")
    assert sum(".npz: cannot be read" in line for line in told(bridge)) == 5  # the others have no video, or no text, to open them for


def test_opening_for_use_stops_at_the_first_and_names_it(bridge):
    (bridge / "3.mp4").write_bytes((bridge / "3.mp4").read_bytes()[:40])
    with pytest.raises(BadClip) as caught:
        open_episodes(bridge)
    line = str(caught.value)
    assert line.startswith(f"{bridge / '3.mp4'}: ") and "; fix: " in line and "\n" not in line
    matches(told(bridge), "3.mp4: ")


def test_every_defect_of_rlds_files(tmp_path):
    png = tmp_path / "a.png"
    write_image(png, np.zeros((8, 8, 3), np.uint8))
    good = {"steps__observation__image": [png.read_bytes()] * 3, "steps__action": np.arange(6, dtype=np.float32)}
    png.unlink()
    changes = (
        {},
        {"steps__action": np.arange(5, dtype=np.float32)},
        {"steps__observation__image": []},
        {"language_instruction": [b"\xff"]},
        {},
    )
    records = [maker.example(**good | change) for change in changes]
    maker.write_records(tmp_path / "a.tfrecord", records)
    content = bytearray((tmp_path / "a.tfrecord").read_bytes())
    content[-30] ^= 1  # in the last record, an action
    (tmp_path / "a.tfrecord").write_bytes(content)
    (tmp_path / "b.tfrecord").write_bytes(bytes(40))
    with pytest.raises(BadData, match="a.tfrecord record 3"):
        open_episodes(tmp_path)
    words = (
        "a.tfrecord record 3: language_instruction is not UTF-8",
        "b.tfrecord record 0: its length",
        "a.tfrecord record 2: has no pictures",
    )
    matches(told(tmp_path), *words, "a.tfrecord record 1: got [5] action numbers", "a.tfrecord record 4: does not match its check sum")
    with pytest.raises(BadConfig, match="camera: got 'wrist'"):
        check_data(tmp_path, camera="wrist")


def test_every_defect_of_hdf5_files(tmp_path):
    h5py = pytest.importorskip("h5py", reason="needs h5py, the extra [hdf5]")
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for i in range(4):
            file[f"data/demo_{i}/actions"] = np.full((4 if i != 3 else 2, 2), np.nan if i == 2 else i, np.float32)
            file[f"data/demo_{i}/obs/image"] = np.zeros((4, 8, 8, 3), np.uint8)
        del file["data/demo_1/obs"]
    (tmp_path / "b.hdf5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(40))
    words = (
        "a.hdf5: data/demo_1 has no obs",
        "b.hdf5: cannot be read as HDF5",
        "a.hdf5: data/demo_2/actions: got 6 NaN",
        "demo_3 has 2 actions",
    )
    matches(told(tmp_path), *words)


def test_every_camera_is_looked_at(tmp_path):
    h5py = pytest.importorskip("h5py", reason="needs h5py, the extra [hdf5]")
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for i, wrist in enumerate((4, 4, 3, 5)):
            file[f"data/demo_{i}/actions"] = np.arange(8, dtype=np.float32).reshape(4, 2)
            file[f"data/demo_{i}/obs/front_image"] = np.zeros((4, 8, 8, 3), np.uint8)
            file[f"data/demo_{i}/obs/wrist_image"] = np.zeros((wrist, 8, 8, 3), np.uint8)
    assert check_data(tmp_path, camera="front_image") == []
    matches(told(tmp_path), "demo_2/obs/wrist_image: got 3 frames, expected frames 3 to 3 too")
    matches(told(tmp_path, decode=True), *[f"demo_{i}: cameras have different numbers of frames (front_image 4" for i in (2, 3)])


def test_every_defect_of_a_lerobot_set(tmp_path):
    pytest.importorskip("pyarrow", reason="needs pyarrow, the extra [lerobot]")
    rng, root = np.random.default_rng(0), tmp_path / "set"
    for i in range(3):
        frames = rng.integers(0, 255, (6, 16, 16, 3), dtype=np.uint8)
        clip = Clip(id=f"{i}", split="train", text="go", frames=frames, actions=np.zeros((5, 1), np.float32), states={})
        write_lerobot(root / f"{i}", [clip], fps=10, schema=SCHEMA)
    for i, part in enumerate(sorted(root.iterdir())):
        assert check_data(part) == [], i
    next((root / "0").rglob("*.mp4")).unlink()
    cut(next((root / "1").rglob("*.mp4")))
    next((root / "2/data").rglob("*.parquet")).write_bytes(b"PAR1 no more")
    together = ":".join(str(root / f"{i}") for i in range(3))
    lines = [str(defect).replace(f"{root}/", "") for defect in check_data(together)]
    matches(lines, "file-000.mp4: does not exist", "file-000.mp4: ", "file-000.parquet: cannot be read")
    assert [line[0] for line in lines] == ["0", "1", "2"]


def test_a_set_that_does_not_open_at_all_is_a_defect(tmp_path):
    pytest.importorskip("pyarrow", reason="needs pyarrow, the extra [lerobot]")
    (tmp_path / "meta").mkdir()
    (tmp_path / "meta/info.json").write_text("{")
    write_video(tmp_path / "a.mp4", np.zeros((6, 16, 16, 3), np.uint8), 10)
    (tmp_path / "b.mp4").write_bytes(b"no video")
    matches(told(tmp_path), "meta/info.json: cannot be read as JSON", "b.mp4: cannot be read as video")


def test_a_set_of_several_robots_is_checked_by_each_ones_schema(tmp_path):
    wide = ActionSchema(channels=tuple(ActionChannel(name=name, unit="m", low=-1, high=1) for name in "xyz"), rate_hz=10)
    schema = MixedSchema(embodiments=(("arm", SCHEMA), ("base", wide)))
    records = []
    for robot, width in (("arm", SCHEMA.width), ("base", 3)):
        frames = np.zeros((4, 16, 16, 3), np.uint8)
        record = dict(id=robot, fps=10, split="train", embodiment=robot)
        records.append(write_episode(tmp_path, frames_THWC=frames, actions=np.zeros((3, width)), **record))
    write_episodes(tmp_path, records, schema)
    assert check_data(tmp_path) == []
    write_episodes(tmp_path, [records[0], records[1] | {"embodiment": "arm"}], schema, overwrite=True)
    (defect,) = check_data(tmp_path)
    assert defect.line == 2 and "got shape [3, 3], expected" in str(defect)


@pytest.mark.parametrize("odd", ["e\x1b[2J", "e\nwfm data check: no defects", "e\u202e4pm."])
def test_ids_that_a_terminal_would_act_on(data, odd):
    edit_line(data, 1, id=odd)
    (defect,) = check_data(data)
    assert defect.line == 1 and "expected plain characters in one line" in str(defect) and str(defect).isprintable()
    with pytest.raises(BadData, match="line 1: id is .*expected plain characters"):
        open_episodes(data)
