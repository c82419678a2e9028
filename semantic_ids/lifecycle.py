"""Life cycle of a fitted codebook: publish, promote, retire, purge, and refresh for new or changed items.

Every step is idempotent: an interrupted step can be run again with the same result. The catalogue's state is committed last.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar, cast

import duckdb

from semantic_ids.assign_shards import put_together, unassigned
from semantic_ids.assigned_codes import codes_to_extend, made_with, sidecar_of
from semantic_ids.catalog import Catalog, table_path
from semantic_ids.code_stats import counts_of
from semantic_ids.codebook import Codebook, load_committed
from semantic_ids.coded_rows import coded_rows
from semantic_ids.collisions import suffix_path
from semantic_ids.fitting import CodebookSpec, build_models, fit
from semantic_ids.neighbour_lists import neighbours_of, neighbours_path
from semantic_ids.neighbour_table import write_neighbours
from semantic_ids.records import CodebookRecord
from sidkit.core.code_stats import stats_views
from sidkit.core.engine import connection, into, literal, set_variables
from sidkit.core.errors import LifeCycleError
from sidkit.core.files import remove
from sidkit.core.integrity import checked, hashes_of, replaced, update_sealed
from sidkit.core.names import neighbours_view
from sidkit.core.repo import Repo
from sidkit.core.shards import ShardedWork, Shards
from sidkit.tables import read_build
from sidkit.tables.code_stats import count_codes
from sidkit.tables.day_partitions import write_days
from sidkit.tables.withdrawn import forget_withdrawn

_SQL = Path(__file__).parent / "item_sid.sql"

__all__ = ["CodebookSpec", "RefreshReport", "build_models", "fit", "promote", "publish", "purge", "refresh", "retire"]


@dataclass(frozen=True)
class RefreshReport:
    """Result of assigning codes to one codebook's table: total rows, new rows, and new rows without content.

    ``counted`` has the number of new rows per table of statistics of its codes.
    """

    name: str
    rows: int
    new_rows: int
    without_content: int
    counted: Mapping[str, int] = field(default_factory=dict)


Step = TypeVar("Step", bound=Callable[..., object])


def _under_the_lock(step: Step) -> Step:
    """Run a step while holding the repo's lock; the caller may already hold it."""

    @functools.wraps(step)
    def locked(repo: Repo, *rest: object, **named: object) -> object:
        with repo.locked_or_held():
            return step(repo, *rest, **named)

    return cast("Step", locked)


@_under_the_lock
def publish(repo: Repo, name: str, work: ShardedWork | None = None) -> RefreshReport:
    """Assign codes to all items, define the feature view and its services, apply, and fill the online store.

    Parameters
    ----------
    repo : Repo
        With built tables.
    name : str
        A fitted codebook.
    work : ShardedWork, optional
        Assign codes in shards (:mod:`semantic_ids.assign_shards`); the result is that of one process.

    Raises
    ------
    LifeCycleError
        When the codebook is not fitted, or retired.
    ArtifactError
        When its files, or a shard, are missing or were changed.
    ProcessesError
        When the worker of a shard failed, or a shard was made from other inputs.
    """
    from sidkit.stores.feast_repo import apply_repo, materialize
    from sidkit.stores.registered import registered_views

    catalog = Catalog.open(repo)
    record = catalog.codebook(name)
    if record.state in {"fitting", "retired", "purged"}:
        raise LifeCycleError(name, record.state, "only a fitted codebook can be published")
    report = _assign(repo, record, work)
    catalog.define(name)
    apply_repo(repo)
    views = registered_views(repo, [record.view_name, *stats_views(name), neighbours_view(name)])
    materialize(repo, read_build(repo)["as_of_us"], views)
    if record.state == "fitted":
        catalog.set_state(name, "published")
    return report


@_under_the_lock
def promote(repo: Repo, name: str) -> None:
    """Make a published codebook the one that commands use by default.

    Raises
    ------
    LifeCycleError
        When it is not published, or its view is missing from the registry or the online store.
    """
    from sidkit.stores.registered import of_codebook

    catalog = Catalog.open(repo)
    record = catalog.codebook(name)
    if record.state not in {"published", "serving"}:
        raise LifeCycleError(name, record.state, "publish it before it is promoted")
    further = (neighbours_view(name),) if neighbours_of(repo, name) else ()
    views = (record.view_name, record.service_name)
    missing = of_codebook(repo, *views, record.content_hash, stats_views(name), further)
    if missing:
        raise LifeCycleError(name, record.state, f"its features cannot be read ({'; '.join(map(str, missing))})")
    catalog.set_state(name, "serving")


@_under_the_lock
def retire(repo: Repo, name: str) -> None:
    """Take a codebook out of use; its view and its data stay until it is purged.

    Raises
    ------
    LifeCycleError
        When it is serving, or a serving ranker uses it.
    """
    catalog = Catalog.open(repo)
    record = catalog.codebook(name)
    if record.state == "serving":
        raise LifeCycleError(name, record.state, "promote another codebook first")
    if record.state == "purged":
        raise LifeCycleError(name, record.state, "it is already purged")
    for ranker in catalog.rankers():
        if ranker.state == "serving" and ranker.codebook == name:
            raise LifeCycleError(name, record.state, f"the serving ranker {ranker.name} uses it; promote another first")
    catalog.set_state(name, "retired")


@_under_the_lock
def purge(repo: Repo, name: str) -> None:
    """Remove a retired codebook for good: view, online table, codes and artefact. Its name is never used again.

    Raises
    ------
    LifeCycleError
        When it is not retired.
    """
    from sidkit.stores.feast_repo import apply_repo
    from sidkit.stores.online_damage import drop_online_table

    catalog = Catalog.open(repo)
    record = catalog.codebook(name)
    if record.state not in {"retired", "purged"}:
        raise LifeCycleError(name, record.state, "only a retired codebook can be purged")
    catalog.set_state(name, "purged")
    apply_repo(repo)
    tables = [repo.tables / f"{view}.parquet" for view in stats_views(name)]
    for view in (record.view_name, *stats_views(name), neighbours_view(name)):
        drop_online_table(repo, view)
    forget_withdrawn(repo.tables, list(stats_views(name)))
    for path in (table_path(repo, name), suffix_path(repo, name), neighbours_path(repo, name), *tables):
        remove(path.with_suffix(".json"))  # first: hashes of a missing file would look like damage
        remove(path)
    write_days(repo)
    remove(repo.codebooks / name)
    catalog.artifacts.forget_codebook(name)


@_under_the_lock
def refresh(repo: Repo, name: str | None = None, work: ShardedWork | None = None) -> list[RefreshReport]:
    """Assign codes to content added or changed since the last assignment, for one or all published codebooks.

    The next ``sidkit materialize`` updates the online store. ``work`` is that of :func:`publish`.

    Raises
    ------
    LifeCycleError
        When the codebook is not published.
    """
    catalog = Catalog.open(repo)
    if name is None:
        records = [record for record in catalog.codebooks() if record.state in {"published", "serving"}]
    else:
        records = [catalog.codebook(name)]
    reports = []
    for record in records:
        if record.state not in {"published", "serving"}:
            raise LifeCycleError(record.name, record.state, "only a published codebook can be refreshed")
        reports.append(_assign(repo, record, work))
    return reports


def _assign(repo: Repo, record: CodebookRecord, work: ShardedWork | None = None) -> RefreshReport:
    """Bring a codebook's table up to date with ``item_content``, and the statistics of its codes with both."""
    report = _assign_codes(repo, record, work=work)
    counts = counts_of(repo, record.name, record.content_hash)
    counted = count_codes(repo, counts, read_build(repo)) if counts else {}
    write_days(repo)
    return replace(report, counted=counted)


def assign_further(repo: Repo, record: CodebookRecord, content: Path, codebook: Codebook) -> int | None:
    """Add codes of rows like those of ``item_content`` that the table does not have yet, such as those of pushed items.

    Parameters
    ----------
    repo : Repo
    record : CodebookRecord
        A published codebook.
    content : Path
        A Parquet file of the rows.
    codebook : Codebook
        The loaded codebook.

    Returns
    -------
    int or None
        Number of new rows; None if the codebook has no table that fits the feature tables, which needs a refresh.
    """
    stamp = {"codebook_hash": record.content_hash, "generation": read_build(repo)["generation"]}
    if not made_with(table_path(repo, record.name), sidecar_of(repo, record.name), stamp):
        return None
    report = _assign_codes(repo, record, content, codebook)
    write_days(repo)
    return report.new_rows


def _assign_codes(
    repo: Repo,
    record: CodebookRecord,
    content: Path | None = None,
    codebook: Codebook | None = None,
    work: ShardedWork | None = None,
) -> RefreshReport:
    """Bring a codebook's table up to date with ``item_content``; only rows without codes are encoded."""
    codebook = codebook or load_committed(repo.codebooks / record.name, record)[0]
    write_neighbours(repo, record, codebook)
    build = read_build(repo)
    whole = content is None  # not the few rows of a tick
    content = content or checked(repo.tables / "item_content.parquet")
    table = table_path(repo, record.name)
    stamp = {"codebook_hash": record.content_hash, "generation": build["generation"]}
    sidecar = sidecar_of(repo, record.name)
    reusable = codes_to_extend(repo, record, build["generation"])
    modalities = codebook.encoder.modalities_
    folder = repo.codebooks / record.name
    parts = repo.data / "tmp" / "spark" / f"codes-{record.name}"
    on_spark = repo.settings.engine.tables == "spark" and whole
    shards: Shards | None = None
    with connection(repo.settings.engine, repo.data / "tmp" / "duckdb") as opened, opened.cursor() as reading:
        set_variables(opened, {"assigned_at_us": time.time_ns() // 1000})
        opened.execute(
            "CREATE TEMP TABLE assigned "
            "(item_id VARCHAR, event_timestamp TIMESTAMPTZ, codes BIGINT[], residual_norm FLOAT)"
        )
        if on_spark or (work is not None and whole):
            if work is not None:
                shards, files = put_together(repo, record, modalities, reusable, work)
            else:
                from semantic_ids.spark_codes import assign_on_spark

                files = assign_on_spark(repo, folder, modalities, content, reusable, parts)
            for file in files:
                opened.execute(f"INSERT INTO assigned SELECT * FROM read_parquet({literal(file)})")
            remove(parts)
        else:
            for chunk in unassigned(reading, content, modalities, reusable):
                opened.register("chunk", coded_rows(chunk, codebook))
                opened.execute("INSERT INTO assigned SELECT * FROM chunk")
                opened.unregister("chunk")
        without_content = _count(opened, "SELECT count(*) FROM assigned WHERE codes IS NULL")
        fresh = _count(opened, "SELECT count(*) FROM assigned")
        if reusable is None or fresh:
            opened.execute(f"CREATE TEMP VIEW content AS SELECT * FROM read_parquet({literal(content)})")
            query = _SQL.read_text(encoding="utf-8")
            if reusable:
                query = f"SELECT * FROM read_parquet({literal(reusable)}) UNION ALL BY NAME ({query})"
            with replaced(table, sidecar) as temporary:
                opened.execute(f"COPY (SELECT * FROM ({query}) ORDER BY event_timestamp, item_id) {into(temporary)}")
        update_sealed(sidecar, {**stamp, "files": hashes_of(table.parent, [table.name])})
        total = _count(opened, f"SELECT count(*) FROM read_parquet({literal(table)})")
    if shards is not None:
        shards.remove()
    return RefreshReport(record.name, total, fresh, without_content)


def _count(opened: duckdb.DuckDBPyConnection, query: str) -> int:
    row = opened.execute(query).fetchone()
    return int(row[0]) if row else 0
