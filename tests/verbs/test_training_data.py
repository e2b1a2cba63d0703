"""What a run learns from: one lone episode is both splits, and ranges found in data stay those of the run."""

import time

import numpy as np
import pytest

from wfm_ar.cli import main
from wfm_ar.data import write_video
from wfm_ar.errors import BadData
from wfm_ar.tokenizers.video import VideoTokenizerConfig
from wfm_ar.train.clips import Clips
from wfm_ar.verbs import training_data
from wfm_ar.verbs.training_data import decoding_speed, dynamics_set, frame_cache, policy_set, training_sets

TOKENIZER = VideoTokenizerConfig(height=16, width=16, encoder_channels=8, decoder_channels=8, z_channels=8, decoder_blocks=1)
NO_TRAIN = b"".join(
    b'{"id": "%s", "video": "%s.mp4", "fps": 5, "split": "%s"}\n' % row for row in ((b"a", b"a", b"test"), (b"b", b"b", b"val"))
)
FRAMES = np.zeros((5, 16, 16, 3), np.uint8)


def folder(root, count, width=2, scale=1.0):
    root.mkdir(exist_ok=True)
    for i in range(count):
        if not (root / f"{i}.mp4").exists():
            write_video(root / f"{i}.mp4", FRAMES + np.uint8(9 * i), 10)  # equal clips would share their kept frames
        np.savez(root / f"{i}.npz", scale * np.random.default_rng(i).normal(size=(5, width)).astype(np.float32))
    return root


def test_where_none_is_held_out_validation_is_of_the_training_clips(tmp_path, capsys):
    train, val = training_sets(folder(tmp_path / "a", 1), tmp_path / "run", camera=None, fps=None)
    assert train is val and len(train) == 1 and "validation says nothing of clips not seen" in capsys.readouterr().out
    both = ":".join(str(folder(tmp_path / name, 1)) for name in "ab")
    train, val = training_sets(both, tmp_path / "both", camera=None, fps=None)
    assert train is val and len(train) == 2 and "none of its episodes is held out" in capsys.readouterr().out
    train, val = training_sets(folder(tmp_path / "a", 4), tmp_path / "other", camera=None, fps=None)
    assert len(train) + len(val) == 4 and len(val) >= 1


def test_clips_of_several_rates_are_told(tmp_path, capsys):
    frames = np.zeros((9, 32, 32, 3), np.uint8)
    for i, fps in enumerate((10, 10, 30)):
        write_video(tmp_path / f"{i}.mp4", frames, fps)
    training_sets(tmp_path, tmp_path / "run")
    line = "clips of 10 to 30 frames a second, 2 of 3 of 10: each is learnt frame by frame, and the world shows 10 a second"
    assert line in capsys.readouterr().out
    training_sets(tmp_path, tmp_path / "run", fps=10)
    assert "frame by frame" not in capsys.readouterr().out


def test_a_run_keeps_the_ranges_it_began_with(tmp_path, capsys):
    data, run = folder(tmp_path / "a", 2), tmp_path / "run"
    first = training_sets(data, run, camera=None, fps=None)[0].schema
    folder(data, 3, scale=5.0)
    capsys.readouterr()
    again = training_sets(data, run, camera=None, fps=None)[0].schema
    assert again == first and "the run's action ranges are kept" in capsys.readouterr().out
    assert training_sets(data, tmp_path / "new", camera=None, fps=None)[0].schema.channels[0].high > 2 * first.channels[0].high


def test_how_long_the_cache_takes_to_fill_is_told(tmp_path, capsys, monkeypatch):
    """For what is not there yet and finds room; measured, and nothing of it kept."""
    sets = training_sets(folder(tmp_path / "a", 8), tmp_path / "run")
    measured = []
    monkeypatch.setattr(training_data, "decoding_speed", lambda clips, workers: measured.append((len(clips), workers)) or 0.1)

    def told(gigabytes=1.0, **changes):
        capsys.readouterr()
        how = {"sharers": 1, "workers": 3, "told": True} | changes
        return frame_cache(tmp_path / "frames", gigabytes, sets, TOKENIZER, **how), capsys.readouterr().out

    cache, out = told()
    line = "40 frames are still to be decoded, about 7 min in the first pass over the data (0.1 frames/s with 3 threads, measured on"
    assert line in out and measured == [(len(sets[0]), 3)]
    Clips(sets[0], TOKENIZER, cache).load(0)
    assert "; at most" not in out and "35 frames are still to be decoded, about 6 min in" in told()[1]
    frame = 16 * 16 * 3
    _, out = told(gigabytes=25.5 * frame / 1e9)  # and no more than has room
    assert "at most 0.0 MB (frame_cache=)" in out and "20 frames are still to be decoded, about 3 min" in out
    assert "35 frames are still to be decoded, about 88 s" in told(sharers=4)[1] and told(told=False)[1] == ""
    for one in sets:
        for i in range(len(one)):
            Clips(one, TOKENIZER, cache).load(i)
    measured.clear()
    assert "still to be decoded" not in told()[1] and not measured


def test_decoding_is_measured_on_a_few_clips(tmp_path, monkeypatch):
    """So many frames in so much time, by any number of threads; a slow set is not measured to its end."""
    clips, loaded = Clips(training_sets(folder(tmp_path / "a", 12), tmp_path / "run")[0], TOKENIZER), []

    def load(index, start, count):
        loaded.append(index)
        time.sleep(0.02)
        return FRAMES[start : start + count]

    monkeypatch.setattr(clips, "load", load)
    assert decoding_speed(clips, 1) == pytest.approx(3 / 0.02, rel=0.25) and len(loaded) == 8 == len(set(loaded))
    fastest = max(decoding_speed(clips, 4) for _ in range(5))  # threads may have to wait for a core on a busy machine
    assert fastest == pytest.approx(4 * 3 / 0.02, rel=0.35)
    loaded.clear()
    monkeypatch.setattr(training_data, "MEASURED", 0.03)
    assert decoding_speed(clips, 1) == pytest.approx(3 / 0.02, rel=0.25) and len(loaded) == 2


def test_another_robot_is_refused(tmp_path):
    training_sets(folder(tmp_path / "a", 2), tmp_path / "run", camera=None, fps=None)
    with pytest.raises(BadData, match="this run has actions .*expected those of the data.*another run="):
        training_sets(folder(tmp_path / "b", 2, width=3), tmp_path / "run", camera=None, fps=None)
    (tmp_path / "run" / "actions.json").write_text("{")
    with pytest.raises(BadData, match="actions.json: cannot be read"):
        training_sets(tmp_path / "a", tmp_path / "run", camera=None, fps=None)


def test_demonstrations_are_of_the_same_robot(tmp_path):
    train, _ = training_sets(folder(tmp_path / "a", 3), tmp_path / "run", camera=None, fps=None)
    folder(tmp_path / "b", 4, scale=2.0)
    assert policy_set(str(tmp_path / "b"), train, camera=None, fps=None).schema == train.schema
    for other in (folder(tmp_path / "c", 2, width=3), folder(tmp_path / "d", 2)):
        if other.name == "d":
            for path in other.glob("*.npz"):
                path.unlink()
        with pytest.raises(BadData, match="policy_data has other actions than data .*; fix: "):
            policy_set(str(other), train, camera=None, fps=None)


def test_dynamics_are_learnt_from_more_episodes_of_the_same_robot(tmp_path):
    train, _ = training_sets(folder(tmp_path / "a", 3), tmp_path / "run", camera=None, fps=None)
    both = dynamics_set(folder(tmp_path / "b", 4, scale=2.0), train, camera=None, fps=None)
    more = policy_set(str(tmp_path / "b"), train, camera=None, fps=None)
    assert len(more) and both.schema == train.schema
    assert [episode.id for episode in both] == [f"a/{e.id}" for e in train] + [f"b/{e.id}" for e in more]
    with pytest.raises(BadData, match="dynamics_data has other actions than data .*; fix: "):
        dynamics_set(folder(tmp_path / "c", 2, width=3), train, camera=None, fps=None)


@pytest.mark.parametrize(
    ("files", "more", "line"),
    [
        ({}, [], "got neither episodes.jsonl nor any meta/info.json"),
        ({"a.csv": b"1"}, [], "got neither episodes.jsonl nor any"),
        ({"meta/info.json": b"{"}, [], "info.json: cannot be read as JSON"),
        ({"meta/info.json": b'{"codebase_version": "v9.0"}'}, [], "codebase_version is 'v9.0'"),
        ({"a.tfrecord": b"\0" * 40}, [], "a.tfrecord record 0: its length does not match its check sum"),
        ({"a.hdf5": b"\x89HDF\r\n\x1a\n" + bytes(40)}, [], "a.hdf5: cannot be read as HDF5"),
        ({"a.mp4": b"no video"}, [], "a.mp4: cannot be read as video"),
        ({"episodes.jsonl": b"[]\n"}, [], "episodes.jsonl line 1: got a list"),
        ({"episodes.jsonl": NO_TRAIN}, [], "got no episode of split 'train'"),
        ({}, ["fps=0"], "fps: got 0"),
    ],
)
def test_wfm_train_tells_every_mistake_in_one_line(tmp_path, capsys, files, more, line):
    if any(name.startswith("meta") for name in files):
        pytest.importorskip("pyarrow", reason="needs pyarrow, the extra [lerobot]")
    if any(name.endswith("hdf5") for name in files):
        pytest.importorskip("h5py", reason="needs h5py, the extra [hdf5]")
    data = tmp_path / "data"
    for name, content in files.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(content)
    data.mkdir(exist_ok=True)
    assert main(["train", "stage=all", "experiment=smoke", f"data={data}", f"run={tmp_path / 'run'}", *more]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and line in err and "; fix: " in err, err
