"""Columns of Parquet files, as the child reads them. A column may unpack ten-thousandfold: it is taken piece by piece and left when
it is more than a file of its size can sensibly hold."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"  # the others reserve more address space than the child has

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet

from wfm_ar.decoding.limits import DecodeLimits, Refused, most_bytes
from wfm_ar.decoding.pictures import Progress

MOST_COLUMNS = 10_000
MOST_ROWS = 300_000  # of a list of episodes or tasks, whose values become objects of Python
GROWTH = 20  # times the size of its file
_BATCH, _BATCH_OF_PICTURES = 1 << 14, 64  # rows

pyarrow.set_cpu_count(1)
pyarrow.set_io_thread_count(1)


def names(fd: int) -> list[str]:
    with _open(fd) as file:
        return list(file.schema_arrow.names)


def rows(fd: int, columns: list[str] | None, without: str, limits: DecodeLimits, progress: Progress) -> bytes:
    """{column: values} as JSON, of these columns, or of all whose name does not begin with `without`. What JSON lacks is null."""
    with _open(fd) as file:
        if file.metadata.num_rows > MOST_ROWS:
            raise Refused(f"has {file.metadata.num_rows} rows, expected a list of at most {MOST_ROWS}; fix: part the data set")
    if columns is None:
        columns = [name for name in names(fd) if not (without and name.startswith(without))]
    values = {name: _values(column, name) for name, column in _read(fd, columns, None, limits, progress).items()}
    return json.dumps(values, default=lambda value: None).encode()


def arrays(fd: int, columns: list[str], limits: DecodeLimits, progress: Progress) -> list[np.ndarray]:
    """Numbers, or lists of numbers of one length, as arrays [N] or [N, ...]."""
    return [_array(column, name) for name, column in _read(fd, columns, None, limits, progress).items()]


def images(fd: int, column: str, wanted: list[int], limits: DecodeLimits, progress: Progress) -> list[np.ndarray]:
    """The encoded pictures of these rows: [their lengths, their bytes one after the other]."""
    values = _values(_read(fd, [column], wanted, limits, progress)[column], column)
    contents: list[Any] = [value.get("bytes") if isinstance(value, dict) else value for value in values]
    if any(not isinstance(content, bytes) for content in contents):
        raise Refused(f"column {column} holds no encoded pictures, expected PNG or JPEG bytes; fix: embed the images")
    return [np.array([len(content) for content in contents], np.int64), np.frombuffer(b"".join(contents), np.uint8)]


def _read(fd: int, columns: list[str], wanted: list[int] | None, limits: DecodeLimits, progress: Progress) -> dict[str, Any]:
    """Whole columns, or their rows of these numbers in this order."""
    most = min(limits.output_bytes, most_bytes(os.fstat(fd).st_size, GROWTH))
    with _open(fd) as file:
        there = file.schema_arrow.names
        if missing := [name for name in columns if name not in there]:
            raise Refused(f"column {missing[0]!r} is missing, got {there[:12]}; fix: write the data set again")
        tables, size = [], 0
        for table in _batches(file, columns, wanted):
            size += table.nbytes
            progress(table.nbytes)
            if size > most:
                raise Refused(f"unpacks to more than {most} bytes, expected less of a file of its size; fix: write it again, in parts")
            tables.append(table)
        table = pyarrow.concat_tables(tables) if tables else file.schema_arrow.empty_table().select(columns)
        return {name: table.column(name) for name in columns}


def _batches(file: pyarrow.parquet.ParquetFile, columns: list[str], wanted: list[int] | None) -> Iterator[pyarrow.Table]:
    if wanted is None:
        for batch in file.iter_batches(_BATCH, columns=columns, use_threads=False):
            yield pyarrow.Table.from_batches([batch])
        return
    order, begin, found = np.array(wanted, np.int64), 0, []
    for group in range(file.num_row_groups):  # only those that hold one of the rows are unpacked
        end = begin + file.metadata.row_group(group).num_rows
        mine = order[(order >= begin) & (order < end)]
        if len(mine):
            for batch in file.iter_batches(_BATCH_OF_PICTURES, row_groups=[group], columns=columns, use_threads=False):
                here = mine[(mine >= begin) & (mine < begin + batch.num_rows)]
                found.append((here, pyarrow.Table.from_batches([batch]).take(here - begin)))
                begin += batch.num_rows
        begin = end
    places = np.concatenate([here for here, _ in found]) if found else order[:0]
    if sorted(places) != sorted(wanted):
        raise Refused(f"has {begin} rows, expected {int(order.max()) + 1} and more; fix: write it again")
    at = {int(row): i for i, row in enumerate(places)}
    if wanted:
        yield pyarrow.concat_tables([table for _, table in found]).take([at[row] for row in wanted])


@contextmanager
def _open(fd: int) -> Iterator[pyarrow.parquet.ParquetFile]:
    try:
        with pyarrow.OSFile(f"/dev/fd/{fd}") as source, pyarrow.parquet.ParquetFile(source, page_checksum_verification=True) as file:
            if len(file.schema_arrow.names) > MOST_COLUMNS:
                raise Refused(f"has {len(file.schema_arrow.names)} columns, expected at most {MOST_COLUMNS}; fix: leave some out")
            yield file
    except (OSError, ValueError, TypeError, pyarrow.ArrowException) as error:
        raise Refused(f"cannot be read ({_first(error)}), expected a Parquet file; fix: copy it again") from None


def _values(column, name: str) -> list[Any]:
    try:
        return column.to_pylist()
    except ValueError as error:  # text that is not UTF-8
        raise Refused(f"column {name} cannot be read ({_first(error)}), expected whole values; fix: copy the file again") from None


def _array(column, name: str) -> np.ndarray:
    array, sizes = column.combine_chunks(), []
    if isinstance(array, pyarrow.ChunkedArray):  # no rows at all
        return np.zeros(0)
    while pyarrow.types.is_list(array.type) or pyarrow.types.is_large_list(array.type) or pyarrow.types.is_fixed_size_list(array.type):
        lengths = set(pyarrow.compute.call_function("list_value_length", [array]).unique().to_pylist())
        if len(lengths) > 1 or None in lengths:
            raise Refused(f"column {name} has lists of lengths {sorted(lengths, key=str)[:4]}, expected one length; fix: write it again")
        sizes.append(lengths.pop() if lengths else 0)
        array = array.flatten()
    if array.null_count:
        raise Refused(f"column {name} has {array.null_count} missing values, expected none; fix: fill or drop those rows")
    try:
        values = array.to_numpy(zero_copy_only=False)
    except (ValueError, TypeError, pyarrow.ArrowException) as error:
        raise Refused(f"column {name} cannot be read as numbers ({_first(error)}); fix: write it as float32") from None
    if values.dtype.kind not in "fiub":
        raise Refused(f"column {name} holds {array.type}, expected numbers; fix: write it as float32")
    return np.ascontiguousarray(values.reshape(len(column), *sizes))


def _first(error: Exception) -> str:
    return str(error).splitlines()[0][:160] if str(error) else type(error).__name__
