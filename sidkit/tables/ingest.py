"""From the source to the validated log: ``data/log`` and ``data/rejects``.

The log holds one row per event (:data:`sidkit.contract.events.EVENT_KEY`). Each ingest adds one part with the rows that no
earlier part holds, so that a builder can tell which events are new, however late they come. A row that was corrected in the
source replaces the old one (:mod:`sidkit.tables.log_changes`). Items and embeddings are kept as snapshots. ``manifest.json``
is written last; files that it does not list do not count.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb

from sidkit.contract import Source, TableReport, open_source, validate
from sidkit.core.clock import present_us
from sidkit.core.config import content_hash
from sidkit.core.engine import connection, literal
from sidkit.core.errors import ArtifactMissingError, SettingsChangedError
from sidkit.core.files import remove, written_beside
from sidkit.core.integrity import hashes_of, read_sealed, read_verified, write_sealed
from sidkit.core.repo import Repo
from sidkit.tables.log_changes import compare, mark_of, number_of, write_added, write_removed, write_without_removed

_MANIFEST = "manifest.json"
_PARTS = "interactions"
_FORMAT = 2
"""2: one row per event, none after the moment of the ingest. Without a number: a log of an older release."""


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
    def folder(self) -> Path:
        """Where the parts lie."""
        return self.items.parent / _PARTS

    @property
    def consumed(self) -> dict[str, Any]:
        """What a build notes of the log that it read, for the methods below."""
        parts = [part["file"] for part in self.manifest["parts"]]
        return {"id": self.manifest.get("id"), "parts": parts, "mark": self.mark, "ingests": _ingests(self.manifest)}

    def continues(self, consumed: dict[str, Any]) -> bool:
        """Whether this log grew out of the one that a build noted: a log that was deleted and made anew did not."""
        known = consumed.get("id")
        return known in {None, self.manifest.get("id")} and _ingests(self.manifest) >= _ingests(consumed)

    def is_that_of(self, consumed: dict[str, Any]) -> bool:
        """Whether the log holds what a build noted, and nothing else."""
        return all(consumed[name] == self.consumed[name] for name in ("parts", "mark"))

    def since(self, consumed: dict[str, Any]) -> tuple[Path, ...]:
        """The files whose rows came, or were taken out, after a build noted what it read."""
        entries = [*self.manifest["parts"], *self.manifest.get("removed", [])]
        return tuple(self.folder / entry["file"] for entry in entries if number_of(entry) >= _ingests(consumed))

    def lost_since(self, consumed: dict[str, Any]) -> bool:
        """Whether rows were taken out after a build noted what it read."""
        return any(number_of(entry) >= _ingests(consumed) for entry in self.manifest.get("removed", []))

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
    """What one ingest did.

    ``new_rows`` events were not in the log before, ``changed`` were corrected, ``removed`` were taken out. ``vanished``
    are in the log and not, or no longer as valid rows, in the source. ``rows`` are in the log now.
    """

    new_rows: int
    rows: int
    unchanged: bool
    tables: tuple[TableReport, ...]
    changed: int = 0
    vanished: int = 0
    removed: int = 0


def ingest(
    repo: Repo, *, remove_vanished: bool = False, rebuild: bool = False, now_us: int | None = None
) -> IngestReport:
    """Read the source, check it, append what is new to the log and replace what was corrected.

    Parameters
    ----------
    repo : Repo
        Its settings name the source.
    remove_vanished : bool
        Take events out of the log that the source no longer holds. Not for sources that are rotated.
    rebuild : bool
        Forget the log and read the source as if for the first time: repairs a damaged log. Events that the source no
        longer holds are lost.
    now_us : int, optional
        The present, microseconds UTC: later rows are rejects. A row that was a reject for this reason alone is read
        again by the first ingest after its time.

    Raises
    ------
    ContractError
        When the source breaks the contract beyond what the settings allow. The log is then what it was; the rejects
        are in ``data/rejects``.
    SettingsChangedError
        When the log was read under other settings.
    """
    now = present_us() if now_us is None else now_us
    source = open_source(repo.settings.source.url)
    fingerprint = source.fingerprint()
    before = read_log(repo).manifest if (repo.log / _MANIFEST).exists() and not rebuild else None
    if before is not None:
        _refuse_other_settings(before, _log_settings(repo))
        same = [before["fingerprint"], before["strictness"]] == [fingerprint, _strictness(repo)]
        to_remove = remove_vanished and before.get("vanished", 0)
        if fingerprint is not None and same and not to_remove and not _outdated(before, now):
            rows = sum(part["rows"] for part in before["parts"])
            _remove_unlisted(repo.log, before)  # an ingest may have been killed before it did
            reports = tuple(TableReport(**table) for table in before["tables"])
            return IngestReport(0, rows, True, reports, vanished=before["vanished"])
    first_number = _next_number(repo.log) if rebuild else 0
    return _ingest(
        repo, source, fingerprint, before, now, remove_vanished=remove_vanished, first_number=first_number
    )  # fmt: skip


def must_read_again(repo: Repo, now_us: int) -> bool:
    """Whether the source of an existing log must be read again though it did not change.

    That is so when an older release made the log, and when the time of a row has come that was a reject because it lay
    after the present (``now_us``, microseconds UTC).
    """
    path = repo.log / _MANIFEST
    return path.exists() and _outdated(read_sealed(path), now_us)


def _outdated(manifest: dict[str, Any], now_us: int) -> bool:
    future = [table["future_us"] for table in manifest["tables"] if table.get("future_us") is not None]
    return manifest.get("format") != _FORMAT or (bool(future) and min(future) <= now_us)


def _ingest(
    repo: Repo,
    source: Source,
    fingerprint: str | None,
    before: dict[str, Any] | None,
    now_us: int,
    *,
    remove_vanished: bool,
    first_number: int,
) -> IngestReport:
    work = repo.data / "tmp" / "ingest"
    remove(work)
    parts: list[dict[str, Any]] = list(before["parts"]) if before else []
    removed: list[dict[str, Any]] = list(before.get("removed", [])) if before else []
    number = _ingests(before) if before else first_number
    try:
        with connection(repo.settings.engine, repo.data / "tmp" / "duckdb") as opened:
            valid = validate(source, repo.settings, opened, work, repo.rejects, now_us=now_us)
            known = [repo.log / _PARTS / part["file"] for part in parts]
            keyed = before is not None and before.get("format") == _FORMAT
            changes = compare(opened, valid.interactions, known, now_us, remove_vanished=remove_vanished, keyed=keyed)
            parts, taken_out = _take_out(opened, repo, parts, number)
            part = _append(opened, repo, number)
            snapshots = {
                name: _merge_snapshot(opened, repo.log, name, fresh, before, first_number)
                for name, fresh in (("items", valid.items), ("item_embeddings", valid.embeddings))
            }
    finally:
        remove(work)
    parts += [part] if part else []
    removed += [taken_out] if taken_out else []
    manifest = {
        "format": _FORMAT,
        "id": (before or {}).get("id") or parts[0]["mark"],
        "ingests": number + bool(part or taken_out),
        "parts": parts,
        "removed": removed,
        "snapshots": snapshots,
        "fingerprint": fingerprint,
        "strictness": _strictness(repo),
        "settings": _log_settings(repo),
        "tables": [asdict(report) for report in valid.reports],
        "vanished": changes.vanished,
    }
    write_sealed(repo.log / _MANIFEST, {**manifest, "files": hashes_of(repo.log, listed_files(manifest))})
    _remove_unlisted(repo.log, manifest)
    rows = sum(entry["rows"] for entry in parts)
    return IngestReport(
        changes.new, rows, False, valid.reports, changes.changed, changes.vanished, changes.removed
    )  # fmt: skip


def read_log(repo: Repo) -> Log:
    """The validated log of a repo.

    Raises
    ------
    ArtifactMissingError
        When nothing was ingested yet.
    ArtifactCorruptError
        When a file of the log is missing or damaged.
    """
    path = repo.log / _MANIFEST
    if not path.exists():
        raise ArtifactMissingError(f"{repo.log} holds no log yet; run `sidkit data ingest --repo {repo.path}` first")
    manifest = read_verified(path)
    parts = tuple(repo.log / _PARTS / part["file"] for part in manifest["parts"])
    items, embeddings = (repo.log / manifest["snapshots"][name]["file"] for name in ("items", "item_embeddings"))
    return Log(parts, items, embeddings, manifest)


def _append(opened: duckdb.DuckDBPyConnection, repo: Repo, number: int) -> dict[str, Any] | None:
    return write_added(opened, repo.log / _PARTS / f"part-{number:05d}.parquet")


def _take_out(
    opened: duckdb.DuckDBPyConnection, repo: Repo, parts: list[dict[str, Any]], number: int
) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """The parts without the rows that are true no more, and the file of those rows."""
    removed = write_removed(opened, repo.log / _PARTS / f"removed-{number:05d}.parquet")
    if removed is None:
        return parts, None
    return write_without_removed(opened, repo.log / _PARTS, parts, number), removed


def _merge_snapshot(
    opened: duckdb.DuckDBPyConnection,
    folder: Path,
    name: str,
    fresh: Path,
    before: dict[str, Any] | None,
    first_number: int,
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
    mark = mark_of(opened, "merged")
    if not last or last["mark"] != mark:
        number = number_of(last) + 1 if last else first_number
        last = {"file": f"{name}-{number:05d}.parquet", "mark": mark}
        with written_beside(folder / last["file"]) as temporary:
            opened.execute(
                f"COPY (SELECT * FROM merged ORDER BY {same}) TO {literal(temporary)} (FORMAT parquet, COMPRESSION zstd)"
            )
    opened.execute("DROP TABLE snapshot; DROP TABLE merged")
    return last


def _remove_unlisted(folder: Path, manifest: dict[str, Any]) -> None:
    """Remove parts and snapshots that the manifest does not list any more, or never did."""
    listed = set(listed_files(manifest))
    for file in (*folder.glob("*.parquet"), *(folder / _PARTS).glob("*.parquet")):
        if file.relative_to(folder).as_posix() not in listed:
            remove(file)


def _next_number(folder: Path) -> int:
    """A number that no file of the log has: one that is read anew leaves the old one whole until it is done."""
    numbers = [number_of({"file": file.name}) for file in folder.rglob("*-[0-9]*.parquet")]
    return max(numbers, default=-1) + 1


def listed_files(manifest: dict[str, Any]) -> list[str]:
    """The files of a log, relative to its folder."""
    parts = [f"{_PARTS}/{entry['file']}" for entry in (*manifest["parts"], *manifest.get("removed", []))]
    return parts + [snapshot["file"] for snapshot in manifest["snapshots"].values()]


def _ingests(noted: dict[str, Any]) -> int:
    """How many ingests changed the events of a log, by its manifest or by what a build noted of it."""
    return int(noted.get("ingests", len(noted["parts"])))


def _strictness(repo: Repo) -> list[Any]:
    source = repo.settings.source
    return [source.unknown_items, source.missing_created_at, source.max_reject_share]


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
