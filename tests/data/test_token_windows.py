"""Windows of a token store: every one once an epoch, the right tokens, and an order that one integer restores."""

import time

import numpy as np
import pytest

from wfm_ar.data.shards import TokenClip, TokenStore, write_store
from wfm_ar.data.token_windows import WindowReader, WindowStream, permuted
from wfm_ar.errors import BadCheckpoint, BadConfig

LATENTS = [1, 3, 4, 5, 9, 12, 2, 17, 8, 4, 31]  # a clip each: shorter than, equal to and longer than a window
LENGTH = 4


def clip(i: int) -> TokenClip:
    n = LATENTS[i]
    video = (1000 * i + np.arange(n)[:, None, None] * 10 + np.arange(4).reshape(2, 2)).astype(np.uint16)
    bins = (100 * i + np.arange(1, n)[:, None, None] + np.zeros((1, 4, 2))).astype(np.int16)
    return TokenClip(f"clip{i}", video, bins, f"text {i}", np.maximum(0, 1 + 4 * (np.arange(n) - 1)).astype(np.int32))


@pytest.fixture
def store(tmp_path) -> TokenStore:
    return write_store(tmp_path, {"actions": True}, len(LATENTS), lambda part: map(clip, part), 3, lambda done: None)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000, 4097])
def test_permuted_is_a_bijection_that_differs_by_key(size):
    images = [permuted(np.arange(size), size, (seed, epoch)) for seed in range(2) for epoch in range(2)]
    for image in images:
        assert np.array_equal(np.sort(image), np.arange(size))
    if size > 60:
        for i in range(4):
            for j in range(i):
                # random permutations agree in one place on average (Poisson): ten would be a sign of a weak key
                assert (images[i] == images[j]).sum() < 10
        assert abs(np.corrcoef(images[0][:-1], images[0][1:])[0, 1]) < 4 / np.sqrt(size)


def test_a_place_of_a_permutation_is_the_same_alone_and_in_a_batch():
    whole = permuted(np.arange(5000), 5000, (3, 1))
    assert [int(permuted(np.array([i]), 5000, (3, 1))[0]) for i in (0, 17, 4999)] == whole[[0, 17, 4999]].tolist()


@pytest.mark.parametrize("shuffle", [False, True])
def test_windows_hold_the_right_tokens(store, shuffle):
    reader = WindowReader(store, LENGTH, seed=5, shuffle=shuffle)
    assert len(reader) == sum(-(-n // LENGTH) for n in LATENTS)
    windows = reader.read(0, 2 * len(reader))
    for row, (number, start, length) in enumerate(zip(windows.clips_B, windows.starts_B, windows.lengths_B, strict=True)):
        expected = clip(int(number))
        assert length == min(LENGTH, LATENTS[number]) and start + length <= LATENTS[number]
        assert np.array_equal(windows.video_Bthw[row, :length], expected.video[start : start + length])
        assert not windows.video_Bthw[row, length:].any()
        assert np.array_equal(windows.bins_BtrA[row, 1:length], expected.bins[start : start + length - 1])
        assert not windows.bins_BtrA[row, 0].any() and not windows.bins_BtrA[row, length:].any()


def test_store_order_covers_every_latent(store):
    windows = WindowReader(store, LENGTH, shuffle=False).read(0, sum(-(-n // LENGTH) for n in LATENTS))
    seen = {(c, s + k) for c, s, n in zip(*(a.tolist() for a in windows[2:]), strict=True) for k in range(n)}
    assert seen == {(c, k) for c, n in enumerate(LATENTS) for k in range(n)}


def test_an_epoch_visits_each_part_of_each_clip_once_and_another_epoch_cuts_elsewhere(store):
    reader = WindowReader(store, LENGTH, seed=1)
    size = len(reader)
    (clips, starts), (clips_2, starts_2) = reader.places(0, size), reader.places(size, size)
    for number, n in enumerate(LATENTS):
        count, beginnings = -(-n // LENGTH), max(1, n - LENGTH + 1)
        for chosen in (np.sort(starts[clips == number]), np.sort(starts_2[clips_2 == number])):
            assert len(chosen) == count
            edges = [part * beginnings // count for part in range(count + 1)]
            assert all(edges[k] <= s < edges[k + 1] for k, s in enumerate(chosen))
    assert not np.array_equal(clips, clips_2)
    assert sorted(zip(clips.tolist(), starts.tolist(), strict=True)) != sorted(zip(clips_2.tolist(), starts_2.tolist(), strict=True))


def test_beginnings_are_drawn_evenly(store):
    reader = WindowReader(store, LENGTH, seed=2)
    clips, starts = reader.places(0, 400 * len(reader))
    chosen = starts[clips == LATENTS.index(12)]  # nine beginnings in three parts, three windows an epoch
    counts = np.bincount(chosen, minlength=9)
    assert len(counts) == 9 and counts.sum() == 1200 and counts.min() > 133 * 0.7 and counts.max() < 133 * 1.3


def test_batches_do_not_depend_on_their_size_and_cross_epochs(store):
    reader = WindowReader(store, LENGTH, seed=3)
    whole = reader.read(0, 90)
    parts = [reader.read(first, count) for first, count in ((0, 1), (1, 29), (30, 50), (80, 10))]
    for field in range(5):
        assert np.array_equal(whole[field], np.concatenate([part[field] for part in parts]))


def test_a_stream_goes_on_exactly_where_its_state_was_written(store):
    stream = WindowStream(WindowReader(store, LENGTH, seed=4))
    stream.next(7), stream.next(20)
    state = stream.state()
    expected = [stream.next(8) for _ in range(6)]
    again = WindowStream(WindowReader(TokenStore(store.root), LENGTH, seed=4))
    again.restore(state)
    for batch in expected:
        got = again.next(8)
        assert all(np.array_equal(a, b) for a, b in zip(batch, got, strict=True))
    assert again.state() == stream.state()


@pytest.mark.parametrize("change", [{"seed": 5}, {"length": 5}, {"windows": 1}, {"position": -1}, {"position": "3"}, {"shuffle": False}])
def test_a_state_of_something_else_is_refused(store, change):
    stream = WindowStream(WindowReader(store, LENGTH, seed=4))
    with pytest.raises(BadCheckpoint, match="data position"):
        stream.restore(stream.state() | change)


def test_without_actions_and_with_one_shard_open_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr("wfm_ar.data.shards.OPEN_SHARDS", 1)
    store = write_store(
        tmp_path, {"actions": False}, len(LATENTS), lambda part: (clip(i)._replace(bins=None) for i in part), 2, lambda done: None
    )
    windows = WindowReader(store, LENGTH).read(0, 40)
    assert windows.bins_BtrA is None and len(store._open) == 1
    for row, (number, start, length) in enumerate(zip(*windows[2:], strict=True)):
        assert np.array_equal(windows.video_Bthw[row, :length], clip(int(number)).video[start : start + length])


def test_nonsense_is_refused(store):
    with pytest.raises(BadConfig, match="window length"):
        WindowReader(store, 0)
    with pytest.raises(BadConfig, match="position -1"):
        WindowReader(store, 2).read(-1, 3)


def test_reading_is_fast_enough(tmp_path):
    """The goals are 50 M tokens/s in order and 2 M shuffled on two cores; tools/token_bench.py measures them at full size."""
    rng = np.random.default_rng(0)

    def clips(part):
        return (TokenClip(str(i), rng.integers(6000, size=(33, 8, 8)).astype(np.uint16), None, None) for i in part)

    store = write_store(tmp_path, {"actions": False}, 2048, clips, 256, lambda done: None)
    rates = {}
    for shuffle in (False, True):
        reader = WindowReader(store, 9, shuffle=shuffle)
        reader.read(0, len(reader))  # the files are in memory afterwards
        tries = []
        for _ in range(3):
            began = time.perf_counter()
            tokens = sum(reader.read(position, 64).video_Bthw.astype(np.int64).size for position in range(0, len(reader), 64))
            tries.append(tokens / (time.perf_counter() - began))
        rates[shuffle] = max(tries)
    assert rates[False] > 50e6 and rates[True] > 2e6, rates
