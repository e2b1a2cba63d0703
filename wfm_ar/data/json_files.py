"""JSON from files that may be anybody's: small, of regular files, strict.

Knows nothing of what the values mean. Refused are files over a limit (before they are read), keys that occur twice, NaN and
Infinity, numbers that no float holds, what is not UTF-8, and nesting that would exhaust the parser.
"""

import codecs
import json
import math
import os
import stat
from pathlib import Path
from typing import Any

from wfm_ar.data.listing import LFS_POINTER

_MARKS = (  # the longer ones first: that of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
DIGITS = 300  # of a whole number, and its sign
SETTINGS_BYTES = 1 << 20  # of a file of settings; the largest of our own has some kilobytes


def read_json(path: Path, most: int = SETTINGS_BYTES) -> Any:
    """The value in a file of at most `most` bytes. Raises OSError where it cannot be read, ValueError for everything else."""
    return parse_json(read_bytes(path, most))


def read_bytes(path: Path, most: int) -> bytes:
    """The text of a regular file of at most `most` bytes, in UTF-8 where a byte order mark says another encoding.

    Raises OSError where it cannot be read, ValueError where it is something else.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # not blocking: it may be a pipe that nobody writes to
    with open(fd, "rb") as file:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            raise ValueError("it is not a regular file")
        if about.st_size > most:
            raise ValueError(f"it has {about.st_size} bytes, at most {most} are taken")
        content = without_mark(file.read(most))
    if LFS_POINTER.match(content):
        raise ValueError("it is a Git LFS pointer, and `git lfs pull` fetches the file itself")
    return content


def without_mark(content: bytes) -> bytes:
    """Text as UTF-8 without a byte order mark: editors on Windows write one, and some UTF-16. Raises ValueError for broken UTF-16."""
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return content.decode(encoding).encode()
    return content


def parse_json(content: bytes | str) -> Any:
    """The value of one JSON text. Raises ValueError with the reason."""
    try:
        return json.loads(
            content, object_pairs_hook=_refuse_double, parse_constant=_refuse_constant, parse_int=whole_number, parse_float=_finite
        )
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    except MemoryError:
        raise ValueError("it is too large") from None


def _refuse_double(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError("a key occurs twice")
    return data


def whole_number(text: str) -> int:
    """What JSON text says, if a float could hold it: readers take whole numbers for those, too. Raises ValueError."""
    if len(text) > DIGITS:
        raise ValueError(f"a number of {len(text)} digits, at most {DIGITS} are taken")
    return int(text)


def _finite(text: str) -> float:
    if math.isinf(value := float(text)):
        raise ValueError(f"{text:.20} is larger than any number that can be held")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
