"""Columns of Parquet files as numpy arrays. Files are read in a child process (decoding/parquet_file.py); pyarrow is imported here only
to write. Needs the extra [lerobot]."""

import importlib.util
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from wfm_ar.decoding import pool
from wfm_ar.errors import BadData, MissingDependency
from wfm_ar.extras import how_to_install

_EXPECTED = "a Parquet file"


def need_pyarrow(where: str) -> None:
    """Raises MissingDependency, the line that says how to get it."""
    if importlib.util.find_spec("pyarrow") is None:
        raise MissingDependency(f"{where}: needs the package pyarrow, expected it installed; fix: {how_to_install('lerobot')}")


def import_pyarrow(where: str):
    """pyarrow, to write with. Raises MissingDependency."""
    need_pyarrow(where)
    import pyarrow
    import pyarrow.parquet

    return pyarrow


def column_names(path: Path) -> list[str]:
    """Raises BadData for what is no Parquet file."""
    return json.loads(_ask(path, "names")[0].tobytes())


def read_rows(path: Path, columns: Iterable[str] | None = None, without: str = "") -> dict[str, list[Any]]:
    """Small tables as Python values by column: these columns, or all whose name does not begin with `without`. Raises BadData."""
    columns = None if columns is None else list(columns)
    return json.loads(_ask(path, "rows", columns=columns, without=without)[0].tobytes())


def read_arrays(path: Path, columns: Iterable[str]) -> dict[str, np.ndarray]:
    """Numbers, or lists of numbers of one length, as arrays [N] or [N, ...]. Raises BadData."""
    columns = list(columns)
    return dict(zip(columns, _ask(path, "arrays", columns=columns), strict=True))


def read_images(path: Path, column: str, rows: np.ndarray) -> list[bytes]:
    """The encoded pictures of an image column in these rows. Raises BadData."""
    lengths, content = _ask(path, "images", column=column, rows=rows.tolist())
    ends = np.cumsum(lengths)
    return [content[end - length : end].tobytes() for length, end in zip(lengths, ends, strict=True)]


def _ask(path: Path, what: str, **request: Any) -> list[np.ndarray]:
    if not path.is_file():
        raise BadData(f"{path}: does not exist or is not a regular file, expected a Parquet file; fix: copy the data set again")
    return pool.read_arrays(path, f"parquet {what}", _EXPECTED, **request)
