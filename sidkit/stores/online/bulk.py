"""Materialization of Arrow columns directly to packed rows, under Feast's own bookkeeping.

``FeatureStore.materialize`` still controls what is materialized, and states, lineage and the registry's intervals; only the
step that writes one view's rows is replaced, if the packed store and Feast's local engine are used and the view is
a plain one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pyarrow as pa

if TYPE_CHECKING:
    from feast import FeatureStore

_BATCH_ROWS = 20_000


@contextmanager
def in_bulk(store: FeatureStore) -> Iterator[dict[str, int]]:
    """Make ``store.materialize`` and ``materialize_incremental`` write in bulk where possible, inside the block.

    Yields
    ------
    dict
        View name -> rows of each view written in bulk; filled as views finish.
    """
    from feast.infra.compute_engines.local.compute import LocalComputeEngine

    from sidkit.stores.online.store import PackedOnlineStore

    provider = store._get_provider()
    written: dict[str, int] = {}
    if not isinstance(provider.online_store, PackedOnlineStore) or not isinstance(
        provider.batch_engine, LocalComputeEngine
    ):
        yield written
        return
    by_feast = provider.materialize_single_feature_view

    def materialize_one(
        config: Any, feature_view: Any, start_date: datetime, end_date: datetime, *rest: Any, **named: Any
    ) -> None:
        if named.get("disable_event_timestamp") or not is_plain(feature_view):
            by_feast(config, feature_view, start_date, end_date, *rest, **named)
            return
        batches = newest_rows(provider.offline_store, config, feature_view, start_date, end_date)
        written[feature_view.name] = provider.online_store.write_arrow(config, feature_view, batches)

    provider.materialize_single_feature_view = materialize_one
    try:
        yield written
    finally:
        del provider.materialize_single_feature_view


def is_plain(view: Any) -> bool:
    """Whether a view's rows are simply those of its source, online only, with entities; rows may be pushed too."""
    from feast.data_source import PushSource
    from feast.feature_view import DUMMY_ENTITY_NAME, FeatureView

    pushed = view.stream_source is None or isinstance(view.stream_source, PushSource)
    plain = type(view) is FeatureView and view.batch_source is not None and pushed
    special = getattr(view, "source_views", None) or getattr(view, "feature_transformation", None)
    checked = getattr(view, "enable_validation", False)
    return plain and view.online and not (special or checked or view.offline or DUMMY_ENTITY_NAME in view.entities)


def newest_rows(
    offline: Any, config: Any, view: Any, start_date: datetime, end_date: datetime
) -> Iterable[pa.RecordBatch]:
    """Yield the newest row per key, with the column names of the view."""
    from sidkit.stores.offline.jobs import PulledJob
    from sidkit.stores.offline.view_plans import time_of

    source = view.batch_source
    named = source.field_mapping or {}
    columns = {name: column for column, name in named.items()}
    created = time_of(source, created=True)
    event = time_of(source)
    keys = [columns.get(column.name, column.name) for column in view.entity_columns]
    job = offline.pull_latest_from_table_or_query(
        config=config,
        data_source=source,
        join_key_columns=keys,
        feature_name_columns=[columns.get(feature.name, feature.name) for feature in view.features],
        timestamp_field=columns.get(event, event),
        created_timestamp_column=columns.get(created, created) if created else None,
        start_date=start_date,
        end_date=end_date,
    )
    # Feast's own stores return a whole table, sidkit's a stream of batches.
    batches = job.batches(_BATCH_ROWS) if isinstance(job, PulledJob) else job.to_arrow().to_batches(_BATCH_ROWS)
    for batch in batches:
        yield batch.rename_columns([named.get(name, name) for name in batch.schema.names])
