"""Texts to contexts: files of embeddings, and words through a small T5 encoder of the `transformers` package."""

import io
import os
import shutil
import sys

import numpy as np
import pytest
import sentencepiece
import torch
from safetensors.torch import save_file

from wfm_ar.cli import main
from wfm_ar.errors import BadPrompt, MissingDependency
from wfm_ar.rollout.text_context import ENCODER, TextReader, load_encoder

WIDTH = 32
WORDS = "the arm pours tea into a cup".split()


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A whole T5 of random weights in the files that google-t5/t5-11b has: spiece.model, config.json, pytorch_model.bin with the
    decoder too. Skips without the package."""
    transformers = pytest.importorskip("transformers", reason="the extra [t5] is not installed")
    folder, pieces = tmp_path_factory.mktemp("t5"), io.BytesIO()
    kinds = dict(pad_id=0, eos_id=1, unk_id=2, bos_id=-1, pad_piece="<pad>", eos_piece="</s>", unk_piece="<unk>")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*[" ".join(WORDS)] * 20, *WORDS]),
        model_writer=pieces,
        vocab_size=32,
        hard_vocab_limit=False,
        minloglevel=2,
        **kinds,
    )
    (folder / "spiece.model").write_bytes(pieces.getvalue())
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=160, d_model=WIDTH, d_kv=8, d_ff=48, num_layers=2, num_heads=4, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0
    )  # fmt: skip
    config.save_pretrained(folder)
    torch.save(transformers.T5ForConditionalGeneration(config).state_dict(), folder / "pytorch_model.bin")
    return folder


def test_words_go_through_the_encoder(encoder):
    reader = TextReader(16, WIDTH, str(encoder))
    context = reader.read("the arm pours tea")
    assert context.shape == (16, WIDTH) and context.dtype == torch.float32
    assert (context[:5].abs().sum(1) > 0).all() and (context[5:] == 0).all()  # four words and the end of the text
    tokenizer, model = load_encoder(str(encoder), "")
    with torch.no_grad():  # padded and masked, as the published pipeline runs it, gives the same rows
        batch = tokenizer("the arm pours tea", return_tensors="pt", padding="max_length", max_length=16)
        padded = model(**batch.to("cpu")).last_hidden_state[0] * batch["attention_mask"][0][:, None]
    torch.testing.assert_close(context, padded, atol=1e-5, rtol=1e-4)
    assert not torch.equal(reader.read("the arm pours a cup"), context)
    assert reader.read("the arm pours tea") is context  # read once
    longer = reader.read(" ".join(WORDS * 5))  # cut to the context, its end of text kept
    assert (longer.abs().sum(1) > 0).all()


def test_an_encoder_of_another_width_is_told(encoder):
    with pytest.raises(BadPrompt, match="gives embeddings 32 wide, expected 1024"):
        TextReader(16, 1024, str(encoder)).read("tea")


def test_an_encoder_that_is_not_there_is_told_in_one_line(tmp_path, monkeypatch):
    pytest.importorskip("transformers", reason="the extra [t5] is not installed")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    (tmp_path / "empty").mkdir()
    for name in (ENCODER, str(tmp_path / "empty"), str(tmp_path / "absent")):
        with pytest.raises(MissingDependency, match="hf download.*text=FILE") as error:
            TextReader(16, WIDTH, name).read("tea")
        assert "\n" not in str(error.value)
    assert not any((tmp_path / "empty").iterdir())


def test_words_without_the_package_are_told_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependency, match=r'"a robot arm".*text=FILE.*pip install .transformers') as error:
        TextReader(512, 1024).read("a robot arm")
    assert "\n" not in str(error.value)


def test_files_are_read_with_zeros_behind_them(tmp_path):
    given = np.random.default_rng(0).standard_normal((1, 3, WIDTH)).astype(np.float32)
    np.save(tmp_path / "text.npy", given)
    context = TextReader(8, WIDTH).read(str(tmp_path / "text.npy"))
    assert np.array_equal(context[:3].numpy(), given[0]) and (context[3:] == 0).all()


class Harmful:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_code_in_an_encoders_weights_is_refused_and_not_run(encoder, tmp_path):
    folder = tmp_path / "t5"
    shutil.copytree(encoder, folder)
    torch.save({"shared.weight": Harmful(tmp_path / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(MissingDependency, match="more than tensors, which is not run") as error:
        TextReader(16, WIDTH, str(folder)).read("tea")
    assert "\n" not in str(error.value) and not (tmp_path / "ran").exists()


def test_words_on_the_command_line(encoder, tmp_path, monkeypatch, capfd):
    """Words give the clip that a file of their embeddings gives; nothing but our own lines is printed, by native code neither."""
    monkeypatch.chdir(tmp_path)
    assert main(["cosmos", "synth", "name=5b", "out=release"]) == 0
    assert main(["cosmos", "convert", "src=release", "out=world", "height=64", "width=96", "dtype=float32", "diffusion_decoder=false"]) == 0
    save_file({"text": TextReader(16, WIDTH, str(encoder)).read("the arm pours tea")[:5].clone()}, tmp_path / "text.safetensors")
    settings = ["generate", "world=world", "frames=9", "refine=false", "seed=1"]
    capfd.readouterr()
    assert main([*settings, "text=the arm pours tea", f"text_encoder={encoder}", "out=words.mp4"]) == 0
    out, err = capfd.readouterr()
    assert err == "" and out.startswith("words.mp4: 9 frames") and out.count("\n") == 1
    assert main([*settings, "text=text.safetensors", "out=file.mp4"]) == 0
    assert main([*settings, "text=a cup", f"text_encoder={encoder}", "out=other.mp4"]) == 0
    words, file, other = (np.load(tmp_path / f"{name}.tokens.npy") for name in ("words", "file", "other"))
    assert np.array_equal(words, file) and not np.array_equal(words, other)
    capfd.readouterr()
    for text, more, told in (
        ("text=the arm pours tea", [f"text_encoder={tmp_path / 'absent'}"], "text_encoder=FOLDER"),
        ("seed=1", [], "text: got none, expected a file of T5 embeddings [tokens, 32]"),
    ):
        assert main([*settings, text, *more, "out=two.mp4"]) == 2
        error = capfd.readouterr().err
        assert error.count("\n") == 1 and told in error and not (tmp_path / "two.mp4").exists()
