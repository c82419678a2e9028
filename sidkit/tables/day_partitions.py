"""Feature tables as sources partitioned by day: ``data/sources/<table>/event_date=YYYY-MM-DD/part-0.parquet``.

``[engine] partitions = "day"`` turns them on. Feast's feature views then read these folders, and a retrieval opens only the
days that its rows can see. The table in one file stays: builds work on it. After a build the days whose rows changed are
written again, in one pass over the table, beside their files and renamed. ``_manifest.json`` lists the files with their
hashes, and the hash of the table that they have the rows of: a reader refuses days that are older than their table.

A day is that of ``event_timestamp`` in UTC: the moment from which serving could have read the row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sidkit.core.arrays import Ints
from sidkit.core.clock import MICROS
from sidkit.core.engine import GROUP_ROWS, connection, literal, quoted
from sidkit.core.errors import ArtifactCorruptError
from sidkit.core.files import remove, sha256, sync, temporary_beside
from sidkit.core.integrity import (
    DAYS_MANIFEST,
    FILES,
    PENDING,
    checked,
    hash_of,
    manifest_of,
    read_sealed,
    write_sealed,
)
from sidkit.core.repo import Repo

COLUMN = "event_date"
"""Column that the names of the folders add."""
TABLE = "table"
"""Key of the manifest: SHA-256 of the table with the same rows."""
_DAYS = "days"
"""Key of the manifest: day -> number of rows and a hash of them."""
_TIMES = {"event_timestamp", "created_timestamp"}
_EMPTY = date(1970, 1, 1)
"""Day of the file without rows of an empty table: readers need its columns."""


@dataclass(frozen=True)
class DaysReport:
    """Days of one table: written, removed and left as they were."""

    written: int
    removed: int
    unchanged: int


def partitioned(repo: Repo) -> bool:
    """Whether the sources of a repository are partitioned by day."""
    return repo.settings.engine.partitions == "day"


def write_days(repo: Repo) -> dict[str, DaysReport]:
    """Bring the sources of all feature tables up to date; call it while holding the repository's lock.

    Only days whose rows changed are written. A killed call is finished by the next one. Without ``partitions = "day"`` nothing
    is done.

    Returns
    -------
    dict
        Table -> report of its days, for tables that changed.

    Raises
    ------
    ArtifactCorruptError
        When a table does not match its manifest.
    """
    if not partitioned(repo):
        return {}
    tables = {path.stem: path for path in sorted(repo.tables.glob("*.parquet")) if _is_source(path)}
    if repo.sources.is_dir():
        for folder in repo.sources.iterdir():
            if folder.name not in tables and not folder.name.startswith("."):
                remove(folder / DAYS_MANIFEST)  # first: files missing from a manifest would look like damage
                remove(folder)
    reports = {name: _write_table(repo, path, repo.sources / name) for name, path in tables.items()}
    return {name: report for name, report in reports.items() if report is not None}


def _is_source(path: Path) -> bool:
    return manifest_of(path) is not None and set(pq.read_schema(path).names) >= _TIMES


def _write_table(repo: Repo, table: Path, folder: Path) -> DaysReport | None:
    before = _intact(folder)
    digest = hash_of(checked(table))
    if before[TABLE] == digest:
        return None
    manifest = folder / DAYS_MANIFEST
    folder.mkdir(parents=True, exist_ok=True)
    if not manifest.is_file() or before[TABLE]:
        write_sealed(manifest, {**before, TABLE: ""})  # readers refuse the folder until it is complete
    with connection(repo.settings.engine, repo.data / "tmp" / "duckdb") as opened:
        days = dict(_days(opened, table)) or {_EMPTY.isoformat(): [0, ""]}
    changed = [day for day, stamp in days.items() if before[_DAYS].get(day) != stamp]
    _replace_days(table, folder, set(changed))
    gone = 0
    for path in sorted(folder.glob(f"{COLUMN}=*")):
        if path.name.removeprefix(f"{COLUMN}=") not in days:
            remove(path)
            gone += 1
    files = {_file(day): hash_of(folder / _file(day)) for day in days}
    write_sealed(manifest, {FILES: files, _DAYS: days, TABLE: digest})
    return DaysReport(len(changed), gone, len(days) - len(changed))


def _intact(folder: Path) -> dict[str, Any]:
    """The manifest of a folder with those of its days whose files are intact; an empty one if there is none."""
    try:
        stated = read_sealed(folder / DAYS_MANIFEST)
    except ArtifactCorruptError:
        return {FILES: {}, _DAYS: {}, TABLE: ""}
    intact = {
        name for name, digest in stated[FILES].items() if (folder / name).is_file() and hash_of(folder / name) == digest
    }
    if intact != stated[FILES].keys():
        stated[TABLE] = ""
    days = {day: stamp for day, stamp in stated[_DAYS].items() if _file(day) in intact}
    return {FILES: stated[FILES], _DAYS: days, TABLE: stated[TABLE]}


def _days(opened: duckdb.DuckDBPyConnection, table: Path) -> Iterator[tuple[str, list[Any]]]:
    """Each day of a table with the number of its rows and a hash of them that does not depend on their order."""
    columns = ", ".join(map(quoted, pq.read_schema(table).names))
    rows = opened.execute(
        f"SELECT strftime(event_timestamp::TIMESTAMP, '%Y-%m-%d') AS day, count(*), sum(hash({columns}))::VARCHAR "
        f"FROM read_parquet({literal(table)}) GROUP BY day ORDER BY day"
    ).fetchall()
    yield from ((day, [count, digest]) for day, count, digest in rows)


def _replace_days(table: Path, folder: Path, days: set[str]) -> None:
    """Write the files of some days beside the others, record their hashes as pending, and rename them."""
    manifest = folder / DAYS_MANIFEST
    with temporary_beside(folder / "days", "") as beside:
        remove(beside)
        _split(table, beside, days)
        for day in days:
            sync(beside / _file(day))
        pending = {_file(day): sha256(beside / _file(day)) for day in days}
        write_sealed(manifest, {**read_sealed(manifest), PENDING: pending})
        for day in sorted(days):
            target = folder / _file(day)
            target.parent.mkdir(exist_ok=True)
            (beside / _file(day)).replace(target)


def _split(table: Path, target: Path, days: set[str]) -> None:
    """Read a table once, and write a file for each of some of its days; rows keep their order."""
    with pq.ParquetFile(table) as opened:
        known = _day_numbers(opened.read(columns=["event_timestamp"]).column(0))
        in_order = bool((np.diff(known) >= 0).all())
        parts = opened.iter_batches(GROUP_ROWS) if in_order else [opened.read().take(np.argsort(known, kind="stable"))]
        schema = opened.schema_arrow.remove_metadata()
        writer: pq.ParquetWriter | None = None
        writing = ""
        if not len(known):
            parts, days = [], set()
            _new_file(target, _EMPTY.isoformat(), schema).close()
        try:
            for part in parts:
                numbers = _day_numbers(part.column("event_timestamp"))
                edges = [0, *(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
                for first, end in pairwise(edges):
                    day = (date(1970, 1, 1) + timedelta(days=int(numbers[first]))).isoformat()
                    if day not in days:
                        continue
                    if writer is None or day != writing:
                        if writer is not None:
                            writer.close()
                        writer, writing = _new_file(target, day, schema), day
                    rows = part.slice(first, end - first)
                    table_of = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
                    writer.write_table(table_of.cast(schema), row_group_size=GROUP_ROWS)
        finally:
            if writer is not None:
                writer.close()


def _new_file(target: Path, day: str, schema: pa.Schema) -> pq.ParquetWriter:
    path = target / _file(day)
    path.parent.mkdir(parents=True, exist_ok=True)
    return pq.ParquetWriter(path, schema, compression="zstd", store_schema=False)


def _day_numbers(moments: pa.ChunkedArray | pa.Array) -> Ints:
    """Days since 1970 of times, ``int64 [rows]``."""
    micros = moments.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy(zero_copy_only=False)
    days: Ints = micros // (86_400 * MICROS)
    return days


def _file(day: str) -> str:
    return f"{COLUMN}={day}/part-0.parquet"
