"""A tick: pushed rows join the log, and the features that they or the passage of time change are written online.

After a tick at T the online store has the values of a build as of T of the tables that follow events: ``user_history``,
``item_stats``, ``user_stats``, counts per value of an attribute, and statistics of codes; and of pushed items, content,
attributes and codes. The tables on disk stay as they were built, apart from the codes of new items.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from semantic_ids.catalog import Catalog, table_path
from semantic_ids.code_stats import counts_of
from semantic_ids.codebook import load_committed
from semantic_ids.lifecycle import assign_further
from semantic_ids.records import CodebookRecord
from sidkit.core.clock import MICROS, iso, present_us
from sidkit.core.config import content_hash
from sidkit.core.engine import connection, literal
from sidkit.core.errors import RepoLockedError, SettingsChangedError, TimeError
from sidkit.core.feature_settings import ITEM_ATTRIBUTES, ITEM_ID, FeatureSettings
from sidkit.core.files import remove
from sidkit.core.integrity import MANIFEST, checked
from sidkit.core.repo import Repo
from sidkit.stores.registry_files import FileStates, RegistryFiles, file_states
from sidkit.tables import read_build, read_log
from sidkit.tables.absorb import Absorbed, absorb
from sidkit.tables.affinity import affinity_tables
from sidkit.tables.attributes import defined_tables
from sidkit.tables.builder import changed_settings
from sidkit.tables.code_stats import assignments_of
from sidkit.tables.log import Log
from sidkit.tables.newest import ChangedRows, NewestRows, Since, newest_of
from sidkit.tables.newest_items import ChangedItems
from sidkit.tables.online_state import beat, read_state, record, since_of, state_path

if TYPE_CHECKING:
    from feast import FeatureStore

    from semantic_ids.codebook import Codebook


@dataclass(frozen=True)
class TickReport:
    """Result of a tick: its time (microseconds UTC), what the queue changed in the log, and rows written per view."""

    as_of_us: int
    absorbed: Absorbed
    written: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    whole: bool = False
    """Whether all keys were written, since it was unknown which rows the online store has."""


class Ticker:
    """Ticks of one repository; it keeps what is slow to load.

    Parameters
    ----------
    repo : Repo
        An applied repository with feature tables.
    """

    def __init__(self, repo: Repo) -> None:
        self._repo = repo
        self._store: FeatureStore | None = None
        self._codebooks: dict[str, tuple[str, Codebook]] = {}
        self._quiet: tuple[Any, int] = (None, 0)
        self._newest_item: tuple[Path | None, int] = (None, 0)
        self._cadences: set[int] = set()
        self._attributes_of: tuple[Any, ...] = ()
        self._registry = RegistryFiles()
        self._assignments: dict[Path, tuple[FileStates, dict[str, int]]] = {}

    def tick(self, at_us: int | None = None) -> TickReport:
        """Absorb the queue and write what is due.

        Parameters
        ----------
        at_us : int, optional
            Time of the tick, microseconds UTC, for replays; default: now.

        Raises
        ------
        RepoLockedError
            When another command holds the repository's lock; the queue stays as it is.
        TimeError
            When the time is before the rows that the online store has.
        SettingsChangedError
            When the tables were built with other settings.
        ArtifactError
            When there are no log and tables, or one is damaged.
        """
        began = time.monotonic()
        with self._repo.locked(ticking=True):
            absorbed = absorb(self._repo)
            as_of_us = present_us() if at_us is None else at_us
            written, whole = ({}, False) if self._is_quiet(as_of_us) else self._write(as_of_us)
            if at_us is None:
                beat(self._repo)
        return TickReport(as_of_us, absorbed, written, time.monotonic() - began, whole)

    def _is_quiet(self, as_of_us: int) -> bool:
        """Whether nothing can have changed since the last tick of this process: no row is due and the log is the same."""
        return self._quiet[0] == self._files() and as_of_us < self._quiet[1]

    def _files(self) -> FileStates:
        """What changes when the log, the tables, the settings or the online store's record do."""
        repo = self._repo
        paths = (repo.log / MANIFEST, repo.tables / MANIFEST, state_path(repo), repo.path / "sidkit.toml")
        return file_states(paths)

    def _next_us(self, log: Log, as_of_us: int) -> int:
        """The earliest time at which a row may be due."""
        settings = self._repo.settings.time
        if log.last_us + settings.delay_us > as_of_us or self._items_until(log) + settings.delay_us > as_of_us:
            return as_of_us
        seen_us = as_of_us - settings.delay_us
        return min((seen_us // each + 1) * each for each in self._cadences) + settings.delay_us

    def _items_until(self, log: Log) -> int:
        """The newest version of an item, microseconds UTC."""
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        if self._newest_item[0] != log.items:
            names = [name for name in ("created_at", "updated_at") if name in pq.read_schema(log.items).names]
            table = pq.read_table(log.items, columns=names)
            newest = [pc.max(column.cast("int64")).as_py() or 0 for column in table.columns]
            self._newest_item = (log.items, max(newest))
        return self._newest_item[1]

    def _write(self, as_of_us: int) -> tuple[dict[str, int], bool]:
        repo = self._repo = Repo.open(self._repo.path)  # the settings may have changed
        build, log, state = read_build(repo), read_log(repo), read_state(repo)
        _refuse_other_settings(repo, build)
        since = since_of(state, log)
        if since is not None and as_of_us < since.as_of_us:
            raise TimeError(
                f"expected a tick no earlier than the online store ({iso(since.as_of_us)}), got {iso(as_of_us)}; leave out "
                "--at, or correct the clock"
            )
        store = self._opened_store()
        views = {view.name for view in store.list_feature_views(allow_cache=True)}
        removed = since is None or log.lost_since(dict(since.log))
        written: dict[str, int] = {}
        codes: dict[str, Any] = {}
        spill = repo.data / "tmp" / "duckdb"
        with self._work() as work, connection(repo.settings.engine, spill, shared=True) as opened:
            for changed in self._changed(opened, log, since, build, state or {}, as_of_us, work, codes):
                if changed.view in views and (len(changed.rows) or removed):
                    written[changed.view] = self._push(store, changed, withdraw=removed)
        record(repo, as_of_us, log.consumed, codes, source_items=log.manifest.get("source_items"))
        self._quiet = (self._files(), self._next_us(log, as_of_us))
        return {name: rows for name, rows in written.items() if rows}, since is None

    def _changed(
        self,
        opened: duckdb.DuckDBPyConnection,
        log: Log,
        since: Since | None,
        build: dict[str, Any],
        state: Mapping[str, Any],
        as_of_us: int,
        work: Path,
        codes: dict[str, Any],
    ) -> Iterator[NewestRows]:
        """The changed rows of all views; the assignments of codes that they were counted with go into ``codes``."""
        self._cadences = {self._repo.settings.time.cadence_us}
        rows = ChangedRows(opened, self._repo, log, since, as_of_us)
        known = since or Since(int(build["as_of_us"]), {**build["log"], "ingests": 0})
        items = ChangedItems(opened, self._repo, log, known, build)
        content, changed_source = (
            work / "content.parquet",
            log.manifest.get("source_items") != state.get("source_items"),
        )
        of_attributes, attributes = self._attributes(items, log, build)
        if items.count:
            yield items.content(content)
            if of_attributes is not None:
                yield of_attributes
        yield from filter(None, (rows.user_history(), rows.item_stats(), rows.user_stats()))
        settings = self._repo.settings.features.table_settings
        kinds = defined_tables(settings).get(ITEM_ATTRIBUTES, {})
        for view, attribute in affinity_tables(settings).items():
            every = since is None or (changed_source and attribute != ITEM_ID)
            new = None if every else items.ids if items.count and attribute != ITEM_ID else ""
            if attribute == ITEM_ID or attributes.exists():
                found = rows.affinity(view, attribute, kinds.get(attribute, "category"), attributes, new)
                yield from filter(None, [found])
        for each in self._published():
            table = table_path(self._repo, each.name)
            if items.count and assign_further(self._repo, each, content, self._codebook(each)) is not None:
                yield _codes(opened, each, table)
            counts = counts_of(self._repo, each.name, each.content_hash)
            if counts is not None and table.exists():
                self._cadences |= {counts.cadence_of(name) * MICROS for name in counts.tables}
                assigned = self._assigned(opened, table)
                counted = _known_codes(state, each.name) if since else None
                yield from rows.code_stats(counts, checked(table), counted, assigned)
                codes[each.name] = {"assignments": assigned}

    def _assigned(self, opened: duckdb.DuckDBPyConnection, table: Path) -> dict[str, int]:
        """The assignments of a table of codes, read again once its file is another one."""
        state = file_states([table])
        if table not in self._assignments or self._assignments[table][0] != state:
            self._assignments[table] = state, assignments_of(opened, table)
        return self._assignments[table][1]

    def _attributes(self, items: ChangedItems, log: Log, build: dict[str, Any]) -> tuple[NewestRows | None, Path]:
        """Rows of attributes that changed, and a file like the whole table ``item_attributes`` as of now."""
        table = self._repo.tables / f"{ITEM_ATTRIBUTES}.parquet"
        later = self._items_until(log) + self._repo.settings.time.delay_us > build["as_of_us"]
        if not items.count and not later and log.mark["items"] == build["log"]["mark"]["items"]:
            return None, table
        path = self._repo.data / "tmp" / "tick_attributes.parquet"
        key = (log.items, build["as_of_us"], build["generation"])
        if items.count or key != self._attributes_of or not path.exists():
            self._attributes_of = key
            changed = items.attributes(path)
            return changed, path if changed is not None else table
        return None, path

    def _push(self, store: FeatureStore, changed: NewestRows, *, withdraw: bool) -> int:
        from sidkit.stores.online.pushing import push_rows

        return push_rows(store, changed, withdraw=withdraw)

    def _published(self) -> list[CodebookRecord]:
        catalog = Catalog.open(self._repo)
        return [each for each in catalog.codebooks() if each.state in {"published", "serving"}]

    def _codebook(self, record: CodebookRecord) -> Codebook:
        held = self._codebooks.get(record.name)
        if held is None or held[0] != record.content_hash:
            held = record.content_hash, load_committed(self._repo.codebooks / record.name, record)[0]
            self._codebooks[record.name] = held
        return held[1]

    def _opened_store(self) -> FeatureStore:
        from sidkit.stores.feast_repo import open_store

        changed = self._registry.changed(self._repo)  # before the registry is read: a later change is seen next time
        if self._store is None:
            self._store = open_store(self._repo)
        elif changed:
            self._store.refresh_registry()
        return self._store

    @contextmanager
    def _work(self) -> Iterator[Path]:
        work = self._repo.data / "tmp" / "tick"
        remove(work)
        work.mkdir(parents=True)
        try:
            yield work
        finally:
            remove(work)


def _refuse_other_settings(repo: Repo, build: dict[str, Any]) -> None:
    pairs = [
        (build["settings"], repo.settings.feature_settings(), " --rebuild"),
        (build.get("features", FeatureSettings().table_settings), repo.settings.features.table_settings, ""),
    ]
    for was, now, option in pairs:
        if content_hash(was) != content_hash(now):
            raise SettingsChangedError(
                "data/tables",
                changed_settings(was, now),
                f"Restore the old values, or run `sidkit tables build{option}` and `sidkit materialize`.",
            )


def _known_codes(state: Mapping[str, Any], codebook: str) -> dict[str, int] | None:
    held = state.get("codes", {}).get(codebook)
    return dict(held["assignments"]) if held else None


def _codes(opened: duckdb.DuckDBPyConnection, record: CodebookRecord, table: Path) -> NewestRows:
    """Newest codes of the changed items."""
    import pyarrow as pa

    some = f"SELECT * FROM read_parquet({literal(checked(table))}) SEMI JOIN changed_items USING (item_id)"
    rows = opened.execute(newest_of(some, "item_id")).to_arrow_table()
    return NewestRows(record.view_name, rows, pa.table({"item_id": pa.array([], pa.string())}))


def tick_forever(
    repo: Repo, seconds: float, report: Callable[[TickReport | Exception], None], stopped: threading.Event
) -> None:
    """Tick at a fixed rate until ``stopped`` is set.

    A tick that fails does not end the others: the next one starts from the same state. While another command holds the
    repository's lock, the queue waits.

    Parameters
    ----------
    repo : Repo
    seconds : float
        Time from one tick to the next; a tick that takes longer is followed by the next one at once.
    report : callable
        Called with every report, or with the error of a tick that failed.
    stopped : threading.Event
        Set by another thread or a signal handler.
    """
    ticker, due = Ticker(repo), time.monotonic()
    while not stopped.is_set():
        try:
            report(ticker.tick())
        except Exception as error:  # noqa: BLE001
            report(error)
            if not isinstance(error, RepoLockedError):
                ticker = Ticker(repo)
        due = max(due + seconds, time.monotonic())
        stopped.wait(due - time.monotonic())
