"""Where the tables come from: a folder of Parquet files or a SQLAlchemy URL, both read in chunks."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from sidkit.config import resolved_url
from sidkit.contract.rows import check_names
from sidkit.contract.schemas import TABLES
from sidkit.errors import ContractError, MissingTableError, TableSchemaError
from sidkit.files import typed_path
from sidkit.redact import looks_like_url, redacted, scrubbed

if TYPE_CHECKING:
    from sqlalchemy import Engine


class Source(ABC):
    """The tables of the contract, wherever they lie."""

    url: str

    @abstractmethod
    def columns(self, table: str) -> dict[str, pa.DataType | None]:
        """Column names and Arrow types (None where the source states none)."""

    @abstractmethod
    def batches(self, table: str, columns: Sequence[str], chunk_rows: int) -> Iterator[pa.RecordBatch]:
        """Yield record batches of at most ``chunk_rows`` rows with these columns."""

    @abstractmethod
    def fingerprint(self) -> str | None:
        """Text that changes whenever the source may have changed; None when the source cannot tell."""


class ParquetSource(Source):
    """A folder that holds ``<table>.parquet`` or a folder ``<table>/`` of Parquet files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = str(folder)  # open_source puts what the user wrote
        for table in TABLES:
            self._files(table.name)

    def _files(self, table: str) -> list[Path]:
        single = [
            entry for entry in sorted(self.folder.iterdir()) if _is_parquet(entry.name, table) and entry.is_file()
        ]
        below = self.folder / table
        files = single[:1] or [
            file
            for file in sorted(below.rglob("*"))
            if file.suffix.lower() == ".parquet" and file.is_file() and not _is_hidden(file.relative_to(below))
        ]
        if not files:
            found = sorted(entry.name for entry in self.folder.iterdir()) or ["nothing"]
            raise MissingTableError(
                table,
                f"the table is missing: {self.folder / table}.parquet or Parquet files under {self.folder / table}/ are "
                f"needed; the folder holds {', '.join(found[:8])}",
            )
        return files

    def columns(self, table: str) -> dict[str, pa.DataType | None]:
        """See :meth:`Source.columns`."""
        files = self._files(table)
        schemas = [self._schema(table, file) for file in files]
        found: dict[str, pa.DataType | None] = {}
        for schema, file in zip(schemas, files, strict=True):
            check_names(schema.names, table, file.name)
            if set(schema.names) != set(schemas[0].names):
                odd = sorted(set(schema.names) ^ set(schemas[0].names))
                raise TableSchemaError(table, f"{file.name} and the first file differ in columns: {', '.join(odd)}")
            for field in schema:
                if pa.types.is_null(found.get(field.name) or pa.null()):  # a part where nothing is known says nothing
                    found[field.name] = field.type
        return found

    def _schema(self, table: str, file: Path) -> pa.Schema:
        try:
            return pq.read_schema(file)
        except (pa.ArrowInvalid, OSError) as error:
            raise ContractError(table, f"{file} cannot be read as Parquet ({error}); write the file again") from error

    def batches(self, table: str, columns: Sequence[str], chunk_rows: int) -> Iterator[pa.RecordBatch]:
        """See :meth:`Source.batches`."""
        for file in self._files(table):
            try:
                with pq.ParquetFile(file, memory_map=True) as parquet:
                    yield from parquet.iter_batches(batch_size=chunk_rows, columns=list(columns), use_threads=False)
            except (pa.ArrowInvalid, OSError) as error:
                raise ContractError(
                    table, f"{file} cannot be read as Parquet ({error}); write it again, with vectors as list<float32>"
                ) from error

    def fingerprint(self) -> str | None:
        """Names, sizes and modification times of the files."""
        facts = []
        for table in TABLES:
            for file in self._files(table.name):
                stat = file.stat()
                facts.append([str(file.relative_to(self.folder)), stat.st_size, stat.st_mtime_ns])
        return json.dumps(facts)


class SqlSource(Source):
    """The same tables behind a SQLAlchemy URL.

    Vectors are array columns where the database has them, else JSON text. Times are zone-aware columns, or ISO-8601
    text with a zone where the database has no such type (SQLite).
    """

    def __init__(self, url: str) -> None:
        import sqlalchemy as sa

        self.url = url
        try:
            parsed = sa.engine.make_url(url)
            if parsed.get_backend_name() == "sqlite" and parsed.database and not Path(parsed.database).exists():
                # Connecting would create an empty file of that name.
                raise ContractError("source", f"{parsed.database} does not exist; give the path of a SQLite database")
            self.engine: Engine = sa.create_engine(url, hide_parameters=True)
            self.metadata = sa.MetaData()
            names = set(sa.inspect(self.engine).get_table_names())
        except (sa.exc.SQLAlchemyError, ImportError, ValueError) as error:
            raise ContractError("source", f"{redacted(url)} cannot be opened ({scrubbed(error, url)})") from None
        for table in TABLES:
            if table.name not in names:
                raise MissingTableError(
                    table.name,
                    f"the database {redacted(url)} has no such table; it has {', '.join(sorted(names)) or 'none'}",
                )
        with _answering(url):
            self.metadata.reflect(self.engine, only=[table.name for table in TABLES])

    def columns(self, table: str) -> dict[str, pa.DataType | None]:
        """See :meth:`Source.columns`; a database's types are read from the values, so none is stated."""
        return {column.name: None for column in self.metadata.tables[table].columns}

    def batches(self, table: str, columns: Sequence[str], chunk_rows: int) -> Iterator[pa.RecordBatch]:
        """See :meth:`Source.batches`; a server-side cursor where the driver has one."""
        import sqlalchemy as sa

        chosen = [self.metadata.tables[table].columns[name] for name in columns]
        with _answering(resolved_url(self.url)), self.engine.connect() as connection:
            stream = connection.execution_options(stream_results=True, yield_per=chunk_rows).execute(sa.select(*chosen))
            for part in stream.partitions(chunk_rows):
                transposed = list(zip(*part, strict=True))
                arrays = [
                    _sql_array(table, name, list(values)) for name, values in zip(columns, transposed, strict=True)
                ]
                yield pa.RecordBatch.from_arrays(arrays, names=list(columns))

    def fingerprint(self) -> str | None:
        """A database does not say whether it changed."""
        return None


def _is_parquet(name: str, table: str) -> bool:
    stem, _, suffix = name.rpartition(".")
    return stem == table and suffix.lower() == "parquet"


def _is_hidden(path: Path) -> bool:
    """Whether a file, or a folder on its way, is one that tools leave out: ``._part.parquet``, ``_temporary/...``."""
    return any(part.startswith((".", "_")) for part in path.parts)


@contextmanager
def _answering(url: str) -> Iterator[None]:
    """Report what a database driver says without the secrets of the URL, which it may repeat."""
    import sqlalchemy as sa

    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        raise ContractError(
            "source", f"reading {redacted(url)} failed ({scrubbed(error, url)}); text must be UTF-8"
        ) from None


def open_source(url: str) -> Source:
    """Open a source.

    Parameters
    ----------
    url : str
        A folder, a SQLAlchemy URL such as ``postgresql+psycopg://host/db``, or ``env:NAME`` for either. The source's
        ``url`` is what is stored: never the value of a variable.

    Raises
    ------
    MissingTableError
        When a table of the contract is not there.
    ContractError
        When the URL is empty or names nothing that can be opened.
    ConfigError
        When the environment variable is not set.
    """
    stated, url = url, resolved_url(url)
    if not url:
        raise ContractError(
            "source", "no source is set: write source.url in sidkit.toml (a folder or a SQLAlchemy URL)"
        )
    if "://" in url:
        opened: Source = SqlSource(url)
    else:
        folder = typed_path(url)
        if not folder.is_dir():
            shown = redacted(url) if looks_like_url(url) else folder
            raise ContractError("source", f"{shown} is no folder; give a folder of Parquet files or a SQLAlchemy URL")
        opened = ParquetSource(folder)
    if stated != url:
        opened.url = stated
    return opened


def same_source(one: str, other: str) -> bool:
    """Whether two sources, as settings state them, are the same folder or URL."""
    return one == other or _place(resolved_url(one)) == _place(resolved_url(other))


def _place(url: str) -> str:
    return url if "://" in url else str(typed_path(url))


def _sql_array(table: str, name: str, values: list[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError) as error:
        kinds = {type(value) for value in values if value is not None}
        if kinds <= {int, str}:  # ids, where a database lets a column hold both
            return pa.array([None if value is None else str(value) for value in values], pa.string())
        if kinds <= {int, float}:
            return pa.array([None if value is None else float(value) for value in values], pa.float64())
        listed = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise TableSchemaError(
            table,
            f"column {name!r} holds values of several types ({listed}); expected one type, cast the column in the database",
        ) from error
