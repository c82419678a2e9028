"""Incremental builds of the feature tables from the log, bounded by ``as_of`` and idempotent.

``data/tables/manifest.json`` is written last. It records the as-of time, the parts of the log, the settings and the
``generation`` (the number of builds from scratch) of the tables. A build computes the rows that became due since then; an
event that arrives late, is corrected or is removed from the log rebuilds the rows of its keys from its time on. Every table
is written beside its target and renamed. Rerunning a killed build starts from the same manifest and gives the same tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sidkit.core.artifact import read_manifest
from sidkit.core.clock import check_as_of, iso, present_us
from sidkit.core.config import content_hash
from sidkit.core.engine import literal, quoted, set_variables, working_on
from sidkit.core.errors import ArtifactCorruptError, ArtifactMissingError, SettingsChangedError, TimeError
from sidkit.core.feature_settings import ITEM_ATTRIBUTES, ITEM_ID, FeatureSettings
from sidkit.core.integrity import checked, hashes_of, read_sealed, read_verified, replaced, write_sealed
from sidkit.core.repo import Repo
from sidkit.core.sql_connection import SqlConnection, columns_of
from sidkit.tables.affinity import EVENTS, NEW_EVENTS, affinity_tables, has_late_rows, read_valued_events, rows_query
from sidkit.tables.attributes import (
    ATTRIBUTE_TABLES,
    changes_of,
    defined_tables,
    kept_columns,
    read_versions_of,
    remove_undefined,
)
from sidkit.tables.code_stats import follow_tables
from sidkit.tables.content import read_content
from sidkit.tables.counts import count_events, merge_by_restart, next_window_us, read_events
from sidkit.tables.day_partitions import write_days
from sidkit.tables.engines import table_connection
from sidkit.tables.keys import entity_sql, key_columns
from sidkit.tables.log import Log, read_log
from sidkit.tables.versions import merge_versions, with_columns_of
from sidkit.tables.withdrawn import withdraw

TABLES = ("item_content", "item_stats", "user_history", "user_stats")
"""Tables computed from the log alone, besides those of ``[features]``; ``item_sid_<codebook>`` comes from a codebook."""

_MANIFEST = "manifest.json"
_SQL = Path(__file__).parent
_NO_FEATURES = FeatureSettings().table_settings
"""Attributes of tables that an older release built."""


@dataclass(frozen=True)
class BuildReport:
    """Result of a build: rows per table, new rows per table, and whether nothing changed.

    ``restarted`` is the reason for an automatic build from scratch, else empty. ``notes`` are sentences on attribute tables
    that were rebuilt because ``[features]`` changed, on values that could not be read, and on statistics of codes that could
    not be updated.
    """

    as_of_us: int
    rows: dict[str, int]
    new_rows: dict[str, int]
    unchanged: bool
    restarted: str = ""
    notes: tuple[str, ...] = ()
    code_rows: Mapping[str, int] = field(default_factory=dict)
    """New rows per table of statistics of codes."""


def build_tables(
    repo: Repo, as_of_us: int, *, rebuild: bool = False, allow_future: bool = False, now_us: int | None = None
) -> BuildReport:
    """Build or extend the feature tables.

    Parameters
    ----------
    repo : Repo
        Repository with an ingested log.
    as_of_us : int
        No row is later than this time (microseconds UTC); counts decay up to it even without events.
    rebuild : bool
        Build from scratch. Required to go back in time, or after a change of settings.
    allow_future : bool
        Accept an ``as_of_us`` in the future.
    now_us : int, optional
        Current time, microseconds UTC. A previous build with a later as-of time was made with a wrong clock and is
        discarded.

    Raises
    ------
    TimeError
        When ``as_of_us`` is before the previous build, in the future, or outside the valid range of events.
    SettingsChangedError
        When the previous build, or an artefact made from it, had other settings.
    ArtifactMissingError
        When there is no log.
    """
    now = present_us() if now_us is None else now_us
    check_as_of(as_of_us, allow_future=allow_future, now_us=now)
    log = read_log(repo)
    refuse_settings_of_artifacts(repo)
    previous = None if rebuild else _previous(repo, verify=True)
    stated = repo.settings.feature_settings()
    restarted = ""
    if previous is not None:
        if content_hash(previous["settings"]) != content_hash(stated):
            remedy = "Restore the old values, or rebuild the tables with `sidkit tables build --rebuild`."
            raise SettingsChangedError("data/tables", changed_settings(previous["settings"], stated), remedy)
        if previous["as_of_us"] > max(as_of_us, now) and not allow_future:
            restarted = (
                f"the tables were built as of {iso(previous['as_of_us'])}, which is in the future; rebuilding them"
            )
        elif not log.continues(previous["log"]):
            restarted = "the tables were built from another log; rebuilding them"
        rebuild = bool(restarted)
    before = None if rebuild else previous
    generation = before["generation"] if before is not None else _next_generation(repo)
    if before is not None:
        if as_of_us < before["as_of_us"]:
            raise TimeError(
                f"expected --as-of no earlier than the tables ({iso(before['as_of_us'])}), got {iso(as_of_us)}; use a "
                "later --as-of, or rebuild the tables with `sidkit tables build --rebuild`"
            )
        same = as_of_us == before["as_of_us"] and log.is_that_of(before["log"])
        if same and before.get("features", _NO_FEATURES) == repo.settings.features.table_settings:
            remove_undefined(repo.tables, before["rows"])  # a killed build may have left some
            code_rows, code_notes = follow_tables(repo, before)
            write_days(repo)
            none_new = dict.fromkeys(before["rows"], 0)
            return BuildReport(as_of_us, before["rows"], none_new, True, notes=code_notes, code_rows=code_rows)
    noted = {"settings": stated, "features": repo.settings.features.table_settings, "generation": generation}
    report = _build(repo, log, as_of_us, before, noted, now)
    return replace(report, restarted=restarted)


def read_build(repo: Repo) -> dict[str, Any]:
    """Read the manifest of the tables: ``as_of_us``, ``rows``, ``settings``, ``features``, ``log``.

    Raises
    ------
    ArtifactMissingError
        When no tables were built yet.
    ArtifactCorruptError
        When the manifest is damaged. The tables themselves are verified when they are read.
    """
    manifest = _previous(repo)
    if manifest is None:
        raise ArtifactMissingError(
            f"expected feature tables in {repo.tables}, got none; run `sidkit tables build --repo {repo.path}` first"
        )
    return manifest


def changed_settings(was: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[object, object]]:
    """The settings that differ, each with its old and new value."""
    return {key: (was.get(key), now.get(key)) for key in {**was, **now} if was.get(key) != now.get(key)}


def _previous(repo: Repo, *, verify: bool = False) -> dict[str, Any] | None:
    path = repo.tables / _MANIFEST
    if not path.exists():
        return None
    for name in read_sealed(path)["rows"]:
        if not (repo.tables / f"{name}.parquet").is_file():
            raise ArtifactMissingError(
                f"{repo.tables / name}.parquet is missing although {path.name} lists it; rebuild the tables with "
                "`sidkit tables build --rebuild`"
            )
    return read_verified(path) if verify else read_sealed(path)


def _next_generation(repo: Repo) -> int:
    """Number of the next build from scratch: higher than in any readable file, since codes refer to it."""
    known = [-1]
    for path in (repo.tables / _MANIFEST, *repo.tables.glob("item_sid_*.json")):
        try:
            known.append(int(read_sealed(path)["generation"]))
        except (ArtifactCorruptError, KeyError):
            continue  # damaged: rebuilt by this build or the next refresh
    return max(known) + 1


def refuse_settings_of_artifacts(repo: Repo) -> None:
    """Raise if existing artefacts were made with other feature settings.

    Raises
    ------
    SettingsChangedError
        Names the first such artefact and the changed settings.
    """
    stated = repo.settings.feature_settings()
    for folder in (repo.codebooks, repo.rankers):
        for path in sorted(folder.glob("*/manifest.json")):
            try:
                made_with = read_manifest(path.parent, verify=False).get("feature_settings")
            except ArtifactCorruptError:
                continue  # not served until it is rebuilt, with the current settings
            if made_with is not None and content_hash(made_with) != content_hash(stated):
                raise SettingsChangedError(
                    f"{path.parent.name} in {path.parent.parent.name}",
                    changed_settings(made_with, stated),
                    "Restore the old values, purge the artefact, or create a new repository with `sidkit init`.",
                )


def _build(
    repo: Repo, log: Log, as_of_us: int, before: dict[str, Any] | None, noted: dict[str, Any], now_us: int
) -> BuildReport:
    time = repo.settings.time
    with table_connection(repo) as opened:
        set_variables(
            opened,
            {
                "as_of_us": as_of_us,
                "delay_us": time.delay_us,
                "cadence_us": time.cadence_us,
                "history_length": time.history_length,
                "positives_only": repo.settings.source.feedback == "positives_only",
                "conversions": repo.settings.source.conversions,
            },
        )
        read_events(opened, log, before)
        read_content(opened, log, noted["settings"]["source.modalities"])
        defined, affinity = defined_tables(noted["features"]), affinity_tables(noted["features"])
        was = before.get("features", _NO_FEATURES) if before else _NO_FEATURES
        changed = changes_of(was, noted["features"]) if before else {}
        kept = {name: kept_columns(was, noted["features"], name) for name in defined}
        attributes = {
            name: read_versions_of(repo, opened, name, columns, log, _shapes_of(before, name, kept[name]))
            for name, columns in defined.items()
        }
        rows, new = {}, {}
        for name in (*TABLES, *attributes, *affinity):
            known = None if name in changed else before
            old = f"read_parquet({literal(repo.tables / f'{name}.parquet')})" if known else None
            with working_on(f"building the table {name}"):
                if name in affinity:
                    kind = defined.get(ITEM_ATTRIBUTES, {}).get(affinity[name], "category")
                    read_valued_events(opened, affinity[name], kind, repo.tables / f"{ITEM_ATTRIBUTES}.parquet")
                if name.endswith("_stats"):
                    events = (EVENTS, NEW_EVENTS) if name in affinity else ("events", "new_events")
                    restart_us = next_window_us(known, time.delay_us, time.cadence_us)
                    count_events(opened, key_columns(name), old, restart_us, events, conversions=name == "item_stats")
                elif name == "user_history":
                    _prepare_history(opened, before, time.delay_us)
                query = rows_query(affinity[name]) if name in affinity else _query(name)
                payload = list(defined.get(name, ()))
                if name == "item_content":
                    payload = [*noted["settings"]["source.modalities"], "category", "price", "created_at_us"]
                earlier = f"SELECT * FROM {old}" if old else None
                if name in changed and kept.get(name):  # corrections in place left rows that the log does not have
                    path = repo.tables / f"{name}.parquet"
                    earlier = with_columns_of(path, query, key_columns(name)[0], payload, kept[name])
                merged = (
                    merge_versions(query, earlier, key_columns(name)[0], payload)
                    if payload
                    else merge_by_restart(query, key_columns(name), old, columns_of(opened, query))
                )
                opened.execute(f"CREATE OR REPLACE TEMP TABLE written AS {merged}")
                if name == ITEM_ATTRIBUTES and affinity and known and has_late_rows(opened, known):
                    of_values = [view for view, attribute in affinity.items() if attribute != ITEM_ID]
                    changed |= dict.fromkeys(of_values, "item_attributes got versions of earlier times")
                _withdraw(opened, repo.tables, name, log, known, now_us)
                rows[name], new[name] = _write(opened, name, repo.tables / f"{name}.parquet", known)
    noted["shapes"] = {name: table.shapes for name, table in attributes.items()}
    files = hashes_of(repo.tables, [f"{name}.parquet" for name in rows])
    manifest = {"as_of_us": as_of_us, "log": log.consumed, "rows": rows, "files": files, **noted}
    write_sealed(repo.tables / _MANIFEST, manifest)
    remove_undefined(repo.tables, rows)
    code_rows, code_notes = follow_tables(repo, manifest)
    write_days(repo)
    notes = [f"{change}; {name} was {_done(name, rows, before)}" for name, change in changed.items()]
    notes += [note for table in attributes.values() for note in table.notes]
    return BuildReport(as_of_us, rows, new, unchanged=False, notes=(*notes, *code_notes), code_rows=code_rows)


def _done(name: str, rows: Mapping[str, int], before: dict[str, Any] | None) -> str:
    if name not in rows:
        return "removed"
    return "rebuilt" if before and name in before["rows"] else "built"


def _shapes_of(before: dict[str, Any] | None, name: str, columns: list[str]) -> dict[str, Any]:
    shapes = before.get("shapes", {}).get(name, {}) if before else {}
    return {column: shape for column, shape in shapes.items() if column in columns}


def _prepare_history(opened: SqlConnection, before: dict[str, Any] | None, delay_us: int) -> None:
    default = before["as_of_us"] - delay_us + 1 if before else 0
    set_variables(opened, {"default_restart_us": default})
    opened.execute("""
        CREATE OR REPLACE TEMP TABLE restart AS
        SELECT user_id AS entity_id, min(ts_us) AS restart_us FROM new_events WHERE label = 1 GROUP BY 1
        HAVING restart_us < getvariable('default_restart_us')
    """)


def _query(name: str) -> str:
    return (_SQL / f"{name}.sql").read_text(encoding="utf-8")


def _withdraw(
    opened: SqlConnection, tables: Path, name: str, log: Log, before: dict[str, Any] | None, now_us: int
) -> None:
    """Record rows missing from the new table but present in the old one; rows merely later than ``as_of`` stay online."""
    path = tables / f"{name}.parquet"
    if not path.exists() or not _is_whole(path):
        return  # the rows of a damaged table are unknown
    old = f"SELECT * FROM read_parquet({literal(path)}) AS old"
    if before is None:
        ahead = f"epoch_us(event_timestamp) > getvariable('as_of_us') AND epoch_us(event_timestamp) <= {now_us}"
        withdraw(opened, tables, name, f"{old} WHERE NOT ({ahead})")
    elif log.lost_since(before["log"]) and name not in {"item_content", *ATTRIBUTE_TABLES}:
        entity = entity_sql(key_columns(name), "old")
        withdraw(opened, tables, name, f"{old} SEMI JOIN restart ON restart.entity_id = {entity}")


def _is_whole(path: Path) -> bool:
    try:
        checked(path)
    except ArtifactCorruptError:
        return False
    return True


def _write(opened: SqlConnection, name: str, path: Path, before: dict[str, Any] | None) -> tuple[int, int]:
    """Write the relation ``written`` if it differs from the table; return its number of rows and of new rows."""
    counts = opened.execute("SELECT count(*), count(*) FILTER (_fresh) FROM written").fetchone() or (0, 0)
    if before is None or counts[1] or counts[0] != before["rows"].get(name):
        order = ", ".join(map(quoted, key_columns(name)))
        with replaced(path, path.parent / _MANIFEST) as temporary:
            opened.execute(
                f"COPY (SELECT * EXCLUDE (_fresh) FROM written ORDER BY event_timestamp, {order}) "
                f"TO {literal(temporary)} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 122880)"
            )
    opened.execute("DROP TABLE written")
    return int(counts[0]), int(counts[1])
