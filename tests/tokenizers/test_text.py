"""The text tokenizer: exact round trips, small corpora, pinned bytes, limits."""

import random

import pytest

from wfm_ar.errors import BadCheckpoint, BadConfig, BadData, BadPrompt
from wfm_ar.tokenizers import text as text_module
from wfm_ar.tokenizers.text import TextTokenizer, words_of

TEXTS = [
    f"push the {colour} {shape} {side}"
    for colour in ("red", "green", "blue", "yellow", "purple")
    for shape in ("cube", "ball", "cylinder")
    for side in ("left", "right", "away", "closer")
] + ["do nothing"]


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return TextTokenizer.train(TEXTS, vocab_size=512)


def test_training_texts_are_short_and_round_trip(tokenizer: TextTokenizer) -> None:
    assert all(tokenizer.decode(tokenizer.encode(text)) == text for text in TEXTS)
    assert max(len(tokenizer.encode(text)) for text in TEXTS) <= 5
    assert 300 < tokenizer.vocab_size <= 512
    assert all(0 <= i < tokenizer.vocab_size for text in TEXTS for i in tokenizer.encode(text))


@pytest.mark.parametrize("text", ["Naïve 推杯子 🙂 zebra", "don't <0x41> <unk> <s>", "nul\0byte", "e\u0301 é ﬁ Ａ", "\U0010ffff\ue000", ""])
def test_unknown_words_survive(tokenizer: TextTokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_white_space_runs_become_one_space(tokenizer: TextTokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode("  push\t the\n\nred  cube ")) == "push the red cube"
    assert tokenizer.encode("  push the  red cube ") == tokenizer.encode("push the red cube")
    assert tokenizer.encode(" \n") == []


def test_random_unicode_round_trips() -> None:
    tokenizer, draw = TextTokenizer.train(TEXTS, max_tokens=1000), random.Random(0)
    for _ in range(200):
        points = [draw.choice([draw.randrange(32, 127), draw.randrange(160, 0xD800), draw.randrange(0xE000, 0x110000)]) for _ in range(20)]
        text = " ".join("".join(map(chr, points)).replace("\u2581", "").split())
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    "corpus", [["a"], ["do nothing"], ["x" * 20_000], ["推杯子 🙂"], ["word " * 3000], ["", "  ", "go"], [chr(i) for i in range(33, 3000)]]
)
def test_tiny_corpora_train(corpus: list[str]) -> None:
    tokenizer = TextTokenizer.train(corpus, vocab_size=512, max_tokens=64)
    assert tokenizer.decode(tokenizer.encode("push it")) == "push it"
    assert tokenizer.vocab_size <= 512


def test_same_texts_same_bytes_in_any_order(tokenizer: TextTokenizer) -> None:
    again = TextTokenizer.train(reversed(TEXTS), vocab_size=512)
    assert again.model_bytes == tokenizer.model_bytes and again.sha256 == tokenizer.sha256


def test_more_words_fill_the_vocabulary_but_never_pass_it() -> None:
    draw = random.Random(0)
    corpus = [" ".join("".join(draw.choices("abcdefghij", k=6)) for _ in range(8)) for _ in range(300)]
    assert 300 <= TextTokenizer.train(corpus, vocab_size=400).vocab_size <= 400
    chinese = ["".join(chr(draw.randrange(0x4E00, 0x9000)) for _ in range(30)) for _ in range(200)]  # more characters than pieces
    assert TextTokenizer.train(chinese, vocab_size=300).vocab_size <= 300


def test_stored_bytes_give_the_same_tokenizer(tokenizer: TextTokenizer) -> None:
    copy = TextTokenizer.from_bytes(tokenizer.model_bytes, tokenizer.sha256, max_tokens=7)
    assert copy.encode("do nothing") == tokenizer.encode("do nothing") and copy.max_tokens == 7


def test_wrong_hash_is_refused_before_parsing(tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(**_: object) -> None:
        raise AssertionError("the native parser saw unchecked bytes")

    monkeypatch.setattr(text_module.sentencepiece, "SentencePieceProcessor", parse)
    with pytest.raises(BadCheckpoint, match=f"got sha256 [0-9a-f]{{64}}, expected {tokenizer.sha256}"):
        TextTokenizer.from_bytes(tokenizer.model_bytes + b"x", tokenizer.sha256)


@pytest.mark.parametrize("model_bytes", [b"", b"garbage"])
def test_bytes_that_are_no_model(model_bytes: bytes) -> None:
    with pytest.raises(BadCheckpoint, match="no SentencePiece model"):
        TextTokenizer(model_bytes)


def test_too_long_a_text_names_count_and_limit(tokenizer: TextTokenizer) -> None:
    with pytest.raises(BadPrompt, match=r"got 7\d tokens \(70 characters\), expected at most 64"):
        tokenizer.encode("z" * 70)
    assert len(tokenizer.encode("push the red cube left")) <= 64


def test_other_bad_input(tokenizer: TextTokenizer) -> None:
    with pytest.raises(BadPrompt, match="got a int, expected text"):
        tokenizer.encode(3)  # type: ignore[arg-type]
    with pytest.raises(BadPrompt, match="lone surrogate at character 2"):
        tokenizer.encode("ab\ud800")
    with pytest.raises(BadPrompt, match="got 9999, expected 0 to"):
        tokenizer.decode([1, 9999])
    with pytest.raises(BadPrompt, match="got -1"):
        tokenizer.decode([-1])
    with pytest.raises(BadData, match="got no texts"):
        TextTokenizer.train(["", "  "])
    with pytest.raises(BadConfig, match="got 299, expected at least 300"):
        TextTokenizer.train(TEXTS, vocab_size=299)
    with pytest.raises(BadConfig, match="max_tokens: got 0"):
        TextTokenizer.train(TEXTS, max_tokens=0)


def test_words_that_no_training_text_had_are_named(tokenizer: TextTokenizer) -> None:
    assert tokenizer.never_trained("Push the RED cube, left!") == []
    assert tokenizer.never_trained("shove the red cube, then shove the teapot") == ["shove", "then", "teapot"]
    again = TextTokenizer.from_bytes(tokenizer.model_bytes, tokenizer.sha256, words=sorted(tokenizer.words or ()))
    assert again.words == tokenizer.words and len(again.words or ()) == 5 + 3 + 4 + 2 + 2
    assert TextTokenizer(tokenizer.model_bytes).never_trained("shove") == []  # of a model from before they were kept
    assert words_of(f"word{i}" for i in range(20_001)) is None
