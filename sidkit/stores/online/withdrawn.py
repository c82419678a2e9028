"""Deletion of withdrawn rows from the packed online store, where no older row would replace them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from sidkit.stores.online.arrow import entity_keys
from sidkit.tables.keys import key_columns
from sidkit.tables.withdrawn import read_withdrawn

if TYPE_CHECKING:
    from feast import FeatureStore


def outdate_withdrawn(store: FeatureStore, tables: Path, names: Sequence[str]) -> list[str]:
    """Allow older rows to replace the withdrawn ones of these views; return the views that had any.

    Other online stores let any write replace a row, so nothing is needed there.
    """
    from sidkit.stores.online.store import PackedOnlineStore, view_id

    online = store._get_provider().online_store
    if not isinstance(online, PackedOnlineStore):
        return []
    outdated = []
    for name in names:
        rows = read_withdrawn(tables, name)
        if not rows.keys:
            continue
        view = store.get_feature_view(name)
        types = {column.name: column.dtype.to_value_type().name for column in view.entity_columns}
        names = key_columns(name) if len(types) > 1 else tuple(types)
        if set(names) != set(types):
            continue
        values = zip(*rows.keys, strict=True)
        columns = {key: pa.array(column, pa.string()) for key, column in zip(names, values, strict=True)}
        keys = entity_keys(columns, types)
        if keys is None:
            continue
        with online.database(store.config).writing() as writing:
            if view_id(store.config, view) in writing.views():
                writing.outdate(view_id(store.config, view), keys, rows.events_us)
                outdated.append(name)
    return outdated


def drop_withdrawn(store: FeatureStore, names: Sequence[str]) -> None:
    """Delete the withdrawn rows of these views that were not replaced."""
    from sidkit.stores.online.store import view_id

    online = store._get_provider().online_store
    for name in names:
        with online.database(store.config).writing() as writing:
            writing.drop_outdated(view_id(store.config, store.get_feature_view(name)))
