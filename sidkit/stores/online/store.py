"""A Feast online store with one packed row per entity and feature view, whichever database holds the rows.

It behaves like Feast's own SQLite store, with these differences: an older write never overwrites a newer one (event
time, then created time; among equal ones the later write wins); event times keep microseconds; a row older than the view's
TTL is not returned; a read takes any number of keys; readers and writers do not block each other.

:mod:`sidkit.stores.online.sqlite_store` holds the rows in a file, :mod:`sidkit.stores.online.redis_store` in a Redis server.
"""

from __future__ import annotations

import gc
import re
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import pyarrow as pa
from feast import Entity
from feast.feature_view import FeatureView
from feast.infra.online_stores.helpers import compute_table_id
from feast.infra.online_stores.online_store import OnlineStore
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import RepoConfig
from feast.utils import _validate_vector_field_lengths
from pydantic import Field, StrictStr

from sidkit.core.clock import from_us, to_us
from sidkit.core.repo import SETTINGS_FILE
from sidkit.stores.apply_guard import refuse_drop
from sidkit.stores.offline.view_plans import time_of
from sidkit.stores.online.codec import layout_number, pack, unpack
from sidkit.stores.online.columns import cells_of_feature, event_times_of, keys_of, moments_of
from sidkit.stores.online.layout import PROTO, Layout
from sidkit.stores.online.offline_only import blanked, offline_only
from sidkit.stores.online.one_row import row_decoder
from sidkit.stores.online.protobuf import (
    cells_of_values,
    event_times,
    micros,
    serialized_keys,
    value_of,
    values_of_cells,
    view_layout,
)
from sidkit.stores.online.transactions import PackedDatabase, Writing
from sidkit.stores.registry_cache import hold_cached_registries
from sidkit.stores.registry_path import resolve_registry_against_repo

resolve_registry_against_repo()
hold_cached_registries()

FeatureRow = tuple[EntityKey, dict[str, Value], datetime, datetime | None]
_TRANSACTION_ROWS = 20_000
ViewFeature = Annotated[StrictStr, Field(pattern="^[^:]+:[^:]+$")]
"""``view:feature``, as in the setting ``offline_only``."""
_FEW = 8
"""Rows up to which values are faster than arrays."""
_decoder = lru_cache(maxsize=1024)(row_decoder)


def now_us() -> int:
    """Default clock of an online store: current time in microseconds UTC."""
    return to_us(datetime.now(UTC))


class PackedOnlineStore(OnlineStore):  # type: ignore[misc]
    """See the module's docstring.

    Parameters
    ----------
    clock : callable, optional
        Returns the current time in microseconds UTC, used for TTLs.
    """

    _versioned_read_supported = True

    def __init__(self, clock: Callable[[], int] = now_us) -> None:
        freeze_imports()
        self.clock = clock

    @abstractmethod
    def database(self, config: RepoConfig) -> PackedDatabase:
        """The database of a configuration; the same object in every call."""

    def online_write_batch(
        self,
        config: RepoConfig,
        table: FeatureView,
        data: list[FeatureRow],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Write rows in a few atomic transactions.

        Features missing from a row keep their existing values.
        """
        view, declared = view_id(config, table), view_layout(table)
        hidden = dict.fromkeys(offline_only(config.online_store, table.name, declared.names), Value())
        version = config.entity_key_serialization_version
        for at in range(0, len(data), _TRANSACTION_ROWS):
            part = data[at : at + _TRANSACTION_ROWS]
            keyed, values, events, created = zip(*part, strict=True)
            if hidden:
                values = tuple({**row, **hidden} for row in values)
            keys, events_us, created_us = serialized_keys(keyed, version), event_times(events), micros(created)
            with self.database(config).writing() as writing:
                writing.make(view, declared)
                start = 0
                for names, columns, count in _runs(declared, values):
                    span = slice(start, start + count)
                    timed = keys[span], events_us[span], created_us[span]
                    if set(declared.names) - set(names):
                        _merge(writing, view, declared, *timed, values[span])
                    else:
                        writing.put(view, *timed, _packed(writing, view, declared, names, columns, count))
                    start += count
            if progress:
                progress(len(part))
        if data:
            self._index(config, view, serialized_keys([data[0][0]], version)[0])

    def write_arrow(self, config: RepoConfig, table: FeatureView, batches: Iterable[pa.RecordBatch]) -> int:
        """Write columns without a Python object per value; rows equal those of Feast's conversion.

        Unlike Feast's conversion, 64-bit integers in columns with nulls do not go through floats and stay exact.

        Parameters
        ----------
        config, table
            The repository's configuration and a feature view with a batch source.
        batches : iterable of pyarrow.RecordBatch
            Join keys, features, and the source's timestamp columns, all by their names in the view.

        Returns
        -------
        int
            Number of rows.
        """
        view, layout, source = view_id(config, table), view_layout(table), table.batch_source
        hidden = offline_only(config.online_store, table.name, layout.names)
        event, created_column, count = str(time_of(source)), time_of(source, created=True), 0
        keys: list[bytes] = []
        for batch in batches:
            for at in range(0, batch.num_rows, _TRANSACTION_ROWS):
                part = blanked(batch.slice(at, _TRANSACTION_ROWS), hidden)
                _validate_vector_field_lengths(part, table)
                keys = keys_of(part, table, config.entity_key_serialization_version)
                events = event_times_of(part, event)
                created = moments_of(part, created_column)
                cells = [
                    cells_of_feature(part.column(feature.name), feature, f"source {source.name}")
                    for feature in table.features
                ]
                stored = Layout(tuple((name, cell.kind) for name, cell in zip(layout.names, cells, strict=True)))
                with self.database(config).writing() as writing:
                    rows = pack(stored, writing.make(view, stored), cells)
                    writing.put(view, keys, events, created, rows)
                count += part.num_rows
        if keys:
            self._index(config, view, keys[0])
        return count

    def _index(self, config: RepoConfig, view: str, key: bytes) -> None:
        """Index a view's rows, if they are not yet: after all of them, since an index is built faster than maintained."""
        database = self.database(config)
        with database.reading() as reading:
            if reading.has_index(view, key):
                return
        with database.writing() as writing:
            writing.index(view, key)

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """Read event time and features of each key's newest row; ``(None, None)`` if there is none within the TTL."""
        keys = serialized_keys(entity_keys, config.entity_key_serialization_version)
        view = view_id(config, table)
        with self.database(config).reading() as reading:
            rows = reading.timed_rows(view, keys, since_us(table, self.clock()))
            layouts = reading.layouts_of(view, [row for row, _ in rows])
        packed = [row for row, _ in rows if row is not None]
        features = _values(packed, layouts, requested_features, view_layout(table))
        remaining = iter(features)
        return [
            (None, None) if row is None or event_us is None else (from_us(event_us), next(remaining))
            for row, event_us in rows
        ]

    def update(
        self,
        config: RepoConfig,
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],
        entities_to_delete: Sequence[Entity],
        entities_to_keep: Sequence[Entity],
        partial: bool,
    ) -> None:
        """Create and drop tables.

        A view whose schema changed keeps its rows: a new feature is missing and a dropped one hidden until rows are
        written again; a feature whose type changed is missing too.

        Raises
        ------
        DefinitionsError
            When the table of a codebook in the catalogue would be dropped; nothing is dropped then.
        """
        refuse_drop(config.repo_path, [table.name for table in tables_to_delete])
        with self.database(config).writing() as writing:
            for table in tables_to_keep:
                writing.make(view_id(config, table), view_layout(table))
            for table in tables_to_delete:
                writing.drop(view_id(config, table))

    def drop_undefined(self, config: RepoConfig, name: str, defined: Sequence[Any]) -> None:
        """Drop the tables of a view that is no longer defined: one, or one per version if Feast versions views.

        A table that a view in ``defined`` uses or used is not dropped, even if its name looks like a version's.
        """
        base = table_ids(config, name)
        protected = [table_ids(config, view.name) for view in defined]
        with self.database(config).writing() as writing:
            for stored in writing.views():
                if base.fullmatch(stored) and not any(other.fullmatch(stored) for other in protected):
                    writing.drop(stored)


def rebuild_remedy(config: RepoConfig, with_feast: str) -> str:
    """How to rebuild a repository's rows, for error messages; ``with_feast`` without sidkit.toml."""
    if config.repo_path and (Path(config.repo_path) / SETTINGS_FILE).is_file():
        return f"run `sidkit materialize --repo {Path(config.repo_path).resolve()}`"
    return with_feast


@cache
def freeze_imports() -> None:
    """Exclude the 300,000 permanent objects of the Feast import from garbage collection, once per process.

    Traversing them repeatedly takes a large part of a materialization and causes the slowest reads.
    """
    gc.collect()
    gc.freeze()


def view_id(config: RepoConfig, table: Any) -> str:
    """Name of a view in the file: with its project, and its version if Feast versions views."""
    name: str = compute_table_id(config.project, table, config.registry.enable_online_feature_view_versioning)
    return name


def table_ids(config: RepoConfig, name: str) -> re.Pattern[str]:
    """Pattern of the names that :func:`view_id` gives to the versions of a view."""
    versions = r"(_v\d+)?" if config.registry.enable_online_feature_view_versioning else ""
    return re.compile(re.escape(compute_table_id(config.project, SimpleNamespace(name=name))) + versions)


def since_us(table: Any, at_us: int) -> int | None:
    """The oldest event time allowed by a view's TTL at a time, inclusive; None without a TTL."""
    ttl: timedelta | None = getattr(table, "ttl", None)
    return at_us - ttl // timedelta(microseconds=1) if ttl else None


def _runs(
    declared: Layout, values: Sequence[dict[str, Value]]
) -> Iterator[tuple[tuple[str, ...], list[Sequence[Value]], int]]:
    """Group consecutive rows with the same features: (features, columns, number of rows).

    Features are in the declared order, undeclared ones last.
    """
    if declared.names and set(map(len, values)) == {len(declared.names)}:
        columns = None
        with suppress(KeyError):
            columns = _columns(declared.names, values)
        if columns is not None:
            yield declared.names, columns, len(values)
            return

    def names(row: dict[str, Value]) -> tuple[str, ...]:
        return (*(name for name in declared.names if name in row), *sorted(row.keys() - declared.places.keys()))

    for features, group in groupby(values, names):
        run = list(group)
        yield features, _columns(features, run), len(run)


def _columns(names: Sequence[str], rows: Sequence[dict[str, Value]]) -> list[Sequence[Value]]:
    # A tuple per row would be another object for the garbage collector to traverse.
    return [[row[name] for row in rows] for name in names]


def _packed(
    writing: Writing, view: str, declared: Layout, names: Sequence[str], columns: Sequence[Sequence[Value]], count: int
) -> list[bytes]:
    kinds = dict(declared.columns)
    cells = [cells_of_values(column, kinds.get(name, PROTO)) for name, column in zip(names, columns, strict=True)]
    stored = Layout(tuple((name, cell.kind) for name, cell in zip(names, cells, strict=True)))
    number = writing.make(view, stored)
    return pack(stored, number, cells) if cells else [number.to_bytes(2, "little")] * count


def _merge(
    writing: Writing,
    view: str,
    declared: Layout,
    keys: Sequence[bytes],
    events_us: Sequence[int],
    created_us: Sequence[int | None],
    rows: Sequence[dict[str, Value]],
) -> None:
    """Write rows that lack features one by one, merged with the existing rows."""
    for key, event, created, row in zip(keys, events_us, created_us, rows, strict=True):
        written = False
        while not written:
            [existing] = writing.rows(view, [key])
            old: dict[str, Value] = {}
            if existing is not None:
                [old] = _values([existing], writing.layouts_of(view, [existing]), declared.names, declared)
            names, columns, _ = next(_runs(declared, [old | row]))
            [packed] = _packed(writing, view, declared, names, columns, 1)
            written = writing.put_over(view, key, event, created, packed, existing)


def _values(
    rows: Sequence[bytes], layouts: dict[int, Layout], wanted: Sequence[str] | None, declared: Layout
) -> list[dict[str, Value]]:
    """Unpack the features of rows, each by its layout, without features written with another declared type."""
    kinds = dict(declared.columns)
    numbers = [layout_number(row) for row in rows]
    result: list[dict[str, Value]] = [{} for _ in rows]
    for number in set(numbers):
        places = [place for place, other in enumerate(numbers) if other == number]
        layout = layouts[number]
        if not layout.columns:
            continue
        fitting = {name: kind for name, kind in layout.columns if kind in (kinds.get(name, kind), PROTO)}
        chosen = list(fitting) if wanted is None else [name for name in wanted if name in fitting]
        decode = _decoder(layout, tuple((name, fitting[name]) for name in chosen)) if len(places) <= _FEW else None
        if decode is not None:
            for place in places:
                values = map(value_of, map(fitting.__getitem__, chosen), decode(rows[place]))
                result[place] = dict(zip(chosen, values, strict=True))
            continue
        unpacked = unpack(layout, [rows[place] for place in places], chosen)
        columns = [values_of_cells(cells) for cells in unpacked.values()]
        for place, row in zip(places, zip(*columns, strict=True), strict=False):
            result[place] = dict(zip(unpacked, row, strict=True))
    return result
