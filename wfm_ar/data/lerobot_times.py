"""Which frame of a LeRobot video belongs to which row: the one that is shown nearest to the row's time, by the file's own times.

A file need not play at the rate that info.json says to the last digit, and a recorder may leave a discarded take in it: so rows are
not counted off against frames, but found by time, and where rows, episodes and frames contradict each other that is said, with its
place.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wfm_ar.errors import BadClip, BadData
from wfm_ar.schema import RATE_SLACK

_ROUNDING = 1e-3  # s, of times that are stored as float32 or in thousandths


class Stretch(NamedTuple):
    """Where in a video file an episode lies, as meta/episodes says."""

    path: Path
    begin: float  # s
    end: float | None  # s; None where it is not said


class Piece(NamedTuple):
    """A stretch, and how many rows it is for."""

    episode: int
    rows: int
    stretch: Stretch


def check_rows(times: np.ndarray, fps: float, where: str) -> None:
    """Raises BadData for rows [T] (seconds) that are not 1/fps apart: dropped or doubled ones, or a rate that is not theirs."""
    if not np.isfinite(times).all():
        raise BadData(f"{where}: the timestamp of row {int(np.argmin(np.isfinite(times)))} is no number; fix: write the data set again")
    wrong = np.flatnonzero(np.abs(np.diff(times) * fps - 1) > 0.5)
    if len(wrong):
        row, step = int(wrong[0]), float(np.diff(times)[wrong[0]])
        told = (
            f"rows {row} and {row + 1} are {step:.4g} s apart by their timestamps, expected {1 / fps:.4g} as info.json's fps {fps:g} says"
        )
        raise BadData(f"{where}: {told}; fix: record at one rate, or mend the timestamps or fps")
    lasts, expected = float(times[-1] - times[0]), (len(times) - 1) / fps
    if abs(lasts - expected) > max(0.5 / fps, RATE_SLACK * expected):
        told = f"{len(times)} rows last {lasts:.4g} s by their timestamps, expected {expected:.4g} at info.json's fps {fps:g}"
        raise BadData(f"{where}: {told}; fix: mend the timestamps or fps")


def check_file(frame_times: np.ndarray, pieces: Sequence[Piece], fps: float) -> None:
    """Raises BadData unless the episodes of one file fill it: as many frames as rows, none twice, each as long as its rows."""
    pieces = sorted(pieces, key=lambda piece: piece.stretch.begin)
    path, frames, rows = pieces[0].stretch.path, len(frame_times), sum(piece.rows for piece in pieces)
    own = (frames - 1) / float(frame_times[-1]) if frames > 1 and frame_times[-1] > 0 else fps  # frames a second of the file
    for piece in pieces:
        begin, end = piece.stretch.begin, piece.stretch.end
        if end is not None and min(abs(end - begin - piece.rows / rate) for rate in (fps, own)) > 0.5 / fps + _ROUNDING:
            told = f"episode {piece.episode} lies from {begin:.4g} to {end:.4g} s, {(end - begin) * fps:.4g} frames at {fps:g} a second"
            raise BadData(f"{path}: {told}, expected {piece.rows} as it has rows; fix: write meta/episodes again")
    for before, piece in zip(pieces, pieces[1:], strict=False):
        ends = before.stretch.begin + before.rows / fps
        slack = 0.5 / fps + RATE_SLACK * before.rows / fps
        apart = piece.stretch.begin - ends
        if apart < -slack:
            told = f"episode {piece.episode} begins at {piece.stretch.begin:.4g} s, before episode {before.episode} ends at {ends:.4g} s"
            raise BadData(f"{path}: {told}, expected one after the other; fix: write meta/episodes again")
        if frames != rows and apart > slack:
            told = f"{frames} frames for {rows} rows; {round(apart * own)} frames between episodes {before.episode} and {piece.episode}"
            raise BadData(
                f"{path}: {told} belong to none, expected as many as rows; fix: cut out the discarded take, and write meta/episodes anew"
            )
    if frames != rows:
        one = f"episode {pieces[0].episode} has" if len(pieces) == 1 else f"its {len(pieces)} episodes have"
        raise BadData(f"{path}: got {frames} frames, expected {rows}, as many as {one} rows; fix: cut out the frames without rows, or "
                      "record again")  # fmt: skip


def nearest_frames(frame_times: np.ndarray, wanted: np.ndarray, fps: float, where: str) -> np.ndarray:
    """int64 [T], the frames shown nearest to the times `wanted` [T], seconds from the first frame of the file.

    Raises BadClip where one is further away than half a frame.
    """
    after = np.searchsorted(frame_times, wanted).clip(1, max(1, len(frame_times) - 1))
    before = after - 1
    after = after.clip(max=len(frame_times) - 1)
    nearest = np.where(wanted - frame_times[before] <= frame_times[after] - wanted, before, after)
    distance = np.abs(frame_times[nearest] - wanted)
    row = int(distance.argmax())
    if distance[row] > 0.5 / fps + _ROUNDING:
        told = f"row {row} is at {wanted[row]:.4g} s, and the nearest of {len(frame_times)} frames {distance[row]:.3g} s away"
        raise BadClip(f"{where}: {told}, expected at most half a frame; fix: record again, or mend the times in meta/episodes")
    return nearest
