"""The tables, stores and servers of ``benchmarks/online.py`` and ``benchmarks/redis_store.py``."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

PACKED = "sidkit.stores.online.PackedSqliteOnlineStore"
BEGINNING, END = datetime(1970, 1, 2, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)


def write_tables(folder: Path, items: int) -> None:
    rng = np.random.default_rng(0)
    at = pa.array(1_700_000_000_000_000 + rng.integers(0, 10**12, items)).cast(pa.timestamp("us"))
    times = {
        "event_timestamp": at.cast(pa.timestamp("us", "UTC")),
        "created_timestamp": at.cast(pa.timestamp("us", "UTC")),
    }
    ids = {"item_id": pa.array([f"i{number}" for number in range(items)])}
    codes = pa.FixedSizeListArray.from_arrays(pa.array(rng.integers(0, 1024, items * 4)), 4).cast(pa.list_(pa.int64()))
    vector = pa.FixedSizeListArray.from_arrays(pa.array(rng.random(items * 32, np.float32)), 32)

    def integers(*names: str) -> dict[str, Any]:
        return {name: rng.integers(0, 10**6, items) for name in names}

    floats = {name: rng.random(items, np.float32) for name in ("x", "y", "z")}
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({**ids, **times, "codes": codes, **integers("a", "b", "c")}), folder / "four.parquet")
    pq.write_table(
        pa.table({**ids, **times, "codes": codes, **integers("a", "b", "c"), **floats}), folder / "stats.parquet"
    )
    vectors = vector.cast(pa.list_(pa.float32()))
    pq.write_table(pa.table({**ids, **times, **integers("d", "e"), "vector": vectors}), folder / "content.parquet")


def open_store(
    folder: Path, name: str, online: dict[str, Any], views: list[str], *, engine: str = "local", fresh: bool = True
) -> Any:
    """A repo with some of the views, new or existing; settings as in ``feature_repo/feature_store.yaml``."""
    from sidkit.stores.quiet_import import quiet_feast

    quiet_feast()
    from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
    from feast.infra.registry.sql import SqlRegistryConfig
    from feast.types import Array, Float32, Int64

    item = Entity(name="item", join_keys=["item_id"], value_type=ValueType.STRING)
    types = {"codes": Array(Int64), "vector": Array(Float32), "x": Float32, "y": Float32, "z": Float32}
    made = []
    for view in views:
        source = folder / f"{view}.parquet"
        features = [column for column in pq.read_schema(source).names if not column.endswith(("_id", "_timestamp"))]
        made.append(
            FeatureView(
                name=view,
                entities=[item],
                schema=[Field(name=feature, dtype=types.get(feature, Int64)) for feature in features],
                source=FileSource(
                    name=f"{view}_source", path=str(source), timestamp_field="event_timestamp",
                    created_timestamp_column="created_timestamp",
                ),
            )
        )  # fmt: skip
    repo = folder / name
    if fresh:
        shutil.rmtree(repo, ignore_errors=True)
        repo.mkdir(parents=True)
    store = FeatureStore(
        config=RepoConfig(
            project="bench",
            provider="local",
            registry=SqlRegistryConfig(path=f"sqlite:///{repo}/registry.sqlite"),
            offline_store={"type": "sidkit.stores.offline.AsofDuckDBOfflineStore"},
            online_store=online
            if "redis" in online["type"].lower()
            else {"path": str(repo / "online.sqlite"), **online},
            batch_engine={"type": engine, "backend": "polars"},
            materialization={"pull_latest_features": True, "online_write_batch_size": 20_000},
            entity_key_serialization_version=3,
        )
    )
    if fresh:
        store.apply([item, *made, FeatureService(name="ten", features=made)])
    return store


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """A Redis server on the loopback device for this run, or an empty address if it is not installed."""
    binary = shutil.which("redis-server")
    if binary is None:
        yield ""
        return
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    arguments = ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--dir", str(folder)]
    process = subprocess.Popen([binary, *arguments], stdout=subprocess.DEVNULL)
    try:
        time.sleep(1)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)
