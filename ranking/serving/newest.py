"""Newest event time in an online store: requests for an earlier time cannot be answered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidkit.core.clock import to_us
from sidkit.stores.feast_repo import feature_service
from sidkit.stores.on_demand import ServiceViews

if TYPE_CHECKING:
    from feast import FeatureStore


def newest_row_us(store: FeatureStore, service_names: Sequence[str], tables: Path) -> int:
    """Return the newest event time of feature services' views in the online store, microseconds UTC; 0 if it is empty.

    Feast records the end of each materialized interval, which may be years after the newest row. The packed store is read
    directly. For other stores, the newest row of ``tables`` up to that end is used, which is never earlier than the newest
    materialized row.
    """
    newest = 0
    for view in _stored(store, service_names):
        if view.most_recent_end_time is not None:
            newest = max(newest, _newest_of(store, view, to_us(view.most_recent_end_time), tables))
    return newest


def materialized_until(store: FeatureStore, service_names: Sequence[str]) -> int:
    """Return the latest end of the materialized intervals of feature services' views, microseconds UTC; 0 if none."""
    return max(materialized_ends(store, service_names).values(), default=0)


def materialized_ends(store: FeatureStore, service_names: Sequence[str]) -> dict[str, int]:
    """Return the end of the materialized intervals of each of feature services' views, microseconds UTC; without those that
    were never materialized.
    """
    ends = {view.name: view.most_recent_end_time for view in _stored(store, service_names)}
    return {name: to_us(end) for name, end in ends.items() if end is not None}


def _stored(store: FeatureStore, service_names: Sequence[str]) -> list[Any]:
    """The stored views that services read, those of on-demand views included."""
    services = [feature_service(store, name, allow_cache=True) for name in service_names]
    names = dict.fromkeys(view.name for service in services for view in ServiceViews.of(store, service).stored)
    return [store.registry.get_any_feature_view(name, store.project, allow_cache=True) for name in names]


def _newest_of(store: FeatureStore, view: Any, end_us: int, tables: Path) -> int:
    from sidkit.stores.online.store import PackedOnlineStore, view_id

    online = store._get_provider().online_store
    if isinstance(online, PackedOnlineStore):
        with online.database(store.config).reading() as reading:
            stored = view_id(store.config, view)
            newest_us = reading.newest_us(stored) if stored in reading.views() else None
            return min(end_us, newest_us or 0)
    path = tables / f"{view.name}.parquet"
    if not path.exists():
        return end_us
    import duckdb

    with duckdb.connect() as opened:
        row = opened.execute(
            "SELECT max(epoch_us(event_timestamp)) FROM read_parquet($path) WHERE epoch_us(event_timestamp) <= $end",
            {"path": str(path), "end": end_us},
        ).fetchone()
    return int(row[0]) if row and row[0] is not None else 0
