"""LeRobot data sets, v3.0 and v2.0/v2.1, read with pyarrow and our own video reader.

v3.0: many episodes a Parquet file and an mp4; meta/episodes says which rows and which seconds are whose. v2.x: files an episode.
What info.json says is taken as a hint and checked against the files: real sets have templates with other names of the fields,
split ranges beyond their episodes, codecs they do not use, no stats.json, no file indices, and task texts in a column or an index.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from wfm_ar.data.cameras import choose_cameras, view_of
from wfm_ar.data.episodes import Episode, EpisodeSet
from wfm_ar.data.folder import sample, schema_note
from wfm_ar.data.json_files import read_bytes, whole_number
from wfm_ar.data.lerobot_reader import INFO, Info, LeRobotReader, Span, where_of
from wfm_ar.data.lerobot_times import Stretch
from wfm_ar.data.listing import files_below, inside, refuse_leading_out, refuse_pointer
from wfm_ar.data.parquet import column_names, need_pyarrow, read_arrays, read_rows
from wfm_ar.data.problems import Problems, noted, sound
from wfm_ar.data.schema_file import read_schema
from wfm_ar.data.schema_from_data import schema_from_data
from wfm_ar.data.splits import SPLITS, hashed_splits
from wfm_ar.errors import BadData
from wfm_ar.plain_text import is_plain
from wfm_ar.schema import ActionSchema

TASKS, EPISODES = "meta/tasks", "meta/episodes"
ID, SPLIT = "wfm_id", "wfm_split"  # columns of meta/episodes that our own writer adds
MOST_INFO, MOST_LINES = 16 << 20, 256 << 20  # bytes of a JSON file of the meta folder, and of one of JSON lines
_DATA_V3, _VIDEO_V3 = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet", "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"  # fmt: skip  # noqa: E501
_DATA_V2, _VIDEO_V2 = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet", "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"  # fmt: skip  # noqa: E501
_SPLIT_NAMES = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


def open_lerobot(root: Path, camera: str | None, problems: Problems = None) -> EpisodeSet:
    """A folder with meta/info.json. Raises BadData, BadConfig, BadActions, MissingDependency."""
    need_pyarrow(str(root))
    info = read_info(root)
    if not info.cameras:
        raise BadData(f"{root / INFO}: got features {sorted(info.features)[:12]}, expected a video or image; fix: record with a camera")
    shown, note = choose_cameras(info.cameras, camera, str(root))
    rows = (_episodes_v3 if info.version == 3 else _episodes_v2)(root, info, shown, problems)
    named = [name if isinstance(name := row.get(ID), str) and name else f"episode_{row['span'].index:06d}" for row in rows]
    if len(set(named)) < len(named):
        raise BadData(f"{root / EPISODES}: an episode occurs twice, expected distinct ones; fix: write the data set again")
    splits = _splits(info, rows, named)
    episodes = tuple(
        Episode(
            id=name,
            video=row["span"].videos[shown[0]].path if shown[0] in row["span"].videos else row["span"].data,
            text=row["text"],
            actions=row["span"].data if info.actions and row["span"].length > 1 else None,
            state=row["span"].data if info.states else None,
            fps=info.fps,
            split=splits[name],
            source=row["span"],
        )
        for name, row in zip(named, rows, strict=True)
    )
    reader = LeRobotReader(info, shown, [row["span"] for row in rows])
    schema, made, notes = read_schema(root, needed=False), False, [note] if note else []
    actors = sample([episode for episode in episodes if episode.actions])
    actors = sound(actors, reader.used_actions, problems)
    if actors and schema is None:
        made, schema = True, _make_schema(root, info, reader, actors)
        notes.append(schema_note(schema, root))
    return EpisodeSet(
        path=root,
        format="lerobot",
        title=f"LeRobot {info.codebase}",
        schema=schema,
        episodes=episodes,
        reader=reader,
        schema_made=made,
        notes=tuple(notes),
        tiles=max(1, len(shown)),
        view=view_of(info.cameras, shown),
    )


def read_info(root: Path) -> Info:
    """meta/info.json, checked. Raises BadData."""
    where, data = root / INFO, _json(root, INFO)
    version = str(data.get("codebase_version", ""))
    found = re.match(r"v?([23])\.", version)
    if not found:
        raise BadData(f"{where}: codebase_version is {version!r:.80}, expected v2.0, v2.1 or v3.0; fix: convert it with LeRobot's scripts")
    number, fps, features = int(found[1]), data.get("fps"), data.get("features")
    if isinstance(fps, bool) or not isinstance(fps, (int, float)) or not 0 < fps <= 1e6:
        raise BadData(f"{where}: fps is {fps!r:.80}, expected a number above 0; fix: give the frames a second")
    if not isinstance(features, dict) or not all(isinstance(one, dict) for one in features.values()):
        raise BadData(f"{where}: features is no object of objects, expected one a column; fix: write the data set again")
    if odd := next((name for name in features if not name or not is_plain(name)), None):
        raise BadData(f"{where}: got the feature {odd!a:.80}, expected a name of plain characters; fix: rename it")
    chunks, splits = data.get("chunks_size", 1000), data.get("splits")
    paths = [data.get(key) or default for key, default in (("data_path", (_DATA_V2, _DATA_V3)[number - 2]),
                                                            ("video_path", (_VIDEO_V2, _VIDEO_V3)[number - 2]))]  # fmt: skip
    if isinstance(chunks, bool) or not isinstance(chunks, int) or chunks < 1 or not all(isinstance(path, str) for path in paths):
        raise BadData(f"{where}: chunks_size, data_path or video_path is of the wrong kind, expected a number and two texts; fix: mend it")
    return Info(
        codebase=version,
        version=number,
        fps=float(fps),
        features=features,
        data_path=paths[0],
        video_path=paths[1],
        chunks_size=chunks,
        splits=splits if isinstance(splits, dict) else {},
    )


def _episodes_v3(root: Path, info: Info, cameras: tuple[str, ...], problems: Problems) -> list[dict[str, Any]]:
    files = _files(root, EPISODES, ".parquet")
    if not files:
        raise BadData(f"{root / EPISODES}: holds no .parquet file, expected the list of episodes; fix: copy the data set again")
    rows: list[dict[str, Any]] = []
    for file in files:
        columns = read_rows(file, without="stats/")
        for needed in ("episode_index", "length"):
            if needed not in columns:
                raise BadData(f"{file}: column {needed!r} is missing, got {sorted(columns)[:12]}; fix: write the data set again")
        rows += [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    for row in rows:
        if not all(isinstance(row[key], int) and row[key] >= least for key, least in (("episode_index", 0), ("length", 1))):
            raise BadData(f"{root / EPISODES}: got episode {row['episode_index']} of length {row['length']}, expected at least a frame; "
                          "fix: write the data set again")  # fmt: skip
    rows.sort(key=lambda row: row["episode_index"])
    tasks, holders = _tasks(root), None
    for row in rows:
        with noted(problems):
            index = row["episode_index"]
            if (indices := _indices(row, "data")) is None:
                holders = holders if holders is not None else _holders(root)
                if index not in holders:
                    raise BadData(f"{root}/data: got no rows of episode {index}, expected some; fix: copy the data set again")
                data = holders[index]
            else:
                data = _fill(root, info.data_path, indices, "data_path")
            videos = {key: _video_v3(root, info, row, rows, key) for key in cameras if info.features[key].get("dtype") == "video"}
            row["text"] = _first_text(row.get("tasks")) or _task_of_data(data, index, tasks)
            row["span"] = Span(index=index, length=row["length"], data=data, videos=videos)
    return [row for row in rows if "span" in row]


def _video_v3(root: Path, info: Info, row: dict[str, Any], rows: list[dict[str, Any]], key: str) -> Stretch:
    """Where an episode lies. Without the columns that say it there must be one file only."""
    numbers, (begin, end) = _indices(row, f"videos/{key}"), (row.get(f"videos/{key}/{which}_timestamp") for which in ("from", "to"))
    if numbers is not None and isinstance(begin, (int, float)) and 0 <= begin <= 1e9:
        path = _fill(root, info.video_path, numbers | {"video_key": key}, "video_path")
        return Stretch(path, float(begin), float(end) if isinstance(end, (int, float)) else None)
    files = [path for path in _files(root, "videos", ".mp4") if key in path.parts and re.fullmatch(r"\D*\d+\.mp4", path.name)]
    if len(files) != 1:
        raise BadData(f"{root / EPISODES}: does not say which of {len(files)} files episode {row['episode_index']} of {key} lies in, "
                      f"expected columns videos/{key}/...; fix: write the data set again")  # fmt: skip
    before = sum(other["length"] for other in rows if other["episode_index"] < row["episode_index"])
    return Stretch(files[0], before / info.fps, None)


def _episodes_v2(root: Path, info: Info, cameras: tuple[str, ...], problems: Problems) -> list[dict[str, Any]]:
    where, rows = root / f"{EPISODES}.jsonl", []
    tasks = _tasks(root)
    for number, row in enumerate(_json_lines(root, f"{EPISODES}.jsonl"), 1):
        with noted(problems):
            index, length = row.get("episode_index"), row.get("length")
            if not isinstance(index, int) or not isinstance(length, int) or index < 0 or length < 1:
                got = f"episode_index is {index!r:.80} and length {length!r:.80}"
                raise BadData(f"{where} line {number}: {got}, expected integers; fix: mend it")
            values = {"episode_index": index, "episode_chunk": index // info.chunks_size}
            values |= {"chunk_index": values["episode_chunk"], "file_index": index}
            data = _fill(root, info.data_path, values, "data_path")
            shown = [key for key in cameras if info.features[key].get("dtype") == "video"]
            videos = {key: Stretch(_fill(root, info.video_path, values | {"video_key": key}, "video_path"), 0.0, None) for key in shown}
            span = Span(index=index, length=length, data=data, videos=videos)
            rows.append(row | {"span": span, "text": _first_text(row.get("tasks")) or _task_of_data(data, index, tasks)})
    return rows


def _splits(info: Info, rows: list[dict[str, Any]], names: list[str]) -> dict[str, str]:
    """name -> split: from our own column, from info.json's ranges if they fit the episodes and hold some out, else by hash."""
    if all(row.get(SPLIT) in SPLITS for row in rows):
        return {name: row[SPLIT] for name, row in zip(names, rows, strict=True)}
    told: dict[str, str] = {}
    for key, value in info.splits.items():
        found = re.fullmatch(r"(\d+):(\d+)", value) if isinstance(value, str) else None
        if key in _SPLIT_NAMES and found and int(found[2]) <= len(rows):
            told |= dict.fromkeys(names[int(found[1]) : int(found[2])], _SPLIT_NAMES[key])
    fits = set(told) == set(names) and {"train", "val"} <= set(told.values())
    return told if fits else hashed_splits(names)


def _make_schema(root: Path, info: Info, reader: LeRobotReader, episodes: list[Episode]) -> ActionSchema:
    names, units = [], []
    for column in info.actions:
        feature, width = info.features[column], reader.values(episodes[0], [column]).shape[1]
        own = channel_names(feature, width)
        prefix = "" if len(info.actions) == 1 else column.rpartition(".")[2] + "."
        names += [f"{prefix}{name}" for name in own or [f"a{i}" for i in range(width)]]
        given = feature.get("units") or feature.get("unit") or ""
        units += [str(unit) for unit in given] if isinstance(given, list) and len(given) == width else [str(given)] * width
    arrays, places = (reader.used_actions(episode) for episode in episodes), [where_of(episode) for episode in episodes]
    states = [_commanded(info, reader, episode, names) for episode in episodes[:200]]
    known = [state for state in states if state is not None]
    told = known if len(known) == len(episodes) else None
    return schema_from_data(arrays, info.fps, names=names, units=units, states=told, places=places, where=str(root))


def _commanded(info: Info, reader: LeRobotReader, episode: Episode, names: list[str]) -> np.ndarray | None:
    """The state that each action channel may command, [T, A], NaN where none has its name."""
    action = info.actions[0].rpartition(".")[2]
    columns = [one for one in info.states if one.startswith("observation.") and one.rpartition(".")[2] in (action, "state")]
    if len(info.actions) > 1 or not columns:
        return None
    values = reader.values(episode, columns[:1])
    own = channel_names(info.features[columns[0]], values.shape[1])
    if own is None or channel_names(info.features[info.actions[0]], len(names)) is None:
        return values if values.shape[1] == len(names) else None
    matched = np.full((len(values), len(names)), np.nan)
    for i, name in enumerate(names):
        if name in own:
            matched[:, i] = values[:, own.index(name)]
    return matched


def channel_names(feature: dict[str, Any], width: int) -> list[str] | None:
    """The names of a feature's numbers: a list, or an object with one list in it; None where they do not fit."""
    names = feature.get("names")
    if isinstance(names, dict):
        lists = [value for value in names.values() if isinstance(value, list)]
        names = [name for value in lists for name in value]
    if isinstance(names, list) and len(names) == width and all(isinstance(name, (str, int)) for name in names):
        return [str(name) for name in names]
    return None


def _tasks(root: Path) -> dict[int, str]:
    """task_index -> text; {} where the set has no tasks. The text is a column, or the index of a pandas frame."""
    table, lines = root / f"{TASKS}.parquet", root / f"{TASKS}.jsonl"
    if table.exists():
        columns = read_rows(refuse_pointer(inside(root, f"{TASKS}.parquet", str(table))))
        texts = next((columns[name] for name in ("task", "__index_level_0__", *columns) if _texts(columns.get(name))), None)
        if texts is None or "task_index" not in columns:
            raise BadData(f"{table}: got columns {sorted(columns)}, expected task_index and a text; fix: write the data set again")
        return dict(zip(columns["task_index"], texts, strict=True))
    if lines.exists():
        rows = _json_lines(root, f"{TASKS}.jsonl")
        return {
            row["task_index"]: row["task"] for row in rows if isinstance(row.get("task"), str) and isinstance(row.get("task_index"), int)
        }
    return {}


def _task_of_data(path: Path, index: int, tasks: dict[int, str]) -> str | None:
    if not tasks or not {"task_index", "episode_index"} <= set(column_names(path)):
        return None
    columns = read_arrays(path, ["episode_index", "task_index"])
    own = columns["task_index"].reshape(-1)[columns["episode_index"].reshape(-1) == index]
    return _first_text(tasks.get(int(own[0]))) if len(own) else None


def _holders(root: Path) -> dict[int, Path]:
    """episode -> the data file that holds it, found by looking into each."""
    out: dict[int, Path] = {}
    for path in _files(root, "data", ".parquet"):
        out |= dict.fromkeys(np.unique(read_arrays(path, ["episode_index"])["episode_index"]).tolist(), path)
    return out


def _indices(row: dict[str, Any], prefix: str) -> dict[str, int] | None:
    """chunk and file index under every name that templates give them; None where the row does not say."""
    chunk, file = row.get(f"{prefix}/chunk_index"), row.get(f"{prefix}/file_index")
    if not isinstance(chunk, int) or not isinstance(file, int) or min(chunk, file) < 0:
        return None
    return {"chunk_index": chunk, "episode_chunk": chunk, "file_index": file, "episode_file": file, "episode_index": row["episode_index"]}


def _fill(root: Path, template: str, values: dict[str, Any], key: str) -> Path:
    """A path template with its fields filled in by hand: str.format would let a file reach into our objects."""

    def field(found: re.Match) -> str:
        if found[1] not in values or not re.fullmatch(r"(0?\d{1,2}d)?", found[2] or ""):
            raise BadData(f"{root / INFO}: {key} has the field {found[0]}, expected one of {sorted(values)}; fix: write the usual template")
        return format(values[found[1]], found[2] or "")

    name = re.sub(r"\{(\w+)(?::([^}]*))?\}", field, template)
    path = inside(root, name, f"{root / INFO}: {key}")
    if not path.is_file():
        raise BadData(f"{path}: does not exist, expected the file that {INFO}'s {key} leads to; fix: copy the data set again")
    return refuse_pointer(path)


def _files(root: Path, folder: str, suffix: str) -> list[Path]:
    """The data files of one kind below a folder of the set. Raises BadData for one that leads out of the set, or is a pointer."""
    found = [path for path in files_below(root / folder) if path.suffix == suffix]
    for path in found:
        refuse_leading_out(root, path)
        refuse_pointer(path)
    return found


def _json(root: Path, name: str) -> dict[str, Any]:
    path = inside(root, name, str(root / name))
    try:
        data = json.loads(
            read_bytes(path, MOST_INFO), parse_int=whole_number
        )  # other people's files: NaN and keys that occur twice are let pass
    except (OSError, ValueError, RecursionError) as error:
        raise BadData(f"{path}: cannot be read as JSON ({error}), expected an object; fix: copy the data set again") from None
    if not isinstance(data, dict):
        raise BadData(f"{path}: got a {type(data).__name__}, expected an object; fix: copy the data set again")
    return data


def _json_lines(root: Path, name: str) -> list[dict[str, Any]]:
    path = inside(root, name, str(root / name))
    try:
        lines = [line for line in read_bytes(path, MOST_LINES).splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise BadData(f"{path}: cannot be read ({error}), expected a line an episode; fix: copy the data set again") from None
    rows = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line, parse_int=whole_number)
        except (ValueError, RecursionError) as error:
            raise BadData(f"{path} line {number}: is not JSON ({error}), expected an object; fix: copy the data set again") from None
        if not isinstance(row, dict):
            raise BadData(f"{path} line {number}: got a {type(row).__name__}, expected an object; fix: copy the data set again")
        rows.append(row)
    if not rows:
        raise BadData(f"{path}: is empty, expected one object a line; fix: copy the data set again")
    return rows


def _first_text(value: Any) -> str | None:
    texts = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return next((text.strip() for text in texts if isinstance(text, str) and text.strip()), None)


def _texts(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(value, str) for value in values)
