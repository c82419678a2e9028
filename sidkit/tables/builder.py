"""Incremental builds of the feature tables from the log, bounded by ``as_of`` and idempotent.

``data/tables/manifest.json`` is written last. It records the as-of time, the parts of the log, the settings and the
``generation`` (the number of builds from scratch) of the tables. A build computes the rows that became due since then; an
event that arrives late, is corrected or is removed from the log rebuilds the rows of its keys from its time on. Every table
is written beside its target and renamed. Rerunning a killed build starts from the same manifest and gives the same tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from sidkit.core.artifact import read_manifest
from sidkit.core.clock import check_as_of, iso, present_us
from sidkit.core.config import content_hash
from sidkit.core.engine import into, literal, working_on
from sidkit.core.errors import ArtifactCorruptError, ArtifactMissingError, ConfigError, SettingsChangedError, TimeError
from sidkit.core.feature_settings import ITEM_ATTRIBUTES, ITEM_ID
from sidkit.core.integrity import checked, hashes_of, read_sealed, read_verified, write_sealed
from sidkit.core.repo import Repo
from sidkit.core.shards import Shard, ShardedWork, Shards, check_shards
from sidkit.core.sql_connection import SqlConnection
from sidkit.tables.affinity import affinity_tables, has_late_rows
from sidkit.tables.attributes import (
    ATTRIBUTE_TABLES,
    changes_of,
    defined_tables,
    kept_columns,
    read_versions_of,
    remove_undefined,
)
from sidkit.tables.code_stats import follow_tables
from sidkit.tables.content import ContentVectors, read_content
from sidkit.tables.counts import read_events
from sidkit.tables.day_partitions import write_days
from sidkit.tables.engines import table_connection
from sidkit.tables.keys import entity_sql, key_columns
from sidkit.tables.log import Log, read_log
from sidkit.tables.rows import NO_FEATURES, TableQueries, merged_query, set_times
from sidkit.tables.table_files import parts_of, write_all, write_table
from sidkit.tables.withdrawn import withdraw

TABLES = ("item_content", "item_stats", "user_history", "user_stats")
"""Tables computed from the log alone, besides those of ``[features]``; ``item_sid_<codebook>`` comes from a codebook."""

_MANIFEST = "manifest.json"


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


@dataclass(frozen=True)
class _Plan:
    """What a build starts from: ``before`` is the manifest that it extends, None for a build from scratch."""

    log: Log
    before: dict[str, Any] | None
    noted: dict[str, Any]
    unchanged: bool
    restarted: str


def build_tables(
    repo: Repo,
    as_of_us: int,
    *,
    rebuild: bool = False,
    allow_future: bool = False,
    now_us: int | None = None,
    work: ShardedWork | None = None,
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
    work : ShardedWork, optional
        Compute the rows of ``TABLES`` in shards (:func:`build_shard`); the tables are those of one process.

    Raises
    ------
    TimeError
        When ``as_of_us`` is before the previous build, in the future, or outside the valid range of events.
    SettingsChangedError
        When the previous build, or an artefact made from it, had other settings.
    ArtifactMissingError
        When there is no log, or a shard is missing.
    ProcessesError
        When the worker of a shard failed, or a shard was made from other inputs.
    """
    now = present_us() if now_us is None else now_us
    plan = _plan(repo, as_of_us, now, rebuild=rebuild, allow_future=allow_future)
    if plan.before is not None and plan.unchanged:
        rows = plan.before["rows"]
        remove_undefined(repo.tables, rows)  # a killed build may have left some
        code_rows, code_notes = follow_tables(repo, plan.before)
        write_days(repo)
        return BuildReport(as_of_us, rows, dict.fromkeys(rows, 0), True, notes=code_notes, code_rows=code_rows)
    report = _build(repo, plan, as_of_us, now, work)
    return replace(report, restarted=plan.restarted)


def build_shard(
    repo: Repo, as_of_us: int, shard: Shard, *, rebuild: bool = False, allow_future: bool = False
) -> dict[str, int] | None:
    """Compute the rows of ``TABLES`` of some users and items, for a build of the same time; the lock is not needed.

    Parameters
    ----------
    repo, as_of_us, rebuild, allow_future
        See :func:`build_tables`.
    shard : Shard
        The keys whose rows are computed.

    Returns
    -------
    dict or None
        Rows per table; None if the shard was finished before, or the tables are of that time already.
    """
    plan = _plan(repo, as_of_us, present_us(), rebuild=rebuild, allow_future=allow_future)
    if plan.unchanged:
        return None
    shards = _shards(repo, plan, as_of_us, shard.of)
    rows: dict[str, int] = {}

    def write(folder: Path) -> None:
        with table_connection(repo) as opened:
            set_times(opened, repo, as_of_us)
            read_content(opened, plan.log, plan.noted["settings"]["source.modalities"], by_reference=True)
            for name in TABLES:
                (key,) = key_columns(name)
                read_events(opened, plan.log, plan.before, shard.sql(key))
                merged = merged_query(opened, repo, name, plan.before, plan.noted["settings"])
                path = folder / f"{name}.parquet"
                with working_on(f"building the table {name}"):
                    opened.execute(f"COPY (SELECT * FROM ({merged}) WHERE {shard.sql(key)}) {into(path)}")
                rows[name] = pq.read_metadata(path).num_rows

    return rows if shards.make(shard.number, write) else None


def _shards(repo: Repo, plan: _Plan, as_of_us: int, of: int) -> Shards:
    """The shards in which the rows of a build are computed."""
    check_shards(of)
    if repo.settings.engine.tables == "spark":
        raise ConfigError(
            'expected tables = "duckdb" in [engine] of sidkit.toml to build in shards, got "spark", which splits the work '
            "itself; leave out the shards"
        )
    inputs = {
        "log": plan.log.mark,
        "as-of time": as_of_us,
        "settings": plan.noted["settings"],
        "previous build": plan.before and [plan.before["as_of_us"], plan.before["log"], plan.before["files"]],
    }
    rebuild = ["--rebuild"] if plan.before is None else []
    command = ["tables", "shard", "--as-of", iso(as_of_us), *rebuild, "--allow-future", "--repo", str(repo.path)]
    return Shards(repo.data / "tmp" / "shards" / "tables", of, inputs, command)


def _plan(repo: Repo, as_of_us: int, now: int, *, rebuild: bool, allow_future: bool) -> _Plan:
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
    unchanged = False
    if before is not None:
        if as_of_us < before["as_of_us"]:
            raise TimeError(
                f"expected --as-of no earlier than the tables ({iso(before['as_of_us'])}), got {iso(as_of_us)}; use a "
                "later --as-of, or rebuild the tables with `sidkit tables build --rebuild`"
            )
        same = as_of_us == before["as_of_us"] and log.is_that_of(before["log"])
        unchanged = same and before.get("features", NO_FEATURES) == repo.settings.features.table_settings
    generation = before["generation"] if before is not None else _next_generation(repo)
    noted = {"settings": stated, "features": repo.settings.features.table_settings, "generation": generation}
    return _Plan(log, before, noted, unchanged, restarted)


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


def _build(repo: Repo, plan: _Plan, as_of_us: int, now_us: int, work: ShardedWork | None) -> BuildReport:
    log, before, noted = plan.log, plan.before, plan.noted
    shards = _shards(repo, plan, as_of_us, work.shards) if work is not None else None
    folders = work.folders(shards) if work is not None and shards is not None else []
    with table_connection(repo) as opened:
        set_times(opened, repo, as_of_us)
        modalities, in_duckdb = noted["settings"]["source.modalities"], repo.settings.engine.tables == "duckdb"
        read_content(opened, log, modalities, by_reference=in_duckdb)
        defined, affinity = defined_tables(noted["features"]), affinity_tables(noted["features"])
        was = before.get("features", NO_FEATURES) if before else NO_FEATURES
        changed = changes_of(was, noted["features"]) if before else {}
        kept = {name: kept_columns(was, noted["features"], name) for name in defined}
        attributes = {
            name: read_versions_of(repo, opened, name, columns, log, _shapes_of(before, name, kept[name]))
            for name, columns in defined.items()
        }
        sharded = {name: [folder / f"{name}.parquet" for folder in folders] for name in TABLES if folders}
        queries = TableQueries(opened, repo, log, before, noted["settings"], defined, affinity, sharded)
        rows, new, spill = {}, {}, repo.data / "tmp"
        for name in (*TABLES, *attributes, *affinity):
            known = None if name in changed else before
            path = repo.tables / f"{name}.parquet"
            refers = name == "item_content" and in_duckdb
            vectors = ContentVectors(log, path, modalities, spill) if refers else None
            listed = list(kept[name]) if name in changed and kept.get(name) else []
            rows_of = partial(queries.rows_of, name, known, listed)
            with working_on(f"building the table {name}"):
                if known is None and in_duckdb:
                    apart = queries.counts_events(name) and name not in sharded
                    parts = parts_of(log.rows, repo.settings.engine.memory_limit) if apart else 0
                    replacing = partial(_withdraw, opened, repo.tables, name, log, None, now_us)
                    rows[name] = new[name] = write_all(
                        opened, name, path, rows_of, parts, spill, vectors, replacing=replacing
                    )
                    continue
                opened.execute(f"CREATE OR REPLACE TEMP TABLE written AS {rows_of('true')}")
                if name == ITEM_ATTRIBUTES and affinity and known and has_late_rows(opened, known):
                    of_values = [view for view, attribute in affinity.items() if attribute != ITEM_ID]
                    changed |= dict.fromkeys(of_values, "item_attributes got versions of earlier times")
                _withdraw(opened, repo.tables, name, log, known, now_us)
                rows[name], new[name] = write_table(
                    opened, name, path, None if known is None else known["rows"].get(name), vectors
                )
    noted["shapes"] = {name: table.shapes for name, table in attributes.items()}
    files = hashes_of(repo.tables, [f"{name}.parquet" for name in rows])
    manifest = {"as_of_us": as_of_us, "log": log.consumed, "rows": rows, "files": files, **noted}
    write_sealed(repo.tables / _MANIFEST, manifest)
    remove_undefined(repo.tables, rows)
    if shards is not None:
        shards.remove()
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


def _withdraw(
    opened: SqlConnection,
    tables: Path,
    name: str,
    log: Log,
    before: dict[str, Any] | None,
    now_us: int,
    new: str = "written",
) -> None:
    """Record rows missing from the new table but present in the old one; rows merely later than ``as_of`` stay online."""
    path = tables / f"{name}.parquet"
    if not path.exists() or not _is_whole(path):
        return  # the rows of a damaged table are unknown
    old = f"SELECT * FROM read_parquet({literal(path)}) AS old"
    if before is None:
        ahead = f"epoch_us(event_timestamp) > getvariable('as_of_us') AND epoch_us(event_timestamp) <= {now_us}"
        withdraw(opened, tables, name, f"{old} WHERE NOT ({ahead})", new)
    elif log.lost_since(before["log"]) and name not in {"item_content", *ATTRIBUTE_TABLES}:
        entity = entity_sql(key_columns(name), "old")
        withdraw(opened, tables, name, f"{old} SEMI JOIN restart ON restart.entity_id = {entity}", new)


def _is_whole(path: Path) -> bool:
    try:
        checked(path)
    except ArtifactCorruptError:
        return False
    return True
