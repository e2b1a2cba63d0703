"""Reads the episodes of a LeRobot data set: frames found by time, columns of numbers, pictures in the table."""

import functools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wfm_ar.data.cameras import tiled
from wfm_ar.data.episodes import Episode, Place
from wfm_ar.data.lerobot_times import Piece, Stretch, check_file, check_rows, nearest_frames
from wfm_ar.data.parquet import column_names, read_arrays, read_images
from wfm_ar.data.video import decode_images, frame_times, read_frames, video_info
from wfm_ar.errors import BadClip, BadData
from wfm_ar.schema import ActionSchema, same_rate

INFO = "meta/info.json"
INDICES = ("timestamp", "frame_index", "episode_index", "index", "task_index")
STATE_NAME, STATE_SHAPE = "wfm_name", "wfm_shape"  # keys of a feature that our own writer adds: the state array it was


@dataclass(frozen=True, kw_only=True)
class Info:
    """What meta/info.json says."""

    codebase: str  # such as v3.0
    version: int  # 2 or 3
    fps: float
    features: dict[str, dict[str, Any]]
    data_path: str
    video_path: str
    chunks_size: int
    splits: dict[str, Any]

    @property
    def actions(self) -> list[str]:
        """The columns that are actions: `action`, or all of `action.*` and `actions.*`, joined in this order."""
        names = [name for name, one in self.features.items() if re.match(r"actions?(\.|$)", name) and _is_numbers(one)]
        return ["action"] if "action" in names else names

    @property
    def cameras(self) -> list[str]:
        out = [name for name, one in self.features.items() if one.get("dtype") in ("video", "image") and not _is_depth(one)]
        return out

    @property
    def states(self) -> list[str]:
        known = {*self.actions, *INDICES}
        return [name for name, one in self.features.items() if _is_numbers(one) and name not in known and not name.startswith("action")]


@dataclass(frozen=True, kw_only=True)
class Span:
    """Where one episode lies in the files."""

    index: int
    length: int  # frames, and rows
    data: Path
    videos: dict[str, Stretch]  # camera -> where in which file


class LeRobotReader:
    """Reads episodes of one data set; the columns of the last few data files stay in memory."""

    def __init__(self, info: Info, cameras: tuple[str, ...], spans: Sequence[Span]) -> None:
        self.info, self.cameras = info, cameras
        self._spans = {span.index: span for span in spans}
        self._pieces: dict[Path, list[Piece]] = {}  # of each video file, all episodes
        for span in spans:
            for stretch in span.videos.values():
                self._pieces.setdefault(stretch.path, []).append(Piece(span.index, span.length, stretch))
        self._columns = functools.lru_cache(maxsize=8)(read_arrays)
        self._names = functools.lru_cache(maxsize=8)(column_names)
        self._times = functools.lru_cache(maxsize=64)(self._checked_times)
        self._row_times = functools.lru_cache(maxsize=4096)(self._checked_row_times)
        self._numbers = functools.lru_cache(maxsize=16384)(self._frame_numbers)

    def num_frames(self, episode: Episode) -> int:
        for camera in self.cameras:
            self._numbers(episode.source.index, camera)
        return episode.source.length

    def frames_from(self, episode: Episode) -> list[Place]:
        span, fps = episode.source, self.info.fps
        rows = self._row_times(span.index)
        odd = [] if np.allclose(rows, np.arange(span.length) / fps, rtol=0, atol=1e-4) else [rows.round(4).tolist()]
        videos = {camera: Place(one.path, within=[one.begin, span.length, fps, *odd]) for camera, one in span.videos.items()}
        return [videos.get(camera) or Place(span.data, within=[camera, span.index]) for camera in self.cameras]

    def frames(self, episode: Episode, start: int, count: int | None) -> np.ndarray:
        span: Span = episode.source
        count = span.length - start if count is None else count
        if start < 0 or count < 1 or start + count > span.length:
            asked = f"frames {start} to {start + count - 1}"
            raise BadClip(f"{where_of(episode)}: got {span.length} frames, expected {asked} too; fix: ask for frames that exist")
        return tiled(self.cameras, lambda camera: self._view(episode, camera, start, count), where_of(episode))

    def _view(self, episode: Episode, camera: str, start: int, count: int) -> np.ndarray:
        span = episode.source
        if self.info.features[camera].get("dtype") == "image":
            images = read_images(span.data, camera, self._rows(span)[start : start + count])
            return decode_images(images, [f"{where_of(episode)}, {camera} frame {t}" for t in range(start, start + count)])
        return read_frames(span.videos[camera].path, self._numbers(span.index, camera)[start : start + count])

    def _frame_numbers(self, index: int, camera: str) -> np.ndarray:
        """int64 [T]: which frame of a camera's file belongs to each row. Raises BadData, BadClip."""
        span = self._spans[index]
        if camera not in span.videos:  # its pictures lie in the rows
            return np.arange(len(self._row_times(index)))
        stretch = span.videos[camera]
        times = self._times(stretch.path)
        wanted = stretch.begin + self._row_times(index)
        return nearest_frames(times, wanted, self.info.fps, f"{stretch.path} episode {span.index}")

    def _checked_times(self, path: Path) -> np.ndarray:
        """When each frame of a video file is shown, float64 [T] seconds. Raises BadData for one that its episodes do not fill."""
        rate = video_info(path).fps
        if not same_rate(rate, self.info.fps):
            raise BadClip(f"{path}: plays at {rate:g} frames a second, expected {self.info.fps:g} as {INFO} says; fix: encode it again")
        times = frame_times(path)
        check_file(times, self._pieces[path], self.info.fps)
        return times

    def _checked_row_times(self, index: int) -> np.ndarray:
        """When each row was recorded, float64 [T] seconds from the episode's beginning. Raises BadData."""
        span = self._spans[index]
        if "timestamp" not in self._names(span.data):
            return np.arange(span.length) / self.info.fps
        times = self._columns(span.data, ("timestamp",))["timestamp"].reshape(-1)[self._rows(span)].astype(np.float64)
        check_rows(times, self.info.fps, f"{span.data} episode {span.index}")
        return times

    def _rows(self, span: Span) -> np.ndarray:
        """The rows of an episode in its data file, in the order of its frames. Raises BadData."""
        columns = self._columns(span.data, ("episode_index", "frame_index"))
        rows = np.flatnonzero(columns["episode_index"].reshape(-1) == span.index)
        frames = columns["frame_index"].reshape(-1)[rows]
        rows, frames = rows[np.argsort(frames, kind="stable")], np.sort(frames)
        if len(rows) != span.length or (frames != np.arange(span.length)).any():
            raise BadData(
                f"{span.data}: got {len(rows)} rows of episode {span.index}, expected frames 0 to {span.length - 1} as meta/episodes "
                "says; fix: write the data set again"
            )
        return rows

    def columns(self, episode: Episode, names: list[str]) -> dict[str, np.ndarray]:
        """Some columns of an episode, [T, ...] each. Raises BadData."""
        rows, columns = self._rows(episode.source), self._columns(episode.source.data, tuple(names))
        return {name: columns[name][rows] for name in names}

    def values(self, episode: Episode, names: list[str]) -> np.ndarray:
        """Columns joined, float32 [T, numbers in all of them]."""
        columns = self.columns(episode, names)
        return np.concatenate([columns[name].reshape(episode.source.length, -1).astype(np.float32) for name in names], axis=1)

    def actions(self, episode: Episode, schema: ActionSchema) -> np.ndarray:
        values = self.used_actions(episode)
        schema.validate(values, where_of(episode))
        return np.ascontiguousarray(values)

    def used_actions(self, episode: Episode) -> np.ndarray:
        """The actions between frames, float32 [T - 1, A]: the last row leads nowhere, and what it holds does not matter."""
        return self.values(episode, self.info.actions)[:-1]

    def state(self, episode: Episode) -> dict[str, np.ndarray]:
        out = {}
        for name, values in self.columns(episode, self.info.states).items():
            feature = self.info.features[name]
            shape = feature.get(STATE_SHAPE, list(values.shape[1:]))
            known = isinstance(shape, list) and all(isinstance(side, int) for side in shape)
            if not known or math.prod(shape) != math.prod(values.shape[1:]):
                raise BadData(f"{where_of(episode)}: {name} is said to be {shape}, expected {list(values.shape[1:])}; fix: write it again")
            out[str(feature.get(STATE_NAME, name))] = values.reshape(len(values), *shape)
        return out


def _is_numbers(feature: dict[str, Any]) -> bool:
    return bool(re.fullmatch(r"(float|int|uint)\d+|bool", str(feature.get("dtype", ""))))


def _is_depth(feature: dict[str, Any]) -> bool:
    about = feature.get("info") or feature.get("video_info") or {}
    return isinstance(about, dict) and bool(about.get("video.is_depth_map") or about.get("is_depth_map"))


def where_of(episode: Episode) -> str:
    """The place of an episode, as errors begin."""
    return f"{episode.source.data} episode {episode.source.index}"
