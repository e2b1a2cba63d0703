"""Videos with pauses and uneven times are sound: shown evenly where nothing goes with the frames, else frame by frame."""

import json
from dataclasses import replace

import numpy as np
import pytest
from numbered_clip import numbers, write_numbered

from wfm_ar.data import check_data, open_episodes, read_video, video_info
from wfm_ar.data.fingerprint import frames_fingerprint
from wfm_ar.data.video import count_frames, frame_times
from wfm_ar.data.video_files import even_numbers
from wfm_ar.errors import BadClip, BadData
from wfm_ar.tokenizers.video import VideoTokenizerConfig
from wfm_ar.train.clips import Clips

PAUSED = [i + 9 * (i > 30) for i in range(60)]  # a pause of nine frames after frame 30
SLOW_START = [*(5 * i for i in range(4)), *(20 + i for i in range(56))]


def held(times: list[int]) -> list[int]:
    """What a player shows at each tick."""
    return [max(i for i, at in enumerate(times) if at <= tick) for tick in range(times[-1] + 1)]


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("times", [PAUSED, SLOW_START])
def test_a_pause_is_no_defect_and_lasts_as_long_as_it_did(tmp_path, times, suffix):
    path = tmp_path / f"a{suffix}"
    write_numbered(path, range(60), 30, times=times, bf="2", g="30")
    info = video_info(path)
    assert (info.frames, info.even, info.fps) == (60, False, pytest.approx(30, rel=0.005)) and count_frames(path) == 60
    assert numbers(read_video(path)) == list(range(60))
    assert frame_times(path) == pytest.approx(np.array(times) / 30, abs=1e-3)
    found, shown = open_episodes(tmp_path), held(times)
    assert found.num_frames(0) == len(shown) and numbers(found.load_frames(0)) == shown
    assert numbers(found.load_frames(0, 25, 20)) == shown[25:45] and numbers(found.load_frames(0, 50)) == shown[50:]
    assert "1 of 1 videos unevenly timed, as with pauses: a frame is shown until the next one's time" in found.about()
    with pytest.raises(BadClip, match=f"got {len(shown)} frames at .* a second, expected frames 60 to {len(shown)} too"):
        found.load_frames(0, 60, len(shown) - 59)
    assert check_data(tmp_path) == []
    clips = Clips(found, VideoTokenizerConfig(height=64, width=96, spatial_compression=8))  # as training takes them
    assert numbers(clips.beginning(0).numpy()) == shown[: 1 + (len(shown) - 1) // 4 * 4]
    assert numbers(clips.load(0, 29, 8).numpy()) == shown[29:37]


def test_rows_and_frames_stay_paired(tmp_path):
    """Each action was taken between two stored frames, however far apart: beside them nothing is repeated."""
    write_numbered(tmp_path / "a.mp4", range(60), 30, times=PAUSED)
    np.savez(tmp_path / "a.npz", np.linspace(-1, 1, 60, dtype=np.float32)[:, None])
    beside = open_episodes(tmp_path)
    alone = replace(beside, episodes=(replace(beside[0], actions=None),))
    assert alone.num_frames(0) == 69 and frames_fingerprint(alone, 0) != frames_fingerprint(beside, 0)
    (tmp_path / "own").mkdir()
    (tmp_path / "a.mp4").rename(tmp_path / "own/a.mp4")
    np.save(tmp_path / "own/a.npy", np.linspace(-1, 1, 59, dtype=np.float32)[:, None])
    line = {"id": "a", "video": "a.mp4", "actions": "a.npy", "fps": 30, "split": "train"}
    (tmp_path / "own/episodes.jsonl").write_text(json.dumps(line))
    channel = {"name": "dx", "unit": "m", "low": -1, "high": 1, "bins": 16}
    (tmp_path / "own/actions.json").write_text(json.dumps({"rate_hz": 30, "channels": [channel]}))
    own = open_episodes(tmp_path / "own")
    assert own.num_frames(0) == 60 and numbers(own.load_frames(0)) == list(range(60)) and len(own.load_actions(0)) == 59
    assert numbers(own.load_frames(0, 29, 4)) == [29, 30, 31, 32] and check_data(tmp_path / "own") == []
    (tmp_path / "own/a.mp4").rename(tmp_path / "a.mp4")
    assert numbers(beside.load_frames(0)) == list(range(60)) and len(beside.load_actions(0)) == 59


def test_a_line_of_another_rate_than_its_file(tmp_path):
    """Told by `data check`, and refused where the clip is read."""
    write_numbered(tmp_path / "a.mp4", range(12), 30)
    (tmp_path / "episodes.jsonl").write_text(json.dumps({"id": "a", "video": "a.mp4", "fps": 10, "split": "train"}))
    found = open_episodes(tmp_path)
    for read in (lambda: found.num_frames(0), lambda: found.load_frames(0, 0, 1)):
        with pytest.raises(BadData, match="a.mp4: plays at 30 fps, expected 10 as the line says; fix: correct the line"):
            read()
    assert "plays at 30 fps, expected 10" in str(check_data(tmp_path)[0])


def test_jitter_is_even_and_long_pauses_are_refused(tmp_path):
    write_numbered(tmp_path / "a.mp4", range(40), 240, times=[8 * i + (3 * i) % 4 for i in range(40)])
    info = video_info(tmp_path / "a.mp4")
    assert info.even and info.fps == pytest.approx(30, rel=0.01) and open_episodes(tmp_path).num_frames(0) == 40
    write_numbered(tmp_path / "b.mp4", range(12), 30, times=[*range(11), 40_000 * 30])
    with pytest.raises(BadClip, match="lasts 40000 s with its pauses, 1200001 frames at 30 a second, expected at most"):
        even_numbers(tmp_path / "b.mp4", 30)
