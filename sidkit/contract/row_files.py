"""Files of rows that a user hands in, such as `sidkit frame --rows`: the log's own checks, and no row left out.

A broken row is refused, not dropped: an answer on fewer rows than were asked for would be a silent loss.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sidkit.contract.column_names import check_columns
from sidkit.contract.row_remedies import row_remedy
from sidkit.contract.rows import REASON, normalise
from sidkit.contract.schemas import Table
from sidkit.core.errors import ContractError

CHUNK_ROWS = 100_000


@dataclass
class _Broken:
    """Reasons why rows break the contract: how many rows each, and the first of them, counted from 0."""

    rows: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, int] = field(default_factory=dict)

    def add(self, reasons: pa.ChunkedArray) -> None:
        texts = reasons.to_numpy(zero_copy_only=False)
        for at in np.flatnonzero(texts != None):  # noqa: E711 (elementwise)
            self.counts[texts[at]] += 1
            self.first.setdefault(texts[at], self.rows + int(at))
        self.rows += len(texts)

    def _remedy(self) -> str:
        reason, count = self.counts.most_common(1)[0]
        line = row_remedy(reason, count / self.rows)
        return f"For example: {line}. " if line.startswith("df") else ""

    def refuse(self, where: str, *, may_be_empty: bool = False) -> None:
        if not self.rows and not may_be_empty:
            raise ContractError("rows", f"{where} holds no row; expected at least one")
        if self.counts:
            listed = ", ".join(
                f"{reason} ({count:,}, first in row {self.first[reason]:,})"
                for reason, count in self.counts.most_common()
            )
            raise ContractError(
                "rows",
                f"{self.counts.total():,} of {self.rows:,} rows of {where} cannot be used: {listed}; rows are counted from 0. "
                f"{self._remedy()}Fix or remove these rows and try again",
            )


def open_rows(path: Path, table: Table) -> pq.ParquetFile:
    """Open a Parquet file of rows whose columns fit the contract.

    Raises
    ------
    ContractError
        When the path is no Parquet file, or a column is missing or there twice.
    """
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise ContractError("rows", f"{path} {found}; expected one Parquet file")
    try:
        opened = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise ContractError(
            "rows",
            f"{path} cannot be read as Parquet ({error}); write it with pandas' DataFrame.to_parquet, for example",
        ) from error
    check_columns(opened.schema_arrow.names, table, reserved=frozenset())
    return opened


def checked_rows(source: Path | pa.Table, table: Table, *, may_be_empty: bool = False) -> pa.Table:
    """The columns of the contract's ``table`` that a source holds, in the contract's types, in the order of its rows.

    Parameters
    ----------
    source : Path or pyarrow.Table
        A Parquet file or the same in memory. Further columns are left out.
    table : Table
        Such as :data:`sidkit.contract.schemas.LABELLED_ROWS`.
    may_be_empty : bool
        Accept a source without rows.

    Raises
    ------
    ContractError
        When there is no row, a column is missing, there twice or of a type that no row of it could be right with, or any
        row breaks the contract; the message says how many rows, why and where.
    """
    if isinstance(source, pa.Table):
        check_columns(source.column_names, table, reserved=frozenset())
        return _checked(_of_table(source, table), table, "the table", may_be_empty=may_be_empty)
    with open_rows(source, table) as opened:
        return _checked(_of_file(opened, source, table), table, str(source), may_be_empty=may_be_empty)


def check_row_file(path: Path, table: Table) -> bool:
    """Check a file as :func:`checked_rows` does, in chunks; returns whether its columns have the contract's types already."""
    broken = _Broken()
    same = True
    with open_rows(path, table) as opened:
        for batch in _of_file(opened, path, table):
            checked = normalise(batch, table)
            broken.add(checked.column(REASON))
            same = same and checked.drop_columns([REASON]).schema.types == batch.schema.types
    broken.refuse(str(path))
    return same


def normalised_batches(path: Path, table: Table) -> Iterator[pa.RecordBatch]:
    """All columns of a file that :func:`check_row_file` accepted, those of the contract in its types."""
    with open_rows(path, table) as opened:
        for batch in opened.iter_batches(CHUNK_ROWS):
            whole = pa.Table.from_batches([batch])
            own = [name for name in whole.column_names if table.column(name)]
            checked = normalise(batch.select(own), table)
            for name in own:
                whole = whole.set_column(whole.column_names.index(name), name, checked.column(name))
            yield from whole.combine_chunks().to_batches()


def _of_table(source: pa.Table, table: Table) -> Iterator[pa.RecordBatch]:
    own = [name for name in source.column_names if table.column(name)]
    chosen = source.select(own)
    yield from chosen.to_batches(max_chunksize=CHUNK_ROWS) or [pa.RecordBatch.from_pylist([], chosen.schema)]


def _of_file(opened: pq.ParquetFile, path: Path, table: Table) -> Iterator[pa.RecordBatch]:
    own = [name for name in opened.schema_arrow.names if table.column(name)]
    try:
        yield from opened.iter_batches(CHUNK_ROWS, columns=own)
        if not opened.metadata.num_rows:
            yield pa.RecordBatch.from_pylist([], pa.schema([opened.schema_arrow.field(name) for name in own]))
    except (OSError, pa.ArrowException) as error:
        raise ContractError("rows", f"{path} is damaged ({error}); write it again") from error


def _checked(batches: Iterator[pa.RecordBatch], table: Table, where: str, *, may_be_empty: bool) -> pa.Table:
    broken, parts = _Broken(), []
    for batch in batches:
        checked = normalise(batch, table)
        broken.add(checked.column(REASON))
        parts.append(checked.drop_columns([REASON]))
    broken.refuse(where, may_be_empty=may_be_empty)
    return pa.concat_tables(parts, promote_options="permissive")
