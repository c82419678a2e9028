"""Rows of a query in an order, whose wide columns lie in files; DuckDB sorts the other columns only."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Self

import duckdb
import pyarrow as pa

from sidkit.core.engine import into, quoted
from sidkit.core.wide_rows import joined, write_joined

_RELATION = "_wide_rows"


class OrderedRows:
    """Rows that are written, or read as a relation, any number of times; a context manager.

    Parameters
    ----------
    opened : duckdb.DuckDBPyConnection
        Runs the query.
    query : str
        SQL for the rows without their wide columns, with :data:`sidkit.core.wide_rows.REFERENCE` if there are any.
    order : str
        SQL of the order.
    columns : mapping
        Names of all columns in their order, with the types of wide ones and None for those of the query.
    files : sequence of Path
        What the query refers to.
    spill : Path
        Folder for temporary files.
    """

    def __init__(
        self,
        opened: duckdb.DuckDBPyConnection,
        query: str,
        order: str,
        columns: Mapping[str, pa.DataType | None],
        files: Sequence[Path],
        spill: Path,
    ) -> None:
        self._opened, self._query, self._order = opened, query, order
        self._columns, self._files, self._spill = columns, files, spill
        self._held = ExitStack()
        self._wide = any(kind is not None for kind in columns.values())

    def write(self, path: Path, compression: str = "zstd") -> None:
        """Write the rows to a Parquet file, in row groups of 122,880 rows or fewer."""
        if self._wide:
            with joined(self._narrow, self._files, self._columns, self._spill) as rows:
                write_joined(rows, path, compression)
        else:
            self._copy(", ".join(map(quoted, self._columns)), path, compression)

    @contextmanager
    def relation(self) -> Iterator[str]:
        """SQL for the rows, to be read once."""
        if not self._wide:
            yield f"(SELECT {', '.join(map(quoted, self._columns))} FROM ({self._query}))"
            return
        with joined(self._narrow, self._files, self._columns, self._spill) as rows:
            self._opened.register(_RELATION, rows)
            try:
                yield _RELATION
            finally:
                self._opened.unregister(_RELATION)

    @cached_property
    def _narrow(self) -> Path:
        self._spill.mkdir(parents=True, exist_ok=True)
        path = Path(self._held.enter_context(tempfile.TemporaryDirectory(dir=self._spill))) / "narrow.parquet"
        self._copy("*", path, "zstd")
        return path

    def _copy(self, columns: str, path: Path, compression: str) -> None:
        self._opened.execute(
            f"COPY (SELECT {columns} FROM ({self._query}) ORDER BY {self._order}) {into(path, compression)}"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()
