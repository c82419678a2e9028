"""Materialization and online reads: the packed store beside Feast's SQLite store, a store that writes nothing, Redis, sqlite3.

    python benchmarks/online.py [--items 100000] [--million] [--runs 7] [--work FOLDER]

Every measurement runs in a process of its own, on one thread; the contestants take turns, so that a busy machine is busy for
all of them, and medians are compared within one run. Materialization moves one list and three integers per item with
``feature_store.yaml``'s settings. A read takes 10 features of two views (three integers, three floats, a list of codes; two
integers, a vector of 32 floats) of random items, after ``gc.freeze``. The floor is a plain ``sqlite3`` read of the same packed
bytes: the ids' keys, one statement per view, a list of bytes. Results go to ``benchmarks/results/bench_online.json``: raw
times, shapes, versions, and ratios from medians. ``_vs_feast`` says how many times faster, ``_vs_raw`` is our time over theirs,
``materialize_vs_feast`` is the share of the no-op store's speed-up.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.metadata
import io
import json
import os
import platform
import random
import resource
import shutil
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

RESULTS = Path(__file__).parent / "results" / "bench_online.json"
PACKED = "sidkit.stores.packed_sqlite.PackedSqliteOnlineStore"
NOTHING = "online.NothingOnlineStore"  # this file, by its bare name
BEGINNING, END = datetime(1970, 1, 2, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)
SIZES = (1, 100, 500)
READS = {"stock": 40, "redis": 40, "packed": 200, "raw": 200}


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


def open_store(folder: Path, name: str, online: dict[str, Any], views: list[str], *, fresh: bool = True) -> Any:
    """A repo with some of the views, fresh or as it was left; settings as in ``feature_repo/feature_store.yaml``."""
    from sidkit.stores.feast_repo import quiet_feast

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
            offline_store={"type": "sidkit.stores.asof_duckdb.AsofDuckDBOfflineStore"},
            online_store=online if online["type"] == "redis" else {"path": str(repo / "online.sqlite"), **online},
            batch_engine={"type": "local", "backend": "polars"},
            materialization={"pull_latest_features": True, "online_write_batch_size": 20_000},
            entity_key_serialization_version=3,
        )
    )
    if fresh:
        store.apply([item, *made, FeatureService(name="ten", features=made)])
    return store


def materialize(folder: Path, kind: str) -> dict[str, float]:
    """Seconds and extra MB of one materialization; ``bulk`` is the kit's own way."""
    from sidkit.stores.packed_bulk import in_bulk

    online = {"stock": "sqlite", "nothing": NOTHING}.get(kind, PACKED)
    store = open_store(folder, f"materialize_{kind}", {"type": online}, ["four"])
    before = peak_mb()
    began, used = time.perf_counter(), time.process_time()
    with contextlib.ExitStack() as on:
        if kind == "bulk":
            on.enter_context(in_bulk(store))
        store.materialize(BEGINNING, END)
    told = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - used}
    return {**told, "extra_mb": peak_mb() - before}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def raw_reader(path: Path) -> Any:
    """The floor: what a plain program would do with the packed bytes."""
    from sidkit.stores.packed_arrow import key_prefix

    opened = sqlite3.connect(path, isolation_level=None, cached_statements=512)
    opened.execute("PRAGMA cache_size = -32768")
    opened.execute("PRAGMA mmap_size = 4294967296")
    prefix = key_prefix(["item_id"]) + (2).to_bytes(4, "little")

    def read(items: list[str]) -> list[list[bytes]]:
        keys = [prefix + len(item).to_bytes(4, "little") + item.encode() for item in items]
        told = []
        for view in ("stats", "content"):
            places = ",".join(["(?)"] * len(keys))
            sql = f'SELECT t.row FROM (VALUES {places}) v LEFT JOIN "packed:bench_{view}" t ON t.key = v.column1'
            told.append([row for (row,) in opened.execute(sql, keys)])
        return told

    return read


def read_stores(folder: Path, redis: str, *, fresh: bool) -> dict[str, Any]:
    stores = {"packed": {"type": PACKED}, "stock": {"type": "sqlite"}}
    if redis:
        stores["redis"] = {"type": "redis", "connection_string": redis}
    return {
        name: open_store(folder, f"read_{name}", online, ["stats", "content"], fresh=fresh)
        for name, online in stores.items()
    }


def fill(folder: Path, redis: str) -> None:
    """Materialize, once, what is read."""
    from sidkit.stores.packed_bulk import in_bulk

    for store in read_stores(folder, redis, fresh=True).values():
        with in_bulk(store):
            store.materialize(BEGINNING, END)


def read(folder: Path, items: int, redis: str) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of each read, by contestant and number of entities; they take turns in one process."""
    from ranking.serving.features import ServiceReader

    opened = read_stores(folder, redis, fresh=False)
    packed = opened["packed"]
    fast = ServiceReader(packed, packed.get_feature_service("ten"))
    raw = raw_reader(Path(packed.config.online_store.path))
    # Readers that start cold read the disk: every page is touched once.
    for _ in range(60):
        asked = [f"i{number}" for number in random.sample(range(items), min(500, items))]
        fast.read({"item_id": asked})
        raw(asked)
    ways: dict[str, Any] = {"packed": lambda asked: fast.read({"item_id": asked}), "raw": raw}
    for name in opened.keys() - {"packed"}:
        service = opened[name].get_feature_service("ten")
        ways[name] = lambda asked, store=opened[name], service=service: store.get_online_features(
            service, {"item_id": asked}, full_feature_names=True
        ).to_dict()
    for size in SIZES:
        for way in ways.values():
            way([f"i{number}" for number in range(size)])
    gc.collect()
    gc.freeze()
    told: dict[str, dict[str, list[float]]] = {name: {str(size): [] for size in SIZES} for name in ways}
    for size in SIZES:
        for turn in range(max(READS.values())):
            for name, way in ways.items():
                if turn % (max(READS.values()) // READS[name]):
                    continue
                asked = [f"i{number}" for number in random.sample(range(items), size)]
                began = time.perf_counter()
                way(asked)
                told[name][str(size)].append((time.perf_counter() - began) * 1e3)
    return told


@contextlib.contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """A Redis of this run on the loopback device, or an empty address where it is not installed."""
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


def apart(*arguments: object) -> Any:
    """One measurement in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def ratios(record: dict[str, Any]) -> dict[str, float]:
    """Every ratio, from the raw times of a record."""
    seconds = {kind: statistics.median(run["seconds"] for run in runs) for kind, runs in record["materialize"].items()}
    told = {
        "materialize_vs_feast": seconds["nothing"] / seconds["packed"],
        "materialize_times_faster": seconds["stock"] / seconds["packed"],
        "bulk_vs_feast": seconds["stock"] / seconds["bulk"],
    }
    times = record["read_ms"]
    for size in SIZES:
        # Each run gives a p50 and a p99; the medians of those over runs are compared.
        p50, p99 = (
            {
                name: statistics.median(float(np.percentile(run[name][str(size)], share)) for run in times)
                for name in times[0]
            }
            for share in (50, 99)
        )
        for other in p50.keys() - {"packed", "raw"}:
            name = "feast" if other == "stock" else other
            told[f"online_{size}_vs_{name}"] = p50[other] / p50["packed"]
            told[f"online_{size}_p99_vs_{name}"] = p99[other] / p99["packed"]
        told[f"online_{size}_vs_raw"] = p50["packed"] / p50["raw"]
        told[f"online_{size}_p99_vs_raw"] = p99["packed"] / p99["raw"]
    return {name: round(value, 3) for name, value in told.items()}


def main() -> None:
    """Measure, print a table, keep the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--million", action="store_true", help="also materialize 1,000,000 items and tell the memory")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        what, folder, *rest = given.one
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            told: Any = None
            if what == "materialize":
                told = materialize(Path(folder), rest[0])
            elif what == "fill":
                fill(Path(folder), rest[0])
            else:
                told = read(Path(folder), int(rest[0]), rest[1])
        print(json.dumps(told))
        return
    with contextlib.ExitStack() as on:
        folder = given.work or Path(on.enter_context(tempfile.TemporaryDirectory(prefix="sidkit-bench-")))
        write_tables(folder, given.items)
        kinds = ("stock", "nothing", "packed", "bulk")
        record: dict[str, Any] = {
            "command": " ".join(["python", "benchmarks/online.py", *sys.argv[1:]]),
            "shapes": {"items": given.items, "materialize": "1 list of 4, 3 integers", "read": "10 features, 2 views"},
            "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "load": os.getloadavg()},
            "versions": {
                name: importlib.metadata.version(name)
                for name in ("feast", "duckdb", "pyarrow", "numpy", "polars", "protobuf", "redis")
            }
            | {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version},
            "materialize": {kind: [] for kind in kinds},
            "read_ms": [],
        }
        address = on.enter_context(redis_server(folder))
        apart("fill", folder, address)
        for turn in range(given.runs):
            for kind in kinds:
                record["materialize"][kind].append(apart("materialize", folder, kind))
            record["read_ms"].append(apart("read", folder, given.items, address))
            print(f"run {turn + 1} of {given.runs}", ratios(record), flush=True)
        if given.million:
            write_tables(folder, 1_000_000)
            record["million"] = {kind: apart("materialize", folder, kind) for kind in ("bulk", "packed")}
        record["ratios"] = ratios(record)
    RESULTS.parent.mkdir(exist_ok=True)
    record["read_ms"] = [
        {
            name: {size: [round(value, 6) for value in values] for size, values in sizes.items()}
            for name, sizes in run.items()
        }
        for run in record["read_ms"]
    ]
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["ratios"], indent=1))
    print(json.dumps(record.get("million", {}), indent=1))


def _nothing() -> tuple[type, type]:
    """An online store that writes nothing: what Feast itself costs."""
    from feast.infra.online_stores.online_store import OnlineStore
    from feast.repo_config import FeastConfigBaseModel

    class NothingOnlineStoreConfig(FeastConfigBaseModel):  # type: ignore[misc]
        type: str = NOTHING
        path: str = ""

    class NothingOnlineStore(OnlineStore):  # type: ignore[misc]
        def online_write_batch(self, config: Any, table: Any, data: Any, progress: Any) -> None:
            pass

        def online_read(self, config: Any, table: Any, entity_keys: Any, requested_features: Any = None) -> Any:
            return [(None, None)] * len(entity_keys)

        def update(self, *_: Any, **__: Any) -> None:
            pass

        def teardown(self, *_: Any) -> None:
            pass

    for made in (NothingOnlineStoreConfig, NothingOnlineStore):
        made.__module__, made.__qualname__ = "online", made.__name__
    return NothingOnlineStoreConfig, NothingOnlineStore


def __getattr__(name: str) -> Any:
    """Feast imports the store by name; importing Feast takes seconds, so the class is made when it is asked for."""
    if name in {"NothingOnlineStore", "NothingOnlineStoreConfig"}:
        config, store = _nothing()
        globals().update(NothingOnlineStoreConfig=config, NothingOnlineStore=store)
        return globals()[name]
    raise AttributeError(name)


if __name__ == "__main__":
    main()
