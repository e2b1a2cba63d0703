"""From a release of random weights in the published layout to a clip: convert, load, generate, refine, mp4. On the CPU."""

import hashlib
import json
import shutil
import sys
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from wfm_ar.cli import main
from wfm_ar.cosmos.convert import convert
from wfm_ar.cosmos.synth import synthesise
from wfm_ar.data.video import read_video, write_image
from wfm_ar.errors import BadActions, BadCheckpoint, BadClip, BadConfig, BadPrompt, MissingDependency, OutputExists
from wfm_ar.rollout.int8 import Int8Linear
from wfm_ar.rollout.world import OFFLOAD, Prompt, load_world
from wfm_ar.world_model import steps as world_model_steps
from wfm_ar.world_model.decode_step import DecodeStep


def clip(frames: int, height: int = 64, width: int = 96) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def test_end_to_end_on_the_command_line(tmp_path, monkeypatch, capsys):
    """The whole path, as a holder of the weights goes it."""
    monkeypatch.chdir(tmp_path)
    write_image(tmp_path / "in.png", clip(1)[0])
    assert main(["cosmos", "synth", "name=12b", "scale=tiny", "out=release"]) == 0
    assert main(["cosmos", "info", "release"]) == 0
    told = capsys.readouterr().out
    assert "TorchScript archive" in told and "encoder.jit, decoder.jit" in told and "other widths" in told
    assert main(["cosmos", "convert", "src=release", "out=world", "height=64", "width=96"]) == 0
    assert main(["info", "world"]) == 0
    assert "a converted Cosmos world" in capsys.readouterr().out
    settings = json.loads((tmp_path / "world/world.json").read_text())
    assert settings["world_model"]["yarn_shape"] == [3, 40] and settings["latent_tokenizer"]["chunk"] == 8
    assert len(settings["files"]["world_model.safetensors"]["sha256"]) == 64
    code = main(["generate", "world=world", "image=in.png", "frames=17", "refine_steps=2", "seed=3", "out=out.mp4"])
    out, err = capsys.readouterr()
    assert code == 0, err
    assert read_video(tmp_path / "out.mp4").shape == (17, 64, 96, 3)
    about = json.loads((tmp_path / "out.json").read_text())
    assert about["settings"]["refine_steps"] == 2 and about["settings"]["top_p"] == 0.8 and about["settings"]["seed"] == 3


def test_files_in_a_list_of_prompts_lie_beside_it(place, tmp_path, monkeypatch, capsys):
    """Pictures, clips and embeddings alike, wherever the command runs."""
    monkeypatch.chdir(tmp_path)
    (place / "list.jsonl").write_text(json.dumps({"id": "a", "image": "in.png", "text": "text.safetensors"}))
    code = main(["generate", f"world={place / '5b'}", f"batch={place / 'list.jsonl'}", "frames=9", "refine=false", "out=clips"])
    assert code == 0, capsys.readouterr().err
    assert (tmp_path / "clips/a.mp4").is_file()


def test_given_frames_stay_and_a_clip_rolls_on_beyond_its_trained_length(world):
    given = world.encode(clip(9))
    rollout = world.generate(clip(9), num_frames=57, seed=1, refine=False)
    assert rollout.frames.shape == (57, 64, 96, 3) and rollout.tokens.shape == (8, 4, 6)
    assert np.array_equal(rollout.tokens[:2], given) and np.array_equal(rollout.frames[:9], world.decode(given))
    longer = world.generate(clip(49), num_frames=65, seed=1, refine=False)  # more context than the trained length
    assert np.array_equal(longer.tokens[:7], world.encode(clip(49))) and len(longer.tokens) == 9


def test_seeds_rows_and_streams(world):
    few = {"top_k": 4, "refine": False}  # of thousands of nearly equal chances, a rounding picks another
    prompts = [Prompt(video=clip(9), num_frames=25, seed=seed) for seed in (1, 2, 1)] + [Prompt(video=clip(1), num_frames=17, seed=5)]
    rows = world.generate_batch(prompts, **few)
    assert np.array_equal(rows[0].tokens, rows[2].tokens) and not np.array_equal(rows[0].tokens, rows[1].tokens)
    for prompt, row in zip(prompts, rows, strict=True):
        alone = world.generate(prompt.video, num_frames=prompt.num_frames, seed=prompt.seed, **few)
        assert np.array_equal(alone.tokens, row.tokens)
    stream = world.start(clip(9), seed=1, top_k=4)
    frames = np.concatenate([stream.given_frames, stream.step(), stream.step()])
    assert np.array_equal(stream.tokens, rows[0].tokens) and np.array_equal(frames, rows[0].frames)
    with pytest.raises(BadActions):
        stream.step(np.zeros((8, 2)))


def test_refining_is_seeded_and_runs_both_passes_in_one_call(world, monkeypatch):
    dit, batches = world.modules["diffusion_decoder"], []
    whole = type(dit).forward
    monkeypatch.setattr(type(dit), "forward", lambda self, x, *rest, **more: batches.append(len(x)) or whole(self, x, *rest, **more))
    one, again = (world.generate(clip(1), num_frames=9, seed=4, refine_steps=3) for _ in range(2))
    assert batches == [2] * 6
    assert np.array_equal(one.frames, again.frames) and not np.array_equal(one.frames, one.raw_frames)
    other = world.generate(clip(1), num_frames=9, seed=5, refine_steps=3)
    assert not np.array_equal(one.frames, other.frames)


def test_chunks_of_a_long_clip_join_at_the_right_frames(world):
    """Nine latents are two chunks; the published blend of 2 frames instead of 9 shifts the second one."""
    video = clip(65)
    right = world.generate(video, num_frames=65, refine_steps=2)
    published = world.generate(video, num_frames=65, refine_steps=2, published=True)
    assert right.frames.shape == published.frames.shape == (65, 64, 96, 3)
    assert np.array_equal(right.frames[:48], published.frames[:48]) and not np.array_equal(right.frames[57:], published.frames[57:])


def test_the_published_blend_on_the_command_line(place, tmp_path, capsys):
    given = ["generate", f"world={place / '4b'}", f"image={place / 'in.png'}", "frames=65", "refine_steps=2", "top_k=4"]
    for name in ("false", "true"):
        assert main([*given, f"published={name}", f"out={tmp_path / name}.mp4"]) == 0, capsys.readouterr().err
    ours, theirs = (read_video(tmp_path / f"{name}.mp4") for name in ("false", "true"))
    assert ours.shape == theirs.shape == (65, 64, 96, 3) and np.abs(ours[57:].astype(int) - theirs[57:]).mean() > 1
    assert json.loads((tmp_path / "true.json").read_text())["settings"]["published"] is True


def test_other_sizes_are_padded_and_cropped_back_with_a_warning(world):
    video = clip(1, 70, 101)
    with pytest.warns(UserWarning, match="101x70.*trained at 96x64"):
        rollout = world.generate(video, num_frames=9, refine_steps=2)
    assert rollout.frames.shape == rollout.raw_frames.shape == (9, 70, 101, 3) and rollout.tokens.shape == (2, 5, 7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        world.generate(clip(1), num_frames=9, refine=False)


def test_text_models_take_a_file_of_embeddings(place, monkeypatch):
    world = load_world(place / "5b")
    text = str(place / "text.safetensors")
    nothing_given = world.generate(text=text, num_frames=9, seed=1, refine=False)
    assert nothing_given.frames.shape == (9, 64, 96, 3)
    np.save(place / "other.npy", np.random.default_rng(1).standard_normal((1, 30, 32)).astype(np.float32))
    one = world.generate(clip(9), text=text, num_frames=17, seed=1, top_k=4, refine=False)
    two = world.generate(clip(9), text=str(place / "other.npy"), num_frames=17, seed=1, top_k=4, refine=False)
    assert not np.array_equal(one.tokens, two.tokens)
    mixed = world.generate_batch(
        [Prompt(video=clip(9), text=each, num_frames=17, seed=1) for each in (text, str(place / "other.npy"))], top_k=4, refine=False
    )
    assert [np.array_equal(a.tokens, b.tokens) for a, b in zip(mixed, (one, two), strict=True)] == [True, True]
    with pytest.raises(BadPrompt, match="text: got none, expected a file of T5 embeddings"):
        world.generate(clip(9))
    np.save(place / "wide.npy", np.zeros((3, 1024), np.float32))
    np.save(place / "long.npy", np.zeros((513, 32), np.float32))
    for name, words in (("wide.npy", r"\[3, 1024\].*32"), ("long.npy", "513.*512"), ("absent.npy", "absent.npy")):
        with pytest.raises(BadPrompt, match=words):
            world.generate(clip(9), text=str(place / name))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependency, match="text=FILE"):
        world.generate(clip(9), text="a robot arm pours tea")


@pytest.mark.parametrize("part", [*OFFLOAD, "all"])
def test_a_part_that_is_offloaded_comes_to_the_device_only_to_work(place, world, monkeypatch, part):
    """The moves are watched, since this device is the CPU too: there and back around the work, of that part's networks alone."""
    parts = tuple(OFFLOAD) if part == "all" else (part,)
    offloaded, moves = load_world(place / "4b", offload=parts), []
    offloaded.placement.device = torch.device("cpu:0")  # to tell it from where they wait
    names = {id(module): name for name, module in offloaded.modules.items()}
    move = torch.nn.Module.to
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, place: moves.append((names[id(self)], str(place))) or move(self, place))
    settings = {"num_frames": 9, "seed": 2, "refine_steps": 2}
    assert np.array_equal(offloaded.generate(clip(1), **settings).frames, world.generate(clip(1), **settings).frames)
    assert {name for name, _ in moves} == {name for one in parts for name in OFFLOAD[one]}
    for name in {name for name, _ in moves}:
        own = [where for other, where in moves if other == name]
        assert own == ["cpu:0", "cpu"] * (len(own) // 2)
    assert sum(name == "video_tokenizer" for name, _ in moves) in (0, 4)  # to encode and to decode


@pytest.mark.parametrize("part, network", [("model", "world_model"), ("decoder", "diffusion_decoder")])
def test_int8_of_a_part(place, world, part, network):
    small = load_world(place / "4b", int8=(part,))
    for name, module in small.modules.items():
        kinds = {type(layer) for layer in module.modules()}
        assert (Int8Linear in kinds) == (name == network)
    held = sum(t.numel() * t.element_size() for n, t in small.modules[network].state_dict().items() if n.startswith("blocks."))
    whole = sum(t.numel() * t.element_size() for n, t in world.modules[network].state_dict().items() if n.startswith("blocks."))
    assert held < 0.36 * whole  # of float32; the adaptive norms of the decoder stay
    if part == "model":
        ids, positions = torch.randint(64000, (1, 12)), torch.randint(4, (1, 12, 3))
        exact, near = (one.modules[network](ids, positions).detach() for one in (world, small))
    else:
        settings = {"num_frames": 9, "seed": 2, "refine_steps": 2}
        exact, near = (torch.from_numpy(one.generate(clip(1), **settings).frames).float() for one in (world, small))
    assert 0 < float((exact - near).abs().mean() / exact.std()) < 0.05


@pytest.fixture(scope="module")
def halves(place):
    """The same releases with the weights that their publisher has: bfloat16."""
    for name in ("4b", "5b"):
        convert(place / f"release-{name}", place / f"bf16-{name}", height=64, width=96, diffusion_decoder=False)
    return place


@pytest.mark.parametrize(("name", "dtype"), [("4b", None), ("5b", None), ("5b", torch.bfloat16)])
def test_bfloat16_weights_decode_in_half_precision(halves, monkeypatch, name, dtype):
    """As world.json says, and exactly where somebody asks for it: the same tokens, where chances are not all but equal."""
    monkeypatch.setattr(world_model_steps, "DecodeStep", counted := Counted(DecodeStep))
    folder = halves / f"bf16-{name}"
    assert json.loads((folder / "world.json").read_text())["decoding"] == "half"
    prompt = {"text": str(halves / "text.safetensors")} if name == "5b" else {}
    tokens = {}
    for decoding in (None, "exact"):
        world = load_world(folder, decoding=decoding, dtype=dtype)
        if dtype is not None:  # random weights make all chances nearly equal, and bfloat16 rounds them to equal ones
            world.parts.world_model.head.weight.mul_(50)
        counted.made = 0
        rows = world.generate_batch([Prompt(video=clip(9), num_frames=17, seed=seed, **prompt) for seed in (1, 2)], top_k=4, refine=False)
        assert bool(counted.made) is (decoding is None)
        tokens[decoding] = np.stack([row.tokens for row in rows])
    same = (tokens[None][:, 2:] == tokens["exact"][:, 2:]).mean()
    assert same == 1 if dtype is None else same > 0.3  # of whose draws the first that differs changes all behind it


class Counted:
    """A class that counts what is made of it."""

    def __init__(self, kind: type) -> None:
        self.kind, self.made, self.beside = kind, 0, kind.beside

    def __call__(self, *args, **kwargs):
        self.made += 1
        return self.kind(*args, **kwargs)


def test_how_a_world_decodes_is_in_its_folder(halves, tmp_path):
    assert json.loads((halves / "4b/world.json").read_text())["decoding"] == "exact"  # float32's weights
    shutil.copytree(halves / "bf16-4b", tmp_path / "old")
    settings = json.loads((tmp_path / "old/world.json").read_text())
    del settings["decoding"]  # from before there was a choice
    (tmp_path / "old/world.json").write_text(json.dumps(settings))
    assert load_world(tmp_path / "old").parts.world_model.decoding == "exact"
    (tmp_path / "old/world.json").write_text(json.dumps(settings | {"decoding": "quarter"}))
    with pytest.raises(BadCheckpoint, match="cosmos world: got .*'quarter'.* which cannot be"):
        load_world(tmp_path / "old")
    with pytest.raises(BadConfig, match="decoding: got 'haf'.*did you mean .half.*expected one of .*; fix: choose one"):
        load_world(halves / "bf16-4b", decoding="haf")
    with pytest.raises(BadConfig, match=r"decoding: got half beside int8=\[model\]"):
        load_world(halves / "bf16-4b", decoding="half", int8=("model",))
    assert load_world(halves / "bf16-4b", int8=("model",)).parts.world_model.decoding == "exact"
    with pytest.raises(BadConfig, match="decoding: got some, expected none: world 'tabletop' is small"):
        load_world("tabletop", decoding="half")


def test_memory_modes_that_cannot_be(place):
    for wrong in ({"offload": ("pictures",)}, {"int8": ("tokenizer",)}):
        with pytest.raises(BadConfig, match="expected some of"):
            load_world(place / "4b", **wrong)
    with pytest.raises(BadConfig, match="text_encoder: got 'mine', expected none: world '4b' attends to no text"):
        load_world(place / "4b", text_encoder="mine")


def test_what_a_caller_without_wishes_gets(world):
    """The trained length, the published refining, and top_p as recommended, but not beside a top_k."""
    defaults = world.parts.defaults
    assert world.default_frames == 1 + 8 * (world.parts.sequence.max_latents - 1) == 33
    assert (defaults.refine_steps, defaults.keep_detail) == (15, False)
    assert world.defaults()["top_p"] == world.parts.sampling.top_p < 1 == world.defaults(top_k=4)["top_p"]


def test_prompts_that_cannot_be(world):
    for error, words, prompt in (
        (BadClip, "1 \\+ 8\\*n", {"video": clip(8)}),
        (BadClip, "1 \\+ 8\\*n", {"video": clip(1), "num_frames": 32}),
        (BadPrompt, "no frames", {"video": None}),
        (BadPrompt, "takes no text", {"video": clip(1), "text": "words"}),
        (BadActions, "takes no actions", {"video": clip(1), "actions": np.zeros((8, 2))}),
        (BadPrompt, "at least the 17 given", {"video": clip(17), "num_frames": 9}),
        (BadPrompt, "seed", {"video": clip(1), "seed": -1}),
        (BadClip, "uint8", {"video": clip(1).astype(np.float32)}),
    ):
        with pytest.raises(error, match=words):
            world.generate(**({"num_frames": 33} | prompt))
    with pytest.raises(BadConfig, match="refine_steps"):
        world.generate(clip(1), num_frames=9, refine_steps=1)


def test_conversions_that_cannot_be_write_nothing(place, tmp_path):
    release = place / "release-4b"
    for error, words, settings in (
        (BadCheckpoint, r"wq.weight is \[48, 48\], expected \[4096, 4096\]", {"name": "4b"}),
        (BadConfig, "4bb", {"name": "4bb"}),
        (BadConfig, "multiples of 16", {"height": 50}),
        (BadConfig, "float16", {"dtype": "float8"}),
        (OutputExists, "already", {"out": place / "4b"}),
    ):
        with pytest.raises(error, match=words):
            convert(**({"src": release, "out": tmp_path / "new"} | settings))
    with pytest.raises(BadCheckpoint, match="no such"):
        convert(tmp_path / "absent", tmp_path / "new")
    with pytest.raises(BadCheckpoint, match="no video_tokenizer"):
        convert(release / "Cosmos-Predict1-4B", tmp_path / "new")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").mkdir()
    (tmp_path / ".lock-mine").touch()  # of a process that was killed as it gave its claim back
    with pytest.raises(OutputExists, match="holds no world.json, so it will not be replaced"):
        convert(release, tmp_path / "mine", overwrite=True)
    assert not list((tmp_path / "mine").iterdir()) and not list(tmp_path.glob(".*"))


def test_a_changed_or_misfitting_world_is_refused(place, tmp_path):
    folder = tmp_path / "world"
    shutil.copytree(place / "4b", folder)
    data = bytearray((folder / "world_model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "world_model.safetensors").write_bytes(data)
    with pytest.raises(BadCheckpoint, match="sha256"):
        load_world(folder)
    settings = json.loads((folder / "world.json").read_text())
    for change, words in (
        ({"clip_latents": 1}, "cannot be"),
        ({"surplus": 1}, "surplus"),
        ({"fps": "x"}, "fps"),
        ({"diffusion_decoder": None}, "both"),
        ({"clip_latents": 10**9}, "cannot be"),
        ({"text_tokens": 10**12}, "cannot be"),
        ({"files": settings["files"] | {"README.md": {"bytes": "x", "sha256": ""}}}, "bytes and sha256"),
    ):
        (folder / "world.json").write_text(json.dumps(settings | change))
        with pytest.raises(BadCheckpoint, match=words):
            load_world(folder)


@pytest.mark.parametrize("tensors", [{"other": torch.zeros(3, 32)}, {"context": torch.zeros(3, 31)}, {"context": torch.zeros(32)}])
def test_a_context_that_does_not_fit_the_decoder_is_refused(place, tmp_path, tensors):
    folder = shutil.copytree(place / "4b", tmp_path / "world")
    save_file(tensors, folder / "decoder_context.safetensors")
    data = (folder / "decoder_context.safetensors").read_bytes()
    settings = json.loads((folder / "world.json").read_text())
    settings["files"]["decoder_context.safetensors"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    (folder / "world.json").write_text(json.dumps(settings))
    with pytest.raises(BadCheckpoint, match="decoder_context.safetensors"):
        load_world(folder)


def test_synthetic_releases_are_the_same_for_the_same_seed(place, tmp_path):
    synthesise("4b", tmp_path / "again")
    path = "Cosmos-Predict1-4B/model.pt"
    one, two = (torch.load(folder / path, weights_only=True)["model"] for folder in (place / "release-4b", tmp_path / "again"))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    (tmp_path / ".lock-again").touch()  # a process that was killed as it gave its claim back
    with pytest.raises(OutputExists, match="is there already"):
        synthesise("4b", tmp_path / "again")
    assert not (tmp_path / ".lock-again").exists()
    with pytest.raises(BadConfig, match="tiny"):
        synthesise("4b", tmp_path / "large", scale="full")
    with pytest.raises(BadConfig, match="13b"):
        synthesise("13B", tmp_path / "large")
