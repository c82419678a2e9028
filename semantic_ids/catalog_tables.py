"""The catalogue's two tables. Every record stores a SHA-256 of its columns; every change is one transaction."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from sidkit.core.errors import CatalogCorruptError, CatalogUnreachableError, UnknownVersionError
from sidkit.core.redact import scrubbed

_CREATION = 7_153_001
"""Number of the Postgres lock under which the tables are created."""
CHECK = "row_hash"
"""Column with a record's SHA-256; null in records of releases that did not write it, until they are written again."""

_metadata = sa.MetaData()
CODEBOOKS = sa.Table(
    "sidkit_codebooks",
    _metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("defined", sa.Boolean, nullable=False, default=False),
    sa.Column("content_hash", sa.String(64), nullable=False, default=""),
    sa.Column("quantizer", sa.Text, nullable=False),  # may name the file of a plug-in
    sa.Column("encoder", sa.Text, nullable=False),
    sa.Column("sizes", sa.Text, nullable=False),
    sa.Column("fit_start_us", sa.BigInteger, nullable=False, default=0),
    sa.Column("fit_end_us", sa.BigInteger, nullable=False, default=0),
    sa.Column("changed_at_us", sa.BigInteger, nullable=False),
    sa.Column(CHECK, sa.String(64)),
)
RANKERS = sa.Table(
    "sidkit_rankers",
    _metadata,
    sa.Column("name", sa.String(128), primary_key=True),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("content_hash", sa.String(64), nullable=False),
    sa.Column("codebook", sa.String(64), nullable=False),
    sa.Column("service", sa.String(128), nullable=False),
    sa.Column("arm", sa.String(64), nullable=False),
    sa.Column("fit_end_us", sa.BigInteger, nullable=False),
    sa.Column("changed_at_us", sa.BigInteger, nullable=False),
    sa.Column(CHECK, sa.String(64)),
)


class CatalogTables:
    """Read and write the records of one database.

    Parameters
    ----------
    url : str
        For error messages, without secrets.
    engine : sqlalchemy.Engine
        The database.
    db_schema : str
        Schema of a Postgres database that the engine uses; empty: the default.
    """

    def __init__(self, url: str, engine: sa.Engine, db_schema: str = "") -> None:
        self.url = url
        self._engine = engine
        self._db_schema = db_schema

    @contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.SQLAlchemyError as error:
            raise CatalogUnreachableError(self.url, scrubbed(error)) from None

    @contextmanager
    def _changing(self, table: sa.Table) -> Iterator[sa.Connection]:
        """A transaction in which nobody else changes a table; SQLite has one writer anyway."""
        with self._transaction() as connection:
            if self._is_postgres:
                name = connection.dialect.identifier_preparer.format_table(table)
                connection.execute(sa.text(f"LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE"))
            yield connection

    @property
    def _is_postgres(self) -> bool:
        return self._engine.dialect.name == "postgresql"

    def make_tables(self) -> None:
        """Create the tables, in Postgres also the schema; add and fill the hash column in tables of an earlier release."""
        if self._is_postgres:
            with self._engine.begin() as connection:
                # Two processes that create the same table at once would fail.
                connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({_CREATION})"))
                if self._db_schema and not sa.inspect(connection).has_schema(self._db_schema):
                    connection.execute(sa.schema.CreateSchema(self._db_schema))
                _metadata.create_all(connection)
        else:
            _metadata.create_all(self._engine)
        for table in (CODEBOOKS, RANKERS):
            if CHECK in {column["name"] for column in sa.inspect(self._engine).get_columns(table.name)}:
                continue
            with self._engine.begin() as connection:
                name = connection.dialect.identifier_preparer.format_table(table)
                connection.execute(sa.text(f"ALTER TABLE {name} ADD COLUMN {CHECK} VARCHAR(64)"))
                for row in connection.execute(sa.select(table)).mappings():
                    values = {CHECK: row_hash(table.name, dict(row))}
                    connection.execute(sa.update(table).where(table.c.name == row["name"]).values(**values))

    def _rows(self, table: sa.Table, *order: sa.Column[Any]) -> list[dict[str, Any]]:
        """The records of a table, verified, without their hashes."""
        with self._transaction() as connection:
            inspector = sa.inspect(connection)
            if not inspector.has_table(table.name):
                return []
            checked = CHECK in {column["name"] for column in inspector.get_columns(table.name)}
            columns = [column for column in table.c if checked or column.name != CHECK]
            rows = connection.execute(sa.select(*columns).order_by(*order)).mappings().all()
        return [self._verified(table, dict(row)) for row in rows]

    def unverified(self, table: sa.Table) -> list[dict[str, Any]]:
        """The records of a table with their hashes, whether they match or not."""
        with self._transaction() as connection:
            return [dict(row) for row in connection.execute(sa.select(table)).mappings()]

    def rewrite(self, table: sa.Table, records: Sequence[dict[str, Any]]) -> None:
        """Replace all records of a table, in one transaction."""
        with self._changing(table) as connection:
            connection.execute(sa.delete(table))
            for values in records:
                connection.execute(sa.insert(table).values(**with_hash(table, values)))

    def _verified(self, table: sa.Table, row: Mapping[str, Any]) -> dict[str, Any]:
        values = {name: value for name, value in row.items() if name != CHECK}
        if row.get(CHECK) is not None and row[CHECK] != row_hash(table.name, values):
            raise CatalogCorruptError(self.url, "codebook" if table is CODEBOOKS else "ranker", str(values["name"]))
        return values

    def _set(self, table: sa.Table, name: str, values: dict[str, Any], instead: str | None) -> None:
        """Change one version; when it becomes ``serving``, the previous serving one gets state ``instead``."""
        with self._changing(table) as connection:
            if not connection.execute(sa.select(table.c.name).where(table.c.name == name)).first():
                known = list(connection.execute(sa.select(table.c.name)).scalars())
                raise UnknownVersionError("codebook" if table is CODEBOOKS else "ranker", name, known)
            if values.get("state") == "serving":
                others = sa.select(table.c.name).where(table.c.state == "serving", table.c.name != name)
                for other in list(connection.execute(others).scalars()):
                    self._change(connection, table, other, {"state": instead, "changed_at_us": now_us()})
            self._change(connection, table, name, {"changed_at_us": now_us(), **values})

    def _change(self, connection: sa.Connection, table: sa.Table, name: str, values: dict[str, Any]) -> None:
        """Change some columns of one record and its hash."""
        has_name = table.c.name == name
        row = connection.execute(sa.select(table).where(has_name).with_for_update()).mappings().one()
        changed = with_hash(table, {**self._verified(table, dict(row)), **values})
        connection.execute(sa.update(table).where(has_name).values(**changed))


def row_hash(table: str, row: Mapping[str, Any]) -> str:
    """SHA-256 of the table's name and every column of a record except the hash itself."""
    values = sorted((name, value) for name, value in row.items() if name != CHECK)
    return hashlib.sha256(json.dumps([table, values], default=repr).encode()).hexdigest()


def with_hash(table: sa.Table, values: dict[str, Any]) -> dict[str, Any]:
    """A record with its hash."""
    return {**values, CHECK: row_hash(table.name, values)}


def now_us() -> int:
    """The current time, microseconds UTC."""
    return time.time_ns() // 1000
