"""What a user can get wrong with published weights, on the command line: one clear line, exit 2, nothing written, nothing run."""

import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from wfm_ar.cli import main
from wfm_ar.data.video import write_video

MODEL = "Cosmos-Predict1-4B/model.pt"
ENCODER = "Cosmos-Tokenize1-DV8x16x16-720p/encoder.jit"


class Harmful:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture
def told(tmp_path, monkeypatch, capsys):
    """Runs a command that must fail -> its line; the folder is as it was."""
    monkeypatch.chdir(tmp_path)

    def run(*words: str) -> str:
        before = {str(path): path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        capsys.readouterr()
        code = main(words)
        out, err = capsys.readouterr()
        assert code == 2 and out == "" and err.count("\n") == 1 and "fix:" in err and "Traceback" not in err, (code, out, err)
        assert {str(path): path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
        return err

    return run


def _spoil_text(path, tmp_path):
    path.write_text("<html>404 not found</html>")


def _spoil_truncated(path, tmp_path):
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


def _spoil_code(path, tmp_path):
    torch.save({"model": {"norm.weight": torch.ones(48), "extra": Harmful(tmp_path / "ran")}}, path)


def _spoil_bare_pickle(path, tmp_path):
    torch.save({"x": Harmful(tmp_path / "ran")}, path, _use_new_zipfile_serialization=False)


def _spoil_other_network(path, tmp_path):
    torch.save(torch.nn.Linear(3, 3).state_dict(), path)


@pytest.mark.parametrize("file", [MODEL, ENCODER])
@pytest.mark.parametrize(
    "spoil, words",
    [
        (_spoil_text, "no checkpoint of a known kind"),
        (_spoil_truncated, "truncated or damaged"),
        (_spoil_code, "wants to call posix.mkdir, expected weights only; it was refused and nothing was run"),
        (_spoil_bare_pickle, "a bare pickle"),
        (_spoil_other_network, "expected the tensors of a Cosmos"),
    ],
    ids=lambda one: getattr(one, "__name__", "").removeprefix("_spoil_") or "words",
)
def test_files_of_weights(place, tmp_path, told, file, spoil, words):
    shutil.copytree(place / "release-4b", tmp_path / "release")
    spoil(tmp_path / "release" / file, tmp_path)
    line = told("cosmos", "convert", "src=release", "out=world")
    assert words in line and ("release/" in line or line.startswith("wfm cosmos convert: release")), line
    assert words in told("cosmos", "info", f"release/{file}")
    assert not (tmp_path / "ran").exists()


def test_a_model_without_one_of_its_tensors(place, tmp_path, told):
    shutil.copytree(place / "release-4b", tmp_path / "release")
    tensors = torch.load(tmp_path / "release" / MODEL, weights_only=True)["model"]
    del tensors["layers.1.attention.wk.weight"]
    torch.save({"model": tensors}, tmp_path / "release" / MODEL)
    line = told("cosmos", "convert", "src=release", "out=world")
    assert f"release/{MODEL}: layers.1.attention.wk.weight is missing" in line


def test_a_name_of_another_size(place, tmp_path, told):
    line = told("cosmos", "convert", f"src={place / 'release-4b'}", "name=12b", "out=world")
    assert "wq.weight is [48, 48], expected [4096, 5120]" in line and "name=auto" in line
    assert 'did you mean "13b"' in told("cosmos", "convert", f"src={place / 'release-4b'}", "name=13B", "out=world")
    assert "no such file or folder" in told("cosmos", "info", "absent")
    (tmp_path / "empty").mkdir()
    assert "empty: no weights" in told("cosmos", "info", "empty")
    torch.save({"tok_embeddings.weight": torch.ones(4)}, tmp_path / "flat.pt")  # one axis where a network has two
    assert "flat.pt: got shapes of no network" in told("cosmos", "info", "flat.pt")
    assert "no such file or folder" in told("cosmos", "convert", "src=absent", "out=world")


def test_texts(place, tmp_path, told):
    given = ["generate", f"world={place / '5b'}", f"image={place / 'in.png'}", "frames=9", "out=out.mp4"]
    np.save(tmp_path / "wide.npy", np.zeros((3, 1024), np.float32))
    np.save(tmp_path / "code.npy", np.array([Harmful(tmp_path / "ran")], dtype=object), allow_pickle=True)
    save_file({"a": torch.zeros(3, 32), "b": torch.zeros(3, 32)}, tmp_path / "two.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "two.safetensors").read_bytes()[:50])
    for text, words in (
        ("wide.npy", "[3, 1024], expected floats [tokens, 32] T5 embeddings"),
        ("code.npy", "cannot be read"),
        ("two.safetensors", "got 2 tensors, expected one"),
        ("cut.safetensors", "cannot be read"),
        ("absent.npy", "does not exist or is not a regular file"),
    ):
        assert words in told(*given, f"text={text}")
    assert "expected a file of T5 embeddings [tokens, 32]" in told(*given)
    assert not (tmp_path / "ran").exists()


def test_frames(place, tmp_path, told):
    world = f"world={place / '4b'}"
    write_video(tmp_path / "ten.mp4", np.zeros((10, 64, 96, 3), np.uint8), 24)
    for more, words in (
        ([f"image={place / 'in.png'}", "frames=32"], "1 + 8*n"),
        (["video=ten.mp4", "frames=33"], "got 10 frames to go on from, expected 1 + 8*n; fix: prompt_frames=9 takes the first 9"),
        (["video=ten.mp4", "prompt_frames=8", "frames=33"], "got 8 frames, expected 1 + 8*n; fix: use 1 or 9"),
        (["video=ten.mp4", "prompt_frames=17", "frames=33"], "got 17, but ten.mp4 has 10 frames"),
        (["frames=9"], "got no frames, expected a picture or a video"),
        ([f"image={place / 'in.png'}", "frames=9", "text=words"], "takes no text"),
        ([f"image={place / 'in.png'}", "frames=9", "int8=tokenizer"], "int8: got 'tokenizer'"),
        ([f"image={place / 'in.png'}", "frames=9", "height=0"], "expected sides of 1 to 16384 pixels"),
        ([f"image={place / 'in.png'}", "frames=9", "width=1000000"], "expected sides of 1 to 16384 pixels"),
        ([f"image={place / 'in.png'}", "frames=9", "action_temperature=1"], "got 1.0, expected none: world '4b' imagines no actions"),
        ([f"image={place / 'in.png'}", "frames=9", "text_guidance=2"], "got 2.0, expected 1: world '4b' takes no text"),
        ([f"image={place / 'in.png'}", "frames=9", "action_guidance=2"], "got 2.0, expected 1: world '4b' takes no actions"),
    ):
        assert words in told("generate", world, *more, "out=out.mp4")
    assert "only a Cosmos world" in told("generate", "world=tabletop", "published=true", "out=out.mp4")
