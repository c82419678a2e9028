"""Reading the Parquet files of a feature table with as little I/O as an as-of join needs.

Keys and times of all rows are read first; features only for the rows that are needed, a few row groups at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from sidkit.core.errors import ContractError
from sidkit.stores.keys import is_text, is_time
from sidkit.stores.offline.binary_search import micros
from sidkit.stores.offline.key_numbers import comparable
from sidkit.stores.offline.part_types import UTC_MICROS, plain
from sidkit.stores.offline.sources import Part, SourceParts

_BATCH_ROWS = 65_536
_SCANNED_ROWS = 1_000_000


@dataclass(frozen=True)
class FeatureFiles:
    """Files of a source, whose columns are read with the types in ``kinds``."""

    parts: SourceParts
    kinds: Mapping[str, pa.DataType]
    times: tuple[str, ...]

    @classmethod
    def of(
        cls, parts: SourceParts, keys: Sequence[str], times: Sequence[str], features: Sequence[str]
    ) -> FeatureFiles | None:
        """The files of a source, or None if some of these columns must be read by DuckDB.

        Parameters
        ----------
        parts : SourceParts
            Parts that passed :meth:`SourceParts.check` for the same columns.
        keys, times, features : sequence of str
            Columns of the table.
        """
        if parts.partitioned:
            return None
        kinds: dict[str, pa.DataType] = {}
        for column in dict.fromkeys([*keys, *features, *times]):
            kind = parts.kind(column)
            if column in times:
                if is_text(plain(kind)):
                    return None
                # A date is its midnight; if files differ in units and zones, microseconds hold all values.
                kinds[column] = kind if pa.types.is_timestamp(kind) and parts.alike(column) else UTC_MICROS
            elif (plain_kind := _as_duckdb(kind)) is not None and (column not in keys or comparable(plain_kind)):
                kinds[column] = plain_kind
            elif pa.types.is_null(kind) or (column in keys and comparable(kind)):
                kinds[column] = plain(kind)
            else:
                return None
        return cls(parts, kinds, tuple(times))

    @cached_property
    def rows(self) -> int:
        """Number of rows in all files."""
        return sum(int(part.metadata.num_rows) for part in self.parts.parts)

    def moments_of(self, values: pa.ChunkedArray, column: str) -> pa.ChunkedArray:
        """Convert a column of times to int64 microseconds UTC, fractions rounded down.

        Raises
        ------
        ContractError
            When a time is out of the range of microseconds.
        """
        try:
            return micros(values)
        except pa.ArrowInvalid as error:
            raise ContractError(
                self.parts.source,
                f"expected times in the range of microseconds in {self.parts.stored(column)}, got {error}; correct it",
            ) from error

    def bytes_of(self, columns: Sequence[str]) -> int:
        """Approximate memory of some columns of all rows, in bytes."""
        wanted = set(map(self.parts.stored, columns))
        total = 0
        for part in self.parts.parts:
            for group in range(part.metadata.num_row_groups):
                listed = part.metadata.row_group(group)
                for at in range(listed.num_columns):
                    chunk = listed.column(at)
                    if chunk.path_in_schema.split(".")[0] in wanted:
                        total += max(int(chunk.total_uncompressed_size), 8 * int(chunk.num_values))
        return total

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Read some columns of all rows."""
        tables = []
        for part in self.parts.parts:
            with pq.ParquetFile(part.path, metadata=part.metadata) as opened:
                tables.append(
                    self._named(
                        part, opened.read(columns=self._stored(part, columns), use_pandas_metadata=False), columns
                    )
                )
        return pa.concat_tables(tables)

    def scan(self, columns: Sequence[str], rows: int = _SCANNED_ROWS) -> Iterator[pa.Table]:
        """Read some columns of all rows, at most ``rows`` rows at a time."""
        for part in self.parts.parts:
            with pq.ParquetFile(part.path, metadata=part.metadata) as opened:
                stored = self._stored(part, columns)
                for batch in opened.iter_batches(rows, columns=stored, use_pandas_metadata=False):
                    yield self._named(part, pa.Table.from_batches([batch]), columns)

    def take(self, columns: Sequence[str], numbers: npt.NDArray[np.int64]) -> pa.Table:
        """Read some columns of some rows.

        Parameters
        ----------
        columns : sequence of str
            Columns of the table.
        numbers : int64 [rows]
            Row numbers across all files, ascending.
        """
        batches = list(self.batches(columns, numbers))
        return pa.Table.from_batches(batches) if batches else self.empty(columns)

    def batches(self, columns: Sequence[str], numbers: npt.NDArray[np.int64]) -> Iterator[pa.RecordBatch]:
        """Like :meth:`take`, one batch at a time."""
        start = 0
        for part in self.parts.parts:
            stop = start + int(part.metadata.num_rows)
            if np.searchsorted(numbers, start) < np.searchsorted(numbers, stop):
                with pq.ParquetFile(part.path, metadata=part.metadata) as opened:
                    yield from self._batches(part, opened, columns, numbers, start)
            start = stop

    def _batches(
        self, part: Part, opened: pq.ParquetFile, columns: Sequence[str], numbers: npt.NDArray[np.int64], start: int
    ) -> Iterator[pa.RecordBatch]:
        for group in range(part.metadata.num_row_groups):
            end = start + int(part.metadata.row_group(group).num_rows)
            if np.searchsorted(numbers, start) < np.searchsorted(numbers, end):
                read = opened.iter_batches(
                    _BATCH_ROWS, row_groups=[group], columns=self._stored(part, columns), use_pandas_metadata=False
                )
                at = start
                for batch in read:
                    first, last = np.searchsorted(numbers, [at, at + len(batch)])
                    if first < last:
                        table = pa.Table.from_batches([batch])
                        if last - first < len(batch):
                            table = table.take(pa.array(numbers[first:last] - at))
                        yield from self._named(part, table, columns).combine_chunks().to_batches()
                    at += len(batch)
            start = end

    def empty(self, columns: Sequence[str]) -> pa.Table:
        """An empty table with some columns."""
        return pa.schema([(column, self.kinds[column]) for column in columns]).empty_table()

    def _stored(self, part: Part, columns: Sequence[str]) -> list[str]:
        names = dict.fromkeys(map(self.parts.stored, columns))
        return [name for name in names if name in part.kinds]

    def _named(self, part: Part, table: pa.Table, columns: Sequence[str]) -> pa.Table:
        named = {}
        for column in columns:
            name, kind = self.parts.stored(column), self.kinds[column]
            values = table.column(name) if name in part.kinds else pa.chunked_array([pa.nulls(len(table), kind)])
            named[column] = self._typed(part, column, values, kind)
        return pa.table(named)

    def _typed(self, part: Part, column: str, values: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
        if is_text(plain(values.type)):
            _refuse_other_bytes(part, self.parts.stored(column), values)
        if values.type == kind:
            return values
        if kind == UTC_MICROS and is_time(values.type) and column in self.times:
            return self.moments_of(values, column).cast(pa.timestamp("us")).cast(kind)
        if plain(values.type) == plain(kind):
            return values.cast(kind)
        return self.parts.cast(part, column, values, kind)


def _refuse_other_bytes(part: Part, name: str, values: pa.ChunkedArray) -> None:
    try:
        values.validate(full=True)
    except pa.ArrowInvalid as error:
        raise ContractError(
            str(part.path), f"expected UTF-8 text in {name}, got other bytes ({error}). Write it as UTF-8 or as binary"
        ) from error


def _as_duckdb(kind: pa.DataType) -> pa.DataType | None:
    """The type with which DuckDB, and thus Feast's own store, returns a column of a file; None if not simple."""
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
