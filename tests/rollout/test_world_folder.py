"""World folders: written and read back exactly, refused when anything was changed, never half written."""

import json
import os
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_world as tiny
import torch
from safetensors.torch import load_file, save_file

from wfm_ar import load_world
from wfm_ar.data.files import sha256_of
from wfm_ar.errors import BadCheckpoint, NoSpace, Note, OutputExists
from wfm_ar.rollout import world_folder
from wfm_ar.rollout.detail import TrainingCopies
from wfm_ar.rollout.sampling import SamplingConfig
from wfm_ar.rollout.world import World, WorldParts, save_world


@pytest.fixture(scope="module")
def parts() -> WorldParts:
    return tiny.make_parts()


@pytest.fixture
def folder(parts: WorldParts, tmp_path: Path) -> Path:
    samples = tmp_path / "episodes"
    (samples / "videos").mkdir(parents=True)
    (samples / "videos" / "a.mp4").write_bytes(b"a clip")
    return save_world(tmp_path / "world", parts, card="# A tiny world\n", samples=samples, dtype=torch.float32)


def test_a_world_survives_a_round_trip(parts: WorldParts, folder: Path) -> None:
    settings = json.loads((folder / "world.json").read_text())
    assert set(settings["files"]) == {
        "video_tokenizer.safetensors",
        "world_model.safetensors",
        "diffusion_decoder.safetensors",
        "text_tokenizer.model",
        "README.md",
        "samples/videos/a.mp4",
    }
    loaded, original = load_world(folder), World(parts)
    assert loaded.name == "world" and loaded.parts.sequence == parts.sequence and loaded.action_schema == parts.action_schema
    for name, module in parts.modules().items():
        twin = loaded.parts.modules()[name]
        assert twin.config == module.config and not twin.training
        assert all(torch.equal(tensor, twin.state_dict()[key]) for key, tensor in module.state_dict().items())
    prompt = dict(video=tiny.make_video(3), text=tiny.TEXTS[0], num_frames=7, seed=1)
    mine, theirs = original.generate(**prompt), loaded.generate(**prompt)
    assert np.array_equal(mine.tokens, theirs.tokens) and np.array_equal(mine.frames, theirs.frames)


def test_a_world_from_before_action_sums_is_read(tmp_path: Path) -> None:
    parts = tiny.make_parts(sums=False)
    save_world(tmp_path / "old", parts)
    path = tmp_path / "old" / "world.json"
    settings = json.loads(path.read_text())
    assert settings["sequence"].pop("action_sums") is False
    path.write_text(json.dumps(settings))
    assert world_folder.read_world(tmp_path / "old").sequence == parts.sequence


def test_a_world_is_sampled_as_it_says_where_nobody_says_otherwise(parts: WorldParts, tmp_path: Path) -> None:
    own = SamplingConfig(temperature=0.3, top_p=0.8, action_temperature=1.5, text_guidance=2.0)
    folder = save_world(tmp_path / "cool", replace(parts, sampling=own), dtype=torch.float32)
    cool, plain, prompt = load_world(folder), World(parts), {"text": tiny.TEXTS[0], "num_frames": 7, "refine": False}
    assert cool.parts.sampling == own
    expected = plain.generate(**prompt, temperature=0.3, top_p=0.8, action_temperature=1.5, text_guidance=2.0).tokens
    assert np.array_equal(cool.generate(**prompt).tokens, expected)
    assert np.array_equal(cool.generate(**prompt, temperature=None, text_guidance=None).tokens, expected)
    warm = {"temperature": 1.0, "top_p": 0.9, "action_temperature": 1.0, "text_guidance": 1.0}
    assert np.array_equal(cool.generate(**prompt, **warm).tokens, plain.generate(**prompt).tokens)
    assert not np.array_equal(plain.generate(**prompt).tokens, expected)

    path = folder / "world.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"sampling": settings["sampling"] | {"temperature": -1.0}}))
    with pytest.raises(BadCheckpoint, match=r"world.json: sampling: temperature: got -1.0, expected 0 or a number"):
        load_world(folder)
    del settings["sampling"]  # as before it was kept
    path.write_text(json.dumps(settings))
    older = load_world(folder)
    assert older.parts.sampling is None and older.defaults()["temperature"] == 1.0
    told = {"temperature": 0.0, "action_temperature": 1.0, "text_guidance": 3.0, "action_guidance": 1.5}
    assert {name: older.measured()[name] for name in told} == told  # as the first report was made
    assert cool.measured() == cool.defaults()


def test_how_well_the_tokenizer_copies_is_kept(parts: WorldParts, tmp_path: Path) -> None:
    copies = TrainingCopies(pictures=8, median_db=31.5, least_db=28.25)
    folder = save_world(tmp_path / "measured", replace(parts, copies=copies))
    assert world_folder.read_world(folder).copies == copies
    path = folder / "world.json"
    settings = json.loads(path.read_text())
    path.write_text(json.dumps(settings | {"copies": settings["copies"] | {"least_db": 99.0}}))
    with pytest.raises(BadCheckpoint, match=r"world.json: copies: least_db: got 99 and 31.5 dB of 8 pictures"):
        load_world(folder)
    del settings["copies"]  # as before it was kept
    path.write_text(json.dumps(settings))
    assert world_folder.read_world(folder).copies is None


def test_the_words_of_the_training_texts_are_kept_and_others_are_named(parts: WorldParts, folder: Path) -> None:
    text = parts.text_tokenizer
    assert text is not None and text.words and "teapot" not in text.words
    path = folder / "world.json"
    settings = json.loads(path.read_text())
    assert settings["text"]["words"] == sorted(text.words)
    world = load_world(folder)
    assert world.parts.text_tokenizer.words == text.words
    short = {"num_frames": 3, "refine": False}
    with pytest.warns(Note, match='text: no training text had "teapot": what comes of it is a guess'):
        world.generate(text="teapot", **short)
    del settings["text"]["words"]  # as before they were kept
    path.write_text(json.dumps(settings))
    earlier = load_world(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Note)
        world.generate(text=tiny.TEXTS[0], **short)
        assert earlier.parts.text_tokenizer.words is None and earlier.generate(text="teapot", **short).frames.any()
    settings["text"]["words"] = ["push", 3]
    path.write_text(json.dumps(settings))
    with pytest.raises(BadCheckpoint, match=r"text: words: got \['push', 3\]|text: words: got 3"):
        load_world(folder)


def test_half_precision_halves_the_file_and_reads_as_float32(parts: WorldParts, folder: Path, tmp_path: Path) -> None:
    small = save_world(tmp_path / "small", parts)
    sizes = [(path / "world_model.safetensors").stat().st_size for path in (small, folder)]
    assert 0.45 < sizes[0] / sizes[1] < 0.6
    weight = load_world(small).parts.world_model.head.weight
    assert weight.dtype == torch.float32 and torch.equal(weight, parts.world_model.head.weight.half().float())


def test_optional_parts_may_be_missing(tmp_path: Path) -> None:
    folder = save_world(tmp_path / "bare", tiny.make_parts(text=False, actions=False, refine=False))
    world = load_world(folder)
    assert world.parts.text_tokenizer is None and world.action_schema is None and world.parts.diffusion_decoder is None


def test_what_is_there_is_kept_unless_told(parts: WorldParts, folder: Path, tmp_path: Path) -> None:
    lock = folder.with_name(f".lock-{folder.name}")
    lock.touch()  # of a process that was killed as it gave its claim back
    with pytest.raises(OutputExists, match="it is there already"):
        save_world(folder, parts)
    assert not lock.exists()
    save_world(folder, parts, card="again", overwrite=True)
    assert (folder / "README.md").read_text() == "again" and not (folder / "samples").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputExists, match="holds no world.json, so it will not be replaced"):
        save_world(tmp_path / "mine", parts, overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").exists() and not list(tmp_path.glob(".*"))


def test_a_full_disk_leaves_what_was_there(parts: WorldParts, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("wfm_ar.data.claims.fsync", full)
    with pytest.raises(NoSpace, match="the disk is full"):
        save_world(folder, parts, card="new", overwrite=True)
    assert (folder / "README.md").read_text() == "# A tiny world\n" and not list(folder.parent.glob(".*"))
    load_world(folder)


def test_weights_that_half_precision_cannot_hold(tmp_path: Path) -> None:
    parts = tiny.make_parts(text=False, refine=False)
    with torch.no_grad():
        parts.world_model.norm.weight[0] = 1e6
    with pytest.raises(BadCheckpoint, match="world_model: tensor norm.weight: got values that are not finite in torch.float16"):
        save_world(tmp_path / "huge", parts)
    assert not list(tmp_path.iterdir())


def _edit(change: Callable[[dict], object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        settings = json.loads((folder / "world.json").read_text())
        change(settings)
        (folder / "world.json").write_text(json.dumps(settings))

    return apply


def _tensors(change: Callable[[dict], object]) -> Callable[[Path], None]:
    """Changes the world model's tensors and makes the hash fit again."""

    def apply(folder: Path) -> None:
        path = folder / "world_model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)
        _rehash(folder, path.name)

    return apply


def _rehash(folder: Path, name: str) -> None:
    entry = {"bytes": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)}
    _edit(lambda settings: settings["files"].update({name: entry}))(folder)


def _flip(folder: Path) -> None:
    path = folder / "world_model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def _garbage(name: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / name).write_bytes(b"garbage")
        _rehash(folder, name)

    return apply


def _link_out(folder: Path) -> None:
    """The file as it was, but outside, behind a link: its hash would hold."""
    name = "video_tokenizer.safetensors"
    (folder / name).rename(folder.parent / name)
    (folder / name).symlink_to(folder.parent / name)


BROKEN = {
    "part missing": (lambda f: os.remove(f / "diffusion_decoder.safetensors"), "diffusion_decoder.safetensors is missing, expected"),
    "sample missing": (lambda f: os.remove(f / "samples/videos/a.mp4"), "samples/videos/a.mp4 is missing"),
    "truncated": (lambda f: os.truncate(f / "world_model.safetensors", 99), "world_model.safetensors: got 99 bytes, expected"),
    "flipped bit": (_flip, "world_model.safetensors: got sha256 .* it was changed"),
    "text model": (_garbage("text_tokenizer.model"), "no SentencePiece model"),
    "no safetensors": (_garbage("video_tokenizer.safetensors"), "video_tokenizer.safetensors: cannot be read"),
    "settings": (lambda f: (f / "world.json").write_text("{"), "world.json: cannot be read"),
    "other json": (lambda f: (f / "world.json").write_text("[1]"), 'got no "format": "wfm-ar world"'),
    "version": (_edit(lambda s: s.update(version=99)), "got version 99, expected 1"),
    "unknown key": (_edit(lambda s: s.update(world_modl={})), r'unknown key \'world_modl\' \(did you mean "world_model"\?\)'),
    "missing key": (_edit(lambda s: s.pop("fps")), "key 'fps' is missing"),
    "unknown setting": (_edit(lambda s: s["world_model"].update(headz=1)), r"world_model: unknown key 'headz' \(did you mean \"heads\""),
    "missing setting": (_edit(lambda s: s["sequence"].pop("grid_h")), "sequence: key 'grid_h' is missing"),
    "wrong type": (_edit(lambda s: s["world_model"].update(layers="2")), "world_model: layers: got '2'"),
    "bad value": (_edit(lambda s: s["world_model"].update(heads=5)), "world_model: model heads: got 5"),
    "no tokenizer": (_edit(lambda s: s.update(video_tokenizer=None)), "video_tokenizer: got NoneType, expected an object"),
    "not listed": (_edit(lambda s: s["files"].pop("world_model.safetensors")), "world_model.safetensors is not listed"),
    "link": (_link_out, "video_tokenizer.safetensors: leads out of the world's folder"),
    "outside": (_edit(lambda s: s["files"].update({"../x": {"bytes": 1, "sha256": ""}})), "'../x' lies outside the world"),
    "absolute": (_edit(lambda s: s["files"].update({"/etc/passwd": {"bytes": 1, "sha256": ""}})), "lies outside the world"),
    "files": (_edit(lambda s: s.update(files=[])), "files: expected an object"),
    "schema": (_edit(lambda s: s["action_schema"].update(rate_hz=-1)), "rate_hz is -1"),
    "other schema": (
        _edit(lambda s: s["action_schema"]["channels"][0].update(bins=5)),
        r"action schema's bins: got \(5, 9\), expected \(9, 9\)",
    ),
    "other grid": (_edit(lambda s: s["sequence"].update(grid_h=4)), r"tokenizer grid: got \(2, 3\), expected \(4, 3\)"),
    "fps": (_edit(lambda s: s.update(fps=0)), "fps is 0"),
    "tensor missing": (_tensors(lambda t: t.pop("norm.weight")), "world_model.safetensors: norm.weight is missing"),
    "tensor extra": (_tensors(lambda t: t.update(extra=torch.ones(1))), "extra is not known"),
    "tensor shape": (_tensors(lambda t: t.update({"norm.weight": torch.ones(3)})), r"norm.weight is \[3\], expected \[32\]"),
    "tensor type": (_tensors(lambda t: t.update({"norm.weight": torch.ones(32, dtype=torch.int32)})), "norm.weight is I32"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_world_is_refused_in_one_line(folder: Path, name: str) -> None:
    spoil, match = BROKEN[name]
    spoil(folder)
    with pytest.raises(BadCheckpoint, match=match) as caught:
        load_world(folder)
    assert "\n" not in str(caught.value)


def test_parts_that_do_not_fit_each_other(parts: WorldParts) -> None:
    for change, match in (
        (dict(text_tokenizer=None), "text tokenizer's vocabulary: got 0"),
        (dict(action_schema=None), "action schema's bins: got"),
        (dict(sequence=replace(parts.sequence, rate=4)), "temporal_compression: got 2, expected 4"),
        (dict(sequence=replace(parts.sequence, max_latents=1)), "max_latents: got 1, expected at least 2"),
        (dict(fps=float("nan")), "fps is nan"),
    ):
        with pytest.raises(BadCheckpoint, match=match):
            replace(parts, **change)
