"""Encoding a data set: what belongs to which store, and what an earlier version wrote."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tiny_stages as tiny
import torch

from wfm_ar.data import open_episodes, write_episode, write_episodes
from wfm_ar.data.episodes import EpisodeSet
from wfm_ar.data.shards import TokenStore
from wfm_ar.errors import BadData
from wfm_ar.schema import ActionChannel, ActionSchema
from wfm_ar.tokenizers.video import VideoTokenizer
from wfm_ar.train.clips import Clips
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


@pytest.fixture
def encoded(monkeypatch):
    """The ids whose frames are encoded, in order."""
    ids, load = [], EpisodeSet.load_frames
    monkeypatch.setattr(EpisodeSet, "load_frames", lambda self, i, *rest: ids.append(self[i].id) or load(self, i, *rest))
    return ids


def rewrite(root, name, frames=None, actions=None, **changed):
    """Episode `name` of a data set of our own, recorded anew under its id."""
    rng = np.random.default_rng(9)
    frames = rng.integers(0, 256, (5, 16, 24, 3), dtype=np.uint8) if frames is None else frames
    path = root / "episodes.jsonl"
    records = {record["id"]: record for record in map(json.loads, path.read_text().splitlines())}
    actions = rng.uniform(-1, 1, (4, 2)) if actions is None else actions
    records[name] = write_episode(root, id=name, frames_THWC=frames, fps=10, split="train", actions=actions, overwrite=True) | changed
    path.write_text("".join(json.dumps(record) + "\n" for record in records.values()))
    return open_episodes(root)


def same(store, other):
    """Clip by clip, whatever the shards."""
    assert store.ids == other.ids and store.texts == other.texts and store.origins == other.origins
    for mine, theirs in zip(store, other, strict=True):
        assert np.array_equal(mine.video, theirs.video) and np.array_equal(mine.bins, theirs.bins)
        assert np.array_equal(mine.frames, theirs.frames)


def test_what_changed_is_encoded_anew_and_nothing_else(clips, tokenizer, tmp_path, encoded, capsys):
    out = tmp_path / "tokens"
    before = tokenize(tokenizer, clips, out, per_shard=2)
    kept = (out / "shard-00000/video.npy").stat().st_mtime_ns
    assert tokenize(tokenizer, clips, out, per_shard=2).origins == before.origins and encoded == ["e0", "e1", "e2"]
    assert "changed" not in capsys.readouterr().out
    encoded.clear()

    mended = rewrite(clips.path, "e2")  # the same id; other frames and actions
    same(tokenize(tokenizer, mended, out, per_shard=2), tokenize(tokenizer, mended, tmp_path / "fresh"))
    assert encoded == ["e2", "e0", "e1", "e2"]  # the last three for the fresh store
    told = (
        "the data have changed since they were encoded: 1 with other frames (e2), 1 with other actions (e2); 1 of 3 clips are encoded anew"
    )
    assert f"{out}: {told}\n" in capsys.readouterr().out
    assert (out / "shard-00000/video.npy").stat().st_mtime_ns == kept and not list(out.glob(".*"))


def test_texts_and_actions_change_without_encoding(clips, tokenizer, tmp_path, encoded, capsys):
    out = tmp_path / "tokens"
    tokenize(tokenizer, clips, out)
    encoded.clear()
    frames = clips.load_frames(1)
    lines = (clips.path / "episodes.jsonl").read_text().replace('"e0", "text": null', '"e0", "text": "push"')
    (clips.path / "episodes.jsonl").write_text(lines)
    np.save(clips.path / "actions/e1.npy", np.full((4, 2), 0.5, np.float32))
    mended = open_episodes(clips.path)
    encoded.clear()
    store = tokenize(tokenizer, mended, out)
    assert not encoded and store.texts == ["push", None, None] and len(frames) == 5
    assert (store[1].bins == store[1].bins[0, 0]).all() and not (store[0].bins == store[0].bins[0, 0]).all()
    assert "1 with other actions (e1), 1 with another text (e0); 0 of 3 clips are encoded anew" in capsys.readouterr().out


def test_episodes_come_and_go(clips, tokenizer, tmp_path, encoded, capsys):
    out = tmp_path / "tokens"
    tokenize(tokenizer, clips, out, per_shard=1)
    more = rewrite(clips.path, "e3")
    fewer = replace(more, episodes=more.episodes[1:])
    encoded.clear()
    store = tokenize(tokenizer, fewer, out, per_shard=2)
    assert encoded == ["e3"] and store.ids == ["e1", "e2", "e3"] and len(list(out.glob("shard-*"))) == 2
    assert "1 new (e3), 1 gone (e0); 1 of 3 clips are encoded anew" in capsys.readouterr().out
    same(store, tokenize(tokenizer, fewer, tmp_path / "fresh"))


def test_a_renewal_that_was_cut_short_goes_on(clips, tokenizer, tmp_path, encoded, monkeypatch):
    out = tmp_path / "tokens"
    tokenize(tokenizer, clips, out)
    mended = rewrite(clips.path, "e0")
    with monkeypatch.context() as broken:
        broken.setattr(Clips, "whole_latents", lambda *rest: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            tokenize(tokenizer, mended, out)
    with pytest.raises(BadData, match="0 shards, expected 1"):
        TokenStore(out)
    encoded.clear()
    store = tokenize(tokenizer, mended, out)
    assert encoded == ["e0"] and not list(out.glob(".*"))
    same(store, tokenize(tokenizer, mended, tmp_path / "fresh"))


@pytest.mark.parametrize(
    "change",
    [
        lambda about: about["config"].update(levels=[4, 3, 2]),
        lambda about: about["config"].update(unknown=1),
        lambda about: about.update(config=[]),
        lambda about: about.update(codebook_size=37),
        lambda about: about.update(tokenizer="0" * 64),
        lambda about: about.pop("tokenizer"),
    ],
)
def test_a_store_of_another_tokenizer_is_refused(clips, tokenizer, tmp_path, change):
    tokenize(tokenizer, clips, tmp_path / "tokens")
    edit(tmp_path / "tokens", change)
    with pytest.raises(BadData, match="holds tokens of another tokenizer; fix: delete it or choose another folder"):
        tokenize(tokenizer, clips, tmp_path / "tokens")


def test_a_store_of_an_earlier_version_is_encoded_anew(clips, tokenizer, tmp_path, encoded, capsys):
    """It says of its tokenizer's settings less than today's do, and of its clips not what they were made from."""
    out = tmp_path / "tokens"
    expected = tokenize(tokenizer, clips, out)[1].video.copy()

    def forget(about):
        for key in ("factorised_ends", "background", "normalise"):
            del about["config"][key]
        del about["view"], about["images"], about["origins"]

    edit(out, forget)
    table = json.loads((out / "shard-00000/episodes.json").read_text())
    table["clips"] = [{key: clip[key] for key in ("id", "text", "first", "latents")} for clip in table["clips"]]
    del table["sha256"]["clips"]
    (out / "shard-00000/episodes.json").write_text(json.dumps(table))
    encoded.clear()
    assert (tokenize(tokenizer, clips, out)[1].video == expected).all() and encoded == ["e0", "e1", "e2"]
    assert "an earlier version wrote it and does not say what from; 3 of 3 clips are encoded anew" in capsys.readouterr().out


def test_another_schema_makes_the_bins_anew(clips, tokenizer, tmp_path, encoded):
    tokenize(tokenizer, clips, tmp_path / "tokens")
    wider = replace(SCHEMA, channels=(replace(SCHEMA.channels[0], high=3), SCHEMA.channels[1]))
    encoded.clear()
    store = tokenize(tokenizer, replace(clips, schema=wider), tmp_path / "tokens")
    assert not encoded and store.about["schema"]["channels"][0]["high"] == 3
    same(store, tokenize(tokenizer, replace(clips, schema=wider), tmp_path / "fresh"))


def test_images_are_the_last_frames_of_latents_encoded_alone(clips, tokenizer, tmp_path, capsys):
    store = tokenize(tokenizer, clips, tmp_path / "tokens", images=True)
    rate = tokenizer.config.temporal_compression
    for i in range(len(store)):
        frames = torch.from_numpy(clips.load_frames(i)[::rate].copy())
        alone = [tokenizer.encode((frame / 127.5 - 1).permute(2, 0, 1)[None, :, None])[0, 0] for frame in frames]
        assert torch.equal(torch.stack(alone), torch.from_numpy(store[i].images.astype(np.int64)))
        assert np.array_equal(store[i].images[0], store[i].video[0]) and len(store[i].images) == len(store[i].video)
    assert tokenize(tokenizer, clips, tmp_path / "tokens")[0].images is not None  # more than is asked for will do
    tokenize(tokenizer, clips, tmp_path / "plain")
    later = tokenize(tokenizer, clips, tmp_path / "plain", images=True)
    assert np.array_equal(later[2].images, store[2].images)
    assert "plain: held no images, and some are asked for; 3 of 3 clips are encoded anew" in capsys.readouterr().out


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
    clip = Clips(long, tokenizer.config)
    beginning = clip.beginning(0)
    assert len(beginning) == 3 * rate + 1 and torch.equal(beginning, clip.load(0)[: 3 * rate + 1])
