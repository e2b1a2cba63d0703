"""What decoding one file may cost. Knows numbers only; child.py and pictures.py keep to them, pool.py enforces them."""

from dataclasses import asdict, dataclass


@dataclass(frozen=True, kw_only=True)
class DecodeLimits:
    """Bounds of one call. The CPU time grows with the work done, so that a long clip passes and a file that spins does not."""

    memory_bytes: int = 1 << 30  # address space of the child
    output_bytes: int = 4 << 30  # pixels handed over
    frames: int = 200_000  # pictures decoded or packets counted
    pixels: int = 8192 * 4352  # of one picture: 8K and a little
    cpu_seconds: float = 5.0  # to begin with, and a second more for every
    pixels_per_cpu_second: float = 5e6  # pixels decoded, an eighth of what slow codecs need
    silence_seconds: float = 60.0  # of wall clock without a sign of life
    image_bytes: int = 256 << 20  # of a PNG, JPEG or GIF file that is read as one picture

    def to_json(self) -> dict[str, float]:
        return asdict(self)


def most_bytes(size: int, growth: int = 100) -> int:
    """What a file of `size` bytes may unpack to: real ones shrink tenfold or so, a bomb a thousandfold and more."""
    return max(256 << 20, growth * size)


class Refused(Exception):
    """Why a file is not taken, "got X, expected Y; fix: Z" without its name: whoever asked knows that."""
