"""Writing newest rows to the online store, between two materializations.

The packed store takes columns, as when it is materialized; any other store gets them through Feast: by the view's push source
if it has one, else as rows of the view.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sidkit.tables.newest import NewestRows

if TYPE_CHECKING:
    from feast import FeatureStore

_BATCH_ROWS = 20_000


def push_rows(store: FeatureStore, changed: NewestRows, *, withdraw: bool) -> int:
    """Write the newest rows of a view's keys; returns their number.

    Parameters
    ----------
    store : FeatureStore
        The repository's store.
    changed : NewestRows
        Rows with the keys, features, ``event_timestamp`` and ``created_timestamp``, at most one per key.
    withdraw : bool
        Events were removed, so that a key's newest row may be older than the one in the store, or missing. The packed store
        then takes the older row, or deletes the key. Other stores take any row and delete none.
    """
    from sidkit.stores.online.store import PackedOnlineStore, view_id

    view = store.get_feature_view(changed.view, allow_registry_cache=True)  # a tick refreshes the store first
    online = store._get_provider().online_store
    if not isinstance(online, PackedOnlineStore):
        return _push_by_feast(store, view, changed.rows)
    if withdraw:
        _outdate(store, online, view, changed)
    batches = changed.rows.combine_chunks().to_batches(_BATCH_ROWS)
    written: int = online.write_arrow(store.config, view, batches)
    if withdraw:
        with online.database(store.config).writing() as writing:
            writing.drop_outdated(view_id(store.config, view))
    return written


def _push_by_feast(store: FeatureStore, view: Any, rows: pa.Table) -> int:
    from feast.data_source import PushSource

    if not len(rows):
        return 0
    frame = rows.to_pandas()
    if isinstance(view.stream_source, PushSource):
        store.push(view.stream_source.name, frame)
    else:
        store.write_to_online_store(view.name, frame)
    return len(frame)


def _outdate(store: FeatureStore, online: Any, view: Any, changed: NewestRows) -> None:
    """Let any row replace the changed keys' rows in the packed store; those that are not replaced are deleted."""
    from sidkit.stores.online.columns import keys_of
    from sidkit.stores.online.store import view_id

    stored, version = view_id(store.config, view), store.config.entity_key_serialization_version
    with online.database(store.config).writing() as writing:
        if stored not in writing.views():
            return
        for batch in changed.keys.combine_chunks().to_batches(_BATCH_ROWS):
            keys = keys_of(batch, view, version)
            timed = [
                (key, at) for key, (_, at) in zip(keys, writing.timed_rows(stored, keys), strict=True) if at is not None
            ]
            writing.outdate(stored, [key for key, _ in timed], [at for _, at in timed])
