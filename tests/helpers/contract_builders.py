"""A small source that keeps the contract, changed at will, and what is read of it."""

from __future__ import annotations

import json
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from helpers.builders import START, moments
from sidkit.contract import open_source, validate
from sidkit.core.config import EngineSettings, Settings, SourceSettings
from sidkit.core.engine import connection
from sidkit.core.errors import ContractError

Tables = dict[str, pa.Table]
N_EVENTS, N_ITEMS = 12, 4
VECTORS = [[0.5, -1.0], [2.0, 0.25], [-3.5, 8.0], [1.0, 1.5]]  # exact in float16, float32 and float64


def good() -> Tables:
    events = range(N_EVENTS)
    return {
        "interactions": pa.table(
            {
                "user_id": [f"u{n % 3}" for n in events],
                "item_id": [f"i{n % N_ITEMS}" for n in events],
                "timestamp": moments([START + 1_000_000 * n + n for n in events]),
                "label": pa.array([n % 2 for n in events], pa.int8()),
            }
        ),
        "items": pa.table({"item_id": [f"i{n}" for n in range(N_ITEMS)], "created_at": moments([START] * N_ITEMS)}),
        "item_embeddings": pa.table(
            {"item_id": [f"i{n}" for n in range(N_ITEMS)], "text": pa.array(VECTORS, pa.list_(pa.float32()))}
        ),
    }


def changed(table: str, **columns: Any) -> Tables:
    """The good tables with columns replaced or added."""
    tables = good()
    for name, given in columns.items():
        old = tables[table]
        values = given if isinstance(given, pa.Array | pa.ChunkedArray) else pa.array(given)
        place = old.column_names.index(name) if name in old.column_names else None
        tables[table] = old.append_column(name, values) if place is None else old.set_column(place, name, values)
    return tables


def read(url: object, work: Path, chunk_rows: int = 1000, **source: Any) -> Tables:
    """The valid tables of a source; nothing may be rejected."""
    settings = Settings(
        source=SourceSettings(url=str(url), **source), engine=EngineSettings(threads=1, chunk_rows=chunk_rows)
    )
    with connection(settings.engine, work / "spill") as opened:
        valid = validate(open_source(str(url), settings.source), settings, opened, work / "valid", None)
    assert all(report.rejected == 0 for report in valid.reports), valid.reports
    paths = {"interactions": valid.interactions, "items": valid.items, "item_embeddings": valid.embeddings}
    return {name: pq.read_table(path) for name, path in paths.items()}


def attempt(url: object, work: Path, **source: Any) -> tuple[Tables, str]:
    """The valid tables, or the words of the refusal."""
    try:
        return read(url, work, **source), ""
    except (ContractError, ValidationError) as error:
        return {}, str(error)


def sqlite(path: Path, tables: Tables) -> str:
    """A SQLite file with ISO-8601 text times and JSON-text vectors."""
    with sqlite3.connect(path) as database:
        for name, table in tables.items():
            columns = [_sql_values(table[column]) for column in table.column_names]
            listed = ", ".join(f'"{column}"' for column in table.column_names)
            database.execute(f"CREATE TABLE {name} ({listed})")
            marks = ", ".join("?" for _ in columns)
            database.executemany(f"INSERT INTO {name} VALUES ({marks})", list(zip(*columns, strict=True)))
    database.close()
    return f"sqlite:///{path}"


def _sql_values(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_timestamp(column.type):
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        times = column.cast(pa.int64()).to_pylist()
        return [None if time is None else (epoch + timedelta(microseconds=time)).isoformat() for time in times]
    if pa.types.is_list(column.type):
        return [None if vector is None else json.dumps(vector) for vector in column.to_pylist()]
    return list(column.to_pylist())
