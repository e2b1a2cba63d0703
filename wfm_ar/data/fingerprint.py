"""What an episode's tokens and cached frames are made from, as hashes: they are valid while these stay the same.

A file is known by its size, the SHA-256 of its first, middle and last PIECE bytes, and, where those are not all of it, the time of
its last change. So a data set that is edited in place, replaced under the same name or recorded again under the same ids is
noticed without reading all of it. Paths are no part of it: a data set may be moved.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from wfm_ar.data.episodes import EpisodeSet, Place
from wfm_ar.errors import BadData

PIECE = 256 << 10  # bytes
READING = 2  # counts up when the same files begin to give other frames


class Origin(NamedTuple):
    """What the tokens of one clip were made from."""

    id: str
    text: str | None
    frames: str  # SHA-256 of what decides the frames, see frames_fingerprint
    actions: str  # SHA-256 of the action rows and of the schema they are read by


def origins(episodes: EpisodeSet, workers: int = 1) -> list[Origin]:
    """The origin of every episode, in order; `workers` threads read. Raises BadData, BadActions for what cannot be read."""
    known: dict[Place, str] = {}

    def origin(i: int) -> Origin:
        return Origin(episodes[i].id, episodes[i].text, frames_fingerprint(episodes, i, known), actions_fingerprint(episodes, i))

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(origin, range(len(episodes))))


def frames_fingerprint(episodes: EpisodeSet, i: int, known: dict[Place, str] | None = None) -> str:
    """SHA-256 over the files (or stretches of them) that hold the frames of episode i, where they lie in them, and the rate.

    known: hashes of files that were read before, for episodes that share one; it is added to.
    """
    known = {} if known is None else known
    episode, found = episodes[i], []
    for place in episodes.reader.frames_from(episode):
        key = place._replace(within="")
        if key not in known:
            known[key] = _file_fingerprint(key)
        found.append([known[key], place.within])
    return _sha256([json.dumps([READING, found, episode.fps]).encode()])


def actions_fingerprint(episodes: EpisodeSet, i: int) -> str:
    """SHA-256 over the action rows of episode i and the schema of the set; without actions, over the schema alone."""
    schema, rows = episodes.schema, episodes.load_actions(i)
    about = [None if schema is None else schema.to_json(), None if rows is None else list(rows.shape), episodes[i].embodiment]
    return _sha256([json.dumps(about).encode(), b"" if rows is None else np.ascontiguousarray(rows).tobytes()])


def _file_fingerprint(place: Place) -> str:
    try:
        with open(place.path, "rb") as file:
            status = os.fstat(file.fileno())
            size = status.st_size - place.begin if place.length is None else place.length
            offsets = [0, (size - PIECE) // 2, size - PIECE] if size > 3 * PIECE else range(0, size, PIECE)
            pieces = [os.pread(file.fileno(), min(PIECE, size - at), place.begin + at) for at in offsets]
    except OSError as error:
        raise _unreadable(place.path, error) from None
    about = [size, status.st_mtime_ns if size > 3 * PIECE else None]
    return _sha256([json.dumps(about).encode(), *pieces])


def _unreadable(path: Path, error: OSError) -> BadData:
    return BadData(f"{path}: cannot be read ({error.strerror or error}), expected the frames of an episode; fix: restore the file")


def _sha256(parts: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
