import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from wfm_ar.data.shards import TokenClip, TokenStore, write_store
from wfm_ar.errors import BadData

ABOUT = {"actions": True, "tokenizer": "abc"}


def clip(i: int) -> TokenClip:
    rng = np.random.default_rng(i)
    latents = 2 + i % 3
    video = rng.integers(1000, size=(latents, 4, 4)).astype(np.uint16)
    return TokenClip(f"clip{i}", video, rng.integers(64, size=(latents - 1, 4, 2)).astype(np.int16), None if i == 3 else f"text {i}")


def clips(part: range):
    return map(clip, part)


def test_round_trip(tmp_path):
    store = write_store(tmp_path, ABOUT, 7, clips, 3, lambda done: None)
    assert len(store) == 7 and store.num_tokens == sum(clip(i).video.size for i in range(7))
    for i in range(7):
        got, expected = store[i], clip(i)
        assert (got.id, got.text) == (expected.id, expected.text)
        assert np.array_equal(got.video, expected.video) and np.array_equal(got.bins, expected.bins)
    video = store.shard(0).video
    assert isinstance(video.base, np.memmap) and not video.flags.writeable


def test_without_actions(tmp_path):
    store = write_store(tmp_path, {"actions": False}, 2, lambda part: (clip(i)._replace(bins=None) for i in part), 3, lambda done: None)
    assert store[1].bins is None


def test_an_interrupted_encoding_goes_on(tmp_path):
    def fails_at_5(part):
        for i in part:
            if i == 5:
                raise KeyboardInterrupt
            yield clip(i)

    with pytest.raises(KeyboardInterrupt):
        write_store(tmp_path, ABOUT, 7, fails_at_5, 2, lambda done: None)
    with pytest.raises(BadData, match="2 shards, expected 4"):
        TokenStore(tmp_path)
    encoded = []
    store = write_store(tmp_path, ABOUT, 7, lambda part: encoded.extend(part) or clips(part), 2, lambda done: None)
    assert encoded == [4, 5, 6]
    assert np.array_equal(store[6].video, clip(6).video)


def test_another_tokenizer_and_flipped_bytes_are_refused(tmp_path):
    write_store(tmp_path, ABOUT, 3, clips, 2, lambda done: None)
    with pytest.raises(BadData, match="another tokenizer"):
        write_store(tmp_path, ABOUT | {"tokenizer": "def"}, 3, clips, 2, lambda done: None)
    path = tmp_path / "shard-00001" / "video.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    TokenStore(tmp_path)
    with pytest.raises(BadData, match="hash"):
        TokenStore(tmp_path, verify=True)


def test_the_frame_index(tmp_path):
    indexed = [clip(i)._replace(frames=np.arange(len(clip(i).video)) * 4 + i) for i in range(5)]
    store = write_store(tmp_path, ABOUT, 5, lambda part: (indexed[i] for i in part), 2, lambda done: None)
    assert all(np.array_equal(store[i].frames, indexed[i].frames) and store[i].frames.dtype == np.int32 for i in range(5))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda s: (s / "video.npy").write_bytes((s / "video.npy").read_bytes()[:-2]), "bytes, expected"),
        (lambda s: (s / "actions.npy").unlink(), "got 0 bytes"),
        (lambda s: (s / "episodes.json").write_text((s / "episodes.json").read_text().replace("text 0", "text 9")), "is damaged"),
        (lambda s: (s / "episodes.json").write_text("[]"), "expected an object"),
        (lambda s: (s / "episodes.json").write_text("{"), "not a readable token store"),
        (lambda s: (s.parent / "store.json").write_text("{}"), "does not describe a token store"),
    ],
)
def test_damage_is_told_at_opening(tmp_path, damage, words):
    write_store(tmp_path, ABOUT, 3, clips, 2, lambda done: None)
    damage(tmp_path / "shard-00000")
    with pytest.raises(BadData, match=words):
        TokenStore(tmp_path)


def test_stores_of_the_first_version_are_read(tmp_path):
    """They have neither sizes, nor a hash of the clips' table, nor a frame index."""
    write_store(tmp_path, ABOUT, 3, clips, 2, lambda done: None)
    for index in tmp_path.glob("shard-*/episodes.json"):
        data = json.loads(index.read_text())
        del data["bytes"], data["sha256"]["clips"]
        index.write_text(json.dumps(data))
    store = TokenStore(tmp_path, verify=True)
    assert np.array_equal(store[2].video, clip(2).video) and store[2].frames is None


def test_what_a_killed_run_left_is_cleared_away(tmp_path):
    left = tmp_path / ".tmp-shard-00001"
    left.mkdir()
    (left / "video.npy").write_bytes(b"half")
    store = write_store(tmp_path, ABOUT, 3, clips, 2, lambda done: None)
    assert len(store) == 3 and sorted(path.name for path in tmp_path.iterdir()) == ["shard-00000", "shard-00001", "store.json"]


def test_two_processes_share_the_work(tmp_path):
    """While one is inside its first shard, another call takes the other shards, waits for the first, and has the whole store."""
    began, go_on = threading.Event(), threading.Event()
    encoded, told = {"slow": [], "quick": []}, []

    def slow(part):
        encoded["slow"].extend(part)
        began.set()
        go_on.wait(20)
        return clips(part)

    def quick(part):
        encoded["quick"].extend(part)
        go_on.set()
        return clips(part)

    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(write_store, tmp_path, ABOUT, 6, slow, 2, lambda done: None)
        assert began.wait(20)
        store = write_store(tmp_path, ABOUT, 6, quick, 2, told.append)
        assert len(other.result()) == len(store) == 6
    assert told[0] == 2 and told[-1] == 6  # of the whole store, whoever wrote it
    assert encoded["slow"][:2] == [0, 1] and sorted(encoded["slow"] + encoded["quick"]) == list(range(6))
