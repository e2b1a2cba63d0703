"""Clips whose every frame carries its own number as black and white blocks, so that "frame 7" can be read off the pixels."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS, HEIGHT, WIDTH = 8, 64, 96


def picture(number: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """uint8 [height, width, 3]: two rows of four blocks, the lowest bit at the top left."""
    bits = [255 * (number >> bit & 1) for bit in range(BITS)]
    blocks = np.array(bits, np.uint8).reshape(2, BITS // 2)
    return np.repeat(np.kron(blocks, np.ones((height // 2, width * 2 // BITS), np.uint8))[..., None], 3, 2)


def numbers(frames_THWC: np.ndarray) -> list[int]:
    """What the frames carry."""
    height, width = frames_THWC.shape[1:3]
    out = []
    for frame in frames_THWC:
        middles = frame[height // 4 :: height // 2, width // BITS :: width * 2 // BITS, 0].reshape(-1)
        out.append(sum(1 << bit for bit, value in enumerate(middles) if value > 127))
    return out


def write_numbered(
    path: Path,
    shown: Sequence[int],
    rate: float = 10,
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    times: Sequence[int] | None = None,  # in frames; None for one after the other
    size: tuple[int, int] = (HEIGHT, WIDTH),
    container_options: dict[str, str] | None = None,
    sample_aspect: Fraction | None = None,
    **options: str,
) -> None:
    """A clip whose frames carry the numbers `shown`."""
    step = 1 / Fraction(rate).limit_denominator(1001)
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=1 / step)
        stream.height, stream.width = size
        stream.pix_fmt, stream.options, stream.thread_count = pixels, options, 1
        if sample_aspect:
            stream.codec_context.sample_aspect_ratio = sample_aspect
        for i, number in enumerate(shown):
            frame = av.VideoFrame.from_ndarray(picture(number, *size), format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = i if times is None else times[i], step
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
