"""Retrieval jobs of the as-of store: Feast's interface, and methods that sidkit uses beyond it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime

import pandas as pd
import pyarrow as pa
from feast.infra.offline_stores import offline_utils
from feast.infra.offline_stores.duckdb import _write_data_source
from feast.infra.offline_stores.offline_store import RetrievalJob, RetrievalMetadata
from feast.on_demand_feature_view import OnDemandFeatureView
from feast.repo_config import RepoConfig
from feast.saved_dataset import SavedDatasetStorage

from sidkit.core.clock import from_us
from sidkit.core.config import EngineSettings
from sidkit.core.errors import ConfigError, ContractError
from sidkit.stores.offline.day_files import ALWAYS, NEVER, Within, moments_within
from sidkit.stores.offline.duckdb_limits import duckdb_for, translated_errors
from sidkit.stores.offline.entity_rows import entity_table, key_column, moments
from sidkit.stores.offline.plan import ViewPlan, ViewRows
from sidkit.stores.offline.point_in_time import PointInTime

BATCH_ROWS = 65_536


class ArrowJob(RetrievalJob):  # type: ignore[misc]
    """Base class of retrieval jobs whose result is an Arrow table."""

    def __init__(self, config: RepoConfig) -> None:
        super().__init__()
        self._config = config

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        frame: pd.DataFrame = self._to_arrow_internal(timeout).to_pandas()
        return frame

    @property
    def full_feature_names(self) -> bool:
        """Whether feature columns are prefixed with their view's name."""
        return False

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """Views that Feast computes from the result."""
        return []

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """Metadata of the request."""
        return None

    def persist(self, storage: SavedDatasetStorage, allow_overwrite: bool = False, timeout: int | None = None) -> None:
        """Write the result as a saved dataset."""
        import ibis

        _write_data_source(
            ibis.memtable(self._to_arrow_internal(timeout)),
            storage.to_data_source(),
            str(self._config.repo_path),
            "overwrite",
            allow_overwrite,
        )


class PulledJob(ArrowJob):
    """Rows of one feature table, as a stream of batches or as a table."""

    def __init__(
        self, config: RepoConfig, stream: Callable[[int], Iterator[pa.RecordBatch]], schema: Callable[[], pa.Schema]
    ) -> None:
        super().__init__(config)
        self._stream = stream
        self._schema = schema

    def batches(self, rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """Yield the result in batches of at most ``rows`` rows, so that it need not fit in memory."""
        return self._stream(rows)

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        batches = list(self.batches())
        return pa.Table.from_batches(batches) if batches else self._schema().empty_table()


class AsofRetrievalJob(ArrowJob):
    """A point-in-time retrieval; ``to_arrow`` and ``to_df`` follow Feast, :meth:`views` avoids copies."""

    def __init__(
        self,
        config: RepoConfig,
        plans: Callable[[Within], list[ViewPlan]],
        entity_df: pd.DataFrame,
        feature_refs: list[str],
        odfvs: list[OnDemandFeatureView],
        full_feature_names: bool,
        filter_by_created: bool,
    ) -> None:
        super().__init__(config)
        schema = dict(zip(entity_df.columns, entity_df.dtypes, strict=True))
        self.at_column: str = offline_utils.infer_event_timestamp_from_entity_df(schema)
        self._entity_df = entity_df
        self._plans = plans
        self._filter_by_created = filter_by_created
        self._feature_refs = feature_refs
        self._odfvs = odfvs
        self._full_feature_names = full_feature_names
        self._moments = moments(entity_df[self.at_column])
        self._within = moments_within(self._moments)
        self._join: PointInTime = self._joined()
        self._check_columns()

    @property
    def by_day(self) -> bool:
        """Whether a source is partitioned by day, so that what is read depends on the times of the rows."""
        return any(plan.by_day for plan in self.plans)

    @property
    def plans(self) -> Sequence[ViewPlan]:
        """The views that are joined."""
        return self._join.plans

    @property
    def keys(self) -> list[str]:
        """Columns of the entity rows that the views join on."""
        return self._join.keys

    def join_for(self, at_us: pa.Array) -> PointInTime:
        """The join for rows of these times, ``int64`` microseconds UTC: of sources by day it reads the days that they can see.

        When later rows can see other days, all are read, so that rows which come in parts read tables twice at most.
        """
        if self.by_day:
            within = moments_within(at_us)
            if within != NEVER and not self._within.holds(within):
                self._within = within if self._within == NEVER else ALWAYS
                self._join = self._joined()
        return self._join

    def _joined(self) -> PointInTime:
        return PointInTime(
            self._plans(self._within), engine_of(self._config), filter_by_created=self._filter_by_created
        )

    def views(self) -> list[ViewRows]:
        """Per feature view, an index per entity row into the distinct feature rows."""
        kinds = self._join.key_types
        keys = {name: key_column(self._entity_df[name], kinds[name]) for name in self.keys}
        return self.join_for(self._moments).views(keys, self._moments)

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        rows = entity_table(self._entity_df, self._join.key_types)
        at = self._moments.cast(pa.timestamp("us")).cast(pa.timestamp("us", tz="UTC"))
        rows = rows.set_column(rows.column_names.index(self.at_column), self.at_column, at)
        return self.features_beside(rows, self._moments)

    def features_beside(self, rows: pa.Table, at_us: pa.Array) -> pa.Table:
        """Entity rows with their features, as Feast's stores return them, before Feast adds on-demand views."""
        features = self.join_for(at_us).columns({name: rows.column(name) for name in self.keys}, at_us)
        result = pa.table({**dict(zip(rows.column_names, rows.columns, strict=True)), **features})
        substrait = [view for view in self._odfvs if view.mode == "substrait"]
        if substrait:
            import ibis

            table = ibis.memtable(result)
            for view in substrait:
                table = view.transform_ibis(table, self._full_feature_names)
            result = table.to_pyarrow()
        return result

    def complete(self, rows: pa.Table, at_us: pa.Array) -> pa.Table:
        """Other entity rows with the same columns and all requested features, including on-demand views."""
        if not self.on_demand_feature_views:
            return self.features_beside(rows, at_us)
        return _Complete(self._config, self, self.features_beside(rows, at_us)).to_arrow()

    def _check_columns(self) -> None:
        columns = list(self._entity_df.columns)
        produced = [name for plan in self.plans for _, name in plan.features]
        twice = sorted({name for name in produced if produced.count(name) > 1 or name in columns})
        if twice:
            raise ConfigError(
                f"expected unique column names, got {', '.join(twice)} twice; use full_feature_names=True, or rename the "
                "columns of the entity dataframe"
            )
        missing = sorted(set(self.keys) - set(columns))
        if missing:
            raise ContractError(
                "entity_df",
                f"expected the join keys {', '.join(missing)}, got {', '.join(map(str, columns))}; add them",
            )

    @property
    def full_feature_names(self) -> bool:
        """Whether feature columns are prefixed with their view's name."""
        return self._full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        """Views that Feast computes from the result."""
        return [view for view in self._odfvs if view.mode != "substrait"]

    @property
    def metadata(self) -> RetrievalMetadata | None:
        """Metadata of the request."""
        valid = self._moments.drop_null().to_numpy()
        bounds: list[datetime] = []
        with suppress(OverflowError):  # a time beyond the year 9999
            bounds = [from_us(valid.min()), from_us(valid.max())] if len(valid) else []
        return RetrievalMetadata(
            features=self._feature_refs,
            keys=list(set(self._entity_df.columns) - {self.at_column}),
            min_event_timestamp=bounds[0] if bounds else None,
            max_event_timestamp=bounds[-1] if bounds else None,
        )


class _Complete(ArrowJob):
    """A table to which Feast adds the on-demand views of a job."""

    def __init__(self, config: RepoConfig, job: AsofRetrievalJob, table: pa.Table) -> None:
        super().__init__(config)
        self._job = job
        self._table = table

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        return self._table

    @property
    def full_feature_names(self) -> bool:
        return self._job.full_feature_names

    @property
    def on_demand_feature_views(self) -> list[OnDemandFeatureView]:
        return self._job.on_demand_feature_views

    @property
    def metadata(self) -> RetrievalMetadata | None:
        return self._job.metadata


def engine_of(config: RepoConfig) -> EngineSettings:
    """Threads and memory limit from the offline store's settings."""
    store = config.offline_store
    return EngineSettings(threads=getattr(store, "threads", 2), memory_limit=getattr(store, "memory_limit", "1500MB"))


class Query:
    """An SQL query on a source, executed on a new DuckDB connection each time."""

    def __init__(self, config: RepoConfig, source: str, text: str) -> None:
        self._engine = engine_of(config)
        self._source = f"source {source}"
        self._text = text

    def batches(self, rows: int) -> Iterator[pa.RecordBatch]:
        """Yield the result in batches of at most ``rows`` rows."""
        with translated_errors(self._source, self._engine), duckdb_for(self._engine) as opened:
            yield from opened.execute(self._text).to_arrow_reader(rows)

    def schema(self) -> pa.Schema:
        """The schema of the result."""
        with translated_errors(self._source, self._engine), duckdb_for(self._engine) as opened:
            return opened.execute(f"SELECT * FROM ({self._text}) LIMIT 0").to_arrow_table().schema
