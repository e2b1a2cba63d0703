"""How a stored picture is to be turned, mirrored and stretched so that it looks as it was taken.

Films say it in a display matrix and a sample aspect ratio, pictures in EXIF. Orientations are EXIF's numbers, from what is stored to
what is shown: 1 as it is, 2 mirrored left to right, 3 turned by 180 degrees, 4 upside down in a mirror, 5 rows made columns, 6 turned
by 90 degrees clockwise, 7 rows made columns and turned by 180 degrees, 8 turned by 90 degrees counter-clockwise.
"""

import math
import struct
from collections.abc import Sequence
from fractions import Fraction

from wfm_ar.decoding.limits import Refused

AS_STORED = 1
_OF_MATRIX = {  # signs of (a, b, c, d): a point (x, y) is shown at (a x + c y, b x + d y), y downwards
    (1, 0, 0, 1): 1,
    (-1, 0, 0, 1): 2,
    (-1, 0, 0, -1): 3,
    (1, 0, 0, -1): 4,
    (0, 1, 1, 0): 5,
    (0, 1, -1, 0): 6,
    (0, -1, -1, 0): 7,
    (0, -1, 1, 0): 8,
}
_STRAIGHT = 0.02  # of the matrix's largest number: a degree
_ROUNDING = 0.01  # of an aspect ratio: encoders round the sides of a picture to whole blocks
_MOST_ASPECT = 10
_ORIENTATION, _SHORT = 0x112, 3  # tag and type of an EXIF field


def of_matrix(matrix: Sequence[int]) -> int:
    """Of a display matrix, nine integers row by row. Raises Refused for one that is no quarter turn, mirrored or not."""
    numbers = [matrix[i] for i in (0, 1, 3, 4)]
    most = max(map(abs, numbers))
    if not most:
        return AS_STORED  # left unset by its writer
    a, b, c, d = (0 if abs(number) <= _STRAIGHT * most else int(math.copysign(1, number)) for number in numbers)
    signs = (a, b, c, d)
    if signs not in _OF_MATRIX:
        raise Refused(f"got a display matrix {tuple(matrix[:6])}, expected quarter turns; fix: encode it again, which turns the frames")
    return _OF_MATRIX[signs]


def turns(orientation: int) -> bool:
    """Whether width and height change places."""
    return orientation >= 5


def shown_size(width: int, height: int, aspect: Fraction | None) -> tuple[int, int]:
    """(width, height) in square pixels of a picture whose pixels are `aspect` times as wide as high: the shorter side is stretched."""
    if not aspect or abs(aspect - 1) <= _ROUNDING:
        return width, height
    if not 1 / _MOST_ASPECT <= aspect <= _MOST_ASPECT:
        raise Refused(
            f"got pixels {float(aspect):.3g} times as wide as high, expected 1/{_MOST_ASPECT} to {_MOST_ASPECT}; fix: encode it again"
        )
    return (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))


def of_exif(content: bytes) -> int:
    """Of a JPEG or PNG; AS_STORED where it does not say, or says nonsense, as viewers do."""
    exif = _exif_of_png(content) if content.startswith(b"\x89PNG") else _exif_of_jpeg(content)
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 8:
        return AS_STORED
    (at,) = struct.unpack_from(order + "I", exif, 4)
    count = struct.unpack_from(order + "H", exif, at)[0] if at + 2 <= len(exif) else 0
    for field in range(at + 2, min(at + 2 + 12 * count, len(exif) - 11), 12):
        tag, kind, _, value = struct.unpack_from(order + "HHIH", exif, field)
        if (tag, kind) == (_ORIENTATION, _SHORT):
            return value if 1 <= value <= 8 else AS_STORED
    return AS_STORED


def _exif_of_jpeg(content: bytes) -> bytes:
    at = 2
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker, length = struct.unpack_from(">BH", content, at + 1)
        if marker in (0xD9, 0xDA) or length < 2:  # the picture begins
            break
        if marker == 0xE1 and content[at + 4 : at + 10] == b"Exif\0\0":
            return content[at + 10 : at + 2 + length]
        at += 2 + length
    return b""


def _exif_of_png(content: bytes) -> bytes:
    at = 8
    while at + 8 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        if kind == b"eXIf":
            return content[at + 8 : at + 8 + length]
        at += 12 + length
    return b""
