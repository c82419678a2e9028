"""Rows that keep or break the contract, and what becomes of a source of them."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from helpers.builders import DAY, START, moments, write_tables
from sidkit.contract import TableReport, open_source, validate
from sidkit.core.config import EngineSettings, Settings, SourceSettings
from sidkit.core.engine import connection

Rows = list[dict[str, Any]]
FIRST = 365 * DAY  # 1971-01-01
NOW = START + 100 * DAY
END = 7_258_118_400_000_000  # 2200-01-01
NAN, INF = math.nan, math.inf
KINDS = {
    "user_id": pa.string(), "item_id": pa.string(), "label": pa.float64(), "request_id": pa.string(),
    "position": pa.float64(), "converted": pa.float64(), "rating": pa.float64(), "price": pa.float64(),
    "title": pa.string(), "text": pa.list_(pa.float64()),
}  # fmt: skip


def event(n: int = 0, **values: Any) -> dict[str, Any]:
    return {"user_id": f"u{n}", "item_id": "i0", "timestamp": START + n, "label": float(n % 2), **values}


def item(name: str | None = "i0", **values: Any) -> dict[str, Any]:
    return {"item_id": name, "created_at": START - DAY, **values}


def vector(name: str | None = "i0", **values: Any) -> dict[str, Any]:
    return {"item_id": name, "text": [1.0, 2.0], **values}


def good() -> dict[str, Rows]:
    return {
        "interactions": [event(n, item_id=f"i{n % 3}") for n in range(6)],
        "items": [item(f"i{n}") for n in range(3)],
        "item_embeddings": [vector(f"i{n}") for n in range(3)],
    }


def table(rows: Rows) -> pa.Table:
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    return pa.table({name: pa.array(v, KINDS[name]) if name in KINDS else moments(v) for name, v in columns.items()})


def read_rows(path: Path) -> Rows:
    """Rows of a Parquet file with times as microseconds."""
    found = pq.read_table(path)
    for place, field in enumerate(found.schema):
        if pa.types.is_timestamp(field.type):
            found = found.set_column(place, field.name, found[field.name].cast(pa.int64()))
    rows: Rows = found.to_pylist()
    return rows


@dataclass
class Checked:
    """What became of a source."""

    reports: dict[str, TableReport]
    valid: dict[str, Rows]
    rejects: dict[str, Rows]


def check(tables: Mapping[str, Rows | pa.Table], chunk_rows: int = 1000, **source: Any) -> Checked:
    """Validate tables in a temporary folder; any share of rejects is allowed unless said otherwise."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        written = {key: rows if isinstance(rows, pa.Table) else table(rows) for key, rows in tables.items()}
        url = str(write_tables(folder / "source", written))
        settings = Settings(
            source=SourceSettings(url=url, **{"max_reject_share": 1.0, **source}),
            engine=EngineSettings(threads=1, chunk_rows=chunk_rows),
        )
        with connection(settings.engine, folder / "spill") as opened:
            valid = validate(
                open_source(url, settings.source), settings, opened, folder / "valid", folder / "rejects", now_us=NOW
            )
        paths = {"interactions": valid.interactions, "items": valid.items, "item_embeddings": valid.embeddings}
        return Checked(
            {report.table: report for report in valid.reports},
            {key: read_rows(path) for key, path in paths.items()},
            {key: read_rows(folder / "rejects" / f"{key}.parquet") for key in tables},
        )


def reasons(name: str, row: dict[str, Any], **source: Any) -> dict[str, int]:
    """The reasons in one table when one row is added to good ones."""
    tables = good()
    tables[name].append(row)
    return check(tables, **source).reports[name].reasons
