"""Small RLDS sets that ask for a lot: black pictures by the thousand, and records of millions of tiny fields."""

from pathlib import Path

import numpy as np
from small_cases import Case, sparse
from small_sets import FRAMES, SIDE, message

from wfm_ar.data.tfrecord import crc32c, masked
from wfm_ar.data.video import write_image


def _records(root: Path, *records: bytes) -> None:
    sizes = [len(one).to_bytes(8, "little") for one in records]
    content = [n + masked(crc32c(n)) + one + masked(crc32c(one)) for n, one in zip(sizes, records, strict=True)]
    (root / "set-train.tfrecord-00000-of-00001").write_bytes(b"".join(content))


def _record(**features: bytes) -> bytes:
    entries = [message(1, message(1, f"steps/{name}".encode()) + message(2, value)) for name, value in features.items()]
    return message(1, b"".join(entries))


def _picture(root: Path, height: int, width: int) -> bytes:
    write_image(root / "black.png", np.zeros((height, width, 3), np.uint8))
    content = (root / "black.png").read_bytes()
    (root / "black.png").unlink()
    return content


def rlds_cases() -> dict[str, Case]:
    def large(root: Path, count: int, size: int) -> None:
        one = message(1, _picture(root, size, size))
        _records(root, _record(**{"observation/image": message(1, one * count), "action": message(2, message(1, bytes(8 * count)))}))

    def odd(root: Path, **features: bytes) -> None:
        pictures = message(1, message(1, _picture(root, SIDE, SIDE)) * FRAMES)
        _records(root, _record(**{"observation/image": pictures, "action": message(2, message(1, bytes(8 * FRAMES)))} | features))

    mega = 8 << 20
    return {
        "rlds: many large black pictures": lambda root: large(root, 60, 4096),
        "rlds: many black pictures": lambda root: large(root, 3000, 512),
        "rlds: millions of small numbers": lambda root: odd(root, action=message(3, message(1, bytes(mega)))),
        "rlds: millions of single numbers": lambda root: odd(root, action=message(3, b"\x08\x00" * (mega // 2))),
        "rlds: millions of single floats": lambda root: odd(root, action=message(2, b"\x0d\x00\x00\x00\x00" * (mega // 5))),
        "rlds: millions of empty texts": lambda root: odd(root, language_instruction=message(1, b"\x0a\x00" * (mega // 2))),
        "rlds: millions of empty pictures": lambda root: odd(
            root, **{"observation/image": message(1, message(1, _picture(root, SIDE, SIDE)) + b"\x0a\x00" * (mega // 2))}
        ),
        "rlds: millions of features": lambda root: _records(root, message(1, b"\x0a\x04\x0a\x00\x12\x00" * (mega // 6))),
        "rlds: millions of unknown fields": lambda root: _records(root, b"\x18\x00" * (mega // 2)),
        "rlds: zeros": lambda root: _records(root, bytes(mega)),
        "rlds: a sparse record": _sparse_record,
    }


def _sparse_record(root: Path) -> None:
    size = ((1 << 30) - 16).to_bytes(8, "little")
    sparse(root / "set-train.tfrecord-00000-of-00001", size + masked(crc32c(size)), (1 << 30) + 12 - 16 + 4)
