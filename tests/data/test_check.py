import json

import numpy as np
import pytest

from wfm_ar.data import check_data, summarize, write_episode, write_episodes, write_video
from wfm_ar.data.episodes import Episode, EpisodeSet
from wfm_ar.errors import BadClip
from wfm_ar.schema import ActionChannel, ActionSchema

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
    assert str(summary).startswith("4 episodes (3 train, 1 val), 24 frames, 0.0 min")


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
        (lambda root: np.save(root / "actions/1.npy", np.zeros((4, 1), np.float32)), r"got 4 actions, expected [5, 1] for 6 frames"),
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
        return np.zeros((4 - i, 1), np.float32)

    def load_state(self, i):
        return None


@pytest.mark.parametrize("decode", [False, True])
def test_other_formats_are_checked_through_their_reader(tmp_path, monkeypatch, decode):
    episodes = [Episode(id=i, video=tmp_path, text=None, actions=tmp_path, state=None, fps=10, split="train") for i in "ab"]
    found = Recorded(path=tmp_path, format="other", schema=SCHEMA, episodes=tuple(episodes))
    monkeypatch.setattr("wfm_ar.data.check.open_episodes", lambda path: found)
    seen = []
    defects = check_data(tmp_path, decode=decode, on_progress=lambda done, total: seen.append((done, total)))
    assert [str(defect) for defect in defects] == [
        f"{tmp_path} episode b: episode b: frame 4 is damaged, expected a whole video; fix: copy it again"
    ]
    assert seen == [(1, 2), (2, 2)]
    monkeypatch.setattr(Recorded, "load_frames", lambda self, i, start=0, count=None: np.zeros((5, 16, 16, 3), np.uint8))
    line = str(check_data(tmp_path)[0])
    assert line == f"{tmp_path} episode b: got 3 actions for 5 frames, expected 4; fix: one between every two frames"
