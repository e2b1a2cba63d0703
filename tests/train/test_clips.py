"""Clips at the tokenizer's size: cropped as it says, and the same frames with a cache as without."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from wfm_ar.data import open_episodes
from wfm_ar.data.frame_cache import FrameCache
from wfm_ar.data.video import resize_crop, write_video
from wfm_ar.errors import BadClip
from wfm_ar.tokenizers.video import VideoTokenizerConfig
from wfm_ar.train.clips import Clips
from wfm_ar.train.windows import Windows, WindowSampler

CONFIG = VideoTokenizerConfig(height=32, width=48, encoder_channels=8, decoder_channels=8, z_channels=8, decoder_blocks=1)


@pytest.fixture(scope="module")
def episodes(tmp_path_factory):
    """Two clips of 64x40 pixels (wide) and 40 frames, all of them different."""
    folder = tmp_path_factory.mktemp("clips")
    for i in range(2):
        write_video(folder / f"{i}.mp4", np.random.default_rng(i).integers(0, 256, (40, 40, 64, 3), dtype=np.uint8), 10)
    return open_episodes(folder)


@pytest.mark.parametrize("crop", ["centre", "fit", "stretch", "4,2,48,32"])
def test_cached_frames_are_the_decoded_ones(episodes, tmp_path, crop):
    config = replace(CONFIG, crop=crop)
    plain, cached = Clips(episodes, config), Clips(episodes, config, FrameCache(tmp_path, 1e9))
    expected = torch.from_numpy(resize_crop(episodes.load_frames(1), 32, 48, crop))
    for start, count in ((0, None), (7, 20), (39, 1), (0, None)):
        window = expected[start : None if count is None else start + count]
        assert torch.equal(plain.load(1, start, count), window) and torch.equal(cached.load(1, start, count), window)
    assert torch.equal(torch.cat(list(plain.whole_latents(1))), torch.cat(list(cached.whole_latents(1))))


def test_size_crop_and_content_are_part_of_the_key(episodes, tmp_path):
    configs = [CONFIG, replace(CONFIG, crop="fit"), replace(CONFIG, height=48), replace(CONFIG, levels=(4, 4))]
    keys = [Clips(episodes, config).key(0) for config in configs]
    assert len(set(keys)) == 3 and keys[3] == keys[0] != Clips(episodes, CONFIG).key(1)
    write_video(tmp_path / "0.mp4", episodes.load_frames(1), 10)
    assert Clips(open_episodes(tmp_path), CONFIG).key(0) not in keys


def test_batches_are_the_same_and_come_without_decoding(episodes, tmp_path, monkeypatch):
    windows = Windows(crop=32, windows_per_clip=2)
    plain = WindowSampler(windows, Clips(episodes, CONFIG), None)
    cached = WindowSampler(windows, Clips(episodes, CONFIG, FrameCache(tmp_path, 1e9)), None)
    first = [cached.batch(step, 4, 0) for step in range(3)]
    for step, batch in enumerate(first):
        assert all(torch.equal(value, plain.batch(step, 4, 0)[name]) for name, value in batch.items())
    monkeypatch.setattr(type(episodes), "load_frames", None)
    monkeypatch.setattr(type(episodes), "num_frames", None)  # it opens the file too
    assert all(torch.equal(value, cached.batch(1, 4, 0)[name]) for name, value in first[1].items())


def test_frames_beyond_the_end_are_the_readers_to_refuse(episodes, tmp_path):
    with pytest.raises(BadClip):
        Clips(episodes, CONFIG, FrameCache(tmp_path, 1e9)).load(0, 35, 10)
    with pytest.raises(BadClip, match="episode 0.mp4: got pictures of 64x40 pixels, expected ones that hold crop=30,0,48,32"):
        Clips(episodes, replace(CONFIG, crop="30,0,48,32")).load(0, 0, 1)


def test_the_cache_is_many_times_faster_than_the_decoder(episodes, tmp_path):
    """The bar is 20 on a quiet machine and large video; small clips on a busy one still make 5."""
    plain, cached = Clips(episodes, CONFIG), Clips(episodes, CONFIG, FrameCache(tmp_path, 1e9))
    cached.load(0)

    def seconds(clips):
        best = []
        for _ in range(5):
            begin = time.perf_counter()
            clips.load(0, 4, 30)
            best.append(time.perf_counter() - begin)
        return min(best)

    assert seconds(plain) > 5 * seconds(cached)


def test_what_is_to_be_decoded_yet(episodes, tmp_path):
    """Blocks of 16 frames; another run, and another set on the same cache, count what is there."""
    size = 80 * 32 * 48 * 3
    clips = Clips(episodes, CONFIG, FrameCache(tmp_path, size))
    assert clips.to_decode() == (80, 80) and Clips(episodes, CONFIG).to_decode() is None
    clips.load(0, 20, 3)
    assert clips.to_decode() == (64, 80)
    clips.load(0, 3, 30)  # decodes the other two blocks, the last of 8 frames
    assert clips.to_decode() == (40, 80)
    again = Clips(episodes, CONFIG, FrameCache(tmp_path, size))
    again.load(1, 0, 1)
    assert again.to_decode() == (24, 80) and again.load(1).shape == (40, 32, 48, 3) and again.to_decode() == (0, 80)
    assert Clips(episodes, replace(CONFIG, crop="fit"), FrameCache(tmp_path, 2 * size)).to_decode() == (80, 80)
    assert Clips(episodes, replace(CONFIG, crop="fit"), FrameCache(tmp_path, 2 * size - 1)).to_decode() is None  # no room for all


def test_ranks_decode_side_by_side(episodes, tmp_path):
    clips = Clips(episodes, CONFIG, FrameCache(tmp_path, 1e9, sharers=2))
    assert clips.to_decode() == (80, 80)
    clips.load(0, 0, 16)
    assert clips.to_decode() == (48, 80)
