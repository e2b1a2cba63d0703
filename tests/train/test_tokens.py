"""Encoding a data set: what belongs to which store, and what an earlier version wrote."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny_stages as tiny
import torch

from wfm_ar.data import open_episodes, write_episode, write_episodes
from wfm_ar.errors import BadData
from wfm_ar.schema import ActionChannel, ActionSchema
from wfm_ar.tokenizers.video import VideoTokenizer
from wfm_ar.train.clips import load_beginning, load_clip
from wfm_ar.train.tokens import tokenize

SCHEMA = ActionSchema(
    channels=(ActionChannel(name="dx", unit="m", low=-1, high=1), ActionChannel(name="key", unit="", low=0, high=1)), rate_hz=10
)


@pytest.fixture
def clips(tmp_path):
    rng = np.random.default_rng(0)
    records = [
        write_episode(
            tmp_path / "set",
            id=f"e{i}",
            frames_THWC=rng.integers(0, 256, (5, 16, 24, 3), dtype=np.uint8),
            fps=10,
            split="train",
            actions=rng.uniform(-1, 1, (4, 2)),
        )
        for i in range(3)
    ]
    write_episodes(tmp_path / "set", records, SCHEMA)
    return open_episodes(tmp_path / "set")


@pytest.fixture(scope="module")
def tokenizer():
    return VideoTokenizer(tiny.TOKENIZER)


def edit(store, change):
    path = store / "store.json"
    about = json.loads(path.read_bytes())
    change(about)
    path.write_text(json.dumps(about))


def forget(about):
    """What today's channels, settings and stores say of themselves and an earlier version may not have known."""
    for channel in about["schema"]["channels"]:
        for key in ("bins", "discrete", "constant", "motion", "rotation"):
            del channel[key]
    for key in ("factorised_ends", "background", "normalise"):
        del about["config"][key]
    del about["view"], about["images"]


def test_a_store_of_an_earlier_version_is_gone_on_with(clips, tokenizer, tmp_path):
    store = tokenize(tokenizer, clips, tmp_path / "tokens", per_shard=2)
    tokens = store[2].video.copy()
    before = (tmp_path / "tokens/shard-00000/video.npy").stat().st_mtime_ns
    edit(tmp_path / "tokens", forget)
    again = tokenize(tokenizer, clips, tmp_path / "tokens", per_shard=2)
    assert len(again) == 3 and (again[2].video == tokens).all()
    assert (tmp_path / "tokens/shard-00000/video.npy").stat().st_mtime_ns == before  # nothing was encoded again


@pytest.mark.parametrize(
    "change",
    [
        lambda about: about["schema"]["channels"][0].update(high=2.0),
        lambda about: about["schema"]["channels"].pop(),
        lambda about: about["schema"]["channels"][0].update(spin=1),
        lambda about: about.update(schema=None),
        lambda about: about["config"].update(levels=[4, 3, 2]),
        lambda about: about["config"].update(unknown=1),
        lambda about: about.update(config=[]),
        lambda about: about.update(view="wrist"),
        lambda about: about.update(episodes="0" * 64),
        lambda about: about.update(tokenizer="0" * 64),
        lambda about: about.pop("tokenizer"),
    ],
)
def test_a_store_of_something_else_is_refused(clips, tokenizer, tmp_path, change):
    tokenize(tokenizer, clips, tmp_path / "tokens")
    edit(tmp_path / "tokens", change)
    with pytest.raises(BadData, match="holds tokens of another tokenizer or data set"):
        tokenize(tokenizer, clips, tmp_path / "tokens")


def test_another_camera_is_another_store(clips, tokenizer, tmp_path):
    top = replace(clips, view="observation.images.top")
    assert tokenize(tokenizer, top, tmp_path / "tokens").about["view"] == "observation.images.top"
    with pytest.raises(BadData, match="holds tokens of another"):
        tokenize(tokenizer, replace(clips, view="observation.images.wrist"), tmp_path / "tokens")


def test_images_are_the_last_frames_of_latents_encoded_alone(clips, tokenizer, tmp_path):
    store = tokenize(tokenizer, clips, tmp_path / "tokens", images=True)
    rate = tokenizer.config.temporal_compression
    for i in range(len(store)):
        frames = torch.from_numpy(clips.load_frames(i)[::rate].copy())
        alone = [tokenizer.encode((frame / 127.5 - 1).permute(2, 0, 1)[None, :, None])[0, 0] for frame in frames]
        assert torch.equal(torch.stack(alone), torch.from_numpy(store[i].images.astype(np.int64)))
        assert np.array_equal(store[i].images[0], store[i].video[0]) and len(store[i].images) == len(store[i].video)
    assert tokenize(tokenizer, clips, tmp_path / "tokens")[0].images is not None  # more than is asked for will do
    tokenize(tokenizer, clips, tmp_path / "plain")
    with pytest.raises(BadData, match=r"plain: holds no images, expected some \(policy_share, images=true\); fix: delete it"):
        tokenize(tokenizer, clips, tmp_path / "plain", images=True)


def test_a_long_clip_is_encoded_in_pieces_and_looked_at_from_its_beginning(tokenizer, tmp_path, monkeypatch):
    rng, rate = np.random.default_rng(1), tokenizer.config.temporal_compression
    frames = rng.integers(0, 256, (8 * rate + 2, 16, 24, 3), dtype=np.uint8)  # the last one fills no latent
    record = write_episode(tmp_path / "set", id="long", frames_THWC=frames, fps=10, split="train", actions=np.zeros((8 * rate + 1, 2)))
    write_episodes(tmp_path / "set", [record], SCHEMA)
    long = open_episodes(tmp_path / "set")
    whole = tokenize(tokenizer, long, tmp_path / "whole", images=True)[0]
    loads, load_frames = [], type(long).load_frames

    def load(self, i, start=0, count=None):
        loads.append(count)
        return load_frames(self, i, start, count)

    monkeypatch.setattr(type(long), "load_frames", load)
    monkeypatch.setattr("wfm_ar.train.clips.AT_ONCE", 2 * rate + 1)
    pieces = tokenize(tokenizer, long, tmp_path / "pieces", images=True)[0]
    assert loads == [2 * rate + 1, 2 * rate, 2 * rate, 2 * rate]
    assert len(whole.video) == 9 and whole.bins.shape == (8, rate, 2)
    for name in ("video", "images", "bins", "frames"):
        assert np.array_equal(getattr(pieces, name), getattr(whole, name))
    monkeypatch.setattr("wfm_ar.train.clips.LOOKED_AT", 4 * rate)
    beginning = load_beginning(long, 0, 16, 24, rate)
    assert len(beginning) == 3 * rate + 1 and torch.equal(beginning, load_clip(long, 0, 16, 24)[: 3 * rate + 1])
