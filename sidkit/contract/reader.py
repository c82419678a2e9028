"""Where the tables come from: a folder of Parquet files or a SQLAlchemy URL, both read in chunks."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from sidkit.contract.column_names import check_names
from sidkit.contract.rows import PART, is_list
from sidkit.contract.schemas import TABLES
from sidkit.contract.sql_columns import sql_column
from sidkit.core.config import resolved_url
from sidkit.core.errors import ContractError, MissingTableError, TableSchemaError
from sidkit.core.files import typed_path
from sidkit.core.redact import looks_like_url, redacted, scrubbed

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
        entries = sorted(self.folder.iterdir())
        # Other tools write a table as a folder that is called like a file.
        places = [entry for entry in entries if entry.name == table or _is_parquet(entry.name, table)]
        files = {place: _parts_of(place) for place in places}
        filled = [place for place in places if files[place]]
        if not filled:
            raise MissingTableError(
                table,
                f"the table is missing: {self.folder / table}.parquet or Parquet files under {self.folder / table}/ are "
                f"needed; the folder holds {', '.join(entry.name for entry in entries[:8]) or 'nothing'}",
            )
        if len(filled) > 1:
            raise ContractError(
                table,
                f"the table is there more than once, as {' and '.join(place.name for place in filled)} in {self.folder}; "
                "expected one file or one folder of files, move the others away",
            )
        return files[filled[0]]

    def columns(self, table: str) -> dict[str, pa.DataType | None]:
        """See :meth:`Source.columns`."""
        files = self._files(table)
        schemas = [self._schema(table, file) for file in files]
        found: dict[str, pa.DataType | None] = {}
        for schema, file in zip(schemas, files, strict=True):
            check_names(schema.names, table, file.name)
            if set(schema.names) != set(schemas[0].names):
                odd = sorted(set(schema.names) ^ set(schemas[0].names))
                raise TableSchemaError(
                    table,
                    f"{file.name} and {files[0].name} differ in columns: {', '.join(odd)}; expected the same columns in every "
                    "file, write the missing ones as nulls",
                )
            for field in schema:
                known = found.get(field.name) or pa.null()
                if pa.types.is_null(known):  # a part where nothing is known says nothing
                    found[field.name] = field.type
                elif not pa.types.is_null(field.type) and is_list(known) != is_list(field.type):
                    raise TableSchemaError(
                        table,
                        f"column {field.name!r} of {file.name} holds {field.type}, where an earlier file holds {known}; "
                        "expected one type, write the files alike",
                    )
        return found

    def _schema(self, table: str, file: Path) -> pa.Schema:
        try:
            schema = pq.read_schema(file)
            list(schema.names)
        except (pa.ArrowException, OSError) as error:
            raise ContractError(table, f"{file} cannot be read as Parquet ({error}); write the file again") from error
        except UnicodeDecodeError as error:
            raise TableSchemaError(
                table, f"{file} has a column whose name is not UTF-8 ({error.object!r}); rename it"
            ) from error
        return schema

    def batches(self, table: str, columns: Sequence[str], chunk_rows: int) -> Iterator[pa.RecordBatch]:
        """See :meth:`Source.batches`."""
        files = self._files(table)
        for file in files:
            try:
                with pq.ParquetFile(file, memory_map=True) as parquet:
                    for batch in parquet.iter_batches(batch_size=chunk_rows, columns=list(columns), use_threads=False):
                        # Parquet takes "a" for a prefix of a column called "a.b".
                        chosen = batch.select(list(columns))
                        yield chosen.replace_schema_metadata({PART: file.name}) if len(files) > 1 else chosen
            except (pa.ArrowException, OSError) as error:
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
        with _answering(resolved_url(self.url), table), self.engine.connect() as connection:
            stream = connection.execution_options(stream_results=True, yield_per=chunk_rows).execute(sa.select(*chosen))
            for part in stream.partitions(chunk_rows):
                read = [
                    sql_column(table, name, list(values))
                    for name, values in zip(columns, zip(*part, strict=True), strict=True)
                ]
                yield pa.RecordBatch.from_arrays(
                    [array for _, array in read], schema=pa.schema([field for field, _ in read])
                )

    def fingerprint(self) -> str | None:
        """A database does not say whether it changed."""
        return None


def _is_parquet(name: str, table: str) -> bool:
    stem, _, suffix = name.rpartition(".")
    return stem == table and suffix.lower() == "parquet"


def _parts_of(place: Path) -> list[Path]:
    """A file itself, or the Parquet files of a folder."""
    if not place.is_dir():
        return [place] if place.suffix else []
    named = [
        path
        for path in sorted(place.rglob("*"))
        if path.suffix.lower() == ".parquet" and not _is_hidden(path.relative_to(place))
    ]
    files = [path for path in named if path.is_file()]
    for folder in named:
        if not folder.is_file() and not any(folder in file.parents for file in files):
            raise ContractError(
                place.stem,
                f"{folder} holds no Parquet file where a part is expected; write the part again, or remove it",
            )
    return files


def _is_hidden(path: Path) -> bool:
    """Whether a file, or a folder on its way, is one that tools leave out: ``._part.parquet``, ``_temporary/...``."""
    return any(part.startswith((".", "_")) for part in path.parts)


@contextmanager
def _answering(url: str, table: str = "source") -> Iterator[None]:
    """Report what a database driver says without the secrets of the URL, which it may repeat."""
    import sqlalchemy as sa

    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        said = str(scrubbed(error, url)).split("\n", 1)[0]
        remedy = "; expected text in UTF-8, correct it in the database" if "UTF-8" in said or "decode" in said else ""
        raise ContractError(table, f"reading {redacted(url)} failed ({said}){remedy}") from None


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
