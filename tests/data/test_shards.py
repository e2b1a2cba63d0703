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
    assert isinstance(store.video[0], np.memmap)


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
