"""The Parquet files of a feature table, read as little as an as-of join needs.

Keys and times of all rows first; then of the features only the rows that somebody sees, a few row groups at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sidkit.stores.key_numbers import comparable

_BATCH_ROWS = 65_536


@dataclass(frozen=True)
class FeatureFiles:
    """Files of one schema, in the order in which their rows count.

    ``names`` tells how columns of the table are called in the files, where the names differ.
    """

    paths: tuple[Path, ...]
    names: Mapping[str, str]

    @classmethod
    def find(
        cls, path: Path, mapping: Mapping[str, str], keys: Sequence[str], times: Sequence[str], features: Sequence[str]
    ) -> FeatureFiles | None:
        """The files of a path (a file, a folder, or a pattern), None where only DuckDB gives them their meaning.

        Parameters
        ----------
        path : Path
            Absolute.
        mapping : mapping
            Column of the file -> column of the table.
        keys, times, features : sequence of str
            Columns of the table that every file must have, of one type in all files.
        """
        if path.is_dir():
            paths = sorted(path.rglob("*.parquet"))
        elif path.is_file():
            paths = [path]
        else:
            paths = sorted(Path(path.anchor).glob(str(path.relative_to(path.anchor))))
        # A part such as day=3 of a path is a column to DuckDB.
        if not paths or any("=" in part for found in paths for part in found.parts):
            return None
        names = {new: old for old, new in mapping.items()}
        files = cls(tuple(paths), names)
        asked = [names.get(column, column) for column in dict.fromkeys([*keys, *times, *features])]
        schemas = [opened.schema_arrow for opened in files._opened]
        if any(list(schema.names).count(name) != 1 for schema in schemas for name in asked):
            return None
        kinds = [[schema.field(name).type for name in asked] for schema in schemas]
        plain = (
            all(kind == kinds[0] for kind in kinds)
            and all(comparable(files.kind(column)) for column in keys)
            and all(
                pa.types.is_timestamp(files.kind(column)) or pa.types.is_date(files.kind(column)) for column in times
            )
            and all(_as_duckdb(files.kind(column)) is not None for column in [*keys, *features])
        )
        return files if plain else None

    @cached_property
    def _opened(self) -> list[Any]:
        return [pq.ParquetFile(path) for path in self.paths]

    @cached_property
    def rows(self) -> int:
        """Rows of all files."""
        return sum(int(opened.metadata.num_rows) for opened in self._opened)

    def kind(self, column: str) -> pa.DataType:
        """The Arrow type of a column."""
        return self._opened[0].schema_arrow.field(self.names.get(column, column)).type

    def bytes_of(self, columns: Sequence[str]) -> int:
        """About how much memory all rows of some columns take."""
        asked = {self.names.get(column, column) for column in columns}
        total = 0
        for opened in self._opened:
            for group in range(opened.metadata.num_row_groups):
                listed = opened.metadata.row_group(group)
                for at in range(listed.num_columns):
                    chunk = listed.column(at)
                    if chunk.path_in_schema.split(".")[0] in asked:
                        total += max(int(chunk.total_uncompressed_size), 8 * int(chunk.num_values))
        return total

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Some columns of all rows."""
        asked = list(dict.fromkeys(self.names.get(column, column) for column in columns))
        tables = [opened.read(columns=asked, use_pandas_metadata=False) for opened in self._opened]
        table = pa.concat_tables([table.replace_schema_metadata(None) for table in tables])
        return self._named(table, columns)

    def take(self, columns: Sequence[str], numbers: npt.NDArray[np.int64]) -> pa.Table:
        """Some columns of some rows; what lies between is read in passing and not kept.

        Parameters
        ----------
        columns : sequence of str
            Columns of the table.
        numbers : int64 [rows]
            Row numbers across all files, growing.
        """
        kept = list(self.batches(columns, numbers))
        return pa.Table.from_batches(kept) if kept else self.empty(columns)

    def batches(self, columns: Sequence[str], numbers: npt.NDArray[np.int64]) -> Iterator[pa.RecordBatch]:
        """As :meth:`take`, a batch at a time."""
        asked = list(dict.fromkeys(self.names.get(column, column) for column in columns))
        start = 0
        for opened in self._opened:
            for group in range(opened.metadata.num_row_groups):
                end = start + int(opened.metadata.row_group(group).num_rows)
                if np.searchsorted(numbers, start) < np.searchsorted(numbers, end):
                    read = opened.iter_batches(
                        _BATCH_ROWS, row_groups=[group], columns=asked, use_pandas_metadata=False
                    )
                    at = start
                    for batch in read:
                        first, last = np.searchsorted(numbers, [at, at + len(batch)])
                        if first < last:
                            table = self._named(pa.Table.from_batches([batch]), columns)
                            if last - first < len(batch):
                                table = table.take(pa.array(numbers[first:last] - at))
                            yield from table.combine_chunks().to_batches()
                        at += len(batch)
                start = end

    def empty(self, columns: Sequence[str]) -> pa.Table:
        """No rows of some columns."""
        return self._named(self._opened[0].schema_arrow.empty_table(), columns)

    def _named(self, table: pa.Table, columns: Sequence[str]) -> pa.Table:
        found = {column: table.column(self.names.get(column, column)) for column in columns}
        return pa.table({name: _cast(column, _as_duckdb(column.type)) for name, column in found.items()})


def _cast(column: pa.ChunkedArray, kind: pa.DataType | None) -> pa.ChunkedArray:
    return column if kind is None or column.type == kind else column.cast(kind)


def _as_duckdb(kind: pa.DataType) -> pa.DataType | None:
    """The type under which DuckDB, and so Feast's own store, hands a column of a file out; None where it is not plain."""
    if pa.types.is_dictionary(kind):
        return _as_duckdb(kind.value_type)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = _as_duckdb(kind.value_type)
        return pa.list_(inner) if inner is not None else None
    if pa.types.is_timestamp(kind):
        return (pa.timestamp("us", "UTC") if kind.tz else kind) if kind.unit == "us" else None
    plain = pa.types.is_integer(kind) or pa.types.is_float32(kind) or pa.types.is_float64(kind)
    return kind if plain or pa.types.is_boolean(kind) or pa.types.is_date32(kind) else None
