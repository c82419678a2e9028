"""Feast's point-in-time join in plain Python, and small repos on which offline stores are asked the same question.

The oracle is two nested loops written from the rules: a feature row is seen from its event time on, inclusive; with a
TTL until event time + TTL, inclusive; with the created cut-off only if it was created by the row's time (a missing
created time never passes); a null key or time sees and shows nothing. Of what is seen the newest event time wins, then
the newest created time (a missing one loses), then the last row of the file. A null in the winning row stays null.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

if TYPE_CHECKING:
    from feast import FeatureStore

ASOF = "sidkit.stores.offline.AsofDuckDBOfflineStore"
STOCK = "duckdb"
BASE_US = 1_577_836_800_000_000  # 2020-01-01
DAY_US = 86_400_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
Keys = tuple[Any, ...]

USERS = [f"u{number}" for number in range(6)]
ITEMS = list(range(4))
BOTH = {"user_id": USERS, "item_id": ITEMS}
# name -> (keys, TTL in microseconds, whether the source has a created column)
VIEWS: dict[str, tuple[dict[str, Sequence[Any]], int, bool]] = {
    "user_ever": ({"user_id": USERS}, 0, True),
    "user_7us": ({"user_id": USERS}, 7, True),
    "user_30d": ({"user_id": USERS}, 30 * DAY_US, True),
    "item_40us": ({"item_id": ITEMS}, 40, True),
    "item_uncreated": ({"item_id": ITEMS}, 0, False),
    "pair_ever": (BOTH, 0, True),
    "pair_200us": (BOTH, 200, True),
    "whole": ({}, 200, True),
}
FEATURES = ("number", "text", "list")


@dataclass(frozen=True)
class FeatureRow:
    """One row of a feature table; times are microseconds UTC."""

    keys: Keys
    event_us: int | None
    created_us: int | None = None
    values: tuple[Any, ...] = ()


def seen(
    rows: Sequence[FeatureRow], keys: Keys, at_us: int | None, *, ttl_us: int | None = None, by_created: bool = False
) -> int | None:
    """The number of the feature row that an entity row sees."""
    best: tuple[tuple[int, float, int], int] | None = None
    for number, row in enumerate(rows):
        if at_us is None or row.event_us is None or None in keys or row.keys != keys:
            continue
        if row.event_us > at_us or (ttl_us and row.event_us < at_us - ttl_us):
            continue
        if by_created and (row.created_us is None or row.created_us > at_us):
            continue
        rank = (row.event_us, -math.inf if row.created_us is None else row.created_us, number)
        if best is None or rank > best[0]:
            best = (rank, number)
    return best[1] if best else None


def newest(rows: Sequence[FeatureRow], start_us: int, end_us: int) -> dict[Keys, int]:
    """The number of the newest feature row per key among those with an event time in ``[start_us, end_us]``."""
    best: dict[Keys, tuple[tuple[int, float, int], int]] = {}
    for number, row in enumerate(rows):
        if row.event_us is None or not start_us <= row.event_us <= end_us:
            continue
        rank = (row.event_us, -math.inf if row.created_us is None else row.created_us, number)
        if row.keys not in best or rank > best[row.keys][0]:
            best[row.keys] = (rank, number)
    return {keys: number for keys, (_, number) in best.items()}


@dataclass(frozen=True)
class Table:
    """A feature table: which columns are keys and features, and its rows."""

    keys: tuple[str, ...]
    features: tuple[tuple[str, pa.DataType], ...]
    rows: list[FeatureRow] = field(default_factory=list)

    def arrow(self, unit: str = "us", tz: str | None = "UTC") -> pa.Table:
        """With the columns ``event_timestamp`` and ``created_timestamp``."""
        columns: dict[str, pa.Array] = {}
        for at, name in enumerate(self.keys):
            columns[name] = pa.array([row.keys[at] for row in self.rows])
        columns["event_timestamp"] = times([row.event_us for row in self.rows], unit, tz)
        columns["created_timestamp"] = times([row.created_us for row in self.rows], unit, tz)
        for at, (name, kind) in enumerate(self.features):
            columns[name] = pa.array([row.values[at] for row in self.rows], kind)
        return pa.table(columns)

    def answers(
        self, asked: Iterable[tuple[Keys, int | None]], *, ttl_us: int | None = None, by_created: bool = False
    ) -> dict[str, list[Any]]:
        """What the oracle says: one list per feature, one value per asked row."""
        found = [seen(self.rows, keys, at_us, ttl_us=ttl_us, by_created=by_created) for keys, at_us in asked]
        return {
            name: [None if number is None else self.rows[number].values[at] for number in found]
            for at, (name, _) in enumerate(self.features)
        }


def times(micros: Sequence[int | None], unit: str = "us", tz: str | None = "UTC") -> pa.Array:
    """Microseconds UTC as Arrow timestamps; a naive one holds the UTC clock."""
    return pa.array(micros, pa.int64()).cast(pa.timestamp("us")).cast(pa.timestamp(unit)).cast(pa.timestamp(unit, tz))


def moment(micros: int) -> datetime:
    """Microseconds UTC as a ``datetime``."""
    return EPOCH + timedelta(microseconds=micros)


def entity_frame(keys: dict[str, Sequence[Any]], at_us: Sequence[int | None]) -> pd.DataFrame:
    """An entity dataframe with UTC times."""
    return pd.DataFrame({**keys, "event_timestamp": times(at_us).to_pandas().astype("datetime64[us, UTC]")})


def some(rng: np.random.Generator, values: Sequence[Any], count: int, null: float = 0.0) -> list[Any]:
    """Random picks, some of them null."""
    picks = rng.integers(0, len(values), count)
    return [None if gone else values[pick] for pick, gone in zip(picks, rng.random(count) < null, strict=True)]


def some_times(rng: np.random.Generator, count: int, null: float = 0.0, ticks: int = 40) -> list[int | None]:
    """Times that tie: a few ticks of 3 microseconds on each of four moments about 30 days apart."""
    far = some(rng, (0, 0, 0, 30 * DAY_US, 30 * DAY_US + 1, 60 * DAY_US), count)
    near = rng.integers(0, ticks, count) * 3
    gone = rng.random(count) < null
    return [None if g else BASE_US + f + int(n) for f, n, g in zip(far, near, gone, strict=True)]


def random_table(
    rng: np.random.Generator, keys: dict[str, Sequence[Any]], prefix: str, count: int = 120, ticks: int = 40
) -> Table:
    """Rows with tied and missing times, created before or after the event, with null features and lists.

    Rows that tie in key and both times have equal features: which of them wins is nobody's promise.
    """
    columns = [some(rng, values, count, null=0.03) for values in keys.values()]
    events = some_times(rng, count, 0.02, ticks)
    lags = some(rng, (0, 0, 1, 3, 50, DAY_US, -5), count, null=0.15)
    rows: dict[tuple[Any, ...], FeatureRow] = {}
    listed = []
    for number, (event, lag, *key) in enumerate(zip(events, lags, *columns, strict=True)):
        created = None if lag is None or event is None else event + lag
        values = (
            None if rng.random() < 0.1 else number,
            None if rng.random() < 0.1 else f"{prefix}{number}",
            None if rng.random() < 0.1 else [float(number), 0.5][: int(rng.integers(0, 3))],
        )
        row = FeatureRow(tuple(key), event, created, values)
        listed.append(rows.setdefault((*key, event, created), row))
    kinds = (pa.int64(), pa.string(), pa.list_(pa.float32()))
    names = (f"{prefix}_number", f"{prefix}_text", f"{prefix}_list")
    return Table(tuple(keys), tuple(zip(names, kinds, strict=True)), listed)


def plain(value: Any) -> Any:
    """A cell as Python compares it: NaN, NaT and None are the same, lists are lists, times are microseconds UTC."""
    if isinstance(value, np.ndarray | list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, datetime):
        if value is pd.NaT:
            return None
        return (value if value.tzinfo else value.replace(tzinfo=UTC)) - EPOCH
    if value is None or value is pd.NA or (isinstance(value, float | np.floating) and math.isnan(value)):
        return None
    return value.item() if isinstance(value, np.generic) else value


def cells(table: pa.Table | pd.DataFrame, columns: Sequence[str] | None = None) -> dict[str, list[Any]]:
    """Columns as lists of plain cells."""
    if isinstance(table, pd.DataFrame):
        return {str(name): [plain(cell) for cell in table[name].tolist()] for name in columns or table.columns}
    return {name: [plain(cell) for cell in table.column(name).to_pylist()] for name in columns or table.column_names}


def in_order(table: pa.Table, number: str = "row") -> pa.Table:
    """Rows sorted by a row number: Feast's own store returns them in any order."""
    return table.sort_by(number)


def write(path: Path, table: pa.Table) -> str:
    """Write one Parquet file; returns its path as text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)
    return str(path)


def feast_store(folder: Path, offline: str, **offline_settings: Any) -> FeatureStore:
    """A store on ``folder`` with SQLite registry and online store and the named offline store."""
    from sidkit.stores.quiet_import import quiet_feast

    # Importing Feast puts its own filters before pytest's "error".
    with warnings.catch_warnings():
        quiet_feast()
    from feast import FeatureStore, RepoConfig
    from feast.infra.registry.sql import SqlRegistryConfig

    return FeatureStore(
        config=RepoConfig(
            project="pit",
            provider="local",
            registry=SqlRegistryConfig(registry_type="sql", path=f"sqlite:///{folder}/registry.sqlite"),
            offline_store={"type": offline, **offline_settings},
            online_store={"type": "sqlite", "path": str(folder / "online.sqlite")},
            batch_engine={"type": "local"},
            entity_key_serialization_version=3,
            repo_path=str(folder),
        )
    )


def both_stores(folder: Path, objects: Sequence[Any]) -> tuple[FeatureStore, FeatureStore]:
    """Apply some definitions; returns the repo with the kit's as-of store and with Feast's own DuckDB store."""
    folder.mkdir(parents=True, exist_ok=True)
    feast_store(folder, ASOF).apply(list(objects))
    return feast_store(folder, ASOF), feast_store(folder, STOCK)


class Ground:
    """A repo with one view per entry of VIEWS, both stores on it, and tables that a seed decides."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tables: dict[str, Table] = {}
        self.clock = BASE_US // 1_000_000
        self.draw(0)
        feast_store(folder, STOCK)
        from feast import Entity, ValueType

        user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.STRING)
        item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.INT64)
        self.entities = {"user_id": user, "item_id": item}
        self.views = {name: self._view(name) for name in VIEWS}
        self.ours, self.stock = both_stores(folder, [user, item, *self.views.values()])

    def draw(self, seed: int, ticks: int = 40) -> np.random.Generator:
        """Other tables under the same views; the fewer ticks, the more ties."""
        rng = np.random.default_rng(seed)
        for name, (keys, _, created) in VIEWS.items():
            table = random_table(rng, keys, name, 300 if len(keys) == 2 else 120, ticks)
            if not created:
                first: dict[Any, FeatureRow] = {}
                table.rows[:] = [first.setdefault((row.keys, row.event_us), row) for row in table.rows]
            self.tables[name] = table
            self.write(name)
        return rng

    def write(self, name: str, unit: str = "us", tz: str | None = "UTC") -> None:
        path = write(self.folder / f"{name}.parquet", self.tables[name].arrow(unit, tz))
        # The DuckDB connection that Feast keeps caches files by their modification time, in seconds.
        self.clock += 100
        os.utime(path, (self.clock, self.clock))

    def _view(self, name: str) -> Any:
        from feast import FeatureView, Field, FileSource
        from feast.types import Array, Float32, Int64, String

        keys, ttl_us, created = VIEWS[name]
        return FeatureView(
            name=name,
            entities=[self.entities[key] for key in keys],
            schema=[
                Field(name=f"{name}_{feature}", dtype=dtype)
                for feature, dtype in zip(FEATURES, (Int64, String, Array(Float32)), strict=True)
            ],
            source=FileSource(
                name=f"{name}_source",
                path=str(self.folder / f"{name}.parquet"),
                timestamp_field="event_timestamp",
                created_timestamp_column="created_timestamp" if created else "",
            ),
            ttl=timedelta(microseconds=ttl_us),
        )

    def refs(self) -> list[str]:
        return [f"{name}:{name}_{feature}" for name in VIEWS for feature in FEATURES]

    def oracle(self, frame: pd.DataFrame, name: str, by_created: bool, keys: Sequence[str] = ()) -> dict[str, Any]:
        told_keys, ttl_us, created = VIEWS[name]
        asked = zip(*(frame[key] for key in keys or told_keys), strict=True) if told_keys else [()] * len(frame)
        rows = [(tuple(map(plain, key)), at) for key, at in zip(asked, micros(frame), strict=True)]
        return self.tables[name].answers(rows, ttl_us=ttl_us, by_created=by_created and created)


def micros(frame: pd.DataFrame) -> list[int | None]:
    at = pa.array(frame.event_timestamp).cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    return at.to_pylist()


def asked_rows(rng: np.random.Generator, count: int = 220, null_times: float = 0.0) -> pd.DataFrame:
    """Random entity rows, 20 of them twice, some with null keys or with keys that no table knows."""
    columns = {
        "user_id": some(rng, [*USERS, "stranger"], count, null=0.05),
        "item_id": some(rng, [*ITEMS, 99], count, null=0.05),
        "other_id": some(rng, ITEMS, count),
    }
    at = some_times(rng, count, null_times)
    repeated = [*range(count), *range(20)]
    keys = {name: pd.array([values[number] for number in repeated]) for name, values in columns.items()}
    frame = entity_frame(keys, [at[number] for number in repeated])
    return frame.assign(row=np.arange(len(frame)), label=[f"label {number}" for number in repeated])
