"""Feast's Spark offline store with exact keys, ties and Arrow results.

Select it in ``feature_store.yaml``, as the profile ``spark`` does::

    offline_store:
      type: sidkit.stores.spark_offline.ArrowSparkOfflineStore
      spark_conf: {spark.master: "local[2]"}

It subclasses Feast's store, which has these faults (Feast 0.67):

- rows are distinguished by their keys and time as one text without separators, so that user 1 with item 11 gets the features of
  user 11 with item 1: here they are a JSON array;
- a row that ties with others in its times is returned with each of them, and rows without a created time are ignored: here one
  row per entity row is returned, the newest by both times;
- results pass through pandas, where times lose their zone and integers beside nulls become floats: here Spark's own Arrow;
- a TTL with a fraction of a second is cut to whole seconds, and one below a second is ignored: here it is refused;
- entity dataframes without rows fail: here they give a result without rows;
- times depend on the zone of the session: here it is UTC.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
from feast.data_source import DataSource
from feast.feature_view import FeatureView
from feast.infra.offline_stores.contrib.spark_offline_store import spark
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.repo_config import RepoConfig

from sidkit.core.errors import ConfigError
from sidkit.stores.offline.day_files import is_by_day, refuse_outdated
from sidkit.stores.registry_cache import hold_cached_registries
from sidkit.stores.registry_path import resolve_registry_against_repo
from sidkit.tables.engines.spark import ALWAYS, session_of

resolve_registry_against_repo()
hold_cached_registries()

_ALPHA = r"The spark (data source API|offline store) is an experimental feature"
warnings.filterwarnings("ignore", _ALPHA, RuntimeWarning)  # importing Feast's store shows it again for each source
_KEYS_AS_TEXT = (
    (",CONCAT(\n", ",TO_JSON(ARRAY(\n"),
    (") AS {{featureview.name}}__entity_row_unique_id", ")) AS {{featureview.name}}__entity_row_unique_id"),
)
"""Parts of Feast's join, each with its replacement."""
_TIES = ("    ),\n\n    /*\n     2. If the `created_timestamp_column`", "\n)\n\n---EOS---\n\n{% endfor %}")
"""Begin and end of the choice among the rows up to a time, without the latter."""
_NEWEST = """    )

    SELECT * FROM (
        SELECT *, ROW_NUMBER() OVER (
            PARTITION BY {{featureview.name}}__entity_row_unique_id
            ORDER BY event_timestamp DESC{% if featureview.created_timestamp_column %}, created_timestamp DESC{% endif %}
        ) AS {{featureview.name}}__nth
        FROM {{ featureview.name }}__base
    )
    WHERE {{featureview.name}}__nth = 1"""
"""The newest row; a missing created time is the oldest."""


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
        empty = isinstance(entity_df, pd.DataFrame) and entity_df.empty
        rows = _one_row(entity_df) if empty else entity_df
        with _spark(config):
            job = spark.SparkOfflineStore.get_historical_features(
                config, feature_views, feature_refs, rows, *rest, **named
            )
        return _ArrowJob(job, empty=empty)

    @staticmethod
    def pull_latest_from_table_or_query(
        config: RepoConfig, data_source: DataSource, *rest: Any, **named: Any
    ) -> RetrievalJob:
        """The newest row per key in an interval, for materialization."""
        with _spark(config):
            return _ArrowJob(
                spark.SparkOfflineStore.pull_latest_from_table_or_query(config, data_source, *rest, **named)
            )

    @staticmethod
    def pull_all_from_table_or_query(
        config: RepoConfig, data_source: DataSource, *rest: Any, **named: Any
    ) -> RetrievalJob:
        """All rows in an interval."""
        with _spark(config):
            return _ArrowJob(spark.SparkOfflineStore.pull_all_from_table_or_query(config, data_source, *rest, **named))


class _ArrowJob(spark.SparkRetrievalJob):  # type: ignore[misc]
    """A job of Feast's store whose result is Spark's own Arrow table."""

    def __init__(self, job: Any, *, empty: bool = False) -> None:
        super().__init__(
            job.spark_session, job.query, job.full_feature_names, job._config, job.on_demand_feature_views, job.metadata
        )
        self._empty = empty

    def to_spark_df(self) -> Any:
        frame = super().to_spark_df()
        return frame.limit(0) if self._empty else frame

    def _to_arrow_internal(self, timeout: int | None = None) -> pa.Table:
        if self._should_use_staging_for_arrow():
            return self._to_arrow_via_staging()
        return self.to_spark_df().toArrow()

    def _to_df_internal(self, timeout: int | None = None) -> pd.DataFrame:
        return self._to_arrow_internal(timeout).to_pandas()


@contextmanager
def _spark(config: RepoConfig) -> Iterator[None]:
    """The session that Feast will use, in UTC; Feast's warning that the store is new is left out."""
    started = session_of(config.offline_store.spark_conf or {}, "feature_store.yaml")
    session = type(started).getActiveSession() or started
    for key, value in ALWAYS.items():
        session.conf.set(key, value)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _ALPHA, RuntimeWarning)
        yield


def _refuse_unlike(view: FeatureView) -> None:
    source = view.batch_source
    if not isinstance(source, spark.SparkSource):
        raise ConfigError(
            f"feature view {view.name}: expected a SparkSource, got {type(source).__name__} {source.name if source else ''}; "
            "run `sidkit upgrade --definitions`, or write the source of your own view as a SparkSource"
        )
    folder = Path(source.path or "")
    if is_by_day(folder):
        refuse_outdated(folder)
    if view.ttl and view.ttl.microseconds:
        raise ConfigError(
            f"feature view {view.name}: expected a TTL of whole seconds, which Spark's join takes, got {view.ttl}; round it"
        )


def _one_row(entity_df: pd.DataFrame) -> pd.DataFrame:
    """A row in place of none: its result is cut to no rows, and has the columns."""
    row: dict[str, Any] = {}
    for name, kind in entity_df.dtypes.items():
        if isinstance(kind, pd.DatetimeTZDtype) or kind.kind == "M":
            row[str(name)] = pd.Timestamp(datetime(1970, 1, 2), tz="UTC")
        else:
            row[str(name)] = "" if pd.api.types.is_object_dtype(kind) else kind.type(0)
    return pd.DataFrame([row])


def _corrected(query: str) -> str:
    """Feast's join with keys that cannot be confused, and one row per entity row.

    Raises
    ------
    ConfigError
        When it is not the text of the supported release.
    """
    if any(query.count(part) != 1 for part in (*(part for part, _ in _KEYS_AS_TEXT), *_TIES)):
        raise ConfigError("expected the join of Feast 0.67 in its Spark store, got another; install feast>=0.67,<0.68")
    for part, replacement in _KEYS_AS_TEXT:
        query = query.replace(part, replacement)
    begin, end = map(query.index, _TIES)
    return query[:begin] + _NEWEST + query[end:]


spark.MULTIPLE_FEATURE_VIEW_POINT_IN_TIME_JOIN = _corrected(spark.MULTIPLE_FEATURE_VIEW_POINT_IN_TIME_JOIN)
