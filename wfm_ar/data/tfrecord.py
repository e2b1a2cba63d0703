"""TFRecord files and the tf.train.Example in them, read without TensorFlow.

A file is records of [length uint64][crc uint32 of the length][bytes][crc uint32 of the bytes], little-endian; crcs are CRC-32C,
masked. An Example is a protobuf: Example{1: Features{1: map entry{1: name, 2: Feature{1: BytesList | 2: FloatList | 3: Int64List}}}}.
Promises: a record that is returned was whole; anything else raises BadData with the file and the record's number.
"""

import functools
import os
from pathlib import Path
from typing import Any

import numpy as np

from wfm_ar.errors import BadData

MOST_BYTES = 512 << 20  # of one record, an episode: more is taken for damage
NAME_CHARACTERS = 200  # of a feature
MOST_FEATURES, MOST_VALUES = 1000, 200_000  # of a record; strings of a feature, or numbers that are stored one by one
_OTHER_FIELDS = 10_000  # of a message, which nobody looks at
_MASK = 0xA282EAD8


def index_records(path: Path) -> list[tuple[int, int]]:
    """(offset of the bytes, their number) of each record; only the lengths are read. Raises BadData."""
    out, size, position = [], os.path.getsize(path), 0
    with open(path, "rb") as file:
        while position < size:
            file.seek(position)
            header = file.read(12)
            length = int.from_bytes(header[:8], "little")
            where = f"{path} record {len(out)}"
            if len(header) < 12 or unmasked(header[8:12]) != crc32c(header[:8]):
                raise BadData(f"{where}: its length does not match its check sum, expected a TFRecord; fix: copy the file again")
            if length > MOST_BYTES:
                raise BadData(f"{where}: got {length} bytes, expected at most {MOST_BYTES}; fix: write smaller episodes")
            if position + 12 + length + 4 > size:
                raise BadData(f"{where}: got {size - position - 12} bytes, expected {length + 4}: truncated; fix: copy the file again")
            out.append((position + 12, length))
            position += 12 + length + 4
    if not out:
        raise BadData(f"{path}: is empty, expected records; fix: copy the file again")
    return out


def read_record(path: Path, number: int, offset: int, length: int) -> bytes:
    """The bytes of a record, checked against their sum. Raises BadData."""
    with open(path, "rb") as file:
        file.seek(offset)
        content, told = file.read(length), file.read(4)
    if len(content) < length or len(told) < 4 or unmasked(told) != crc32c(content):
        raise BadData(f"{path} record {number}: does not match its check sum, expected a whole record; fix: copy the file again")
    return content


def features_of(content, where: str) -> dict[str, memoryview]:
    """A tf.train.Example -> name -> its Feature, not yet parsed: what is not looked at costs nothing. Raises BadData from `where`."""
    try:
        out: dict[str, memoryview] = {}
        for features in _messages(content, 1):
            for entry in _messages(features, 1, MOST_FEATURES):
                fields: dict[int, Any] = dict(_fields(entry))
                if isinstance(fields[1], int):  # bytes(n) would make n of them
                    raise ValueError("a name that is a number")
                name = bytes(fields[1]).decode()
                if len(name) > NAME_CHARACTERS or not name.isprintable():  # it stands in messages, which are one line
                    raise ValueError(f"a name of {len(name)} characters, expected at most {NAME_CHARACTERS} printable ones")
                out[name] = memoryview(fields.get(2, b""))
        return out
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise BadData(f"{where}: is no tf.train.Example ({error}), expected one; fix: write RLDS episodes") from None


def values_of(feature, where: str) -> list[bytes] | np.ndarray:
    """A Feature -> list of bytes, float32 [n] or int64 [n]; [] for one without values. Raises BadData, beginning with `where`."""
    try:
        for number, value in _fields(feature):
            if number == 1:
                return [bytes(one) for one in _messages(value, 1, MOST_VALUES)]
            if number == 2:  # packed, or one by one: the bytes of the values either way
                return np.frombuffer(b"".join(bytes(one) for one in _messages(value, 1, MOST_VALUES)), "<f4").astype(np.float32)
            if number == 3:
                return _integers(value)
        return []
    except (ValueError, IndexError, TypeError) as error:
        raise BadData(f"{where}: cannot be read ({error}), expected a tf.train.Feature; fix: copy the file again") from None


def byte_strings(feature) -> list[memoryview]:
    """The values of a Feature of byte strings without copying them; [] for one of numbers, or for damage."""
    try:
        return [one for number, value in _fields(feature) if number == 1 for one in _messages(value, 1, MOST_VALUES)]
    except (ValueError, IndexError, TypeError):
        return []


def first_string(feature) -> memoryview | None:
    """The first value that is not empty of a Feature of byte strings; None where there is none."""
    try:
        strings = (one for number, value in _fields(feature) if number == 1 for one in _messages(value, 1, MOST_VALUES))
        return next((one for one in strings if len(one)), None)
    except (ValueError, IndexError, TypeError):
        return None


def _integers(content) -> np.ndarray:
    parts: list[np.ndarray] = []
    for number, value in _fields(content, MOST_VALUES):
        if number == 1:
            parts.append(np.array([value], np.uint64) if isinstance(value, int) else _varints(value))
    return np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, np.int64)


def _varints(content) -> np.ndarray:
    """uint64 [n]: numbers one after the other, seven bits a byte, the last byte of each below 128."""
    stored = np.frombuffer(content, np.uint8)
    ends = np.flatnonzero(stored < 0x80)
    if len(stored) and (not len(ends) or ends[-1] != len(stored) - 1):
        raise ValueError("a number leads out of the record")
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    lengths, out = ends - starts + 1, np.zeros(len(ends), np.uint64)
    if len(ends) and (lengths.max() > 10 or (stored[ends[lengths == 10]] > 1).any()):
        raise ValueError("a number of more than 64 bits")
    for k in range(lengths.max(initial=0)):
        longer = lengths > k
        out[longer] |= (stored[starts[longer] + k] & 0x7F).astype(np.uint64) << np.uint64(7 * k)
    return out


def _messages(content, wanted: int, most: int = _OTHER_FIELDS):
    """The length-delimited (or 4-byte) values of one field."""
    return (value for number, value in _fields(content, most) if number == wanted and not isinstance(value, int))


def _fields(content, most: int = _OTHER_FIELDS):
    """(number, value) of a message of at most `most` fields: memoryview for strings, messages and fixed sizes, int for varints."""
    view, i, count = memoryview(content), 0, 0
    while i < len(view):
        key, i = _varint(view, i)
        kind, count = key & 7, count + 1
        if not key >> 3:
            raise ValueError("a field without a number")
        if count > most:
            raise ValueError(f"more than {most} fields")
        if kind == 0:
            value, i = _varint(view, i)
        else:
            if kind == 2:
                length, i = _varint(view, i)
            else:
                length = {1: 8, 5: 4}.get(kind, -1)
            if length < 0 or i + length > len(view):
                raise ValueError(f"field {key >> 3} of kind {kind} leads out of the record")
            value, i = view[i : i + length], i + length
        yield key >> 3, value


def _varint(view, i: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = view[i]
        i += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= 1 << 64:
                raise ValueError("a number of more than 64 bits")
            return value, i
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")


def unmasked(stored: bytes) -> int:
    """The CRC-32C that a stored, masked one stands for."""
    rotated = (int.from_bytes(stored, "little") - _MASK) & 0xFFFFFFFF
    return ((rotated >> 17) | (rotated << 15)) & 0xFFFFFFFF


def masked(crc: int) -> bytes:
    """A CRC-32C as TFRecord stores it."""
    return ((((crc >> 15) | (crc << 17)) + _MASK) & 0xFFFFFFFF).to_bytes(4, "little")


LANES = (8192, 256)  # words of four bytes that are folded onto each other; 32 KB stay in the nearest cache


def crc32c(content) -> int:
    """CRC-32C (Castagnoli) of bytes. Long inputs are folded in numpy (see _folded), some hundred times faster than byte by byte."""
    view, register = memoryview(content), 0xFFFFFFFF
    for lanes in LANES:
        whole = len(view) // (4 * lanes) * (4 * lanes)
        if whole:
            register, view = _folded(register, view[:whole], lanes), view[whole:]
    return _byte_by_byte(register, view) ^ 0xFFFFFFFF


def _folded(register: int, content, lanes: int) -> int:
    """The register after rows of `lanes` words.

    A sum of this kind is linear: a row may be moved over the bytes of one row (a matrix, here two tables) and added to the next one.
    What is left is one row with the same sum.
    """
    rows = np.frombuffer(content, "<u4").reshape(-1, lanes)
    low, high = _fold_tables(lanes)
    row = rows[0].copy()
    row[0] ^= register
    for following in rows[1:]:
        row = low[row & 0xFFFF] ^ high[row >> 16] ^ following
    shorter = [one for one in LANES if one < lanes]
    return _folded(0, row, shorter[0]) if shorter else _byte_by_byte(0, row.tobytes())


def _byte_by_byte(register: int, content) -> int:
    table = _bytes_of_table()
    for byte in content:
        register = table[(register ^ byte) & 0xFF] ^ (register >> 8)
    return register


@functools.cache
def _table() -> np.ndarray:
    """uint32 [256]: what becomes of a byte in the register."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> np.uint32(1)) ^ np.where(table & 1, np.uint32(0x82F63B78), np.uint32(0))
    return table


@functools.cache
def _bytes_of_table() -> list[int]:
    return _table().tolist()


@functools.cache
def _fold_tables(lanes: int) -> tuple[np.ndarray, np.ndarray]:
    """uint32 [65536] twice: what 4 * lanes zero bytes make of the lower and of the upper half of a register."""
    first, second, third, fourth = _shift_tables(4 * lanes)
    half = np.arange(1 << 16)
    return first[half & 0xFF] ^ second[half >> 8], third[half & 0xFF] ^ fourth[half >> 8]


def _shift_tables(zeros: int) -> np.ndarray:
    """uint32 [4, 256]: what `zeros` zero bytes make of a register, for each value of each of its four bytes."""
    registers = (np.arange(256, dtype=np.uint32)[None] << np.array([0, 8, 16, 24], np.uint32)[:, None]).ravel()
    bits = _power(zeros)
    out = np.zeros_like(registers)
    for bit in range(32):
        out ^= np.where(registers >> np.uint32(bit) & 1, np.uint32(bits[bit]), np.uint32(0))
    return out.reshape(4, 256)


def _power(zeros: int) -> list[int]:
    """Column i: what becomes of the register 1 << i after `zeros` zero bytes; by squaring."""
    table = _table()
    one = [int(table[(1 << i) & 0xFF]) ^ ((1 << i) >> 8) for i in range(32)]
    result = [1 << i for i in range(32)]
    while zeros:
        if zeros & 1:
            result = [_apply(one, column) for column in result]
        one = [_apply(one, column) for column in one]
        zeros >>= 1
    return result


def _apply(matrix: list[int], vector: int) -> int:
    total, i = 0, 0
    while vector:
        if vector & 1:
            total ^= matrix[i]
        vector >>= 1
        i += 1
    return total
