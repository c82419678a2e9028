"""A Feast offline store on DuckDB that answers point-in-time queries with as-of joins.

Name it in ``feature_store.yaml``::

    offline_store:
      type: sidkit.stores.asof_duckdb.AsofDuckDBOfflineStore

It subclasses Feast's DuckDB store and gives the same answers, with these differences: the row order of the entity
dataframe is kept; cost is linear in rows and versions (Feast's inequality join pairs each row with every older version);
any TTL works, feature names may end in ``_y``, and times with nanoseconds are accepted.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast.data_format import ParquetFormat
from feast.data_source import DataSource
from feast.feature_view import DUMMY_ENTITY_ID, FeatureView
from feast.infra.offline_stores import offline_utils
from feast.infra.offline_stores.duckdb import (
    DuckDBOfflineStore,
    DuckDBOfflineStoreConfig,
    _write_data_source,
)
from feast.infra.offline_stores.file_source import FileSource
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.infra.registry.base_registry import BaseRegistry
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from feast.saved_dataset import SavedDatasetStorage
from pydantic import StrictInt, StrictStr

from sidkit.clock import from_us, to_us
from sidkit.config import EngineSettings
from sidkit.engine import connection, literal, quoted
from sidkit.errors import ArtifactMissingError, ConfigError, ContractError
from sidkit.stores.asof import ViewPlan, ViewRows, entity_rows, look_up
from sidkit.stores.registry_path import resolve_registry_against_repo

resolve_registry_against_repo()


class AsofDuckDBOfflineStoreConfig(DuckDBOfflineStoreConfig):  # type: ignore[misc]
    """Settings under ``offline_store`` in ``feature_store.yaml``."""

    type: StrictStr = "sidkit.stores.asof_duckdb.AsofDuckDBOfflineStore"
    threads: StrictInt = 2
    memory_limit: StrictStr = "1500MB"


class AsofDuckDBOfflineStore(DuckDBOfflineStore):  # type: ignore[misc]
    """See the module's docstring."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: pd.DataFrame | str,
        registry: BaseRegistry,
        project: str,
        full_feature_names: bool = False,
        filter_by_created_timestamp: bool = False,
    ) -> RetrievalJob:
        """Feast's own signature; the work is done when the job is asked for its result."""
        if not isinstance(entity_df, pd.DataFrame):
            raise ContractError(
                "entity_df",
                f"came as {type(entity_df).__name__}; a pandas DataFrame with the join keys and event_timestamp is needed",
            )
        if not all(_is_local_parquet(view.batch_source) for view in feature_views):
            job: RetrievalJob = DuckDBOfflineStore.get_historical_features(
                config, feature_views, feature_refs, entity_df, registry, project, full_feature_names,
                filter_by_created_timestamp,
            )  # fmt: skip
            return job
        return AsofRetrievalJob(
            config=config,
            plans=[_plan(view, feature_refs, full_feature_names, config.repo_path) for view in feature_views],
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
        """The newest row per key in ``[start_date, end_date]``: what materialization writes online."""
        if not _is_local_parquet(data_source):
            job: RetrievalJob = DuckDBOfflineStore.pull_latest_from_table_or_query(
                config, data_source, join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column,
                start_date, end_date,
            )  # fmt: skip
            return job
        order = [f"{quoted(timestamp_field)} DESC"]
        if created_timestamp_column:
            order.append(f"{quoted(created_timestamp_column)} DESC NULLS LAST")
        by_key = f"PARTITION BY {', '.join(map(quoted, join_key_columns))} " if join_key_columns else ""
        query = (
            _rows_between(
                config, data_source, [*join_key_columns, *feature_name_columns], timestamp_field,
                created_timestamp_column, start_date, end_date,
            )
            + f" QUALIFY row_number() OVER ({by_key}ORDER BY {', '.join(order)}, __id DESC) = 1"
        )  # fmt: skip
        return _QueryJob(config, lambda opened: opened.execute(query).to_arrow_table())

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
        if not _is_local_parquet(data_source):
            job: RetrievalJob = DuckDBOfflineStore.pull_all_from_table_or_query(
                config, data_source, join_key_columns, feature_name_columns, timestamp_field, created_timestamp_column,
                start_date, end_date,
            )  # fmt: skip
            return job
        query = _rows_between(
            config, data_source, [*join_key_columns, *feature_name_columns], timestamp_field, created_timestamp_column,
            start_date, end_date,
        )  # fmt: skip
        return _QueryJob(config, lambda opened: opened.execute(query).to_arrow_table())


def _rows_between(
    config: RepoConfig,
    source: DataSource,
    columns: list[str],
    timestamp_field: str,
    created: str | None,
    start: datetime | None,
    end: datetime | None,
) -> str:
    wanted = dict.fromkeys([*columns, timestamp_field, *([created] if created else [])])
    moment = f"epoch_us({quoted(timestamp_field)}::TIMESTAMPTZ)"
    bounds = [f"{moment} >= {_us(start)}"] if start else []
    bounds += [f"{moment} <= {_us(end)}"] if end else []
    return (
        f"SELECT {', '.join(map(quoted, wanted))} FROM ({_source_sql(source, config.repo_path)}) "
        f"WHERE {' AND '.join(bounds) or 'true'}"
    )


class _QueryJob(RetrievalJob):  # type: ignore[misc]
    """A retrieval job that runs a function on a fresh connection."""

    def __init__(self, config: RepoConfig, run: Callable[[Any], pa.Table]) -> None:
        super().__init__()
        self._config = config
        self._run = run

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        with (
            tempfile.TemporaryDirectory(prefix="sidkit-") as spill,
            connection(_engine(self._config), Path(spill)) as opened,
        ):
            return self._run(opened)

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        frame: pd.DataFrame = self._to_arrow_internal(timeout).to_pandas()
        return frame

    @property
    def full_feature_names(self) -> bool:
        return False

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return []

    @property
    def metadata(self) -> RetrievalMetadata | None:
        return None

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        """Write the result as a saved dataset."""
        import ibis

        _write_data_source(
            ibis.memtable(self._to_arrow_internal(timeout)), storage.to_data_source(), str(self._config.repo_path),
            "overwrite", allow_overwrite,
        )  # fmt: skip


class AsofRetrievalJob(_QueryJob):
    """A point-in-time retrieval; :meth:`views` gives it undiluted, ``to_arrow`` and ``to_df`` as Feast does."""

    def __init__(
        self,
        config: RepoConfig,
        plans: list[ViewPlan],
        entity_df: pd.DataFrame,
        feature_refs: list[str],
        odfvs: list[OnDemandFeatureView],
        full_feature_names: bool,
        filter_by_created: bool,
    ) -> None:
        super().__init__(config, self._retrieve)
        schema = dict(zip(entity_df.columns, entity_df.dtypes, strict=True))
        self._at_column: str = offline_utils.infer_event_timestamp_from_entity_df(schema)
        self._entity_df = entity_df
        self._plans = plans
        self._feature_refs = feature_refs
        self._odfvs = odfvs
        self._full_feature_names = full_feature_names
        self._filter_by_created = filter_by_created
        self._moments = _moments(entity_df[self._at_column])
        self._check_columns()

    def views(self) -> list[ViewRows]:
        """What each feature view gave: an index per entity row and the distinct feature rows."""
        with (
            tempfile.TemporaryDirectory(prefix="sidkit-") as spill,
            connection(_engine(self._config), Path(spill)) as opened,
        ):
            return self._look_up(opened)

    def _look_up(self, opened: Any) -> list[ViewRows]:
        wanted = list(dict.fromkeys(row for plan in self._plans for _, row in plan.keys))
        keys = {name: pa.array(self._entity_df[name], from_pandas=True) for name in wanted}
        rows = entity_rows(keys, self._moments)
        return [look_up(opened, plan, rows, filter_by_created=self._filter_by_created) for plan in self._plans]

    def _retrieve(self, opened: Any) -> pa.Table:
        result = pa.Table.from_pandas(self._entity_df, preserve_index=False).replace_schema_metadata(None)
        at = self._moments.cast(pa.timestamp("us")).cast(pa.timestamp("us", tz="UTC"))
        result = result.set_column(result.column_names.index(self._at_column), self._at_column, at)
        for view in self._look_up(opened):
            for name, column in zip(view.table.column_names, view.plain().columns, strict=True):
                result = result.append_column(name, column)
        substrait = [view for view in self._odfvs if view.mode == "substrait"]
        if substrait:
            import ibis

            table = ibis.memtable(result)
            for view in substrait:
                table = view.transform_ibis(table, self._full_feature_names)
            result = table.to_pyarrow()
        return result

    def _check_columns(self) -> None:
        columns = list(self._entity_df.columns)
        produced = [name for plan in self._plans for _, name in plan.features]
        twice = sorted({name for name in produced if produced.count(name) > 1 or name in columns})
        if twice:
            raise ConfigError(
                f"the columns {', '.join(twice)} would be there twice; ask with full_feature_names=True, or rename the "
                "columns of the entity dataframe"
            )
        missing = sorted({row for plan in self._plans for _, row in plan.keys} - set(columns))
        if missing:
            raise ContractError("entity_df", f"lacks {', '.join(missing)}; it has {', '.join(map(str, columns))}")

    @property
    def full_feature_names(self) -> bool:
        """Whether feature columns carry their view's name."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """Views that Feast computes from the result."""
        return [view for view in self._odfvs if view.mode != "substrait"]

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """What was asked."""
        valid = self._moments.drop_null().to_numpy()
        bounds = (from_us(valid.min()), from_us(valid.max())) if len(valid) else (None, None)
        return RetrievalMetadata(
            features=self._feature_refs,
            keys=list(set(self._entity_df.columns) - {self._at_column}),
            min_event_timestamp=bounds[0],
            max_event_timestamp=bounds[1],
        )


def _plan(view: FeatureView, feature_refs: list[str], full_feature_names: bool, repo_path: Path | None) -> ViewPlan:
    source = view.batch_source
    asked = [ref.split(":", 1)[1] for ref in feature_refs if ref.startswith(f"{view.projection.name_to_use()}:")]
    prefix = view.projection.name_alias or view.name
    named = {name: f"{prefix}__{name}" if full_feature_names else name for name in asked}
    join_keys = [column.name for column in view.entity_columns if column.name != DUMMY_ENTITY_ID]
    _refuse_look_alikes(source, repo_path, view)
    ttl_us = int(view.ttl / pd.Timedelta(microseconds=1).to_pytimedelta()) if view.ttl else None
    return ViewPlan(
        name=prefix,
        source=_source_sql(source, repo_path, mapped=True),
        keys=tuple((key, view.projection.join_key_map.get(key, key)) for key in join_keys),
        timestamp=source.field_mapping.get(source.timestamp_field, source.timestamp_field),
        created=_mapped(source, source.created_timestamp_column),
        features=tuple(named.items()),
        ttl_us=ttl_us,
    )


def _refuse_look_alikes(source: FileSource, repo_path: Path | None, view: FeatureView) -> None:
    """DuckDB's names do not tell case, so of two columns that differ in case only it would read the wrong one."""
    names = _file_columns(_path(source, repo_path))
    alike = [name for name in names if sum(name.lower() == other.lower() for other in names) > 1]
    if alike:
        raise ConfigError(
            f"{source.path}, the source of view {view.name}, has columns that differ in case only: {', '.join(alike)}. "
            "DuckDB cannot tell them apart; rename them"
        )


def _file_columns(path: Path) -> list[str]:
    """The column names of the first Parquet file of a source."""
    first = next(iter(sorted(path.rglob("*.parquet"))), None) if path.is_dir() else path
    return list(pq.read_schema(first).names) if first is not None and first.is_file() else []


def _mapped(source: DataSource, column: str | None) -> str | None:
    return source.field_mapping.get(column, column) if column else None


def _is_local_parquet(source: DataSource | None) -> bool:
    if not isinstance(source, FileSource) or "://" in source.path:
        return False
    return source.file_format is None or isinstance(source.file_format, ParquetFormat)


def _path(source: FileSource, repo_path: Path | None) -> Path:
    path = Path(source.path)
    return path if path.is_absolute() else (Path(repo_path) if repo_path else Path.cwd()) / path


def _source_sql(source: FileSource, repo_path: Path | None, *, mapped: bool = False) -> str:
    """SQL over the files of a source with the column ``__id``, which grows in file order."""
    path = _path(source, repo_path)
    pattern = path / "**" / "*.parquet" if path.is_dir() else path
    if not path.exists() and "*" not in str(path):
        raise ArtifactMissingError(
            f"{path}, the source {source.name!r}, does not exist yet. Feature tables come from `sidkit tables build`, "
            "those of codebooks from `sidkit codebooks publish`."
        )
    renames = ""
    if mapped and source.field_mapping:
        listed = ", ".join(f"{quoted(old)} AS {quoted(new)}" for old, new in source.field_mapping.items())
        renames = f" RENAME ({listed})"
    return (
        f"SELECT * EXCLUDE (file_row_number, file_index){renames}, "
        f"file_index::BIGINT * 1099511627776 + file_row_number AS __id "
        f"FROM (SELECT *, file_row_number, file_index FROM read_parquet({literal(pattern)}))"
    )


def _moments(column: pd.Series) -> pa.Array:
    """The times of the entity rows as int64 microseconds UTC, null where missing; nanoseconds are rounded down."""
    if not pd.api.types.is_datetime64_any_dtype(column):
        if pd.api.types.is_numeric_dtype(column):
            raise ContractError(
                "entity_df",
                f"{column.name} came as {column.dtype}, whose unit nobody can know; give timestamps, for instance "
                "pd.to_datetime(seconds, unit='s', utc=True)",
            )
        column = pd.to_datetime(column, utc=True, format="mixed")
    if column.dt.tz is None:
        column = column.dt.tz_localize("UTC")
    missing = column.isna().to_numpy()
    micros = column.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy().astype("datetime64[us]").astype(np.int64)
    return pa.array(micros, mask=missing)


def _us(moment: datetime) -> int:
    return to_us(moment if moment.tzinfo else moment.replace(tzinfo=UTC))


def _engine(config: RepoConfig) -> EngineSettings:
    store = config.offline_store
    return EngineSettings(threads=getattr(store, "threads", 2), memory_limit=getattr(store, "memory_limit", "1500MB"))
