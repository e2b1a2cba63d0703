"""Columns of Parquet files as numpy arrays; the only file that imports pyarrow (the extra [lerobot])."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from wfm_ar.errors import BadData, MissingDependency


def need_pyarrow(where: str):
    """pyarrow, or the line that says how to get it. Raises MissingDependency."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError:
        raise MissingDependency(f"{where}: needs the package pyarrow, expected it installed; fix: pip install 'wfm-ar[lerobot]'") from None
    return pyarrow


def column_names(path: Path) -> list[str]:
    """Raises BadData for what is no Parquet file."""
    pyarrow = need_pyarrow(str(path))
    try:
        return list(pyarrow.parquet.read_schema(path).names)
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise BadData(f"{path}: cannot be read ({_first(error)}), expected a Parquet file; fix: copy it again") from None


def read_rows(path: Path, columns: Iterable[str] | None = None) -> dict[str, list[Any]]:
    """Small tables as Python values by column. Raises BadData."""
    return {name: _values(column, f"{path}: column {name}") for name, column in _read(path, columns).items()}


def read_arrays(path: Path, columns: Iterable[str]) -> dict[str, np.ndarray]:
    """Numbers, or lists of numbers of one length, as arrays [N] or [N, ...]. Raises BadData."""
    return {name: _array(column, f"{path}: column {name}") for name, column in _read(path, columns).items()}


def read_images(path: Path, column: str, rows: np.ndarray) -> list[bytes]:
    """The encoded pictures of an image column in these rows. Raises BadData."""
    values = _values(_read(path, [column])[column].take(need_pyarrow(str(path)).array(rows)), f"{path}: column {column}")
    images = [value.get("bytes") if isinstance(value, dict) else value for value in values]
    if any(not isinstance(image, bytes) for image in images):
        raise BadData(f"{path}: column {column} holds no encoded pictures, expected PNG or JPEG bytes; fix: embed the images")
    return images


def _read(path: Path, columns: Iterable[str] | None) -> dict[str, Any]:
    pyarrow = need_pyarrow(str(path))
    if not path.is_file():
        raise BadData(f"{path}: does not exist or is not a regular file, expected a Parquet file; fix: copy the data set again")
    try:
        table = pyarrow.parquet.ParquetFile(path, page_checksum_verification=True).read(columns=None if columns is None else list(columns))
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise BadData(f"{path}: cannot be read ({_first(error)}), expected a Parquet file; fix: copy it again") from None
    missing = [name for name in columns or () if name not in table.column_names]
    if missing:
        raise BadData(f"{path}: column {missing[0]!r} is missing, got {table.column_names[:12]}; fix: write the data set again")
    return {name: table.column(name) for name in table.column_names}


def _values(column, where: str) -> list[Any]:
    try:
        return column.to_pylist()
    except ValueError as error:  # text that is not UTF-8
        raise BadData(f"{where} cannot be read ({_first(error)}), expected whole values; fix: copy the file again") from None


def _array(column, where: str) -> np.ndarray:
    pyarrow = need_pyarrow(where)
    array, sizes = column.combine_chunks(), []
    if isinstance(array, pyarrow.ChunkedArray):  # no rows at all
        return np.zeros(0)
    while pyarrow.types.is_list(array.type) or pyarrow.types.is_large_list(array.type) or pyarrow.types.is_fixed_size_list(array.type):
        lengths = set(pyarrow.compute.list_value_length(array).unique().to_pylist())
        if len(lengths) > 1 or None in lengths:
            raise BadData(f"{where} has lists of lengths {sorted(lengths, key=str)[:4]}, expected one length; fix: write it again")
        sizes.append(lengths.pop() if lengths else 0)
        array = array.flatten()
    if array.null_count:
        raise BadData(f"{where} has {array.null_count} missing values, expected none; fix: fill or drop those rows")
    try:
        values = array.to_numpy(zero_copy_only=False)
    except (ValueError, TypeError, pyarrow.ArrowException) as error:
        raise BadData(f"{where} cannot be read as numbers ({_first(error)}); fix: write it as float32") from None
    if values.dtype.kind not in "fiub":
        raise BadData(f"{where} holds {array.type}, expected numbers; fix: write it as float32")
    return values.reshape(len(column), *sizes)


def _first(error: Exception) -> str:
    return str(error).splitlines()[0][:160] if str(error) else type(error).__name__
