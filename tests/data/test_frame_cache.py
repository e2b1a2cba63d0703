"""Cached frames are the decoded ones, decoded once, within the bytes that were allowed; damage and full disks cost time only."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from wfm_ar.data import frame_cache
from wfm_ar.data.frame_cache import BLOCK, FrameCache
from wfm_ar.errors import NoSpace

SIZE = (6, 8)
TOTAL = 3 * BLOCK + 5
FRAMES = np.random.default_rng(0).integers(0, 256, (TOTAL, *SIZE, 3), dtype=np.uint8)
FRAME = SIZE[0] * SIZE[1] * 3  # bytes


class Decoder:
    """Counts what is decoded."""

    def __init__(self, frames=FRAMES):
        self.frames, self.asked = frames, []

    def __call__(self, start, count):
        assert start >= 0 and count >= 1 and start + count <= len(self.frames)
        self.asked.append((start, count))
        return self.frames[start : start + count]


def test_any_window_is_right_and_no_block_is_decoded_twice(tmp_path):
    cache, decoder, rng = FrameCache(tmp_path, 1e9), Decoder(), np.random.default_rng(1)
    for _ in range(60):
        start = int(rng.integers(TOTAL))
        count = int(rng.integers(1, TOTAL - start + 1))
        assert (cache.load("key", SIZE, TOTAL, start, count, decoder) == FRAMES[start : start + count]).all()
    decoded = [frame for start, count in decoder.asked for frame in range(start, start + count)]
    assert sorted(decoded) == list(range(TOTAL)) and cache.used == TOTAL * FRAME
    again = Decoder()  # another run finds them
    assert (FrameCache(tmp_path, 1e9).load("key", SIZE, TOTAL, 0, TOTAL, again) == FRAMES).all() and not again.asked


def test_neighbouring_blocks_are_decoded_in_one_go(tmp_path):
    cache, decoder = FrameCache(tmp_path, 1e9), Decoder()
    cache.load("key", SIZE, TOTAL, BLOCK + 3, 2, decoder)
    cache.load("key", SIZE, TOTAL, 0, TOTAL, decoder)
    assert decoder.asked == [(BLOCK, BLOCK), (0, BLOCK), (2 * BLOCK, BLOCK + 5)]


def test_a_full_cache_stays_within_its_bytes_and_says_so_once(tmp_path, capsys):
    cache, decoder = FrameCache(tmp_path, 2.5 * BLOCK * FRAME), Decoder()
    for _ in range(2):
        for block in range(3):
            found = cache.load("key", SIZE, TOTAL, block * BLOCK + 2, 5, decoder)
            assert (found == FRAMES[block * BLOCK + 2 : block * BLOCK + 7]).all()
    assert decoder.asked == [(0, BLOCK), (BLOCK, BLOCK), (2 * BLOCK + 2, 5), (2 * BLOCK + 2, 5)]  # no more than what is asked for
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.*")) == cache.used == 2 * BLOCK * FRAME
    assert capsys.readouterr().out.count("decoded at every use (frame_cache= sets its size)") == 1


def test_a_file_that_was_cut_short_is_made_again(tmp_path):
    cache = FrameCache(tmp_path, 1e9)
    cache.load("key", SIZE, TOTAL, 0, TOTAL, Decoder())
    file = tmp_path / "ke/key.1"
    file.write_bytes(file.read_bytes()[:-1])
    decoder = Decoder()
    assert (cache.load("key", SIZE, TOTAL, 0, TOTAL, decoder) == FRAMES).all() and decoder.asked == [(BLOCK, BLOCK)]


def test_frames_of_other_data_are_not_found_and_can_be_dropped(tmp_path):
    cache, other = FrameCache(tmp_path, 1e9), Decoder(FRAMES[::-1])
    cache.load("key", SIZE, TOTAL, 0, TOTAL, Decoder())
    assert (cache.load("other", SIZE, TOTAL, 0, 4, other) == FRAMES[::-1][:4]).all()
    assert cache.held == {"key": TOTAL * FRAME, "other": BLOCK * FRAME}
    assert cache.drop_others({"other"}) == TOTAL * FRAME and cache.used == BLOCK * FRAME
    again = FrameCache(tmp_path, 1e9)
    assert again.used == BLOCK * FRAME and again.held == cache.held == {"other": BLOCK * FRAME}


@pytest.mark.parametrize("error", [NoSpace("full"), OSError("gone")])
def test_a_disk_that_takes_nothing_costs_time_only(tmp_path, monkeypatch, capsys, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(frame_cache, "write_atomic", fail)
    cache, decoder = FrameCache(tmp_path, 1e9), Decoder()
    for _ in range(3):
        assert (cache.load("key", SIZE, TOTAL, 3, 4, decoder) == FRAMES[3:7]).all()
    assert decoder.asked == [(0, BLOCK), (3, 4), (3, 4)]
    assert capsys.readouterr().out.count("takes no more frames") == 1


def test_threads_share_it(tmp_path):
    cache = FrameCache(tmp_path, 1e9)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda start: cache.load("key", SIZE, TOTAL, start, 9, Decoder()), list(range(40)) * 2))
    assert all((frames == FRAMES[start : start + 9]).all() for start, frames in zip(list(range(40)) * 2, found, strict=True))


def test_processes_that_share_a_folder_take_a_part_each(tmp_path):
    assert FrameCache(tmp_path, 1000, sharers=4).most == 250
