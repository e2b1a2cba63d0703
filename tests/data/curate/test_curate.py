"""Curation: what is dropped and why, what the kept clips hold, and that an interrupted run ends with the same data."""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from wfm_ar.data.check import check_data
from wfm_ar.data.curate import curate as curating
from wfm_ar.data.curate.captions import read_captions, run_captioner
from wfm_ar.data.curate.curate import curate
from wfm_ar.data.curate.duplicates import DuplicateFinder, distance, fingerprint
from wfm_ar.data.curate.looks import black_runs, chunks, motion, thumbnails
from wfm_ar.data.curate.retime import joined_actions, kept_frames, retimed_schema
from wfm_ar.data.curate.settings import CurateConfig
from wfm_ar.data.curate.shots import segments
from wfm_ar.data.episodes import write_episode, write_episodes
from wfm_ar.data.formats import open_episodes
from wfm_ar.data.video import read_video, resize_crop, video_info, write_video
from wfm_ar.errors import BadConfig, BadData, OutputExists
from wfm_ar.schema import ActionChannel, ActionSchema

REAL = Path(__file__).parents[4] / "shared" / "real"
PLAIN = CurateConfig(shots=False)
SCHEMA = ActionSchema(
    channels=(ActionChannel(name="dx", unit="m", low=-1, high=1), ActionChannel(name="g", unit="", low=0, high=1)), rate_hz=10
)


def scene(seed: int, frames: int = 20, height: int = 48, width: int = 64) -> np.ndarray:
    """A still background of coloured blocks, and a bright square that crosses it."""
    rng = np.random.default_rng(seed)
    background = np.kron(rng.integers(30, 200, (height // 8, width // 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    clip = np.repeat(background[None], frames, 0)
    row, way = int(rng.integers(height - 12)), rng.permutation(np.linspace(0, width - 12, frames).astype(int)) if seed % 2 else None
    for t in range(frames):
        x = int((width - 12) * t / max(1, frames - 1)) if way is None else int(way[t])
        clip[t, row : row + 12, x : x + 12] = 250
    return clip


@pytest.fixture
def raw(tmp_path) -> Path:
    """A folder of videos: two good ones, one of them twice in other clothes, and one of each kind to drop."""
    folder = tmp_path / "raw"
    (folder / "more").mkdir(parents=True)
    good = scene(0)
    write_video(folder / "good.mp4", good, 10, crf=10)
    write_video(folder / "more/again.mp4", resize_crop((good * 0.9).astype(np.uint8), 36, 48), 10, crf=22)
    write_video(folder / "more/other.mkv", scene(2), 10)
    write_video(folder / "short.mp4", scene(4, frames=5), 10)
    write_video(folder / "still.mp4", np.repeat(scene(6)[:1], 20, 0), 10)
    write_video(folder / "night.mp4", np.zeros((20, 48, 64, 3), np.uint8), 10)
    write_video(folder / "slow.mp4", scene(8), 4)
    (folder / "torn.mp4").write_bytes((folder / "good.mp4").read_bytes()[:1500])
    return folder


def lines_of(out: Path) -> dict[str, dict]:
    return {line["source"]: line for line in map(json.loads, (out / "curation.jsonl").read_text().splitlines())}


def digests(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_each_kind_is_dropped_for_its_reason_and_the_originals_are_left_alone(raw, tmp_path):
    before = digests(raw)
    report = curate(raw, tmp_path / "out", CurateConfig(shots=False, fps=5))
    reasons = {name: line["reason"] for name, line in lines_of(tmp_path / "out").items()}
    assert reasons == {
        "good.mp4": "",
        "more/again.mp4": "duplicate",
        "more/other.mkv": "",
        "night.mp4": "black",
        "short.mp4": "short",
        "slow.mp4": "slow",
        "still.mp4": "static",
        "torn.mp4": "unreadable",
    }
    assert report["kept"] == {"clips": 2, "seconds": 4.0} and {row["clips"] for row in report["dropped"].values()} == {1}
    assert "good" in lines_of(tmp_path / "out")["more/again.mp4"]["detail"]
    found = open_episodes(tmp_path / "out")
    assert [(episode.id, episode.fps) for episode in found] == [("good", 5.0), ("more_other_mkv", 5.0)] and check_data(
        tmp_path / "out"
    ) == []
    frames = found.load_frames(0)
    assert len(frames) == 10 and np.abs(frames.astype(int) - scene(0)[::2]).mean() < 6
    assert digests(raw) == before and not (tmp_path / "out/.curate").exists()


def test_files_that_need_no_change_are_copied_and_others_get_the_size(raw, tmp_path):
    for name in ("night", "still", "torn", "slow", "short"):
        (raw / f"{name}.mp4").unlink()
    curate(raw, tmp_path / "same", PLAIN)
    assert (tmp_path / "same/videos/good.mp4").read_bytes() == (raw / "good.mp4").read_bytes()
    curate(raw, tmp_path / "small", CurateConfig(shots=False, height=32, width=32, duplicate_distance=None))
    infos = [video_info(path) for path in sorted((tmp_path / "small/videos").iterdir())]
    assert [(info.height, info.width, info.frames) for info in infos] == [(32, 32, 20)] * 3


def test_an_interrupted_run_goes_on_and_ends_with_the_same_data(raw, tmp_path, monkeypatch):
    config = CurateConfig(shots=False, height=32, width=32)
    whole = curate(raw, tmp_path / "whole", config, workers=1)
    looked, written = [], []
    survey, write_piece = curating.survey, curating.write_piece

    def stop_looking(episodes, index, config):
        looked.append(index)
        if len(looked) == 4:
            raise KeyboardInterrupt
        return survey(episodes, index, config)

    def stop_writing(*args):
        written.append(args[1])
        if len(written) == 2:
            raise KeyboardInterrupt
        return write_piece(*args)

    monkeypatch.setattr(curating, "survey", stop_looking)
    monkeypatch.setattr(curating, "write_piece", stop_writing)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            curate(raw, tmp_path / "out", config, workers=1)
        assert not (tmp_path / "out/episodes.jsonl").exists()
    assert curate(raw, tmp_path / "out", config, workers=1) == whole
    assert len(looked) == len(set(looked)) + 1 == 9 and len(written) == len(set(written)) + 1  # only what was cut off is done twice
    out, expected = digests(tmp_path / "out"), digests(tmp_path / "whole")
    assert out.keys() == expected.keys() and all(out[name] == expected[name] for name in out if not name.endswith(".mp4"))
    for name in out:
        if name.endswith(".mp4"):
            frames, other = (read_video(tmp_path / run / name).astype(int) for run in ("out", "whole"))
            # the encoder's first pictures in a process may come out a few levels off the same pictures later on
            assert frames.shape == other.shape and np.abs(frames - other).mean() < 4
    assert curate(raw, tmp_path / "out", config) == whole  # a finished run is only read
    with pytest.raises(OutputExists, match="other settings"):
        curate(raw, tmp_path / "out", PLAIN)
    (tmp_path / "out/.curate").mkdir()  # killed when all was there but the end
    (tmp_path / "out/videos/.a.mp4.0123abcd.part").touch()
    assert curate(raw, tmp_path / "out", config) == whole and digests(tmp_path / "out").keys() == expected.keys()
    (tmp_path / "new/.curate").mkdir(parents=True)  # killed before it had written what it was to do
    curate(raw, tmp_path / "new", PLAIN)


def test_an_unfinished_run_with_other_settings_is_refused(raw, tmp_path, monkeypatch):
    monkeypatch.setattr(curating, "survey", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        curate(raw, tmp_path / "out", PLAIN)
    with pytest.raises(OutputExists, match="unfinished run"):
        curate(raw, tmp_path / "out", CurateConfig(shots=False, min_motion=9))
    with pytest.raises(BadConfig, match="lies inside"):
        curate(raw, raw / "clean", PLAIN)


def test_pieces_keep_their_actions_state_text_and_split(tmp_path):
    rng = np.random.default_rng(0)
    actions = rng.uniform(-0.1, 0.1, (39, 2)).astype(np.float32)
    state = {"x": np.arange(40.0)[:, None], "names": np.array(["a", "b"])}
    record = write_episode(tmp_path / "in", id="e", frames_THWC=scene(0, 40), fps=10, split="val", text="go", actions=actions, state=state)
    write_episodes(tmp_path / "in", [record], SCHEMA)
    curate(tmp_path / "in", tmp_path / "cut", CurateConfig(shots=False, max_seconds=2, duplicate_distance=None))
    cut = open_episodes(tmp_path / "cut")
    assert [(episode.id, episode.text, episode.split) for episode in cut] == [("e-0-20", "go", "val"), ("e-20-40", "go", "val")]
    assert (
        np.array_equal(cut.load_actions(1), actions[20:39]) and cut.load_state(1)["x"][0, 0] == 20 and len(cut.load_state(1)["names"]) == 2
    )
    with pytest.raises(BadConfig, match="actions=sum"):
        curate(tmp_path / "in", tmp_path / "no", CurateConfig(shots=False, fps=5))
    curate(tmp_path / "in", tmp_path / "sum", CurateConfig(shots=False, fps=5, actions="sum"))
    slow = open_episodes(tmp_path / "sum")
    assert np.allclose(slow.load_actions(0), actions[:38].reshape(19, 2, 2).sum(1), atol=1e-6)
    assert slow.schema.rate_hz == 5 and slow.schema.channels[0].low == -2 and check_data(tmp_path / "sum") == []


def test_retiming():
    assert kept_frames(10, 10, 5).tolist() == [0, 2, 4, 6, 8] and kept_frames(7, 30, 20).tolist() == [0, 1, 3, 4, 6]
    assert kept_frames(5, 10, 9.95).tolist() == [0, 1, 2, 3, 4] and kept_frames(1, 10, 5).tolist() == [0]
    actions = np.arange(6, dtype=np.float32)[:, None] * np.ones((1, 3), np.float32)
    assert joined_actions(actions, np.array([0, 1, 3, 6]), ["sum", "last", "mean"]).tolist() == [[0, 0, 0], [3, 2, 1.5], [12, 5, 4]]
    assert retimed_schema(SCHEMA, 30, 20, ["sum", "last"]).channels[0].high == 2
    discrete = ActionSchema(channels=(ActionChannel(name="k", unit="", low=0, high=3, bins=4, discrete=True),), rate_hz=10)
    with pytest.raises(BadConfig, match="discrete"):
        retimed_schema(discrete, 10, 5, ["mean"])


def test_captions_from_a_file_and_from_a_command(raw, tmp_path):
    (tmp_path / "c.jsonl").write_text('{"id": "good.mp4", "text": " a  square\\nmoves "}\n')
    say = tmp_path / "say.py"
    say.write_text("import sys\nprint('clip', sys.argv[1].rsplit('/', 1)[-1], sys.argv[2])\n")
    config = CurateConfig(
        shots=False, fps=10, captions=tmp_path / "c.jsonl", caption_command=f"{sys.executable} {say} {{clip}} 'two words'"
    )
    curate(raw, tmp_path / "out", config)
    assert [episode.text for episode in open_episodes(tmp_path / "out")] == ["a square moves", "clip more_other_mkv.mp4 two words"]
    (tmp_path / "c.jsonl").write_text('{"id": "god.mp4", "text": "x"}\n')
    with pytest.raises(BadData, match=r"'god.mp4' is neither a source nor a clip \(did you mean \"good.mp4\""):
        curate(raw, tmp_path / "typo", config)


@pytest.mark.parametrize("line", ["{", "[]", '{"id": "a"}', '{"id": "a", "text": 1}', '{"id": "a", "text": " "}'])
def test_bad_caption_lines_are_located(tmp_path, line):
    (tmp_path / "c.jsonl").write_text('{"id": "b", "text": "x"}\n' + line + "\n")
    with pytest.raises(BadData, match="c.jsonl line 2"):
        read_captions(tmp_path / "c.jsonl")


def test_caption_commands_that_fail(tmp_path):
    def script(text):
        (tmp_path / "s.py").write_text(text)
        return f"{sys.executable} {tmp_path / 's.py'}"

    for text, words in (
        ("import sys; sys.exit('no model')", "ended with 1 (no model)"),
        ("", "0 characters"),
        ("import time; time.sleep(9)", "took longer"),
    ):
        with pytest.raises(BadData) as raised:
            run_captioner(script(text), tmp_path / "a.mp4", 1.0)
        assert words in str(raised.value)
    with pytest.raises(BadConfig, match="cannot be started"):
        run_captioner("/no/such/program", tmp_path / "a.mp4", 1.0)


def test_long_recordings_come_in_pieces(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", scene(0, 50), 10)
    episodes = open_episodes(tmp_path)
    monkeypatch.setattr("wfm_ar.data.curate.looks.CHUNK_BYTES", 12 * 48 * 64 * 3)
    parts = list(chunks(episodes, 0))
    assert [len(part) for part in parts] == [12, 12, 12, 14] and np.array_equal(np.concatenate(parts), read_video(tmp_path / "a.mp4"))
    assert np.array_equal(np.concatenate(list(chunks(episodes, 0, 7, 40))), read_video(tmp_path / "a.mp4")[7:40])


def test_black_motion_and_segments():
    thumbs = np.full((12, 32, 32), 80, np.float32)
    thumbs[3:8] = 2
    thumbs[4, 10, 5:20] = 200  # a title
    thumbs[10:12] = 0  # too few to be a run
    assert black_runs(thumbs, 16) == [(3, 8)]
    assert segments(12, [10], [(3, 8)], None) == [(0, 3), (3, 8), (8, 10), (10, 12)] and segments(10, [], [], 4) == [
        (0, 3),
        (3, 6),
        (6, 10),
    ]
    clip = scene(0)
    assert motion(thumbnails(clip)) > 40 and motion(thumbnails(np.repeat(clip[:1], 5, 0))) == 0


def test_near_duplicates_of_one_fixed_scene():
    """The same clip in other clothes is found; the same scene with the object elsewhere is not, though most of the picture agrees."""
    clip, elsewhere = scene(0), scene(0)
    elsewhere[:] = elsewhere[-1:]
    elsewhere[:, 30:40, 20:30] = 250
    own = fingerprint(thumbnails(clip))
    noisy = (clip * 0.85 + np.random.default_rng(0).normal(0, 6, clip.shape)).clip(0, 255).astype(np.uint8)
    finder = DuplicateFinder(0.1)
    finder.add("clip", own)
    for copy in (noisy, resize_crop(clip, 24, 32), np.repeat(clip, 2, 0)):
        name, share = finder.find(fingerprint(thumbnails(copy)))
        assert name == "clip" and share <= 0.1
    for other in (elsewhere, scene(2), clip[::-1]):
        assert finder.find(fingerprint(thumbnails(other))) is None
    assert distance(own, own) == (0.0, 0.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"height": 32},
        {"height": 31, "width": 32},
        {"max_seconds": 1.5},
        {"duplicate_distance": 0.6},
        {"caption_command": "a 'b"},
        {"fps": 0.0},
    ],
)
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(BadConfig, match="; fix: "):
        CurateConfig(**wrong)


def test_nothing_left_is_an_error(tmp_path):
    (tmp_path / "raw").mkdir()
    write_video(tmp_path / "raw/a.mp4", scene(0, 5), 10)
    with pytest.raises(BadData, match="nothing is left to keep .1 short."):
        curate(tmp_path / "raw", tmp_path / "out", PLAIN)


def test_a_real_recording_with_a_cut_and_a_fade(tmp_path):
    """Snow, fade to a title on black, a man by firelight, cut to a girl: three shots, and the black between is dropped."""
    pytest.importorskip("scenedetect", exc_type=ImportError)
    pytest.importorskip("cv2", exc_type=ImportError)
    source = REAL / "misc" / "with_cuts.mp4"
    if not source.exists():
        pytest.skip(f"{source.name} is not beside this checkout")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/with_cuts.mp4").write_bytes(source.read_bytes())
    curate(tmp_path / "raw", tmp_path / "out", CurateConfig(height=64, width=112))
    lines = [json.loads(line) for line in (tmp_path / "out/curation.jsonl").read_text().splitlines()]
    assert [(line["reason"], line["start"] // 10, line["end"]) for line in lines if not line["kept"]] == [("black", 10, lines[1]["end"])]
    kept = [(line["start"], line["end"]) for line in lines if line["kept"]]
    assert len(kept) == 3 and kept[0][0] == 0 and kept[1][1] == kept[2][0] == 214 and kept[2][1] == 240, lines
    assert check_data(tmp_path / "out") == []
