"""Online stores to test side by side: Feast's own SQLite store, the packed one, Redis where it is installed."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.children import ends_with_parent
from helpers.pit_oracle import moment
from helpers.ports import free_port
from sidkit.stores.quiet_import import quiet_feast

if TYPE_CHECKING:
    from feast import FeatureStore, FeatureView
    from feast.repo_config import RepoConfig

PACKED = "sidkit.stores.online.PackedSqliteOnlineStore"
PACKED_REDIS = "sidkit.stores.online.PackedRedisOnlineStore"
BASE_US = 1_700_000_000_000_000
# Feature -> (Feast's type, a strategy's samples); every kind of cell.
TYPES: dict[str, tuple[str, list[Any]]] = {
    "whole": ("Int64", [0, 1, -1, 2**53 + 1, -(2**63), 2**63 - 1]),
    "small": ("Int32", [0, -5, 2**31 - 1]),
    "real": ("Float64", [0.0, -1.5, 1e300]),
    "single": ("Float32", [0.0, 0.5, -2.25]),
    "flag": ("Bool", [True, False]),
    "text": ("String", ["", "a", "żółw", "x" * 300]),
    "blob": ("Bytes", [b"", b"\0\xff", b"abc"]),
    "at": ("UnixTimestamp", [datetime(2020, 1, 1, tzinfo=UTC), datetime(1969, 12, 31, tzinfo=UTC)]),
    "codes": ("Array(Int64)", [[], [0], [7, -(2**62), 9]]),
    "smalls": ("Array(Int32)", [[], [1, 2]]),
    "vector": ("Array(Float32)", [[], [0.5, -1.25, 3.0]]),
    "reals": ("Array(Float64)", [[], [0.1]]),
    "flags": ("Array(Bool)", [[], [True, False, False]]),
    "texts": ("Array(String)", [[], [""], ["a", "", "żółw"]]),
    "blobs": ("Array(Bytes)", [[], [b"", b"\0a"]]),
    "map": ("Map", [{}, {"a": "b", "c": 1}]),
}


def item_entity() -> Any:
    """`item_id`, a text."""
    quiet_feast()
    from feast import Entity, ValueType

    return Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING)


def feature_view(
    name: str = "thing", features: Mapping[str, str] | None = None, *, ttl: timedelta | None = None, path: str = "none"
) -> FeatureView:
    """A view of `item_id` (a text) with features of given types, by default one of each."""
    quiet_feast()
    from feast import FeatureView, Field, FileSource, types

    named = features if features is not None else {name: kind for name, (kind, _) in TYPES.items()}
    kinds = {kind: eval(kind, vars(types)) for kind in set(named.values())}
    return FeatureView(
        name=name,
        entities=[item_entity()],
        schema=[Field(name=feature, dtype=kinds[kind]) for feature, kind in named.items()],
        source=FileSource(
            name=f"{name}_source", path=path, timestamp_field="event_timestamp",
            created_timestamp_column="created_timestamp",
        ),
        ttl=ttl,
    )  # fmt: skip


def entity_view(view: FeatureView) -> FeatureView:
    """The view with the entity column that applying it to a registry would give it."""
    from feast import Field
    from feast.types import String

    view.entity_columns = [Field(name="item_id", dtype=String)]
    return view


def config(folder: Path, kind: str = PACKED, *, engine: str = "local", offline: str = "", **online: Any) -> RepoConfig:
    """A configuration with an online store of a kind in a folder; the offline store is by default the kit's."""
    quiet_feast()
    from feast.infra.registry.sql import SqlRegistryConfig
    from feast.repo_config import RepoConfig

    folder.mkdir(parents=True, exist_ok=True)
    where = {} if kind in {"redis", PACKED_REDIS} else {"path": str(folder / "online.sqlite")}
    return RepoConfig(
        project="shop",
        provider="local",
        registry=SqlRegistryConfig(path=f"sqlite:///{folder}/registry.sqlite"),
        offline_store={"type": offline or "sidkit.stores.offline.AsofDuckDBOfflineStore"},
        online_store={"type": kind, **where, **online},
        batch_engine={"type": engine, "backend": "polars"},
        materialization={"pull_latest_features": True, "online_write_batch_size": 7},
        entity_key_serialization_version=3,
        repo_path=folder,
    )


_ALIVE: list[Any] = []
"""Registries from before anything was applied."""


def feast_repo(folder: Path, kind: str, objects: Sequence[Any], **online: Any) -> FeatureStore:
    """A feature store with some objects applied."""
    settings = config(folder, kind, **online)
    from feast import FeatureStore

    if not (folder / "none").exists():  # the source of views that only a test writes to
        write_source(folder / "none", 1)
    store = FeatureStore(config=settings)
    # Feast finds what it lists by the address of the registry's message: one that is freed would lend its lists to the next.
    _ALIVE.append(store.registry.cached_registry_proto)
    known = any(type(thing).__name__ == "Entity" for thing in objects)
    store.apply([*objects] if known else [item_entity(), *objects])
    return store


def entity_keys(names: Sequence[Any], join_key: str = "item_id") -> list[Any]:
    """Feast's keys of some items: texts or integers."""
    from feast.protos.feast.types.EntityKey_pb2 import EntityKey
    from feast.protos.feast.types.Value_pb2 import Value

    return [
        EntityKey(
            join_keys=[join_key],
            entity_values=[Value(string_val=name) if isinstance(name, str) else Value(int64_val=name)],
        )
        for name in names
    ]


def values(view: FeatureView, row: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values as Feast's, by its own conversion."""
    from feast.type_map import python_values_to_proto_values

    types = {feature.name: feature.dtype.to_value_type() for feature in view.features}
    return {name: python_values_to_proto_values([value], types[name])[0] for name, value in row.items()}


def batch(view: FeatureView, rows: Sequence[tuple[str, Mapping[str, Any], int, int | None]]) -> list[Any]:
    """Rows (item, plain values, event and created time in microseconds) as Feast hands them to an online store."""
    return [
        (key, values(view, row), moment(event), None if created is None else moment(created))
        for key, (_, row, event, created) in zip(entity_keys([name for name, *_ in rows]), rows, strict=True)
    ]


def write_source(path: Path, rows: int, seed: int = 0) -> pa.Table:
    """A feature table of `item_id` with several versions per item: codes, three integers, one of them with nulls, texts."""
    rng = np.random.default_rng(seed)
    at = pa.array(BASE_US + rng.integers(0, 10**9, rows)).cast(pa.timestamp("us")).cast(pa.timestamp("us", "UTC"))
    big = 2**53 + rng.integers(1, 1000, rows) * 2 + 1
    table = pa.table(
        {
            "item_id": [f"i{number}" for number in rng.integers(0, max(rows // 3, 1), rows)],
            "event_timestamp": at,
            "created_timestamp": at,
            "codes": pa.array([None if n % 7 == 0 else list(range(n % 4)) for n in range(rows)], pa.list_(pa.int64())),
            "whole": pa.array(big, mask=rng.random(rows) < 0.2),
            "count": pa.array(rng.integers(0, 9, rows)),
            "price": pa.array(rng.random(rows), pa.float32(), mask=rng.random(rows) < 0.2),
            "title": pa.array([None if n % 5 == 0 else f"title {n}" * (n % 3) for n in range(rows)]),
            "texts": pa.array([[f"t{n}", ""][: n % 3] for n in range(rows)], pa.list_(pa.string())),
        }
    )
    pq.write_table(table, path)
    return table


SOURCE_TYPES = {
    "codes": "Array(Int64)", "whole": "Int64", "count": "Int64", "price": "Float32", "title": "String",
    "texts": "Array(String)",
}  # fmt: skip


def redis_options(address: str) -> dict[str, Any]:
    """Settings of a packed store on a server, with keys that no other test has."""
    return {"url": f"redis://{address}/0", "key_prefix": f"test-{secrets.token_hex(6)}"}


@contextlib.contextmanager
def redis_server(folder: Path, *options: str) -> Iterator[str]:
    """A Redis of this test on the loopback device; yields its connection string and is stopped by its own process id."""
    binary = shutil.which("redis-server")
    if binary is None:
        pytest.skip("redis absent: nothing is compared with a Redis online store")
    port = free_port()
    folder.mkdir(parents=True, exist_ok=True)
    arguments = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no", "--dir", str(folder)]
    arguments += options
    process = subprocess.Popen(
        [binary, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=ends_with_parent(),  # noqa: PLW1509  it only calls the system
    )
    try:
        give_up = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError), contextlib.closing(socket.create_connection(("127.0.0.1", port), 1)):
                break
            assert process.poll() is None and time.monotonic() < give_up, "redis-server does not answer"
            time.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)
