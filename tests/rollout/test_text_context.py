"""Texts to contexts: files of embeddings, and words through a small T5 encoder of the `transformers` package."""

import sys

import numpy as np
import pytest
import torch

from wfm_ar.cli import main
from wfm_ar.errors import BadPrompt, MissingDependency
from wfm_ar.rollout.text_context import ENCODER, TextReader, load_encoder

WIDTH = 32
WORDS = "the arm pours tea into a cup".split()


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A T5 encoder of random weights and a tokenizer of a few words, saved as transformers saves them. Skips without the package."""
    transformers = pytest.importorskip("transformers", reason="the extra [t5] is not installed")
    tokenizers = pytest.importorskip("tokenizers")
    folder = tmp_path_factory.mktemp("t5")
    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    plain.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=plain, **names).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=len(vocabulary), d_model=WIDTH, d_kv=8, d_ff=48, num_layers=2, num_heads=4, pad_token_id=0, eos_token_id=1
    )  # fmt: skip
    transformers.T5EncoderModel(config).save_pretrained(folder)
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
    with pytest.raises(MissingDependency, match=r'"a robot arm".*text=FILE.*wfm-ar\[t5\]') as error:
        TextReader(512, 1024).read("a robot arm")
    assert "\n" not in str(error.value)


def test_files_are_read_with_zeros_behind_them(tmp_path):
    given = np.random.default_rng(0).standard_normal((1, 3, WIDTH)).astype(np.float32)
    np.save(tmp_path / "text.npy", given)
    context = TextReader(8, WIDTH).read(str(tmp_path / "text.npy"))
    assert np.array_equal(context[:3].numpy(), given[0]) and (context[3:] == 0).all()


def test_words_on_the_command_line(encoder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["cosmos", "synth", "name=5b", "out=release"]) == 0
    assert main(["cosmos", "convert", "src=release", "out=world", "height=64", "width=96", "diffusion_decoder=false"]) == 0
    words = ["generate", "world=world", "text=the arm pours tea", "frames=9", "refine=false", "seed=1"]
    assert main([*words, f"text_encoder={encoder}", "out=one.mp4"]) == 0
    capsys.readouterr()  # transformers shows a bar while it loads weights
    assert main([*words, f"text_encoder={tmp_path / 'absent'}", "out=two.mp4"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "text_encoder=FOLDER" in error and not (tmp_path / "two.mp4").exists()
