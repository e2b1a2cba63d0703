"""Small TFRecord files for tests, written by hand."""

import numpy as np

from wfm_ar.data.tfrecord import crc32c, masked


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


def message(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def feature(value) -> bytes:
    """bytes list, float array or int list as a tf.train.Feature."""
    if isinstance(value, np.ndarray):
        return message(2, message(1, value.astype("<f4").tobytes()))
    if value and isinstance(value[0], int):
        return message(3, message(1, b"".join(varint(v & (1 << 64) - 1) for v in value)))
    return message(1, b"".join(message(1, v) for v in value))


def example(**features) -> bytes:
    entries = [message(1, name.replace("__", "/").encode()) + message(2, feature(value)) for name, value in features.items()]
    return message(1, b"".join(message(1, entry) for entry in entries))


def write_records(path, records: list[bytes]) -> None:
    lengths = [len(one).to_bytes(8, "little") for one in records]
    path.write_bytes(b"".join(n + masked(crc32c(n)) + one + masked(crc32c(one)) for n, one in zip(lengths, records, strict=True)))
