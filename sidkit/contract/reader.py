"""Sources of the tables: a folder of Parquet files or a SQLAlchemy URL, both read in chunks."""

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
from sidkit.contract.schemas import OPTIONAL_TABLES, TABLES
from sidkit.contract.sql_columns import sql_column
from sidkit.core.config import resolved_url
from sidkit.core.errors import ContractError, MissingTableError, TableSchemaError
from sidkit.core.files import typed_path
from sidkit.core.redact import looks_like_url, redacted, scrubbed

if TYPE_CHECKING:
    from sqlalchemy import Engine


class Source(ABC):
    """A source of the contract's tables."""

    url: str

    @abstractmethod
    def has(self, table: str) -> bool:
        """Whether the source has a table; it always has the required ones."""

    @abstractmethod
    def columns(self, table: str) -> dict[str, pa.DataType | None]:
        """Column names and Arrow types (None if the source has no type information)."""

    @abstractmethod
    def batches(self, table: str, columns: Sequence[str], chunk_rows: int) -> Iterator[pa.RecordBatch]:
        """Yield record batches of at most ``chunk_rows`` rows with these columns."""

    @abstractmethod
    def fingerprint(self) -> str | None:
        """Text that changes whenever the source may have changed; None if changes cannot be detected."""


class ParquetSource(Source):
    """A folder with ``<table>.parquet`` files or ``<table>/`` folders of Parquet files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = str(folder)  # open_source replaces it with the user's text
        for table in TABLES:
            self._files(table.name)

    def has(self, table: str) -> bool:
        """See :meth:`Source.has`."""
        return any(_parts_of(place) for place in self._places(table))

    def _places(self, table: str) -> list[Path]:
        # Some tools write a table as a folder named like a file.
        return [
            entry for entry in sorted(self.folder.iterdir()) if entry.name == table or _is_parquet(entry.name, table)
        ]

    def _files(self, table: str) -> list[Path]:
        entries, places = sorted(self.folder.iterdir()), self._places(table)
        files = {place: _parts_of(place) for place in places}
        filled = [place for place in places if files[place]]
        if not filled:
            csv = self.folder / f"{table}.csv"
            hint = (
                f", for example with pandas: pd.read_csv({str(csv)!r}).to_parquet({str(csv.with_suffix('.parquet'))!r})"
            )
            hint = hint if csv in entries else ""
            raise MissingTableError(
                table,
                f"expected {self.folder / table}.parquet or Parquet files under {self.folder / table}/, got a folder with "
                f"{', '.join(entry.name for entry in entries[:8]) or 'nothing'}; add the table{hint}",
            )
        if len(filled) > 1:
            raise ContractError(
                table,
                f"expected one file or one folder of files, got {' and '.join(place.name for place in filled)} in "
                f"{self.folder}; move the others away",
            )
        return files[filled[0]]

    def columns(self, table: str) -> dict[str, pa.DataType | None]:
        """See :meth:`Source.columns`."""
        files = self._files(table)
        schemas = [self._schema(table, file) for file in files]
        columns: dict[str, pa.DataType | None] = {}
        for schema, file in zip(schemas, files, strict=True):
            check_names(schema.names, table, file.name)
            if set(schema.names) != set(schemas[0].names):
                odd = sorted(set(schema.names) ^ set(schemas[0].names))
                raise TableSchemaError(
                    table,
                    f"expected the same columns in every file, got different ones in {file.name} and {files[0].name}: "
                    f"{', '.join(odd)}; write missing columns as nulls",
                )
            for field in schema:
                known = columns.get(field.name) or pa.null()
                if pa.types.is_null(known):  # an all-null part has no type information
                    columns[field.name] = field.type
                elif not pa.types.is_null(field.type) and is_list(known) != is_list(field.type):
                    raise TableSchemaError(
                        table,
                        f"expected one type for column {field.name!r}, got {field.type} in {file.name} and {known} in an "
                        "earlier file; write the files with the same types",
                    )
        return columns

    def _schema(self, table: str, file: Path) -> pa.Schema:
        try:
            schema = pq.read_schema(file)
            list(schema.names)
        except (pa.ArrowException, OSError) as error:
            raise ContractError(table, f"{file} cannot be read as Parquet ({error}); write the file again") from error
        except UnicodeDecodeError as error:
            raise TableSchemaError(
                table, f"expected column names in UTF-8, got {error.object!r} in {file}; rename it"
            ) from error
        return schema

    def batches(self, table: str, columns: Sequence[str], chunk_rows: int) -> Iterator[pa.RecordBatch]:
        """See :meth:`Source.batches`."""
        files = self._files(table)
        for file in files:
            try:
                with pq.ParquetFile(file, memory_map=True) as parquet:
                    for batch in parquet.iter_batches(batch_size=chunk_rows, columns=list(columns), use_threads=False):
                        # Parquet treats "a" as a prefix of a column named "a.b".
                        chosen = batch.select(list(columns))
                        yield chosen.replace_schema_metadata({PART: file.name}) if len(files) > 1 else chosen
            except (pa.ArrowException, OSError) as error:
                raise ContractError(
                    table, f"{file} cannot be read as Parquet ({error}); write it again with vectors as list<float32>"
                ) from error

    def fingerprint(self) -> str | None:
        """Names, sizes and modification times of the files."""
        facts = []
        for table in (*TABLES, *(table for table in OPTIONAL_TABLES if self.has(table.name))):
            for file in self._files(table.name):
                stat = file.stat()
                facts.append([str(file.relative_to(self.folder)), stat.st_size, stat.st_mtime_ns])
        return json.dumps(facts)


class SqlSource(Source):
    """Tables in a database, given by a SQLAlchemy URL.

    Vectors are array columns if the database supports them, else JSON text. Times are zone-aware columns, or ISO 8601
    text with a zone if the database has no such type (SQLite).
    """

    def __init__(self, url: str) -> None:
        import sqlalchemy as sa

        self.url = url
        try:
            parsed = sa.engine.make_url(url)
            if parsed.get_backend_name() == "sqlite" and parsed.database and not Path(parsed.database).exists():
                # Connecting would create an empty file of this name.
                raise ContractError(
                    "source", f"{parsed.database} does not exist; use the path of an existing SQLite database"
                )
            self.engine: Engine = sa.create_engine(url, hide_parameters=True)
            self.metadata = sa.MetaData()
            names = set(sa.inspect(self.engine).get_table_names())
        except (sa.exc.SQLAlchemyError, ImportError, ValueError) as error:
            raise ContractError("source", f"{redacted(url)} cannot be opened ({scrubbed(error, url)})") from None
        for table in TABLES:
            if table.name not in names:
                raise MissingTableError(
                    table.name,
                    f"expected a table of this name in {redacted(url)}, got {', '.join(sorted(names)) or 'no tables'}",
                )
        with _answering(url):
            optional = [table.name for table in OPTIONAL_TABLES if table.name in names]
            self.metadata.reflect(self.engine, only=[*(table.name for table in TABLES), *optional])

    def has(self, table: str) -> bool:
        """See :meth:`Source.has`."""
        return table in self.metadata.tables

    def columns(self, table: str) -> dict[str, pa.DataType | None]:
        """See :meth:`Source.columns`; types are None, since they are inferred from the values."""
        return {column.name: None for column in self.metadata.tables[table].columns}

    def batches(self, table: str, columns: Sequence[str], chunk_rows: int) -> Iterator[pa.RecordBatch]:
        """See :meth:`Source.batches`; uses a server-side cursor if the driver supports it."""
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
        """None: a database does not report changes."""
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
                f"expected a Parquet file or a folder of them, got {folder} without any; write the part again, or remove it",
            )
    return files


def _is_hidden(path: Path) -> bool:
    """Whether a file or one of its folders is hidden by convention: ``._part.parquet``, ``_temporary/...``."""
    return any(part.startswith((".", "_")) for part in path.parts)


@contextmanager
def _answering(url: str, table: str = "source") -> Iterator[None]:
    """Re-raise errors of the database driver without the secrets of the URL, which they may repeat."""
    import sqlalchemy as sa

    try:
        yield
    except sa.exc.SQLAlchemyError as error:
        message = str(scrubbed(error, url)).split("\n", 1)[0]
        remedy = (
            "; expected text in UTF-8, correct it in the database" if "UTF-8" in message or "decode" in message else ""
        )
        raise ContractError(table, f"reading {redacted(url)} failed ({message}){remedy}") from None


def open_source(url: str) -> Source:
    """Open a source of tables.

    Parameters
    ----------
    url : str
        A folder, a SQLAlchemy URL such as ``postgresql+psycopg://host/db``, or ``env:NAME`` for either. The returned
        source's ``url`` is this text; a variable's value is never stored.

    Raises
    ------
    MissingTableError
        When a required table is missing.
    ContractError
        When the URL is empty or cannot be opened.
    ConfigError
        When the environment variable is not set.
    """
    stated, url = url, resolved_url(url)
    if not url:
        raise ContractError(
            "source", "expected a source, got none; set source.url in sidkit.toml to a folder or a SQLAlchemy URL"
        )
    if "://" in url:
        opened: Source = SqlSource(url)
    else:
        folder = typed_path(url)
        if not folder.is_dir():
            shown = redacted(url) if looks_like_url(url) else folder
            raise ContractError(
                "source", f"expected a folder of Parquet files or a SQLAlchemy URL, got {shown}; check the path"
            )
        opened = ParquetSource(folder)
    if stated != url:
        opened.url = stated
    return opened


def same_source(one: str, other: str) -> bool:
    """Whether two sources, as written in settings, are the same folder or URL."""
    return one == other or _place(resolved_url(one)) == _place(resolved_url(other))


def _place(url: str) -> str:
    return url if "://" in url else str(typed_path(url))
