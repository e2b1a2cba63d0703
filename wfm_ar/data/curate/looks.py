"""What a recording looks like, frame by frame: brightness and a thumbnail, and from these what is black and what stands still.

Works on streams of frames, so that an hour of video needs no more memory than a minute. Knows nothing of files.
"""

from collections.abc import Iterator

import numpy as np

from wfm_ar.data.episodes import EpisodeSet

SIDE = 32  # of a thumbnail, pixels
CHUNK_BYTES = 128 * 2**20  # of decoded frames held at a time
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601


def chunks(episodes: EpisodeSet, index: int, start: int = 0, end: int | None = None) -> Iterator[np.ndarray]:
    """Frames start..end of an episode in order, uint8 [n, H, W, 3] at a time. Raises BadClip.

    What the container declares decides how it is cut up; the last piece is read to the end, so a lie is an error, not a short clip.
    """
    last = episodes.num_frames(index) if end is None else end
    step = max(8, CHUNK_BYTES // episodes.load_frames(index, start, 1).nbytes)
    # the last piece takes the rest too: a declared count may be a frame off where it comes from a duration
    cuts = range(start + step, last - step, step)
    for begin, stop in zip([start, *cuts], [*cuts, end], strict=True):
        yield episodes.load_frames(index, begin, None if stop is None else stop - begin)


def thumbnails(frames_THWC: np.ndarray) -> np.ndarray:
    """uint8 [T, H, W, 3] -> float32 [T, SIDE, SIDE] in 0..255: the mean luma of each cell of a grid over the picture."""
    height, width = frames_THWC.shape[1:3]
    down, across = _means(height), _means(width)
    thumbs = np.empty((len(frames_THWC), SIDE, SIDE), np.float32)
    for t, image_HWC in enumerate(frames_THWC):
        thumbs[t] = down @ (image_HWC.astype(np.float32) @ LUMA) @ across.T
    return thumbs


def motion(thumbs_Thw: np.ndarray) -> float:
    """How much moves: the largest change of any cell over the clip, grey levels 0..255.

    A small object that crosses a still picture counts in full where it passes; sensor noise is averaged away within a cell.
    """
    return float(np.ptp(thumbs_Thw, axis=0).max())


def black_frames(thumbs_Thw: np.ndarray, level: float) -> np.ndarray:
    """bool [T]: all but a twentieth of the picture darker than `level` (0..255). A title on black is black; a face at night is not."""
    return np.quantile(thumbs_Thw.reshape(len(thumbs_Thw), -1), 0.95, axis=1) < level


def black_runs(thumbs_Thw: np.ndarray, level: float, shortest: int = 3) -> list[tuple[int, int]]:
    """[start, end) of every run of at least `shortest` black frames."""
    dark = np.concatenate(([False], black_frames(thumbs_Thw, level), [False])).astype(np.int8)
    edges = np.diff(dark)
    runs = zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True)
    return [(int(start), int(end)) for start, end in runs if end - start >= shortest]


def _means(size: int) -> np.ndarray:
    """float32 [SIDE, size], rows sum to 1: each cell is the mean of the pixels it covers, shares of pixels included."""
    edges, pixel = np.linspace(0, size, SIDE + 1), np.arange(size)
    overlap = (np.minimum(edges[1:, None], pixel + 1) - np.maximum(edges[:-1, None], pixel)).clip(min=0)
    return (overlap / overlap.sum(axis=1, keepdims=True)).astype(np.float32)
