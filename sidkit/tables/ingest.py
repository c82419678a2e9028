"""From the source to the validated log: ``data/log`` and ``data/rejects``.

The log is append-only. Each ingest adds one part with the rows that no earlier part holds, so that a builder can tell
which events are new, however late they come; items and embeddings are kept as snapshots. ``manifest.json`` is written
last; files that it does not list do not count.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb

from sidkit.config import content_hash
from sidkit.contract import Source, TableReport, open_source, validate
from sidkit.contract.validator import LOG_COLUMNS
from sidkit.engine import connection, literal
from sidkit.errors import ArtifactMissingError, SettingsChangedError
from sidkit.files import read_json, remove, write_json, written_beside
from sidkit.repo import Repo

_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Log:
    """The validated log of a repo."""

    parts: tuple[Path, ...]
    items: Path
    embeddings: Path
    manifest: dict[str, Any]

    @property
    def mark(self) -> dict[str, Any]:
        """What the log holds, as JSON values that are the same for the same rows."""
        snapshots = {name: snapshot["mark"] for name, snapshot in self.manifest["snapshots"].items()}
        return {"parts": [part["mark"] for part in self.manifest["parts"]], **snapshots}

    @property
    def rows(self) -> int:
        """Interactions in all parts."""
        return sum(part["rows"] for part in self.manifest["parts"])

    @property
    def first_us(self) -> int:
        """The moment of the first event, microseconds UTC."""
        return min(int(part["first_us"]) for part in self.manifest["parts"])

    @property
    def last_us(self) -> int:
        """The moment of the last event, microseconds UTC."""
        return max(int(part["last_us"]) for part in self.manifest["parts"])


@dataclass(frozen=True)
class IngestReport:
    """What one ingest did."""

    new_rows: int
    rows: int
    unchanged: bool
    tables: tuple[TableReport, ...]


def ingest(repo: Repo) -> IngestReport:
    """Read the source, check it, and append what is new to the log.

    Raises
    ------
    ContractError
        When the source breaks the contract beyond what the settings allow. The log is then what it was; the rejects
        are in ``data/rejects``.
    SettingsChangedError
        When the log was read under other settings.
    """
    settings = repo.settings
    source = open_source(settings.source.url)
    fingerprint = source.fingerprint()
    before = read_json(repo.log / _MANIFEST) if (repo.log / _MANIFEST).exists() else None
    if before is not None:
        _refuse_other_settings(before, _log_settings(repo))
        strictness = [
            settings.source.unknown_items,
            settings.source.missing_created_at,
            settings.source.max_reject_share,
        ]
        same = [before["fingerprint"], before["strictness"]] == [fingerprint, strictness]
        if fingerprint is not None and same:
            log = read_log(repo)
            _remove_unlisted(
                repo.log, before["parts"], before["snapshots"]
            )  # an ingest may have been killed before it did
            return IngestReport(0, log.rows, True, tuple(TableReport(**table) for table in before["tables"]))
    return _ingest(repo, source, fingerprint, before)


def _ingest(repo: Repo, source: Source, fingerprint: str | None, before: dict[str, Any] | None) -> IngestReport:
    settings = repo.settings
    work = repo.data / "tmp" / "ingest"
    remove(work)
    parts: list[dict[str, Any]] = list(before["parts"]) if before else []
    try:
        with connection(settings.engine, repo.data / "tmp" / "duckdb") as opened:
            valid = validate(source, settings, opened, work, repo.rejects)
            part = _append(opened, repo, valid.interactions, parts)
            snapshots = {
                name: _merge_snapshot(opened, repo.log, name, fresh, before)
                for name, fresh in (("items", valid.items), ("item_embeddings", valid.embeddings))
            }
    finally:
        remove(work)
    if part:
        parts.append(part)
    write_json(
        repo.log / _MANIFEST,
        {
            "parts": parts,
            "snapshots": snapshots,
            "fingerprint": fingerprint,
            "strictness": [
                settings.source.unknown_items,
                settings.source.missing_created_at,
                settings.source.max_reject_share,
            ],
            "settings": _log_settings(repo),
            "tables": [asdict(report) for report in valid.reports],
        },
    )
    _remove_unlisted(repo.log, parts, snapshots)
    rows = sum(entry["rows"] for entry in parts)
    return IngestReport(part["rows"] if part else 0, rows, False, valid.reports)


def read_log(repo: Repo) -> Log:
    """The validated log of a repo.

    Raises
    ------
    ArtifactMissingError
        When nothing was ingested yet.
    """
    path = repo.log / _MANIFEST
    if not path.exists():
        raise ArtifactMissingError(f"{repo.log} holds no log yet; run `sidkit data ingest --repo {repo.path}` first")
    manifest = read_json(path)
    parts = tuple(repo.log / "interactions" / part["file"] for part in manifest["parts"])
    items, embeddings = (repo.log / manifest["snapshots"][name]["file"] for name in ("items", "item_embeddings"))
    for file in (*parts, items, embeddings):
        if not file.is_file():
            raise ArtifactMissingError(
                f"{file} is missing although {path} lists it; delete {repo.log} and ingest the source again"
            )
    return Log(parts, items, embeddings, manifest)


def _append(
    opened: duckdb.DuckDBPyConnection, repo: Repo, valid: Path, parts: list[dict[str, Any]]
) -> dict[str, Any] | None:
    folder = repo.log / "interactions"
    columns = ", ".join(LOG_COLUMNS)
    new = f"SELECT {columns} FROM read_parquet({literal(valid)})"
    if parts:
        known = ", ".join(literal(folder / part["file"]) for part in parts)
        new += f" EXCEPT SELECT {columns} FROM read_parquet([{known}])"
    name = f"part-{len(parts):05d}.parquet"
    with written_beside(folder / name) as temporary:
        opened.execute(
            f"COPY (SELECT * FROM ({new}) ORDER BY timestamp, user_id, item_id, label, request_id NULLS FIRST, "
            f"position NULLS FIRST) TO {literal(temporary)} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 122880)"
        )
    facts = opened.execute(
        f"SELECT count(*), min(epoch_us(timestamp)), max(epoch_us(timestamp)) FROM read_parquet({literal(folder / name)})"
    ).fetchone()
    if not facts or not facts[0]:
        remove(folder / name)
        return None
    return {
        "file": name,
        "rows": facts[0],
        "first_us": facts[1],
        "last_us": facts[2],
        "mark": _mark(opened, f"read_parquet({literal(folder / name)})"),
    }


def _mark(opened: duckdb.DuckDBPyConnection, relation: str) -> str:
    """Text that is the same for the same set of rows."""
    row = opened.execute(f"SELECT count(*), bit_xor(hash(held)) FROM {relation} AS held").fetchone()
    return "-".join(map(str, row or ()))


def _merge_snapshot(
    opened: duckdb.DuckDBPyConnection, folder: Path, name: str, fresh: Path, before: dict[str, Any] | None
) -> dict[str, str]:
    """Write the next snapshot of a table; one that would say the same as the last keeps its file."""
    last: dict[str, str] | None = before["snapshots"][name] if before else None
    query = f"SELECT *, 1 AS generation FROM read_parquet({literal(fresh)})"
    if last:
        # What the source no longer lists stays: rows of the log still refer to it.
        query += f" UNION ALL BY NAME SELECT *, 0 AS generation FROM read_parquet({literal(folder / last['file'])})"
    opened.execute(f"CREATE OR REPLACE TEMP TABLE snapshot AS {query}")
    there = {row[0] for row in opened.execute("DESCRIBE snapshot").fetchall()}
    # A version counts from updated_at, or else from the item's creation: see the builder.
    moment = ", ".join(column for column in ("updated_at", "created_at") if column in there)
    same = f"item_id, coalesce({moment})" if "updated_at" in there else "item_id"
    opened.execute(
        f"CREATE OR REPLACE TEMP TABLE merged AS SELECT * EXCLUDE generation FROM snapshot "
        f"QUALIFY row_number() OVER (PARTITION BY {same} ORDER BY generation DESC) = 1"
    )
    mark = _mark(opened, "merged")
    if not last or last["mark"] != mark:
        number = int(last["file"].rsplit("-", 1)[1].removesuffix(".parquet")) + 1 if last else 0
        last = {"file": f"{name}-{number:05d}.parquet", "mark": mark}
        with written_beside(folder / last["file"]) as temporary:
            opened.execute(
                f"COPY (SELECT * FROM merged ORDER BY {same}) TO {literal(temporary)} (FORMAT parquet, COMPRESSION zstd)"
            )
    opened.execute("DROP TABLE snapshot; DROP TABLE merged")
    return last


def _remove_unlisted(folder: Path, parts: list[dict[str, Any]], snapshots: dict[str, dict[str, str]]) -> None:
    """Remove parts and snapshots that no manifest lists any more, or never did."""
    listed = {part["file"] for part in parts} | {snapshot["file"] for snapshot in snapshots.values()}
    for file in (*folder.glob("*.parquet"), *(folder / "interactions").glob("*.parquet")):
        if file.name not in listed:
            remove(file)


def _log_settings(repo: Repo) -> dict[str, Any]:
    source = repo.settings.source
    return {
        "source.modalities": list(source.modalities),
        "source.feedback": source.feedback,
        "source.conversions": source.conversions,
    }


def _refuse_other_settings(before: dict[str, Any], now: dict[str, Any]) -> None:
    if content_hash(before["settings"]) != content_hash(now):
        changed = {
            key: (before["settings"].get(key), now[key]) for key in now if before["settings"].get(key) != now[key]
        }
        raise SettingsChangedError(
            "the log in data/log", changed, "Put the old values back, or start a fresh repo with `sidkit init`."
        )
