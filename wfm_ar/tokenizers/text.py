"""Text to token ids and back, by a SentencePiece model trained on the data set's own texts.

Byte fallback spells words that were never seen, so any text survives a round trip up to runs of white space, which become
one space. The model is a byte string that travels inside the checkpoint; its SHA-256 is compared before the native parser
sees it, because that parser is not meant for hostile input. The same texts give the same bytes, in whatever order they come.
"""

import collections
import hashlib
import io
import re
from collections.abc import Iterable, Sequence

import sentencepiece

from wfm_ar.errors import BadCheckpoint, BadConfig, BadData, BadPrompt

_BYTE_PIECES = 257  # <unk> and one piece a byte value, always there
_SMALLEST_VOCABULARY = 300
_MOST_WORDS = 20_000  # of the training texts, kept beside the model
_CHUNK = 1000  # characters (at most 4000 bytes) of one training text; the trainer drops too long ones in silence


class TextTokenizer:
    """ids lie in [0, vocab_size). `max_tokens` is the longest text the model was trained for, `words` are those of the training texts,
    None where they are not known or too many."""

    def __init__(self, model_bytes: bytes, *, max_tokens: int = 64, words: Iterable[str] | None = None) -> None:
        """Raises BadCheckpoint when `model_bytes` is no SentencePiece model, BadConfig for a limit below 1.

        Only for bytes that this process made or has checked: use `from_bytes` with the pinned hash for anything else.
        """
        if max_tokens < 1:
            raise BadConfig(f"text max_tokens: got {max_tokens}, expected at least 1; fix: 64 is a good value")
        self.model_bytes = bytes(model_bytes)
        self.max_tokens, self.words = max_tokens, None if words is None else frozenset(words)
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=self.model_bytes)
            whole = self._processor.get_piece_size() >= _BYTE_PIECES  # no bytes at all pass the parser
        except (RuntimeError, ValueError):  # damaged pieces may not even be text
            whole = False
        if not whole:
            raise BadCheckpoint(
                f"text tokenizer: got {len(self.model_bytes)} bytes that are no SentencePiece model with byte pieces, expected one; "
                "fix: copy or train it again"
            )

    @classmethod
    def train(cls, texts: Iterable[str], *, vocab_size: int = 512, max_tokens: int = 64) -> "TextTokenizer":
        """A byte-pair model of at most `vocab_size` pieces (fewer for a small corpus), the same for the same texts.

        Raises BadData when there is no text at all, BadConfig when `vocab_size` cannot hold the byte pieces.
        """
        if vocab_size < _SMALLEST_VOCABULARY:
            raise BadConfig(
                f"text vocab_size: got {vocab_size}, expected at least {_SMALLEST_VOCABULARY}, as {_BYTE_PIECES} are byte pieces; "
                "fix: 512 is a good value"
            )
        texts = list(texts)
        corpus = sorted(piece for text in texts for piece in _pieces_of(_normalise(text, "training text")))
        if not corpus:
            raise BadData("text tokenizer: got no texts, expected at least one; fix: leave the text part out for data without texts")
        corpus = _without_rare_characters(corpus, (vocab_size - _BYTE_PIECES) // 2)
        model = io.BytesIO()
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(corpus),
            model_writer=model,
            model_type="bpe",  # whole words of a small corpus become pieces; unigram keeps spelling them
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            byte_fallback=True,
            character_coverage=1.0,
            normalization_rule_name="identity",
            max_sentence_length=8 * _CHUNK,
            shuffle_input_sentence=False,
            num_threads=1,  # more would make the bytes depend on the machine
            unk_id=0,
            bos_id=-1,
            eos_id=-1,
            pad_id=-1,
            minloglevel=2,
        )
        return cls(model.getvalue(), max_tokens=max_tokens, words=words_of(texts))

    @classmethod
    def from_bytes(cls, model_bytes: bytes, sha256: str, *, max_tokens: int = 64, words: Iterable[str] | None = None) -> "TextTokenizer":
        """The tokenizer of a stored model. Bytes of another hash than `sha256` (hex) raise BadCheckpoint before they are parsed."""
        found = hashlib.sha256(model_bytes).hexdigest()
        if found != sha256:
            raise BadCheckpoint(f"text tokenizer: got sha256 {found}, expected {sha256}; fix: copy the file again, it was changed")
        return cls(model_bytes, max_tokens=max_tokens, words=words)

    @property
    def sha256(self) -> str:
        """Hex digest of `model_bytes`, to be pinned in the checkpoint."""
        return hashlib.sha256(self.model_bytes).hexdigest()

    @property
    def vocab_size(self) -> int:
        return self._processor.get_piece_size()

    def encode(self, text: str) -> list[int]:
        """ids of `text`, [] for an empty one. Raises BadPrompt when there are more than `max_tokens`, or it is no text."""
        ids = self._processor.encode(_normalise(text, "text"))
        if len(ids) > self.max_tokens:
            raise BadPrompt(
                f"text: got {len(ids)} tokens ({len(text)} characters), expected at most {self.max_tokens}; "
                f"fix: shorten it by {len(ids) - self.max_tokens} tokens or use the words of the training texts"
            )
        return ids

    def never_trained(self, text: str) -> list[str]:
        """The words of `text` that no training text had, in order; none where the words are not known."""
        return [] if self.words is None else [word for word in dict.fromkeys(_words(text)) if word not in self.words]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`. Raises BadPrompt for an id outside [0, vocab_size). Broken UTF-8 becomes U+FFFD."""
        wrong = [i for i in ids if not 0 <= i < self.vocab_size]
        if wrong:
            raise BadPrompt(f"text ids: got {wrong[0]}, expected 0 to {self.vocab_size - 1}; fix: take the ids from encode")
        return self._processor.decode(list(ids))


def words_of(texts: Iterable[str]) -> frozenset[str] | None:
    """The words of training texts, in lower case; None where there are more than anyone looks through."""
    words = frozenset(word for text in texts for word in _words(text))
    return words if len(words) <= _MOST_WORDS else None


def _words(text: str) -> list[str]:
    return re.findall(r"[\w'-]+", text.casefold())


def _normalise(text: str, where: str) -> str:
    """White space runs become one space; SentencePiece's own space sign (U+2581) too, as it cannot be told from one."""
    if not isinstance(text, str):
        raise BadPrompt(f"{where}: got a {type(text).__name__}, expected text; fix: pass a string")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadPrompt(f"{where}: got a lone surrogate at character {error.start}, expected Unicode text; fix: remove it") from None
    return " ".join(text.replace("\u2581", " ").split())


def _pieces_of(text: str) -> Iterable[str]:
    """`text` cut into parts that the trainer takes, none empty."""
    for start in range(0, len(text), _CHUNK):
        if part := text[start : start + _CHUNK].strip():
            yield part


def _without_rare_characters(corpus: list[str], num_pieces: int) -> list[str]:
    """`corpus` with its `num_pieces` most frequent characters; the rest is left to the byte pieces."""
    counts = collections.Counter("".join(corpus))
    kept = sorted(counts, key=lambda character: (-counts[character], character))[:num_pieces]
    rare = {ord(character): " " for character in counts.keys() - set(kept)}
    return [text for text in (" ".join(text.translate(rare).split()) for text in corpus) if text]
