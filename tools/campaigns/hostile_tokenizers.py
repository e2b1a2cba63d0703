"""Damaged SentencePiece models: refused by their hash before the native parser sees them, and, with that check taken away, no
damage outside the child process that parses them.

Run `python tools/campaigns/hostile_tokenizers.py` from the checkout.
"""

import os
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import hostile

from wfm_ar.errors import WfmError
from wfm_ar.tokenizers import text as text_module
from wfm_ar.tokenizers.text import TextTokenizer

TEXTS = ["push the red cube left", "push the blue ball right", "do nothing", "roll the green cylinder to the wall"]
BATCH = 50  # cases a child
OUTCOMES = ("refused", "taken", "another error")


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes(out) + bytes([number])


def with_field(model: bytes, rng: random.Random) -> tuple[str, bytes]:
    """A field of the protocol buffer added or lied about: huge pieces, counts, lengths."""
    what = rng.choice(("piece", "length", "null", "charsmap", "many", "score", "type"))
    if what == "piece":
        text = b"a" * rng.choice((0, 1, 100_000, 1_000_000))
        piece = b"\x0a" + varint(len(text)) + text + b"\x15" + struct.pack("<f", -1.0)
        return f"piece of {len(text)}", model + b"\x0a" + varint(len(piece)) + piece
    if what == "length":
        return "length that lies", model + b"\x0a" + varint(rng.choice((1, 1 << 20, 1 << 31, (1 << 63) - 1)))
    if what == "null":
        piece = b"\x0a\x03a\x00b\x15" + struct.pack("<f", -1.0)
        return "piece with a zero byte", model + b"\x0a" + varint(len(piece)) + piece
    if what == "charsmap":
        data = rng.randbytes(rng.choice((4, 64, 5000)))
        normaliser = b"\x12" + varint(len(data)) + data
        return "character map", model + b"\x1a" + varint(len(normaliser)) + normaliser
    if what == "many":
        piece = b"\x0a\x01z\x15" + struct.pack("<f", -1.0)
        return "the same piece often", model + (b"\x0a" + varint(len(piece)) + piece) * 500
    if what == "score":
        return "scores that are no numbers", model.replace(struct.pack("<f", 0.0), struct.pack("<f", float("nan")))
    piece = b"\x0a\x01q\x15" + struct.pack("<f", -1.0) + b"\x18" + varint(rng.choice((0, 1, 4, 5, 6, 99)))
    return "type", model + b"\x0a" + varint(len(piece)) + piece


def cases(count: int, seed: int, model: bytes) -> Iterator[tuple[str, bytes]]:
    for i in range(count):
        rng = random.Random(f"{seed}-{i}")
        label, changed = with_field(model, rng) if rng.random() < 0.3 else hostile.mangled(model, rng)
        while changed == model:
            label, changed = hostile.mangled(model, rng)
        yield f"{label} [{seed}-{i}]", changed


def parsed_in_child(models: list[bytes]) -> list[str]:
    """What becomes of each model without its hash: an outcome, or the signal that ended the child that parsed it."""
    outcomes: list[str] = []
    while len(outcomes) < len(models):
        ours, theirs = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(ours)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 2)  # the parser complains at length
            for model in models[len(outcomes) :]:
                os.write(theirs, bytes([_parse(model)]))
            os._exit(0)
        os.close(theirs)
        with os.fdopen(ours, "rb") as pipe:
            outcomes += [OUTCOMES[number] for number in pipe.read()]
        status = os.waitpid(pid, 0)[1]
        if status:
            outcomes.append(f"ended its child by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "ended its child")
    return outcomes


def _parse(model: bytes) -> int:
    try:
        tokenizer = TextTokenizer(model)
        for text in (*TEXTS, "unseen wörds ✓"):
            tokenizer.decode(tokenizer.encode(text))
        return 1
    except WfmError:
        return 0
    except Exception:
        return 2


def run(count: int, seed: int, folder: Path) -> hostile.Report:
    sound = TextTokenizer.train(TEXTS, vocab_size=300)
    seen: list[bytes] = []
    native = text_module.sentencepiece.SentencePieceProcessor

    def watched(*arguments, **named):
        seen.append(named.get("model_proto", b""))
        return native(*arguments, **named)

    def check(case: tuple[bytes, str]) -> str:
        model, unchecked = case
        seen.clear()
        text_module.sentencepiece.SentencePieceProcessor = watched
        try:
            TextTokenizer.from_bytes(model, sound.sha256)
            raise hostile.Failure("another model was taken for the pinned one")
        except WfmError as error:
            hostile.one_line(error)
        finally:
            text_module.sentencepiece.SentencePieceProcessor = native
        if seen:
            raise hostile.Failure("the native parser saw bytes of another hash")
        return f"refused (without the hash: {unchecked})"

    def batches() -> Iterator[tuple[str, tuple[bytes, str]]]:
        made = list(cases(count, seed, sound.model_bytes))
        for start in range(0, count, BATCH):
            batch = made[start : start + BATCH]
            outcomes = parsed_in_child([model for _, model in batch])
            for (label, model), outcome in zip(batch, outcomes, strict=True):
                yield label, (model, outcome)

    return hostile.run_cases("hostile tokenizer models", batches(), check)


if __name__ == "__main__":
    hostile.main(run, 2_000, __doc__)
