"""Snapshots of ``items``, ``item_embeddings`` and ``users`` in the log: the newest known row per version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb

from sidkit.contract import ValidatedTables
from sidkit.core.engine import literal
from sidkit.core.files import written_beside
from sidkit.core.ordered_rows import OrderedRows
from sidkit.core.wide_rows import narrow_columns, wide_columns
from sidkit.tables.log_changes import mark_of, number_of


def merge_snapshots(
    opened: duckdb.DuckDBPyConnection,
    folder: Path,
    valid: ValidatedTables,
    before: dict[str, Any] | None,
    first_number: int,
) -> dict[str, dict[str, str]]:
    """Write the next snapshots; a table that is no longer in the source keeps its last one."""
    fresh = {"items": valid.items, "item_embeddings": valid.embeddings}
    if valid.users is not None:
        fresh["users"] = valid.users
    last = before["snapshots"] if before else {}
    merged = {
        name: merge_snapshot(opened, folder, name, path, last.get(name), first_number) for name, path in fresh.items()
    }
    return {**last, **merged}


def merge_snapshot(
    opened: duckdb.DuckDBPyConnection,
    folder: Path,
    name: str,
    fresh: Path,
    last: dict[str, str] | None,
    first_number: int,
) -> dict[str, str]:
    """Write the next snapshot of a table; an unchanged snapshot keeps its file."""
    key = "user_id" if name == "users" else "item_id"
    # Items and users missing from the source stay: rows of the log still refer to them.
    files = [fresh, *([folder / last["file"]] if last else [])]
    whole = " UNION ALL BY NAME ".join(f"SELECT * FROM read_parquet({literal(file)})" for file in files)
    schema = opened.execute(f"SELECT * FROM ({whole}) LIMIT 0").to_arrow_table().schema
    wide = wide_columns(schema)
    query = " UNION ALL BY NAME ".join(
        f"SELECT *, {-number} AS generation FROM ({narrow_columns(file, wide, number)})"
        for number, file in enumerate(files)
    )
    # A version starts at updated_at, or else at the creation; see the builder.
    version = ", ".join(column for column in ("updated_at", "created_at") if column in schema.names)
    same = f"{key}, coalesce({version})" if "updated_at" in schema.names else key
    opened.execute(
        f"CREATE OR REPLACE TEMP TABLE merged AS SELECT * EXCLUDE (generation) FROM ({query}) "
        f"QUALIFY row_number() OVER (PARTITION BY {same} ORDER BY generation DESC) = 1"
    )
    columns = {field.name: field.type if field.name in wide else None for field in schema}
    with OrderedRows(opened, "SELECT * FROM merged", same, columns, files, fresh.parent) as rows:
        with rows.relation() as relation:
            mark = mark_of(opened, relation)
        if not last or last["mark"] != mark:
            number = number_of(last) + 1 if last else first_number
            last = {"file": f"{name}-{number:05d}.parquet", "mark": mark}
            with written_beside(folder / last["file"]) as temporary:
                rows.write(temporary)
    opened.execute("DROP TABLE merged")
    return last


def snapshot_path(folder: Path, manifest: dict[str, Any] | None, name: str) -> Path | None:
    """File of a snapshot of a log; None if the log has none of that name."""
    snapshot = (manifest or {}).get("snapshots", {}).get(name)
    return folder / snapshot["file"] if snapshot else None
