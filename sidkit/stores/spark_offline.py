"""Feast's Spark offline store with exact keys, ties and Arrow results.

Select it in ``feature_store.yaml``, as the profile ``spark`` does::

    offline_store:
      type: sidkit.stores.spark_offline.ArrowSparkOfflineStore
      spark_conf: {spark.master: "local[2]"}

It subclasses Feast's store, which has these faults (Feast 0.67):

- each row is joined with every feature row of its key up to its time: here the cost grows with the rows
  (:mod:`sidkit.stores.spark_join`);
- results are held on the heap of the driver's Java process: here they are written in parts, and read by Arrow
  (:mod:`sidkit.stores.spark_results`);
- rows are distinguished by their keys and time as one text without separators, so that user 1 with item 11 gets the features of
  user 11 with item 1: here keys are compared one by one;
- a row that ties with others in its times is returned with each of them, and rows without a created time are ignored: here one
  row per entity row is returned, the newest by both times;
- results pass through pandas, where times lose their zone and integers beside nulls become floats: here they are Arrow's;
- a TTL with a fraction of a second is cut to whole seconds, and one below a second is ignored: here it is refused;
- entity dataframes without rows fail: here they give a result without rows;
- times depend on the zone of the session: here it is UTC.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd
import pyarrow as pa
from feast.data_source import DataSource
from feast.feature_view import FeatureView
from feast.infra.offline_stores.contrib.spark_offline_store import spark
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.offline_stores.offline_utils import infer_event_timestamp_from_entity_df
from feast.repo_config import RepoConfig

from sidkit.core.clock import MICROS
from sidkit.core.errors import ConfigError
from sidkit.stores.offline.day_files import Within, days_or_table, is_by_day
from sidkit.stores.offline.plan import ViewRows
from sidkit.stores.registry_cache import hold_cached_registries
from sidkit.stores.registry_path import resolve_registry_against_repo
from sidkit.stores.spark_join import PLAN, JoinPlan
from sidkit.stores.spark_results import collected, result_folder, views_of
from sidkit.tables.engines.spark import ALWAYS, session_of
from sidkit.tables.engines.spark_errors import spark_errors

if TYPE_CHECKING:
    from feast import FeatureService, FeatureStore

resolve_registry_against_repo()
hold_cached_registries()

_ALPHA = r"The spark (data source API|offline store) is an experimental feature"
warnings.filterwarnings("ignore", _ALPHA, RuntimeWarning)  # importing Feast's store shows it again for each source


class ArrowSparkOfflineStoreConfig(spark.SparkOfflineStoreConfig):  # type: ignore[misc]
    """Settings under ``offline_store`` in ``feature_store.yaml``."""

    type: Literal["sidkit.stores.spark_offline.ArrowSparkOfflineStore"] = (
        "sidkit.stores.spark_offline.ArrowSparkOfflineStore"
    )


class ArrowSparkOfflineStore(spark.SparkOfflineStore):  # type: ignore[misc]
    """See the module's docstring."""

    @staticmethod
    def get_historical_features(
        config: RepoConfig,
        feature_views: list[FeatureView],
        feature_refs: list[str],
        entity_df: Any,
        *rest: Any,
        **named: Any,
    ) -> RetrievalJob:
        """Implement Feast's interface; the job computes its result lazily."""
        for view in feature_views:
            _refuse_unlike(view)
        within = _times_of(entity_df)
        feature_views = [_of_few_files(view, within) for view in feature_views]
        empty = isinstance(entity_df, pd.DataFrame) and entity_df.empty
        rows = _one_row(entity_df) if empty else entity_df
        with _spark(config):
            job = spark.SparkOfflineStore.get_historical_features(
                config, feature_views, feature_refs, rows, *rest, **named
            )
        return SparkJob(job, JoinPlan.read(job.query), empty=empty)

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig, data_source: DataSource, *rest: Any, **named: Any
    ) -> RetrievalJob:
        """The newest row per key in an interval, for materialization."""
        data_source = _in_few_files(data_source, _interval(named))
        with _spark(config):
            return SparkJob(
                spark.SparkOfflineStore.pull_latest_from_table_or_query(config, data_source, *rest, **named)
            )

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig, data_source: DataSource, *rest: Any, **named: Any
    ) -> RetrievalJob:
        """All rows in an interval."""
        data_source = _in_few_files(data_source, _interval(named))
        with _spark(config):
            return SparkJob(spark.SparkOfflineStore.pull_all_from_table_or_query(config, data_source, *rest, **named))


class SparkJob(spark.SparkRetrievalJob):  # type: ignore[misc]
    """A job of Feast's store: its join is that of :mod:`sidkit.stores.spark_join`, its result an Arrow table."""

    def __init__(self, job: Any, plan: JoinPlan | None = None, *, empty: bool = False) -> None:
        query = job.query if plan is None else plan.joined()
        super().__init__(
            job.spark_session, query, job.full_feature_names, job._config, job.on_demand_feature_views, job.metadata
        )
        self._plan, self._empty = plan, empty

    def to_spark_df(self) -> Any:
        """The result as a frame of Spark, not computed yet."""
        _set_always(self.spark_session)
        frame = super().to_spark_df()
        return frame.limit(0) if self._empty else frame

    def views(self, rows: pa.Table) -> list[ViewRows]:
        """Per stored view, an index per row into its distinct feature rows, if it has lists; else a feature row per row.

        Parameters
        ----------
        rows : pyarrow.Table
            Other entity rows than those of the job, within its times: the join keys, and its column of times.

        Raises
        ------
        EngineError
            When Spark stops, as for want of memory.
        """
        if self._plan is None:
            raise ConfigError("expected the job of get_historical_features, got another one")
        with spark_errors("retrieving features"), result_folder(self.spark_session, self._repo) as folder:
            _set_always(self.spark_session)
            return views_of(self.spark_session, self._plan, rows, folder)

    @property
    def _repo(self) -> Path:
        return Path(self._config.repo_path or ".")

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        with spark_errors("retrieving features"):
            if self._should_use_staging_for_arrow():
                return self._to_arrow_via_staging()
            with result_folder(self.spark_session, self._repo) as folder:
                return collected(self.to_spark_df(), folder / "result")

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._to_arrow_internal(timeout).to_pandas()


def spark_views(store: FeatureStore, service: FeatureService, rows: pa.Table) -> dict[str, ViewRows]:
    """Point-in-time features of rows by the stored views of a service, with full names; see :meth:`SparkJob.views`.

    Parameters
    ----------
    store : FeatureStore
        Its offline store is this one.
    service : FeatureService
        On-demand views are not computed; the views that they read are among the result.
    rows : pyarrow.Table
        At least one row: join keys, request inputs, and ``event_timestamp``, ``timestamp[us, UTC]`` without nulls.
    """
    moments = rows.column("event_timestamp").cast(pa.int64()).to_numpy()
    ends = rows.take([int(moments.argmin()), int(moments.argmax())])  # Feast looks at columns and times
    job = store.get_historical_features(ends.to_pandas(), features=service, full_feature_names=True)
    return {view.name: view for view in job.views(rows)}


@contextmanager
def _spark(config: RepoConfig) -> Iterator[None]:
    """The session that Feast will use, in UTC; Feast's warning that the store is new is left out."""
    started = session_of(config.offline_store.spark_conf or {}, "feature_store.yaml")
    session = type(started).getActiveSession() or started
    _set_always(session)
    with warnings.catch_warnings(), spark_errors("reading the entity rows"):
        warnings.filterwarnings("ignore", _ALPHA, RuntimeWarning)
        yield


def _set_always(session: Any) -> None:
    """Feast's store sets one of these otherwise."""
    for key, value in ALWAYS.items():
        session.conf.set(key, value)


def _refuse_unlike(view: FeatureView) -> None:
    source = view.batch_source
    if not isinstance(source, spark.SparkSource):
        raise ConfigError(
            f"feature view {view.name}: expected a SparkSource, got {type(source).__name__} {source.name if source else ''}; "
            "run `sidkit upgrade --definitions`, or write the source of your own view as a SparkSource"
        )
    if view.ttl and view.ttl.microseconds:
        raise ConfigError(
            f"feature view {view.name}: expected a TTL of whole seconds, which Spark's join takes, got {view.ttl}; round it"
        )


def _times_of(entity_df: Any) -> Within:
    """The range of the times of entity rows; no bounds where they are not a frame of pandas."""
    if not isinstance(entity_df, pd.DataFrame) or entity_df.empty:
        return Within()
    times = pd.to_datetime(entity_df[infer_event_timestamp_from_entity_df(dict(entity_df.dtypes))], utc=True)
    return _between(times.min(), times.max())


def _interval(named: Mapping[str, Any]) -> Within:
    return _between(named.get("start_date"), named.get("end_date"))


def _between(first: datetime | None, last: datetime | None) -> Within:
    """The range of times as Feast gives them: naive ones are UTC."""
    ends = (None if each is None or each is pd.NaT else pd.Timestamp(each) for each in (first, last))
    utc = (each if each is None else each.tz_localize("UTC") if each.tzinfo is None else each for each in ends)
    return Within(*(None if each is None else each.value // 1000 for each in utc))


def _of_few_files(view: FeatureView, within: Within) -> FeatureView:
    ttl = view.ttl
    source = _in_few_files(view.batch_source, within.and_before(round(ttl.total_seconds() * MICROS) if ttl else None))
    if source is view.batch_source:
        return view
    copied = copy.copy(view)
    copied.batch_source = source
    return copied


def _in_few_files(source: DataSource, within: Within) -> DataSource:
    """A source that Spark reads by opening few files; see :func:`sidkit.stores.offline.day_files.days_or_table`."""
    folder = Path(getattr(source, "path", None) or "")
    if not is_by_day(folder) or (path := days_or_table(folder, within)) == folder:
        return source
    copied = copy.copy(source)
    copied.spark_options = copy.copy(source.spark_options)
    copied.spark_options.path = str(path)
    copied.date_partition_column = ""
    return copied


def _one_row(entity_df: pd.DataFrame) -> pd.DataFrame:
    """A row in place of none: its result is cut to no rows, and has the columns."""
    row: dict[str, Any] = {}
    for name, kind in entity_df.dtypes.items():
        if isinstance(kind, pd.DatetimeTZDtype) or kind.kind == "M":
            row[str(name)] = pd.Timestamp(datetime(1970, 1, 2), tz="UTC")
        else:
            row[str(name)] = "" if pd.api.types.is_object_dtype(kind) else kind.type(0)
    return pd.DataFrame([row])


if not spark.MULTIPLE_FEATURE_VIEW_POINT_IN_TIME_JOIN.startswith(PLAN):  # a second import of this module
    spark.MULTIPLE_FEATURE_VIEW_POINT_IN_TIME_JOIN = PLAN + spark.MULTIPLE_FEATURE_VIEW_POINT_IN_TIME_JOIN
