"""Tables with wide columns, such as vectors, whose rows SQL only numbers: the values pass in blocks beside it.

SQL engines sort and join rows with all of their columns in memory. A query here has the number of each row instead, as
:func:`reference` makes it; :class:`WideRows` then reads the values of these rows row group by row group. Rows that are in
another order than in their file pass through a temporary file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sidkit.core.arrays import Ints, one_chunk
from sidkit.core.engine import GROUP_ROWS, literal, quoted
from sidkit.core.row_groups import rows_of

REFERENCE = "_sidkit_row"
"""Column of a narrow table: what :func:`reference` gives, or null for a row without values."""
_FILES = 2
_BLOCK_ROWS = 8192
_BUCKET_BYTES = 1 << 26
"""Bytes that are put in order at a time."""
_MOST_BUCKETS = 256
_GROUP_BYTES = 1 << 28
"""Bytes of a row group that is written."""


def reference(file: int, row: str = "file_row_number") -> str:
    """SQL for a reference to a row: the number of its file (0 or 1), and SQL for its number in the file, from 0 on."""
    return f"({_FILES} * {row} + {file})"


def wide_columns(schema: pa.Schema) -> list[str]:
    """Names of the columns of a file that are wide: lists of numbers with a fraction, such as vectors."""
    return [field.name for field in schema if _is_list(field.type) and pa.types.is_floating(field.type.value_type)]


def narrow_columns(file: Path, wide: Collection[str], number: int) -> str:
    """SQL for the columns of a file besides wide ones, and for the reference to the row; file is number ``number``."""
    left_out = [name for name in pq.read_schema(file).names if name in wide]
    listed = ", ".join(["file_row_number", *map(quoted, left_out)])
    return (
        f"SELECT * EXCLUDE ({listed}), {reference(number)} AS {REFERENCE} "
        f"FROM read_parquet({literal(file)}, file_row_number = true)"
    )


class WideRows:
    """Values of referenced rows, in the order of the references; a context manager.

    Parameters
    ----------
    files : sequence of Path
        One or two Parquet files. A column that a file lacks is null.
    references : int64 [rows]
        As :func:`reference` makes them; a negative one gives nulls. A row may be referenced more than once.
    schema : pyarrow.Schema
        The wide columns; values of other types are cast.
    spill : Path
        Folder for a temporary file.
    """

    def __init__(self, files: Sequence[Path], references: Ints, schema: pa.Schema, spill: Path) -> None:
        self._references, self._schema, self._at = references, schema, 0
        self._of_file = np.where(references < 0, -1, references % _FILES)
        self._streams = [
            _Stream(_in_order(file, references[self._of_file == number] // _FILES, schema, spill))
            for number, file in enumerate(files)
        ]

    def take(self, count: int) -> pa.Table:
        """The next ``count`` rows."""
        of_file = self._of_file[self._at : self._at + count]
        self._at += count
        places = [np.flatnonzero(of_file == number) for number in range(len(self._streams))]
        parts = [stream.take(len(place)) for stream, place in zip(self._streams, places, strict=True) if len(place)]
        together = pa.concat_tables(parts) if parts else self._schema.empty_table()
        if len(parts) == 1 and len(together) == count:
            return together
        index = np.full(count, -1, dtype=np.int64)
        index[np.concatenate(places)] = np.arange(len(together))
        return together.combine_chunks().take(pa.array(index, mask=index < 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in self._streams:
            stream.close()


@contextmanager
def joined(
    narrow: Path, files: Sequence[Path], columns: Mapping[str, pa.DataType | None], spill: Path
) -> Iterator[pa.RecordBatchReader]:
    """Rows of a narrow table with their wide columns, in small batches.

    Parameters
    ----------
    narrow : Path
        A Parquet file with the column :data:`REFERENCE`.
    files : sequence of Path
        What is referred to.
    columns : mapping
        Columns of the result, in their order: types of wide columns, and None for those of the narrow table.
    spill : Path
        Folder for a temporary file.
    """
    references = pq.read_table(narrow, columns=[REFERENCE]).column(0).fill_null(-1).to_numpy()
    wide = pa.schema([(name, kind) for name, kind in columns.items() if kind is not None])
    own = [name for name, kind in columns.items() if kind is None]
    with pq.ParquetFile(narrow) as held, WideRows(files, references, wide, spill) as values:
        kinds = held.schema_arrow
        schema = pa.schema([(name, kind or kinds.field(name).type) for name, kind in columns.items()])

        def batches() -> Iterator[pa.RecordBatch]:
            for batch in held.iter_batches(_BLOCK_ROWS, columns=own):
                found = values.take(batch.num_rows)
                whole = [batch.column(name) if name in own else one_chunk(found.column(name)) for name in columns]
                yield pa.RecordBatch.from_arrays(whole, schema=schema)

        yield pa.RecordBatchReader.from_batches(schema, batches())


def write_joined(rows: pa.RecordBatchReader, path: Path, compression: str = "zstd") -> None:
    """Write rows of :func:`joined` to a Parquet file, in row groups of at most 122,880 rows and 256 MiB."""
    wide = set(wide_columns(rows.schema))
    others = [name for name in rows.schema.names if name not in wide]
    with pq.ParquetWriter(
        path, rows.schema, compression=compression, store_schema=False, use_dictionary=others
    ) as writer:
        held: list[pa.RecordBatch] = []
        for batch in rows:
            held.append(batch)
            count = sum(each.num_rows for each in held)
            while count and count >= (most := _group_rows(held, count)):
                whole = pa.Table.from_batches(held)
                writer.write_table(whole.slice(0, most), row_group_size=most)
                held, count = whole.slice(most).to_batches(), count - most
        if held:
            writer.write_table(pa.Table.from_batches(held), row_group_size=GROUP_ROWS)


def _group_rows(batches: Sequence[pa.RecordBatch], count: int) -> int:
    row_bytes = sum(batch.nbytes for batch in batches) // count + 1
    return max(1, min(GROUP_ROWS, int(_GROUP_BYTES // row_bytes)))


class _Stream:
    """Tables one after the other, of which any number of rows is taken."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables = tables
        self._left: pa.Table | None = None

    def take(self, count: int) -> pa.Table:
        parts = []
        while count:
            table = self._left if self._left is not None else next(self._tables)
            parts.append(table.slice(0, count))
            self._left = table.slice(count) if len(table) > count else None
            count -= len(parts[-1])
        return pa.concat_tables(parts)

    def close(self) -> None:
        self._left = None
        self._tables.close()  # type: ignore[attr-defined]


def _in_order(file: Path, rows: Ints, schema: pa.Schema, spill: Path) -> Iterator[pa.Table]:
    """Columns of some rows of a file in any order; each row as often as it is asked for."""
    order = np.argsort(rows, kind="stable")
    distinct, first = np.unique(rows[order], return_index=True)
    ends = np.append(first, len(rows))
    has = pq.read_schema(file).names
    sorted_already = bool((np.diff(order) == 1).all())
    spilled: _Spilled | None = None
    try:
        for place, batch in rows_of(file, distinct, [name for name in schema.names if name in has]):
            table = _conformed(batch, schema)
            copies = np.diff(ends[place.start : place.stop + 1])
            if sorted_already:
                yield table if len(table) == copies.sum() else _taken(table, np.repeat(np.arange(len(table)), copies))
                continue
            if spilled is None:
                spilled = _Spilled(spill, len(rows), table)
            spilled.add(order[ends[place.start] : ends[place.stop]], np.repeat(np.arange(len(table)), copies), table)
        if spilled is not None:
            yield from spilled.tables()
    finally:
        if spilled is not None:
            spilled.close()


class _Spilled:
    """Rows that come in any order, in a file without a name, which the system removes when its process ends."""

    def __init__(self, folder: Path, rows: int, first: pa.Table) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        row_bytes = first.nbytes // max(len(first), 1) + 1
        self._bucket_rows = max(1, _BUCKET_BYTES // row_bytes, -(-rows // _MOST_BUCKETS))
        self._schema = first.schema
        self._pieces: list[list[tuple[int, int, Ints]]] = [[] for _ in range(-(-rows // self._bucket_rows))]
        self._file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115

    def add(self, places: Ints, index: Ints, table: pa.Table) -> None:
        """Rows ``index`` of a table; ``places`` are theirs among all rows."""
        order = np.argsort(places)
        places = places[order]
        rows = _taken(table, index[order]).combine_chunks()
        (batch,) = rows.to_batches()
        for bucket in range(places[0] // self._bucket_rows, places[-1] // self._bucket_rows + 1):
            start, end = np.searchsorted(places, [bucket * self._bucket_rows, (bucket + 1) * self._bucket_rows])
            if start < end:
                written = batch.slice(start, end - start).serialize()
                self._pieces[bucket].append((self._file.tell(), written.size, places[start:end]))
                self._file.write(written)

    def tables(self) -> Iterator[pa.Table]:
        """All rows, in order."""
        for pieces in self._pieces:
            batches = []
            for offset, size, _ in pieces:
                self._file.seek(offset)
                batches.append(pa.ipc.read_record_batch(pa.py_buffer(self._file.read(size)), self._schema))
            places = np.concatenate([places for *_, places in pieces])
            yield _taken(pa.Table.from_batches(batches).combine_chunks(), np.argsort(places))

    def close(self) -> None:
        self._file.close()


def _conformed(batch: pa.RecordBatch, schema: pa.Schema) -> pa.Table:
    arrays: list[Any] = [
        batch.column(field.name).cast(field.type)
        if field.name in batch.schema.names
        else pa.nulls(batch.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _taken(table: pa.Table, index: Ints) -> pa.Table:
    """Rows of a table; lists of one length are copied as rows of a matrix, which is quicker than one by one."""
    columns = [_taken_lists(one_chunk(column), index) for column in table.columns]
    return pa.Table.from_arrays(columns, schema=table.schema)


def _taken_lists(column: pa.Array, index: Ints) -> pa.Array:
    if pa.types.is_list(column.type) and len(column) and not column.null_count:
        offsets, flat = column.offsets.to_numpy(), column.flatten()
        width = len(flat) // len(column)
        if width and not flat.null_count and (np.diff(offsets) == width).all():
            rows = flat.to_numpy().reshape(len(column), width)[index]
            ends = pa.array(np.arange(len(index) + 1, dtype=np.int32) * np.int32(width))
            return pa.ListArray.from_arrays(ends, pa.array(rows.ravel(), flat.type), type=column.type)
    return column.take(pa.array(index))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
