"""Ingestion of the source into the validated log: ``data/log`` and ``data/rejects``.

The log has one row per event (:data:`sidkit.contract.events.EVENT_KEY`). Each ingest adds one part with the rows that no
earlier part has, so that a build can identify new events, however late they arrive. A row corrected in the source
replaces the old one (:mod:`sidkit.tables.log_changes`). Items, embeddings and users are stored as snapshots. ``manifest.json``
is written last; files that it does not list are ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb

from sidkit.contract import Source, TableReport, open_source, validate
from sidkit.contract.context import further_columns, log_types
from sidkit.core.clock import present_us
from sidkit.core.config import content_hash
from sidkit.core.engine import connection
from sidkit.core.errors import ArtifactCorruptError, SettingsChangedError
from sidkit.core.files import remove
from sidkit.core.forgotten import Forgotten, read_forgotten
from sidkit.core.integrity import MANIFEST, read_sealed
from sidkit.core.repo import Repo
from sidkit.tables.log import FORMAT, PARTS, has_log, ingests_of, read_log, remove_unlisted, write_log
from sidkit.tables.log_changes import (
    compare,
    number_of,
    of_events,
    with_columns,
    write_added,
    write_removed,
    write_without_removed,
)
from sidkit.tables.origins import OVERRIDDEN, kept_events, overridden_snapshot, reconcile
from sidkit.tables.pushed_items import keep_pushed_items, pushed_path
from sidkit.tables.snapshots import merge_snapshots, snapshot_path


@dataclass(frozen=True)
class IngestReport:
    """Result of an ingest.

    ``new_rows`` events are new in the log, ``changed`` were corrected, ``removed`` were removed. ``vanished`` events are in
    the log but missing or no longer valid in the source. ``rows`` is the size of the log. ``read_again`` says why the log was
    read again from an unchanged source, if it was. ``forgotten`` rows of the source, of forgotten users, were left out.
    """

    new_rows: int
    rows: int
    unchanged: bool
    tables: tuple[TableReport, ...]
    changed: int = 0
    vanished: int = 0
    removed: int = 0
    read_again: str = ""
    forgotten: int = 0


def ingest(
    repo: Repo, *, remove_vanished: bool = False, rebuild: bool = False, now_us: int | None = None
) -> IngestReport:
    """Read and validate the source, append new events to the log and replace corrected ones.

    Parameters
    ----------
    repo : Repo
        Repository whose settings name the source.
    remove_vanished : bool
        Remove events from the log that are no longer in the source. Not for rotated sources.
    rebuild : bool
        Discard the log and read the whole source again, to repair a damaged log. Events that are no longer in the source
        are lost.
    now_us : int, optional
        Current time, microseconds UTC: later rows are rejected. A row rejected for this reason alone is read again by the
        first ingest after its time.

    Raises
    ------
    ContractError
        When the source breaks the contract beyond the limits in the settings. The log is then unchanged; the rejected rows
        are in ``data/rejects``.
    SettingsChangedError
        When the log was ingested with other settings.
    """
    now = present_us() if now_us is None else now_us
    forgotten = read_forgotten(repo.path)
    source = open_source(repo.settings.source.url, repo.settings.source)
    fingerprint = source.fingerprint()
    before = read_log(repo).manifest if has_log(repo) and not rebuild else None
    if before is not None:
        _refuse_other_settings(before, _log_settings(repo))
        same = [before["fingerprint"], before["strictness"]] == [fingerprint, _strictness(repo)]
        to_remove = remove_vanished and before.get("vanished", 0)
        again = _context_changes(before, repo)
        if fingerprint is not None and same and not to_remove and not again and not _outdated(before, now):
            rows = sum(part["rows"] for part in before["parts"])
            remove_unlisted(repo.log, before)  # a killed ingest may have left some
            reports = tuple(TableReport(**table) for table in before["tables"])
            return IngestReport(0, rows, True, reports, vanished=before["vanished"], forgotten=_forgotten(reports))
    first_number = _next_number(repo.log) if rebuild else 0
    return _ingest(
        repo, source, fingerprint, before, now, forgotten, remove_vanished=remove_vanished, first_number=first_number
    )


def must_read_again(repo: Repo, now_us: int) -> bool:
    """Whether the source of an existing log must be read again although it did not change.

    This is the case if the log is from an older release, or if a row was rejected for lying in the future and its time has
    come (``now_us``, microseconds UTC).
    """
    path = repo.log / MANIFEST
    return path.exists() and _outdated(read_sealed(path), now_us)


def _outdated(manifest: dict[str, Any], now_us: int) -> bool:
    future = [table["future_us"] for table in manifest["tables"] if table.get("future_us") is not None]
    return manifest.get("format") != FORMAT or (bool(future) and min(future) <= now_us)


def _ingest(
    repo: Repo,
    source: Source,
    fingerprint: str | None,
    before: dict[str, Any] | None,
    now_us: int,
    forgotten: Forgotten | None,
    *,
    remove_vanished: bool,
    first_number: int,
) -> IngestReport:
    work = repo.data / "tmp" / "ingest"
    remove(work)
    pushes = before or _pushes_to_keep(repo)
    parts: list[dict[str, Any]] = list(before["parts"]) if before else kept_events(repo.log / PARTS, pushes)
    removed: list[dict[str, Any]] = list(before.get("removed", [])) if before else []
    number = ingests_of(before) if before else first_number
    try:
        with connection(repo.settings.engine, repo.data / "tmp" / "duckdb") as opened:
            shapes = _shapes(before, repo)
            catalogue = [path for path in [pushed_path(repo.log, pushes)] if path]
            valid = validate(
                source,
                repo.settings,
                opened,
                work,
                repo.rejects,
                now_us=now_us,
                shapes=shapes,
                forgotten=forgotten,
                catalogue=catalogue,
            )
            types = log_types(repo.settings.features.context)
            if again := _context_changes(before, repo) if before else "":
                parts = _with_context(opened, repo, parts, valid.interactions, before or {})
            overridden = snapshot_path(repo.log, before, OVERRIDDEN)
            reconciled = reconcile(opened, repo.log / PARTS, parts, overridden, valid.interactions, types, number)
            parts = reconciled.parts
            known = [repo.log / PARTS / part["file"] for part in parts if not of_events(part)]
            keyed = before is not None and before.get("format") == FORMAT
            changes = compare(
                opened, reconciled.valid, known, now_us, remove_vanished=remove_vanished, keyed=keyed, types=types
            )
            parts, taken_out = _take_out(opened, repo, parts, number)
            part = _append(opened, repo, number)
            snapshots = merge_snapshots(opened, repo.log, valid, before, first_number)
            last = before["snapshots"].get(OVERRIDDEN) if before else None
            snapshots |= overridden_snapshot(opened, repo.log, last, first_number)
            source_items = _source_items(before, snapshots)
            if before is None and pushes:
                snapshots = keep_pushed_items(opened, repo.log, pushes, snapshots, first_number, work)
    finally:
        remove(work)
    parts += [part] if part else []
    removed += [taken_out] if taken_out else []
    manifest = {
        "format": FORMAT,
        "id": (before or {}).get("id") or (part or parts[0])["mark"],
        "ingests": number + bool(part or taken_out),
        "parts": parts,
        "removed": removed,
        "snapshots": snapshots,
        "fingerprint": fingerprint,
        "strictness": _strictness(repo),
        "settings": _log_settings(repo),
        "tables": [asdict(report) for report in valid.reports],
        "vanished": changes.vanished,
        "context": _context(repo),
        "shapes": valid.shapes,
        "source_items": source_items,
    }
    write_log(repo, manifest)
    remove_unlisted(repo.log, manifest)
    rows = sum(entry["rows"] for entry in parts)
    counts = (changes.changed, changes.vanished, changes.removed)
    return IngestReport(changes.new, rows, False, valid.reports, *counts, again, _forgotten(valid.reports))


def _forgotten(reports: Sequence[TableReport]) -> int:
    return sum(report.forgotten for report in reports)


def _source_items(before: dict[str, Any] | None, snapshots: dict[str, dict[str, str]]) -> str:
    """Fingerprint of the items as the last ingest that changed them left them: pushed items do not change it."""
    mark = snapshots["items"]["mark"]
    if before is not None and before["snapshots"]["items"]["mark"] == mark:
        return str(before.get("source_items", mark))
    return mark


def _pushes_to_keep(repo: Repo) -> dict[str, Any]:
    """Manifest of a log that is discarded: events and items that were pushed to it are kept; empty if it cannot be read."""
    try:
        return read_sealed(repo.log / MANIFEST)
    except ArtifactCorruptError:
        return {}


def _append(opened: duckdb.DuckDBPyConnection, repo: Repo, number: int) -> dict[str, Any] | None:
    return write_added(opened, repo.log / PARTS / f"part-{number:05d}.parquet")


def _take_out(
    opened: duckdb.DuckDBPyConnection, repo: Repo, parts: list[dict[str, Any]], number: int
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """Remove outdated rows from the parts; return the entries of the parts and of the file of removed rows."""
    removed = write_removed(opened, repo.log / PARTS / f"removed-{number:05d}.parquet")
    if removed is None:
        return parts, None
    types = log_types(repo.settings.features.context)
    return write_without_removed(opened, repo.log / PARTS, parts, number, types), removed


def _next_number(folder: Path) -> int:
    """A number unused by any file of the log, so that a rebuild leaves the old files intact until it is done."""
    numbers = [number_of({"file": file.name}) for file in folder.rglob("*-[0-9]*.parquet")]
    return max(numbers, default=-1) + 1


def _strictness(repo: Repo) -> list[Any]:
    source = repo.settings.source
    stated = [source.unknown_items, source.missing_created_at, source.max_reject_share]
    forms = source.model_dump(
        mode="json", include={"tables", "columns", "label", "times", "vectors"}, exclude_defaults=True
    )
    return [*stated, forms] if forms else stated  # as logs of earlier releases have it


def _log_settings(repo: Repo) -> dict[str, Any]:
    source = repo.settings.source
    return {
        "source.modalities": list(source.modalities),
        "source.feedback": source.feedback,
        "source.conversions": source.conversions,
    }


def _context(repo: Repo) -> dict[str, str]:
    """The context columns of the log with their kinds."""
    return dict(further_columns(repo.settings.features.context))


def _context_changes(before: dict[str, Any], repo: Repo) -> str:
    """Say how the context columns differ from those of an earlier ingest; empty if they do not."""
    was, now = before.get("context", {}), _context(repo)
    words = {
        "added": [name for name in now if name not in was],
        "removed": [name for name in was if name not in now],
        "changed": [name for name in now if name in was and was[name] != now[name]],
    }
    listed = "; ".join(f"{word} {', '.join(names)}" for word, names in words.items() if names)
    return f"features.context: {listed}; the log was read again from the source" if listed else ""


def _shapes(before: dict[str, Any] | None, repo: Repo) -> dict[str, Any]:
    """Shapes of the context columns whose kind is that of an earlier ingest."""
    was, shapes = (before or {}).get("context", {}), (before or {}).get("shapes", {})
    return {name: shapes[name] for name, kind in _context(repo).items() if was.get(name) == kind and name in shapes}


def _with_context(
    opened: duckdb.DuckDBPyConnection, repo: Repo, parts: list[dict[str, Any]], valid: Path, before: dict[str, Any]
) -> list[dict[str, Any]]:
    """Rewrite the parts with the context columns of the settings; their events stay, so that no table is rebuilt."""
    was, now = before.get("context", {}), _context(repo)
    types, mark = log_types(repo.settings.features.context), f"c{content_hash(now)[:8]}"
    fresh = [name for name, kind in now.items() if was.get(name) != kind]
    return with_columns(opened, repo.log / PARTS, parts, valid, types, fresh, mark)


def _refuse_other_settings(before: dict[str, Any], now: dict[str, Any]) -> None:
    if content_hash(before["settings"]) != content_hash(now):
        changed = {
            key: (before["settings"].get(key), now[key]) for key in now if before["settings"].get(key) != now[key]
        }
        raise SettingsChangedError(
            "the log in data/log", changed, "Restore the old values, or create a new repository with `sidkit init`."
        )
