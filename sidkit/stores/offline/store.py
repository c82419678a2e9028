"""A Feast offline store on DuckDB with point-in-time joins as as-of joins.

Select it in ``feature_store.yaml``::

    offline_store:
      type: sidkit.stores.offline.AsofDuckDBOfflineStore

It subclasses Feast's DuckDB store and gives the same results, with these differences: the row order of the entity
dataframe is preserved; cost is linear in rows and versions (Feast's inequality join pairs each row with every older
version); any TTL works, feature names may end in ``_y``, times with nanoseconds are accepted, and a view without entities
can be materialized.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeVar

import pandas as pd
import pyarrow as pa
from feast.data_source import DataSource
from feast.feature_view import DUMMY_ENTITY_ID, DUMMY_ENTITY_VAL, FeatureView
from feast.infra.offline_stores.duckdb import DuckDBOfflineStore, DuckDBOfflineStoreConfig
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from pydantic import StrictInt, StrictStr

from sidkit.core.clock import to_us
from sidkit.core.engine import literal, memory_bytes, quoted
from sidkit.core.errors import ContractError
from sidkit.stores.offline.binary_search import LONG_AGO, newest_rows
from sidkit.stores.offline.day_files import Within, parts_within
from sidkit.stores.offline.jobs import AsofRetrievalJob, PulledJob, Query, engine_of
from sidkit.stores.offline.parquet import FeatureFiles
from sidkit.stores.offline.point_in_time import BYTES_PER_ROW
from sidkit.stores.offline.sources import SourceParts
from sidkit.stores.offline.view_plans import declared_of, is_local_parquet, path_of, plan_view
from sidkit.stores.registry_cache import hold_cached_registries
from sidkit.stores.registry_path import resolve_registry_against_repo

resolve_registry_against_repo()
hold_cached_registries()

_Rows = TypeVar("_Rows", pa.RecordBatch, pa.Table)


class AsofDuckDBOfflineStoreConfig(DuckDBOfflineStoreConfig):  # type: ignore[misc]
    """Settings under ``offline_store`` in ``feature_store.yaml``."""

    type: StrictStr = "sidkit.stores.offline.AsofDuckDBOfflineStore"
    threads: StrictInt = 2
    memory_limit: StrictStr = "1500MB"


class AsofDuckDBOfflineStore(DuckDBOfflineStore):  # type: ignore[misc]
    """See the module's docstring."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str | None,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """Implement Feast's interface; the job computes its result lazily."""
        if entity_df is None:
            raise ContractError("entity_df", _needs_rows(feature_views[0], start_date, end_date))
        if not isinstance(entity_df, pd.DataFrame):
            raise ContractError(
                "entity_df",
                f"expected a pandas DataFrame with the join keys and event_timestamp, got {type(entity_df).__name__}",
            )
        if not all(is_local_parquet(view.batch_source) for view in feature_views):
            job: RetrievalJob = DuckDBOfflineStore.get_historical_features(
                config,
                feature_views,
                feature_refs,
                entity_df,
                registry,
                project,
                full_feature_names,
                filter_by_created_timestamp,
            )
            return job
        return AsofRetrievalJob(
            config=config,
            plans=lambda within: [
                plan_view(view, feature_refs, full_feature_names, config.repo_path, within) for view in feature_views
            ],
            entity_df=entity_df,
            feature_refs=feature_refs,
            odfvs=OnDemandFeatureView.get_requested_odfvs(feature_refs, project, registry),
            full_feature_names=full_feature_names,
            filter_by_created=filter_by_created_timestamp,
        )

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None,
        start_date: datetime,
        end_date: datetime,
    ) -> RetrievalJob:
        """The newest row per key in ``[start_date, end_date]``, for materialization."""
        arguments = (
            config,
            data_source,
            join_key_columns,
            feature_name_columns,
            timestamp_field,
            created_timestamp_column,
            start_date,
            end_date,
        )
        if not is_local_parquet(data_source):
            job: RetrievalJob = DuckDBOfflineStore.pull_latest_from_table_or_query(*arguments)
            return job
        return _Pulled(*arguments).latest()

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig,
        data_source: DataSource,
        join_key_columns: list[str],
        feature_name_columns: list[str],
        timestamp_field: str,
        created_timestamp_column: str | None = None,
        start_date: datetime | None = None,
        end_date: datetime | None = None,
    ) -> RetrievalJob:
        """All rows in ``[start_date, end_date]``."""
        arguments = (
            config,
            data_source,
            join_key_columns,
            feature_name_columns,
            timestamp_field,
            created_timestamp_column,
            start_date,
            end_date,
        )
        if not is_local_parquet(data_source):
            job: RetrievalJob = DuckDBOfflineStore.pull_all_from_table_or_query(*arguments)
            return job
        return _Pulled(*arguments).everything()


@dataclass(frozen=True)
class _Pulled:
    """Rows pulled from one source, with the arguments of Feast's interface."""

    config: RepoConfig
    source: DataSource
    keys: list[str]
    features: list[str]
    timestamp: str
    created: str | None
    start: datetime | None
    end: datetime | None
    declared: Mapping[str, pa.DataType] | None = None  # by the names in the files; None if they must be looked up

    def latest(self) -> PulledJob:
        """The newest row per key."""
        parts = self._parts()
        files = FeatureFiles.of(parts, self.keys, self._times, self.features)
        if files is not None and files.rows * BYTES_PER_ROW <= memory_bytes(engine_of(self.config).memory_limit):
            return PulledJob(
                self.config,
                lambda rows: self._newest(files, rows),
                lambda: self._keyed(files.empty(self._columns)).schema,
            )
        # An aggregate of the narrow columns: a window would sort, and spill, all columns of all rows.
        table = self._table(parts)
        times = ", ".join(f"coalesce({_micros(time)}, {LONG_AGO})" for time in self._times)
        by_key = f" GROUP BY {', '.join(map(quoted, self.keys))}" if self.keys else ""
        newest = f"SELECT max_by(__id, row({times}, __id)) FROM ({table}) WHERE {self._bounds}{by_key}"
        return self._query(table, f"__id IN ({newest})")

    def everything(self) -> PulledJob:
        """All rows."""
        return self._query(self._table(self._parts()), self._bounds)

    def _parts(self) -> SourceParts:
        path = path_of(self.source, self.config.repo_path)
        within = Within(_us(self.start) if self.start else None, _us(self.end) if self.end else None)
        parts = parts_within(self.source.name, path, {}, self.declared, within)
        if self.declared is None and any(not parts.alike(column) for column in [*self.keys, *self.features]):
            parts = replace(parts, declared=declared_of(self.config, self.source))
        parts.check(self.keys, self._times, self.features)
        return parts

    def _newest(self, files: FeatureFiles, rows: int) -> Iterator[pa.RecordBatch]:
        narrow = files.read([*self.keys, *self._times])
        numbers = newest_rows(
            [narrow.column(key) for key in self.keys],
            files.moments_of(narrow.column(self.timestamp), self.timestamp),
            files.moments_of(narrow.column(self.created), self.created) if self.created else None,
            _us(self.start) if self.start else None,
            _us(self.end) if self.end else None,
        )
        del narrow
        for batch in files.batches(self._columns, numbers):
            for first in range(0, len(batch), rows):
                yield self._keyed(batch.slice(first, rows))

    def _table(self, parts: SourceParts) -> str:
        return parts.sql(dict.fromkeys(self.keys, ""), self._times, self.features)

    @property
    def _bounds(self) -> str:
        moment = _micros(self.timestamp)
        bounds = [f"{moment} >= {_us(self.start)}"] if self.start else []
        bounds += [f"{moment} <= {_us(self.end)}"] if self.end else []
        return " AND ".join(bounds) or "true"

    def _query(self, table: str, where: str) -> PulledJob:
        key = "" if self.keys else f", {literal(DUMMY_ENTITY_VAL)} AS {quoted(DUMMY_ENTITY_ID)}"
        query = Query(
            self.config,
            self.source.name,
            f"SELECT {', '.join(map(quoted, self._columns))}{key} FROM ({table}) WHERE {where}",
        )
        return PulledJob(self.config, query.batches, query.schema)

    def _keyed(self, rows: _Rows) -> _Rows:
        """Add the key that Feast uses for all rows of a view without entities."""
        if self.keys:
            return rows
        return rows.append_column(DUMMY_ENTITY_ID, pa.array([DUMMY_ENTITY_VAL] * rows.num_rows, pa.string()))

    @property
    def _times(self) -> list[str]:
        return [self.timestamp, *([self.created] if self.created else [])]

    @property
    def _columns(self) -> list[str]:
        return list(dict.fromkeys([*self.keys, *self.features, *self._times]))


def _needs_rows(view: FeatureView, start: datetime | None, end: datetime | None) -> str:
    """Message for a request without entity rows: Feast passes a range of dates, which this store does not support."""
    source = view.batch_source
    columns = [
        source.timestamp_field,
        *(column.name for column in view.entity_columns if column.name != DUMMY_ENTITY_ID),
    ]
    stored = {new: old for old, new in source.field_mapping.items()}
    columns = [stored.get(column, column) for column in columns]
    renamed = {**source.field_mapping, columns[0]: "event_timestamp"}
    renamed = {name: renamed[name] for name in columns if renamed.get(name, name) != name}
    rename = f".rename(columns={renamed})" if renamed else ""
    return (
        f"expected a pandas DataFrame, got only the dates {start} to {end}. Pass the rows to retrieve features for; those "
        f"of {view.name} are pandas.read_parquet({getattr(source, 'path', '')!r}, columns={columns}){rename}"
    )


def _micros(column: str) -> str:
    return f"epoch_us({quoted(column)}::TIMESTAMPTZ)"


def _us(moment: datetime) -> int:
    return to_us(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
