"""`wfm tokenize` on a tiny random world: clips to tokens and back, whole data sets, and what is refused."""

from pathlib import Path

import numpy as np
import tiny_world as tiny

from wfm_ar.data.shards import TokenStore
from wfm_ar.data.video import read_video, write_video


def test_tokenize_there_and_back(wfm, refused, place):
    code, out, err = wfm("tokenize", f"video={place / 'in.mp4'}", "out=t.npy")
    assert (code, err) == (0, "") and np.load("t.npy").shape == (3, 2, 3)
    code, out, err = wfm("tokenize", "tokens=t.npy", "out=back.mp4")
    assert (code, err) == (0, "") and read_video("back.mp4").shape == (5, 16, 24, 3)
    refused(wfm("tokenize", "tokens=t.npy", "out=back.mp4"), "exists already")
    refused(wfm("tokenize", f"video={place / 'in.mp4'}", "tokens=t.npy", "out=x.npy"), "exactly one")
    refused(wfm("tokenize", f"video={place / 'in.mp4'}", "out=x.mp4"), "ends in .npy")
    refused(wfm("tokenize", f"video={place / 'in.mp4'}", "frames=4", "out=x.npy"), "use 3 or 5")
    refused(wfm("tokenize", f"tokens={place / 'a.npy'}", "out=x.mp4"), "expected [t, 2, 3]")
    refused(wfm("tokenize", f"video={place / 'in.mp4'}", "frames=99", "out=x.npy"), "frames: got 99, but")
    refused(wfm("tokenize", "tokens=t.npy", "prompt_fps=5", "out=x.mp4"), "prompt_fps: got 5")


def test_tokenize_takes_a_video_at_the_worlds_rate(wfm, refused, place):
    """The tokens of a clip of three times the rate are those of every third frame of it."""
    world_fps = 10
    frames = np.random.default_rng(0).integers(0, 256, (13, 16, 24, 3), dtype=np.uint8)
    write_video(place / "fast.mp4", frames, 3 * world_fps, lossless=True)
    write_video(place / "third.mp4", frames[::3], world_fps, lossless=True)
    write_video(place / "slow.mp4", frames[::3], world_fps / 2, lossless=True)
    code, out, _ = wfm("tokenize", f"video={place / 'fast.mp4'}", "out=fast.npy")
    assert code == 0 and "30 frames a second re-timed to the world's 10" in out
    assert wfm("tokenize", f"video={place / 'third.mp4'}", "out=third.npy")[0] == 0
    np.testing.assert_array_equal(np.load("fast.npy"), np.load("third.npy"))
    refused(wfm("tokenize", f"video={place / 'slow.mp4'}", "out=slow.npy"), "got 5 frames a second, expected 10 or more")
    assert wfm("tokenize", f"video={place / 'slow.mp4'}", "prompt_fps=10", "out=slow.npy")[0] == 0
    np.testing.assert_array_equal(np.load("slow.npy"), np.load("third.npy"))


def test_tokenize_a_data_set(wfm, refused, place):
    """The same tokens as clip by clip, in shards that are whole, and nothing is encoded twice."""
    code, out, err = wfm("tokenize", f"data={place / 'set'}", "out=shards", "clips_per_shard=1")
    assert (code, err) == (0, "") and "2 clips, 60 video tokens, with actions, 2 shards, every hash checked" in out
    store = TokenStore(Path("shards/val"), verify=True)
    assert store.ids == ["e0", "e1"] and store.texts == ["do nothing", tiny.TEXTS[0]] and store[1].frames.tolist() == [0, 1, 3, 5, 7]
    assert wfm("tokenize", f"video={place / 'set/videos/e1.mp4'}", "out=t.npy")[0] == 0
    assert np.array_equal(store[1].video, np.load("t.npy")) and store[1].bins.shape == (4, 2, 2)
    before = {path: path.stat().st_mtime_ns for path in Path("shards").rglob("*.npy")}
    assert wfm("tokenize", f"data={place / 'set'}", "out=shards", "clips_per_shard=1")[0] == 0
    assert {path: path.stat().st_mtime_ns for path in Path("shards").rglob("*.npy")} == before
    code, out, err = wfm("tokenize", f"data={place / 'set'}", "out=shards")  # other shards, of the same clips
    assert (code, err) == (0, "") and "2 clips, 60 video tokens, with actions, 1 shards, every hash checked" in out
    assert np.array_equal(TokenStore(Path("shards/val"))[1].video, np.load("t.npy"))
    refused(wfm("tokenize", f"video={place / 'in.mp4'}", "from_run=runs/a", "out=x.npy"), "from_run", "data=")
    refused(wfm("tokenize", f"data={place / 'set'}", "out=shards", "workers=0"), "workers: got 0")
