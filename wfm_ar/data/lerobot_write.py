"""Clips to a LeRobot v3.0 data set: several episodes an mp4 and a Parquet file, with tasks, per-episode and whole-set statistics.

A row is a frame. Ours have one action less than frames; the last row's leads nowhere: channels of steps get 0 there, others keep
their last value. What LeRobot has no place for lies beside it: `actions.json` (the action schema), ids and splits as two more
columns of meta/episodes, `meta/wfm.json`. The folder appears when it is whole, or not at all. Needs pyarrow.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wfm_ar.data.claims import whole_folder
from wfm_ar.data.files import as_wfm_error
from wfm_ar.data.lerobot import ID, SPLIT
from wfm_ar.data.lerobot_reader import STATE_NAME, STATE_SHAPE
from wfm_ar.data.parquet import import_pyarrow
from wfm_ar.data.schema_file import SCHEMA
from wfm_ar.data.set_folder import refuse_set
from wfm_ar.data.video import write_clips
from wfm_ar.errors import BadData
from wfm_ar.schema import ActionSchema

CAMERA = "observation.images.main"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
META = "meta/episodes/chunk-000/file-000.parquet"
CHUNK = 1000  # files a folder
ROWS = 400_000  # a data file
PIXELS = {False: 1_500_000_000, True: 150_000_000}  # a video file, lossy and lossless: some hundred MB either way
QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
LOOKED_AT = 32  # frames an episode whose pixels go into the statistics


@dataclass(frozen=True, kw_only=True)
class Clip:
    """One episode to write."""

    id: str
    split: str
    text: str | None
    frames: np.ndarray  # uint8 [T, H, W, 3]
    actions: np.ndarray | None  # float32 [T-1, A]
    columns: dict[str, np.ndarray] = field(default_factory=dict)  # more numbers by frame, [T] or [T, n]; the same in every clip
    states: dict[str, np.ndarray] = field(default_factory=dict)  # state by frame, [T, ...]; what goes not by frame is left out


def write_lerobot(
    root: Path,
    clips: Iterable[Clip],
    *,
    fps: float,
    schema: ActionSchema | None,
    robot: str | None = None,
    lossless: bool = False,
    crf: int = 16,
    about: dict[str, Any] | None = None,
    meanings: dict[str, dict[str, str]] | None = None,
    overwrite: bool = False,
) -> int:
    """Writes the clips -> how many there were. They are taken one by one, so a generator of long clips is fine.

    about: JSON for meta/wfm.json, asked for when the last clip is written. meanings: what the values of a column stand for.
    Raises BadData for clips that differ in size or columns, OutputExists, NoSpace, MissingDependency.
    """
    root = Path(root)
    import_pyarrow(str(root))
    refuse_set(root, overwrite)
    try:
        with whole_folder(root, overwrite=overwrite) as part, closing(_Rows(part, fps, schema)) as rows:
            for number, group in enumerate(_files(iter(clips), PIXELS[lossless])):
                place = {"chunk_index": number // CHUNK, "file_index": number % CHUNK}
                path = part / VIDEO.format(video_key=CAMERA, **place)
                path.parent.mkdir(parents=True, exist_ok=True)
                before = len(rows.episodes)
                write_clips(path, (rows.add(clip) for clip in group), fps, crf=crf, lossless=lossless, sync=False)
                first = 0
                for row in rows.episodes[before:]:
                    times = {"from_timestamp": first / fps, "to_timestamp": (first + row["length"]) / fps}
                    row |= {f"videos/{CAMERA}/{key}": value for key, value in (place | times).items()}
                    first += row["length"]
            if not rows.episodes:
                raise BadData(f"{root}: got no clips, expected at least one; fix: give some")
            rows.finish(robot, "gbrp" if lossless else "yuv420p", meanings or {})
            _write_json(part / "meta/wfm.json", about or {})
    except OSError as error:
        raise as_wfm_error(error, root) from error
    return len(rows.episodes)


def _files(clips: Iterator[Clip], most: int) -> Iterator[Iterator[Clip]]:
    """The clips in groups of at most `most` pixels (or one clip); each group must be used up before the next is asked for."""
    waiting = next(clips, None)

    def group() -> Iterator[Clip]:
        nonlocal waiting
        pixels = 0
        while waiting is not None:
            size = int(np.prod(waiting.frames.shape[:3]))
            if pixels and pixels + size > most:
                return
            pixels += size
            clip, waiting = waiting, None
            yield clip
            del clip
            waiting = next(clips, None)

    while waiting is not None:
        yield group()


class _Rows:
    """Everything but the pictures: data files as they fill, and what meta/ will say."""

    def __init__(self, root: Path, fps: float, schema: ActionSchema | None) -> None:
        self.root, self.fps, self.schema = root, fps, schema
        self.episodes: list[dict[str, Any]] = []
        self.tasks: dict[str, int] = {}
        self.features: dict[str, dict[str, Any]] = {}
        self.whole: dict[str, list[np.ndarray]] = {}  # every number of every column, for the statistics of the set
        self.size: tuple[int, ...] = ()
        self._writer: Any = None  # pyarrow's, of the file that is being written
        self._file, self._rows_in_file, self._total = -1, 0, 0

    def add(self, clip: Clip) -> np.ndarray:
        """Notes all of a clip but its frames, which come back for the video."""
        pyarrow, count = import_pyarrow(""), len(clip.frames)
        columns = self._columns(clip)
        given = {name: _feature(values) for name, values in columns.items()}
        for name, values in clip.states.items():
            if (column := state_column(name)) in given:
                given[column] |= {STATE_NAME: name, STATE_SHAPE: list(values.shape[1:])}
        if not self.features:
            self.size, self.features = clip.frames.shape[1:3], given
        if given != self.features or clip.frames.shape[1:3] != self.size:
            got = {name: one["shape"] for name, one in given.items()} | {"frames": clip.frames.shape[1:3]}
            raise BadData(f"episode {clip.id}: has {got}, expected those of the first one; fix: write sets of one robot and one size each")
        if self._writer is None or self._rows_in_file + count > ROWS:
            self._open_next(columns, pyarrow)
        writer: Any = self._writer
        writer.write_table(_table(columns, writer.schema, pyarrow))
        looked = clip.frames[np.linspace(0, count - 1, min(count, LOOKED_AT)).astype(int)]
        stats = {name: _stats(values.reshape(count, -1), values.dtype) for name, values in columns.items()} | {
            CAMERA: _picture_stats(looked)
        }
        for name, values in columns.items():
            self.whole.setdefault(name, []).append(values.reshape(count, -1))
        place = {"chunk_index": self._file // CHUNK, "file_index": self._file % CHUNK}
        row = {"episode_index": len(self.episodes), "tasks": [clip.text or ""], "length": count}
        row |= {f"data/{key}": value for key, value in place.items()}
        row |= {"dataset_from_index": self._total, "dataset_to_index": self._total + count}
        row |= {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0, ID: clip.id, SPLIT: clip.split}
        row["stats"] = stats
        self.episodes.append(row)
        self._total += count
        self._rows_in_file += count
        return clip.frames

    def _columns(self, clip: Clip) -> dict[str, np.ndarray]:
        count, index = len(clip.frames), len(self.episodes)
        columns: dict[str, np.ndarray] = {}
        states = {state_column(name): values for name, values in clip.states.items() if goes_by_frame(values, count)}
        for name, values in (states | clip.columns).items():
            if len(values) != count:
                raise BadData(f"episode {clip.id}: column {name} has {len(values)} rows, expected {count}; fix: one a frame")
            columns[name] = np.asarray(values).reshape(count, -1)
        if self.schema is not None:
            actions = clip.actions if clip.actions is not None else np.zeros((count - 1, self.schema.width), np.float32)
            if len(actions) != count - 1:
                raise BadData(f"episode {clip.id}: got {len(actions)} actions for {count} frames, expected {count - 1}; fix: drop the rest")
            steps = np.array([channel.motion == "delta" and not channel.constant for channel in self.schema.channels])
            last = actions[-1:] if len(actions) else np.zeros((1, self.schema.width), np.float32)
            columns["action"] = np.concatenate([actions, np.where(steps, 0, last)]).astype(np.float32)
        frame, task = np.arange(count), self.tasks.setdefault(clip.text or "", len(self.tasks))
        columns["timestamp"] = (frame / self.fps).astype(np.float32)
        columns |= {"frame_index": frame, "episode_index": np.full(count, index), "index": self._total + frame}
        return columns | {"task_index": np.full(count, task)}

    def _open_next(self, columns: dict[str, np.ndarray], pyarrow) -> None:
        if self._writer is not None:
            self._writer.close()
        self._file, self._rows_in_file = self._file + 1, 0
        path = self.root / DATA.format(chunk_index=self._file // CHUNK, file_index=self._file % CHUNK)
        path.parent.mkdir(parents=True, exist_ok=True)
        kinds = [(name, _kind(values, pyarrow)) for name, values in columns.items()]
        self._writer = pyarrow.parquet.ParquetWriter(path, pyarrow.schema(kinds), write_page_checksum=True)

    def close(self) -> None:
        """Gives the data file up where an error left it open: its own end would try to write once more, and complain."""
        if self._writer is not None and self._writer.is_open:
            with suppress(Exception):
                self._writer.close()

    def finish(self, robot: str | None, pixels: str, meanings: dict[str, dict[str, str]]) -> None:
        """Writes meta/ and actions.json."""
        pyarrow = import_pyarrow("")
        self._writer.close()
        height, width = self.size
        about = {"video.height": height, "video.width": width, "video.codec": "h264", "video.pix_fmt": pixels, "video.is_depth_map": False}
        about |= {"video.fps": _number(self.fps), "video.channels": 3, "has_audio": False}
        picture = {"dtype": "video", "shape": [height, width, 3], "names": ["height", "width", "channels"], "info": about}
        for name, values in meanings.items():
            self.features[name]["wfm_values"] = values
        if self.schema is not None:
            self.features["action"]["names"] = [channel.name for channel in self.schema.channels]
            if any(channel.unit for channel in self.schema.channels):
                self.features["action"]["units"] = [channel.unit for channel in self.schema.channels]
            _write_json(self.root / SCHEMA, self.schema.to_json())
        info = {
            "codebase_version": "v3.0",
            "robot_type": robot,
            "total_episodes": len(self.episodes),
            "total_frames": self._total,
            "total_tasks": len(self.tasks),
            "chunks_size": CHUNK,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": _number(self.fps),
            "splits": _ranges([row[SPLIT] for row in self.episodes]),
            "data_path": DATA,
            "video_path": VIDEO,
            "features": {CAMERA: picture, **self.features},
        }
        _write_json(self.root / "meta/info.json", info)
        stats = {name: _stats(np.concatenate(parts), parts[0].dtype) for name, parts in self.whole.items()}
        _write_json(self.root / "meta/stats.json", stats | {CAMERA: _joined([row["stats"][CAMERA] for row in self.episodes])})
        _write_tasks(self.root / "meta/tasks.parquet", self.tasks, pyarrow)
        table = []
        for row in self.episodes:
            flat = {f"stats/{name}/{key}": value for name, one in row["stats"].items() for key, value in one.items()}
            table.append({key: value for key, value in row.items() if key != "stats"} | flat)
        path = self.root / META
        path.parent.mkdir(parents=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), path, write_page_checksum=True)


def goes_by_frame(values: np.ndarray, frames: int) -> bool:
    """Whether a state array can be a column: numbers, a row a frame."""
    return values.ndim > 0 and len(values) == frames and values.dtype.kind in "fiub" and values.size > 0


def state_column(name: str) -> str:
    """The name of a state's column, as LeRobot has them."""
    return name if name.startswith("observation.") else f"observation.{name}"


def _feature(values: np.ndarray) -> dict[str, Any]:
    return {"dtype": str(values.dtype), "shape": [int(np.prod(values.shape[1:]))], "names": None}


def _kind(values: np.ndarray, pyarrow):
    """Lists of one length, but plain numbers for columns of one, as LeRobot has them."""
    scalar = pyarrow.from_numpy_dtype(values.dtype)
    return scalar if values.ndim == 1 or values.shape[1] == 1 else pyarrow.list_(scalar, values.shape[1])


def _table(columns: dict[str, np.ndarray], schema, pyarrow):
    arrays = []
    for name, values in columns.items():
        flat, kind = pyarrow.array(np.ascontiguousarray(values).reshape(-1)), schema.field(name).type
        arrays.append(pyarrow.FixedSizeListArray.from_arrays(flat, type=kind) if pyarrow.types.is_fixed_size_list(kind) else flat)
    return pyarrow.Table.from_arrays(arrays, schema=schema)


def _stats(values: np.ndarray, dtype: np.dtype) -> dict[str, list]:
    """LeRobot's numbers of a column [N, n]: lists of n, and the count."""
    whole = values.astype(np.float64)
    ends = {"min": whole.min(0), "max": whole.max(0)}
    if dtype.kind in "iu":
        ends = {key: value.astype(np.int64) for key, value in ends.items()}
    numbers = ends | {"mean": whole.mean(0), "std": whole.std(0)}
    numbers |= dict(zip(QUANTILES, np.quantile(whole, list(QUANTILES.values()), axis=0), strict=True))
    return {key: value.tolist() for key, value in numbers.items()} | {"count": [len(values)]}


def _picture_stats(frames_THWC: np.ndarray) -> dict[str, list]:
    """The same of pixels in 0..1, each [3, 1, 1] as LeRobot has pictures; every fourth pixel of each axis is looked at."""
    pixels = frames_THWC[:, ::4, ::4].reshape(-1, 3)
    stats = _stats(pixels / 255.0, np.dtype(np.float64))
    return {key: [[[one]] for one in value] for key, value in stats.items() if key != "count"} | {"count": [len(frames_THWC)]}


def _joined(parts: list[dict[str, list]]) -> dict[str, list]:
    """Statistics of all pictures from those of each episode; quantiles are averaged, as LeRobot does."""
    weights = np.array([part["count"][0] for part in parts], np.float64)
    weights /= weights.sum()
    arrays = {key: np.array([part[key] for part in parts]) for key in parts[0] if key != "count"}
    out = {key: np.tensordot(weights, array, 1) for key, array in arrays.items()}
    out["min"], out["max"] = arrays["min"].min(0), arrays["max"].max(0)
    spread = arrays["std"] ** 2 + (arrays["mean"] - out["mean"]) ** 2
    out["std"] = np.sqrt(np.tensordot(weights, spread, 1))
    return {key: value.tolist() for key, value in out.items()} | {"count": [sum(part["count"][0] for part in parts)]}


def _write_tasks(path: Path, tasks: dict[str, int], pyarrow) -> None:
    """tasks.parquet with the texts as the index of a pandas frame, which is where LeRobot looks for them."""
    index = "__index_level_0__"
    column = {"name": None, "pandas_type": "unicode", "numpy_type": "object", "metadata": None}
    about = {
        "index_columns": [index],
        "column_indexes": [{**column, "field_name": None, "metadata": {"encoding": "UTF-8"}}],
        "columns": [
            {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64", "metadata": None},
            {**column, "field_name": index},
        ],
        "creator": {"library": "pyarrow", "version": pyarrow.__version__},
        "pandas_version": "2.0.0",
    }
    table = pyarrow.table({"task_index": list(tasks.values()), index: list(tasks)})
    pyarrow.parquet.write_table(table.replace_schema_metadata({"pandas": json.dumps(about)}), path, write_page_checksum=True)


def _ranges(splits: list[str]) -> dict[str, str]:
    """info.json's splits: ranges where every split is one, else all of it as train, as LeRobot itself writes."""
    starts = [i for i, split in enumerate(splits) if i == 0 or split != splits[i - 1]]
    if len(starts) > len(set(splits)):
        return {"train": f"0:{len(splits)}"}
    return {splits[a]: f"{a}:{b}" for a, b in zip(starts, [*starts[1:], len(splits)], strict=True)}


def _number(value: float) -> int | float:
    return int(value) if float(value).is_integer() else float(value)


def _write_json(path: Path, data: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False, default=str) + "\n")
