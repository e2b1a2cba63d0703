"""`wfm generate` on a tiny random world: which files, what is in them, and every kind of bad input."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_world as tiny

from wfm_ar.cli import main
from wfm_ar.data.episodes import write_episode, write_episodes
from wfm_ar.data.video import read_image, read_video, write_video
from wfm_ar.rollout.world_folder import save_world
from wfm_ar.schema import ActionChannel, ActionSchema, MixedSchema

TEXT = tiny.TEXTS[0]
POOR = "wfm: note: keep_detail is off: the tokenizer's own copy of the given picture has"  # it is untrained


def test_text_to_video_writes_everything(wfm, tmp_path):
    code, out, err = wfm("generate", f"text={TEXT}", "frames=9", "seed=3", "out=out.mp4")
    assert (code, err) == (0, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.actions.npy", "out.json", "out.mp4", "out.png", "out.tokens.npy"]
    assert read_video("out.mp4").shape == (9, 16, 24, 3)
    assert np.load("out.tokens.npy").shape == (5, 2, 3) and np.load("out.actions.npy").shape == (8, 2)
    assert read_image("out.png").shape[0] == 1
    about = json.loads(Path("out.json").read_text())
    assert about["prompt"]["text"] == TEXT and about["seed"] == 3 and about["frames"] == 9 and about["given_frames"] == 0
    assert about["settings"]["top_p"] == 0.9 and about["settings"]["temperature"] == 1.0 and about["refined"] is True
    assert about["wfm_ar"] and about["made"] and about["seconds_and_rates"]["total_s"] > 0 and len(about["world"]["sha256"]) == 64
    assert about["files"] == ["out.mp4", "out.png", "out.tokens.npy", "out.actions.npy", "out.json"]


def test_every_kind_of_prompt(wfm, refused, place):
    given = {"video": 5, "image": 1, "nothing": 0}
    for name, overrides in {
        "video": [f"video={place / 'in.mp4'}", f"text={TEXT}"],
        "image": [f"image={place / 'in.png'}", f"text={TEXT}", "imagine=false"],
        "nothing": [],
    }.items():
        code, _, err = wfm("generate", *overrides, "frames=7", f"out={name}.mp4")
        assert (code, err) == (0, "")
        about = json.loads(Path(f"{name}.json").read_text())
        assert about["given_frames"] == given[name] and about["frames"] == 7
    assert not Path("image.actions.npy").exists()
    driven = ["generate", f"video={place / 'in.mp4'}", f"actions={place / 'a.npy'}", "prompt_frames=3", "frames=7"]
    assert wfm(*driven, "out=driven.mp4")[0] == 0 and json.loads(Path("driven.json").read_text())["given_frames"] == 3
    assert np.array_equal(np.load("driven.actions.npy"), tiny.make_actions(20)[:6])
    assert wfm(*driven, "action_guidance=9", "out=guided.mp4")[0] == 0
    assert not np.array_equal(np.load("guided.tokens.npy"), np.load("driven.tokens.npy"))
    refused(wfm(*driven, "action_guidance=9", "text_guidance=2", "out=no.mp4"), "beside action_guidance 9")


def test_detail_is_kept_unless_told_or_poorly_copied(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = ["generate", f"world={place / 'world'}", f"image={place / 'in.png'}", "frames=5", "refine=false"]
    assert main([*run, "out=poor.mp4"]) == 0 and POOR in capsys.readouterr().err
    for module in ("detail", "frame_decoder"):  # what is kept, and what is told of
        monkeypatch.setattr(f"wfm_ar.rollout.{module}.POOR_COPY", 0.0)
    assert main([*run, "out=kept.mp4"]) == 0 and main([*run, "keep_detail=false", "out=bare.mp4"]) == 0
    assert POOR not in capsys.readouterr().err
    said = {name: json.loads(Path(f"{name}.json").read_text()) for name in ("poor", "kept", "bare")}
    assert {name: about["kept_detail"] for name, about in said.items()} == {"poor": False, "kept": True, "bare": False}
    assert np.array_equal(np.load("kept.tokens.npy"), np.load("bare.tokens.npy"))


def test_other_sizes_are_fitted_and_said(wfm, place):
    code, out, _ = wfm("generate", f"video={place / 'large.mp4'}", "frames=5", "out=out.mp4", "refine=false")
    assert code == 0 and "large.mp4: pictures become 24x16 (crop=centre); 64x40: 6% of the picture is cut off" in out
    assert json.loads(Path("out.json").read_text())["refined"] is False


def test_gifs_go_in_and_come_out(wfm, refused, place):
    """The same clip as from an mp4 of the same pixels, and beside it what goes beside an mp4."""
    write_video("in.gif", tiny.make_video(5), 10)
    write_video("same.mkv", read_video("in.gif"), 10, lossless=True)
    for name, out in (("in.gif", "a.gif"), ("same.mkv", "b.mp4")):
        assert wfm("generate", f"video={name}", "frames=9", "refine=false", f"out={out}")[0] == 0
    assert (np.load("a.tokens.npy") == np.load("b.tokens.npy")).all()
    assert json.loads(Path("a.json").read_text())["files"] == ["a.gif", "a.png", "a.tokens.npy", "a.actions.npy", "a.json"]
    assert read_video("a.gif").shape == (9, 16, 24, 3) and not Path("a.mp4").exists()
    assert wfm("generate", "image=in.gif", "frames=5", "refine=false", "out=c.gif")[0] == 0
    assert json.loads(Path("c.json").read_text())["given_frames"] == 1
    Path("cut.gif").write_bytes(Path("in.gif").read_bytes()[:-1])
    refused(wfm("generate", "video=cut.gif", "frames=9", "out=d.gif"), "cut.gif: ends before its last block", "fix:")


def test_an_episode_of_a_data_set_is_a_prompt(wfm, place):
    """Its first frames, text and actions; the same clip as with the files that hold them."""
    words = ["frames=9", "seed=2", "refine=false"]
    code, out, err = wfm("generate", f"data={place / 'set'}", "episode=e1", *words, "out=a.mp4")
    assert (code, err) == (0, "") and "9 frames at 10 a second (0.9 s), 1 given" in out
    files = [f"video={place / 'set/videos/e1.mp4'}", f"actions={place / 'set/actions/e1.npy'}", "prompt_frames=1", f"text={TEXT}"]
    assert wfm("generate", *files, *words, "out=b.mp4")[0] == 0
    assert Path("a.mp4").read_bytes() == Path("b.mp4").read_bytes()
    assert (np.load("a.tokens.npy") == np.load("b.tokens.npy")).all() and (np.load("a.actions.npy") == np.load("b.actions.npy")).all()
    about = json.loads(Path("a.json").read_text())
    assert about["actions"] == "given" and about["prompt"]["text"] == TEXT and about["prompt"]["episode"] == "e1"
    assert wfm("generate", f"data={place / 'set'}", "drive=false", "prompt_frames=3", "text=other", *words, "out=c.mp4")[0] == 0
    about = json.loads(Path("c.json").read_text())
    assert about["actions"] == "imagined" and about["given_frames"] == 3 and about["prompt"]["text"] == "other"
    assert about["prompt"]["episode"] == "e0"  # the first held-out one
    Path("p.jsonl").write_text(json.dumps({"data": str(place / "set"), "episode": "e1", "frames": 9, "seed": 2}) + "\n")
    assert wfm("generate", "batch=p.jsonl", "refine=false", "out=many")[0] == 0
    assert (np.load("many/0001.tokens.npy") == np.load("a.tokens.npy")).all()


def test_an_episode_of_one_of_several_robots(tmp_path, capsys):
    hand = ActionSchema(channels=tuple(ActionChannel(name=f"j{i}", unit="", low=-1, high=1, bins=5) for i in range(3)), rate_hz=10)
    schema = MixedSchema(embodiments=(("arm", tiny.SCHEMA), ("hand", hand)))
    save_world(tmp_path / "both", tiny.make_parts(schema=schema, text=False))
    actions = np.random.default_rng(0).uniform(-1, 1, (8, 3)).astype(np.float32)
    record = write_episode(tmp_path / "hand", id="e", frames_THWC=tiny.make_video(9), fps=10, split="val", actions=actions)
    write_episodes(tmp_path / "hand", [record], hand)
    words = ["generate", f"world={tmp_path / 'both'}", f"data={tmp_path / 'hand'}", "frames=9", "refine=false"]
    assert main([*words, f"out={tmp_path / 'no.mp4'}"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "episode e was acted by 'hand'" in err and "fix: embodiment=hand, or drive=false" in err
    assert main([*words, "embodiment=hand", f"out={tmp_path / 'yes.mp4'}"]) == 0
    assert (np.load(tmp_path / "yes.actions.npy") == actions).all()
    assert main([*words, "drive=false", f"out={tmp_path / 'still.mp4'}"]) == 0 and not (tmp_path / "still.actions.npy").exists()


def test_a_batch_has_the_tokens_of_single_runs(wfm, place):
    prompts = [
        {"text": TEXT},
        {"id": "driven", "image": str(place / "in.png"), "actions": str(place / "a.npy"), "frames": 7, "seed": 5},
        {"id": "on", "video": str(place / "in.mp4"), "prompt_frames": 1},
    ]
    Path("prompts.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts) + "\n")
    code, out, err = wfm("generate", "batch=prompts.jsonl", "out=clips", "frames=5", "seed=1", "batch_size=2")
    assert (code, err) == (0, "") and out.count(" frames at 10 a second (") == 3
    wfm("generate", f"text={TEXT}", "frames=5", "seed=1", "out=0.mp4")
    wfm("generate", f"image={place / 'in.png'}", f"actions={place / 'a.npy'}", "frames=7", "seed=5", "out=1.mp4")
    wfm("generate", f"video={place / 'in.mp4'}", "prompt_frames=1", "frames=5", "seed=1", "out=2.mp4")
    for alone, name in enumerate(["0001", "driven", "on"]):
        assert np.array_equal(np.load(f"{alone}.tokens.npy"), np.load(f"clips/{name}.tokens.npy"))
        assert Path(f"{alone}.mp4").read_bytes() == Path(f"clips/{name}.mp4").read_bytes()


def test_nothing_is_overwritten_unless_told(wfm, refused, tmp_path):
    Path("out.tokens.npy").write_text("mine")
    refused(wfm("generate", "frames=3", "out=out.mp4"), "out.tokens.npy", "exists already", "overwrite=true")
    assert [path.name for path in tmp_path.iterdir()] == ["out.tokens.npy"] and Path("out.tokens.npy").read_text() == "mine"
    assert wfm("generate", "frames=3", "out=out.mp4", "overwrite=true")[0] == 0
    assert np.load("out.tokens.npy").shape == (2, 2, 3)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["video=none.mp4"], ["none.mp4: does not exist"]),
        (["video={cut}"], ["cut.mp4"]),
        (["image={video}"], ["neither a PNG, a JPEG nor a GIF"]),
        (["video={video}", "image={image}"], ["expected one of them"]),
        (["video={video}", "frames=5"], ["none to imagine", "prompt_frames=1"]),
        (["video={video}", "frames=9", "prompt_frames=4"], ["got 4 frames", "use 3 or 5"]),
        (["prompt_frames=3"], ["expected video="]),
        (["frames=8"], ["frames: clip: got 8 frames", "use 7 or 9"]),
        (["frames=0"], ["frames"]),
        (["text=" + "very long text " * 40], ["tokens", "expected at most 12"]),
        (["actions=none.npy"], ["none.npy: does not exist"]),
        (["actions={video}"], ["in.mp4: cannot be read"]),
        (["actions={wide}"], ["wide.npy: got shape [8, 3], expected [N, 2]"]),
        (["actions={nan}"], ["nan.npy: got 1 NaN"]),
        (["actions={short}"], ["actions: got 2, expected at least 8", "frames=3"]),
        (["actions={other}"], ["the schema differs", "dz"]),
        (["top_p=0"], ["top_p"]),
        (["temperature=-1"], ["temperature"]),
        (["seed=-1"], ["seed"]),
        (["refine_steps=99"], ["steps"]),
        (["batch_size=0"], ["batch_size"]),
        (["batch=none.jsonl"], ["none.jsonl"]),
        (["batch={batch}", "text=x", "out=clips"], ["got text= beside it"]),
        (["tempreature=1"], ['did you mean "temperature"']),
        (["out=out.avi"], ["out=out.mp4"]),
        (["device=tpu"], ["auto | cpu | cuda"]),
        (["data=none"], ["none: is not a folder"]),
        (["data={set}", "video={video}"], ["data: got", "expected one of them"]),
        (["camera=top"], ["camera: got 'top' but no data set", "expected data="]),
        (["data={set}", "camera=top"], ["has one view an episode"]),
        (["data={set}", "episode=e3"], ["episode: got 'e3', expected an id of", "such as e0, e1"]),
        (["data={set}", "frames=11"], ["frames: got 11, but episode e0 has actions for 9", "frames=9, or drive=false"]),
        (["data={set}", "prompt_frames=9"], ["none to imagine"]),
        (["data={set}", "prompt_frames=11", "frames=13"], ["episode e0 has 9 frames"]),
        (["batch={batch}", "data={set}", "out=clips"], ["got data= beside it"]),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(wfm, refused, place, tmp_path, tmp_path_factory, overrides, words):
    bad = tmp_path_factory.mktemp("bad")
    (bad / "cut.mp4").write_bytes((place / "in.mp4").read_bytes()[:700])
    np.save(bad / "wide.npy", np.zeros((8, 3), np.float32))
    np.save(bad / "nan.npy", np.array([[0, np.nan]] * 1 + [[0, 0]] * 7, np.float32))
    np.save(bad / "short.npy", np.zeros((2, 2), np.float32))
    (bad / "other").mkdir()
    channels = tuple(ActionChannel(name=name, unit="m", low=-1, high=1) for name in ("dx", "dz"))
    (bad / "other" / "actions.json").write_text(json.dumps(ActionSchema(channels=channels, rate_hz=10).to_json()))
    np.save(bad / "other" / "a.npy", np.zeros((8, 2), np.float32))
    (bad / "batch.jsonl").write_text("{}\n")
    files = {"video": place / "in.mp4", "image": place / "in.png", "other": bad / "other" / "a.npy", "batch": bad / "batch.jsonl"}
    files["set"] = place / "set"
    files |= {"cut": bad / "cut.mp4"} | {name: bad / f"{name}.npy" for name in ("wide", "nan", "short")}
    defaults = ["frames=9", "out=out.mp4"]
    refused(wfm("generate", *defaults, *(one.format(**files) if "{" in one else one for one in overrides)), *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("", ["is empty"]),
        ("{}\nnonsense\n", ["prompts.jsonl line 2", "is not JSON"]),
        ("[1]\n", ["line 1", "expected an object"]),
        ('{"txt": "a"}\n', ["line 1", "'txt'", 'did you mean "text"']),
        ('{"frames": "9"}\n', ["line 1", "frames is '9'"]),
        ('{"id": "../x"}\n', ["line 1", "../x"]),
        ('{"id": "a"}\n{"id": "a"}\n', ["line 2", "that of line 1"]),
        ('{}\n{"frames": 8}\n', ["prompts.jsonl line 2: frames: clip: got 8 frames"]),
        ('{}\n{"video": "none.mp4"}\n', ["line 2", "none.mp4"]),
    ],
)
def test_bad_lines_of_a_batch_are_named(wfm, refused, lines, words):
    Path("prompts.jsonl").write_text(lines)
    refused(wfm("generate", "batch=prompts.jsonl", "out=clips", "frames=5"), *words)
    assert not Path("clips").exists()


def test_a_world_that_is_not_there_or_broken(wfm, refused, place, tmp_path):
    refused(wfm("generate", "out=out.mp4", "frames=3", world="nowhere"), "nowhere", "fix:")
    import shutil

    shutil.copytree(place / "world", tmp_path / "broken")
    weights = tmp_path / "broken" / "world_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    refused(wfm("generate", f"world={tmp_path / 'broken'}", "out=out.mp4", "frames=3"), "world_model.safetensors")
    refused(wfm("generate", "text=hello", "refine=false", "out=out.mp4", "frames=3", world="bare"), "trained without texts")
    refused(wfm("generate", "out=out.mp4", "frames=3", world="bare"), "no diffusion decoder", "refine=false")
