"""Small LeRobot sets that ask for a lot: columns that are all alike, episodes of a billion frames, sparse lists."""

import json
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet
from small_cases import Case, edited, holes
from small_sets import FRAMES


def _table(root: Path, name: str, **changes) -> None:
    """A Parquet file written anew with these columns, whose values are all alike and take no room."""
    path = root / name
    table = pyarrow.parquet.read_table(path)
    rows = max((len(values) for values in changes.values()), default=len(table))
    same = {key: _Repeated(table[key][0].as_py(), rows, table.schema.field(key).type) for key in table.column_names}
    columns = {key: values.made() if isinstance(values, _Repeated) else values for key, values in (same | changes).items()}
    pyarrow.parquet.write_table(pyarrow.table(columns), path, compression="zstd")


def _columns(name: str, **changes) -> Case:
    return edited("lerobot", lambda root: _table(root, name, **changes))


@dataclass(frozen=True)
class _Repeated:
    """A column that is made when it is written: it takes up to a gigabyte."""

    value: object
    rows: int
    kind: pyarrow.DataType

    def __len__(self) -> int:
        return self.rows

    def made(self) -> pyarrow.Array:
        return pyarrow.repeat(pyarrow.scalar(self.value, self.kind), self.rows)


def lerobot_cases() -> dict[str, Case]:
    data, meta = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"
    float_list = pyarrow.list_(pyarrow.float64())
    return {
        "lerobot: rows that are all alike": _columns(data, episode_index=_Repeated(0, 1 << 22, pyarrow.int64())),
        "lerobot: wide rows that are all alike": _columns(
            data, **{"observation.joint": _Repeated([0.0] * 4096, 1 << 14, float_list)}
        ),
        "lerobot: episodes that are all alike": _columns(meta, episode_index=_Repeated(0, 1 << 19, pyarrow.int64())),
        "lerobot: an episode of a billion frames": _columns(meta, length=pyarrow.array([1 << 30, 1 << 30])),
        "lerobot: an episode of 2^62 frames": _columns(meta, length=pyarrow.array([1 << 62, 4])),
        "lerobot: an episode that begins late": _columns(
            meta, **{"videos/observation.images.main/from_timestamp": pyarrow.array([1e9, 0.0])}
        ),
        "lerobot: texts of a gigabyte": _columns("meta/tasks.parquet", task=_Repeated("a" * (1 << 20), 1 << 10, pyarrow.string())),
        "lerobot: sparse list of features": holes("lerobot", "meta/info.json"),
        "lerobot: sparse table": holes("lerobot", data),
        "lerobot: a hundred thousand features": edited("lerobot", _many_features),
        "lerobot_v2: sparse lines": holes("lerobot_v2", "meta/episodes.jsonl"),
        "lerobot_v2: a hundred thousand lines": edited("lerobot_v2", lambda root: _more_lines(root, 100_000)),
        "lerobot_v2: an episode of a billion frames": edited("lerobot_v2", lambda root: _long_line(root, 10**9)),
        "lerobot_v2: an episode of 400 digits": edited("lerobot_v2", lambda root: _long_line(root, 10**400)),
    }  # fmt: skip


def _many_features(root: Path) -> None:
    info = json.loads((root / "meta/info.json").read_text())
    info["features"] |= {f"observation.x{i}": {"dtype": "float32", "shape": [1]} for i in range(100_000)}
    (root / "meta/info.json").write_text(json.dumps(info))


def _more_lines(root: Path, count: int) -> None:
    (root / "meta/episodes.jsonl").write_text("".join(f'{{"episode_index": {k}, "length": {FRAMES}}}\n' for k in range(count)))


def _long_line(root: Path, length: int) -> None:
    (root / "meta/episodes.jsonl").write_text(f'{{"episode_index": 0, "length": {length}}}\n{{"episode_index": 1, "length": 4}}\n')
