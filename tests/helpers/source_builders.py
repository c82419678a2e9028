"""Feature views on Parquet that a test wrote itself, with the doors through which their values come."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from helpers.online_builders import PACKED, config
from sidkit.stores.quiet_import import quiet_feast

ENGINE = "sidkit.stores.online.PackedComputeEngine"
AT = datetime(2024, 1, 1, tzinfo=UTC)
LATER = datetime(2024, 2, 1, tzinfo=UTC)
BEGINNING, END = datetime(1970, 1, 2, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC)


def at(count: int, unit: str = "us", tz: str | None = "UTC") -> pa.Array:
    """So many times the same moment."""
    return pa.array([AT] * count, pa.timestamp("us", "UTC")).cast(pa.timestamp(unit)).cast(pa.timestamp(unit, tz))


def part(path: Path, **columns: Any) -> Path:
    """Write one file; the event time is ``AT`` where none is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns.setdefault("event_timestamp", at(len(next(iter(columns.values())))))
    pq.write_table(pa.table(columns), path)
    return path


def view_of(
    path: Path | str,
    keys: Mapping[str, str],
    features: Mapping[str, Any],
    *,
    timestamp: str = "event_timestamp",
    created: str = "",
    mapping: dict[str, str] | None = None,
    name: str = "v",
) -> tuple[Any, list[Any]]:
    """A view and its entities; keys are named with the value types that they declare."""
    quiet_feast()
    from feast import Entity, FeatureView, Field, FileSource, ValueType
    from feast.types import from_value_type

    entities = [Entity(name=key, join_keys=[key], value_type=ValueType[kind]) for key, kind in keys.items()]
    view = FeatureView(
        name=name,
        entities=entities,
        ttl=timedelta(0),
        schema=[Field(name=name, dtype=kind) for name, kind in features.items()],
        source=FileSource(
            name="s" if name == "v" else f"{name}_source",
            path=str(path),
            timestamp_field=timestamp,
            created_timestamp_column=created,
            field_mapping=mapping,
        ),
    )
    view.entity_columns = [Field(name=key, dtype=from_value_type(ValueType[kind])) for key, kind in keys.items()]
    return view, entities


def store_of(
    folder: Path,
    view: Any | list[Any],
    entities: Sequence[Any],
    *,
    engine: str = ENGINE,
    pull_latest: bool = True,
    **offline: Any,
) -> Any:
    """A feature store with the view applied, the kit's offline and online stores, and an engine."""
    settings = config(folder, PACKED, engine=engine)
    settings.materialization_config.pull_latest_features = pull_latest
    if offline:
        settings.offline_config = {"type": "sidkit.stores.offline.AsofDuckDBOfflineStore", **offline}
        settings._offline_store = None
    from feast import FeatureStore

    store = FeatureStore(config=settings)
    store.apply([*entities, *(view if isinstance(view, list) else [view])])
    return store


def offline(store: Any, frame: pd.DataFrame, feature: str = "f", view: str = "v") -> list[Any]:
    """The values of a feature, one per row of the frame, which needs no times."""
    rows = frame if "event_timestamp" in frame else frame.assign(event_timestamp=pd.Timestamp(LATER))
    found: list[Any] = (
        store.get_historical_features(rows, features=[f"{view}:{feature}"]).to_arrow()[feature].to_pylist()
    )
    return found


def materialize(store: Any, start: datetime = BEGINNING, end: datetime = END, view: str = "v") -> None:
    """As Feast does it, in silence."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        store.materialize(start, end, feature_views=[view])


def online(store: Any, rows: Sequence[Mapping[str, Any]], feature: str = "f", view: str = "v") -> list[Any]:
    """The values of a feature in the online store."""
    found: list[Any] = store.get_online_features([f"{view}:{feature}"], list(map(dict, rows))).to_dict()[feature]
    return found
