"""One recording looked at: its pieces, what is wrong with each, and a fingerprint of those that may be kept."""

from dataclasses import dataclass

import numpy as np

from wfm_ar.data.curate.duplicates import Fingerprint, fingerprint
from wfm_ar.data.curate.looks import black_frames, black_runs, chunks, motion, thumbnails
from wfm_ar.data.curate.settings import CurateConfig
from wfm_ar.data.curate.shots import ShotFinder, segments
from wfm_ar.data.episodes import EpisodeSet
from wfm_ar.errors import BadActions, BadClip, BadData


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Frames start..end of a source. `reason` is "" as long as nothing speaks against it."""

    start: int
    end: int
    whole: bool  # the source has no other pieces
    luma: float  # mean, 0..255
    motion: float  # grey levels
    reason: str = ""
    detail: str = ""


def survey(episodes: EpisodeSet, index: int, config: CurateConfig) -> tuple[list[Piece], list[Fingerprint | None]]:
    """The pieces of a source in order, with fingerprints of those that nothing speaks against.

    A source that cannot be read is one dropped piece, with the reader's words.
    """
    try:
        return _look(episodes, index, config)
    except (BadClip, BadData, BadActions) as error:
        return [Piece(start=0, end=0, whole=True, luma=0.0, motion=0.0, reason="unreadable", detail=error.problem)], [None]


def _look(episodes: EpisodeSet, index: int, config: CurateConfig) -> tuple[list[Piece], list[Fingerprint | None]]:
    fps, count = episodes[index].fps, episodes.num_frames(index)
    if config.fps is not None and fps < 0.99 * config.fps:
        detail = f"{fps:g} frames a second, expected at least {config.fps:g}: frames would have to be repeated"
        return [Piece(start=0, end=count, whole=True, luma=0.0, motion=0.0, reason="slow", detail=detail)], [None]
    finder = ShotFinder(fps, config.shot_threshold) if config.shots else None
    parts = []
    for frames_THWC in chunks(episodes, index):
        parts.append(thumbnails(frames_THWC))
        if finder is not None:
            finder.look(frames_THWC)
    thumbs = np.concatenate(parts)
    actions = episodes.load_actions(index)  # read now, so that a broken array drops the source and not the whole work
    if actions is not None and len(actions) != len(thumbs) - 1:
        raise BadActions(f"{episodes[index].id}: got {len(actions)} actions for {len(thumbs)} frames, expected {len(thumbs) - 1}")
    dark = black_runs(thumbs, config.black_level) if config.shots else []
    longest = None if config.max_seconds is None else max(1, round(config.max_seconds * fps))
    found = segments(len(thumbs), finder.cuts() if finder else [], dark, longest)
    pieces, prints = [], []
    for start, end in found:
        own = thumbs[start:end]
        reason, detail = _objection(own, fps, config)
        numbers = {"luma": round(float(own.mean()), 2), "motion": round(motion(own), 2)}
        pieces.append(Piece(start=start, end=end, whole=len(found) == 1, reason=reason, detail=detail, **numbers))
        prints.append(None if reason else fingerprint(own))
    return pieces, prints


def _objection(thumbs: np.ndarray, fps: float, config: CurateConfig) -> tuple[str, str]:
    """(reason, detail) for dropping a piece, ("", "") for keeping it."""
    black = float(black_frames(thumbs, config.black_level).mean())
    if black >= 0.9:
        return "black", f"{100 * black:.0f} % of its frames are black, darker than {config.black_level:g} of 255 all over"
    if len(thumbs) < config.min_seconds * fps - 1e-6:
        return "short", f"{len(thumbs) / fps:.2f} s, expected at least {config.min_seconds:g} s"
    if motion(thumbs) < config.min_motion:
        return "static", f"nothing changes by more than {motion(thumbs):.1f} grey levels, expected at least {config.min_motion:g}"
    return "", ""
