"""Materialization and online reads: the packed store, Feast's SQLite store, a no-op store, Redis and plain sqlite3.

    python benchmarks/online.py [--items 100000] [--million] [--runs 7] [--only reads] [--work FOLDER]

Every measurement runs in its own process on one thread. The candidates alternate, so that other load affects all of them, and
medians are compared within one run. Materialization writes one list and three integers per item with the settings of
``feature_store.yaml``: ``stock`` and ``packed`` are online stores under Feast's own engine, ``engine`` is ``feast
materialize`` with the kit's configuration, ``bulk`` is ``sidkit materialize``; ``nothing`` is an online store that writes
nothing and freezes the objects created by importing Feast, as ours does, ``unfrozen`` one that does not.

A read takes 10 features of two views (three integers, three floats, a list of codes; two integers, a vector of 32 floats) of
random items, after ``gc.freeze``:

- ``packed``: the kit's reader into arrays after the whole catalogue was read since the last commit, so all rows are cached;
- ``cold``: the same with its cache cleared before each read, as for the first read of a process or after a commit;
- ``unchecked``: ``cold`` without the comparison of checksums;
- ``values``, ``values_uncached``, ``values_cold``: the kit's ``read_one`` of one entity, when its row is cached, when only
  another row was read since the last commit, and as the first read after a commit;
- ``stock``, ``redis``, ``feast``: ``get_online_features(...).to_dict()`` on Feast's stores, and on the packed store;
- ``raw``: a lower bound: a plain ``sqlite3`` read of the same packed bytes: the ids' keys and their hashes, one statement
  per view, the keys compared, a list of bytes; ``raw_values``, for one entity: a statement per view by hash and key, and the
  10 values by ``struct``. Neither compares checksums.

Results go to ``benchmarks/results/bench_online.json`` after every run: raw times, shapes, versions, and ratios of medians.
With ``--only``, one part is measured and printed, and nothing is saved. Ratios use processor time, because waiting on a shared
machine penalises the slowest most; ``_wall`` are the same ratios in wall-clock time, and those with Redis, a separate process,
exist in wall-clock time only. ``_vs_feast`` is the speed-up over Feast's SQLite store, ``_vs_raw`` our time divided by that of
the lower bound (``raw_values`` for ``values``), ``_checked`` the time of ``cold`` over ``unchecked``. ``materialize_vs_feast``
is the share of ``nothing``'s speed-up over ``stock`` that ``engine`` reaches, ``materialize_store_vs_feast`` the share that
``packed`` reaches, and ``materialize_store_vs_unfrozen`` the share of ``unfrozen``'s speed-up.
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
import struct
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
PACKED = "sidkit.stores.online.PackedSqliteOnlineStore"
ENGINE = "sidkit.stores.online.PackedComputeEngine"
NOTHING, UNFROZEN = "idle_stores.NothingOnlineStore", "idle_stores.UnfrozenOnlineStore"
KINDS = ("stock", "nothing", "unfrozen", "packed", "engine", "bulk")
BEGINNING, END = datetime(1970, 1, 2, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)
SIZES = (1, 100, 500)
VALUES = ("values", "values_uncached", "values_cold")
MANY = ("packed", "cold", "unchecked", "raw")
READS = {"stock": 40, "redis": 40, "feast": 40} | dict.fromkeys((*MANY, *VALUES, "raw_values"), 200)


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


def materialize(folder: Path, kind: str) -> dict[str, float]:
    """Seconds and extra MB of one materialization: ``bulk`` is the kit's command, ``engine`` Feast's with the kit's engine."""
    from sidkit.stores.online.bulk import in_bulk

    online = {"stock": "sqlite", "nothing": NOTHING, "unfrozen": UNFROZEN}.get(kind, PACKED)
    engine = ENGINE if kind == "engine" else "local"
    store = open_store(folder, f"materialize_{kind}", {"type": online}, ["four"], engine=engine)
    before = peak_mb()
    began, used = time.perf_counter(), time.process_time()
    with contextlib.ExitStack() as on:
        if kind == "bulk":
            on.enter_context(in_bulk(store))
        store.materialize(BEGINNING, END)
    costs = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - used}
    return {**costs, "extra_mb": peak_mb() - before}


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def plain_connection(path: Path) -> tuple[sqlite3.Connection, bytes]:
    """A connection to the packed rows, and what precedes the length of an id in its key."""
    from sidkit.stores.online.arrow import key_prefix

    opened = sqlite3.connect(path, isolation_level=None, cached_statements=512)
    opened.execute("PRAGMA cache_size = -32768")
    opened.execute("PRAGMA mmap_size = 4294967296")
    return opened, key_prefix(["item_id"]) + (2).to_bytes(4, "little")


def raw_reader(path: Path) -> Any:
    """The lower bound: a plain program that reads the packed bytes."""
    from sidkit.stores.online.key_hashes import hashes_of

    opened, prefix = plain_connection(path)

    def read(items: list[str]) -> list[list[bytes]]:
        keys = [prefix + len(item).to_bytes(4, "little") + item.encode() for item in items]
        hashes, places, fetched = hashes_of(keys), ",".join(["(?)"] * len(keys)), []
        for view in ("stats", "content"):
            sql = (
                f'SELECT t.key, t.row FROM (VALUES {places}) v LEFT JOIN "packed:bench_{view}" t ON t.hash = v.column1'
            )
            own, rows = zip(*opened.execute(sql, hashes), strict=True)
            assert own == tuple(keys)
            fetched.append(list(rows))
        return fetched

    return read


def raw_values_reader(path: Path) -> Any:
    """The lower bound for one entity: a plain program that knows the layouts of the two views."""
    from sidkit.stores.online.key_hashes import hashes_of

    opened, prefix = plain_connection(path)
    stats, content = struct.Struct("<HBI3q3f4q"), struct.Struct("<HB2qI32f")
    statements = [f'SELECT row FROM "packed:bench_{view}" WHERE hash = ? AND key = ?' for view in ("stats", "content")]

    def read(items: list[str]) -> dict[str, Any]:
        text = items[0].encode()
        key = prefix + len(text).to_bytes(4, "little") + text
        own = (*hashes_of([key]), key)
        [[one], [other]] = (opened.execute(statement, own).fetchone() for statement in statements)
        _, _, _, a, b, c, x, y, z, *codes = stats.unpack_from(one)
        _, _, d, e, _, *vector = content.unpack_from(other)
        first = {"stats__codes": codes, "stats__a": a, "stats__b": b, "stats__c": c, "stats__x": x, "stats__y": y}
        return {**first, "stats__z": z, "content__d": d, "content__e": e, "content__vector": vector}

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
    """Materialize the rows to be read, once."""
    from sidkit.stores.online.bulk import in_bulk

    for store in read_stores(folder, redis, fresh=True).values():
        with in_bulk(store):
            store.materialize(BEGINNING, END)


def read(folder: Path, items: int, redis: str) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Milliseconds of each read, wall-clock and processor time, by candidate and number of entities, in alternation."""
    from sidkit.stores.online import open_reader, rows_by_hash

    opened = read_stores(folder, redis, fresh=False)
    packed, emptied, one_row = (
        opened["packed"],
        *(open_store(folder, "read_packed", {"type": PACKED}, ["stats", "content"], fresh=False) for _ in range(2)),
    )
    fast, cold, single = (open_reader(store, "ten") for store in (packed, emptied, one_row))
    path = Path(packed.config.online_store.path)
    raw, raw_values = raw_reader(path), raw_values_reader(path)
    # Every item is asked for once: the pages come from the disk, and the packed reader keeps the rows.
    for at in range(0, items, 500):
        asked = [f"i{number}" for number in range(at, min(at + 500, items))]
        for reader in (fast, cold, single):
            reader.read({"item_id": asked})
        raw(asked)
    check = rows_by_hash.all_intact

    def unchecked(asked: list[str]) -> None:
        rows_by_hash.all_intact = lambda *_: True
        try:
            cold.read({"item_id": asked})
        finally:
            rows_by_hash.all_intact = check

    def by_feast(name: str) -> Any:
        store, service = opened[name], opened[name].get_feature_service("ten")
        return lambda asked: store.get_online_features(service, {"item_id": asked}, full_feature_names=True).to_dict()

    ways: dict[str, Any] = {
        "packed": lambda asked: fast.read({"item_id": asked}),
        "cold": lambda asked: cold.read({"item_id": asked}),
        "unchecked": unchecked,
        "raw": raw,
        "values": lambda asked: fast.read_one({"item_id": asked[0]}),
        "values_uncached": lambda asked: single.read_one({"item_id": asked[0]}),
        "values_cold": lambda asked: single.read_one({"item_id": asked[0]}),
        "raw_values": raw_values,
        "feast": by_feast("packed"),
        **{name: by_feast(name) for name in opened.keys() - {"packed"}},
    }
    before: dict[str, Any] = {
        "cold": cold.database.forget,
        "unchecked": cold.database.forget,
        "values_cold": single.database.forget,
        "values_uncached": lambda: (single.database.forget(), single.read({"item_id": ["i0"]})),
    }
    assert raw_values(["i7"]) == fast.read_one({"item_id": "i7"}) == single.read_one({"item_id": "i7"})
    for size in SIZES:
        for way in ways.values():
            way([f"i{number}" for number in range(size)])
    gc.collect()
    gc.freeze()
    measured: dict[str, dict[str, dict[str, list[float]]]] = {
        kind: {name: {} for name in ways} for kind in ("wall", "cpu")
    }
    for size in SIZES:
        for turn in range(max(READS.values())):
            # In random order: the caches of the processor favour a read that follows one of the same file.
            for name, way in random.sample(sorted(ways.items()), len(ways)):
                if turn % (max(READS.values()) // READS[name]) or (size > 1 and name in (*VALUES, "raw_values")):
                    continue
                asked = [f"i{number}" for number in random.sample(range(items), size)]
                before.get(name, int)()
                began, used = time.perf_counter(), time.process_time()
                way(asked)
                spent = {"cpu": time.process_time() - used, "wall": time.perf_counter() - began}
                for kind, seconds in spent.items():
                    measured[kind][name].setdefault(str(size), []).append(round(seconds * 1e3, 6))
    return measured


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


def apart(*arguments: object) -> Any:
    """One measurement in its own process."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout)


def ratios(record: dict[str, Any]) -> dict[str, float]:
    """All ratios, computed from the raw times of a record."""
    if set(record["materialize"]) != set(KINDS):
        raise SystemExit(f"{RESULTS.name} is of another release of this benchmark: run `python benchmarks/online.py`")
    result = _ratios(record, "cpu_seconds", "cpu")
    result |= {f"{name}_wall": value for name, value in _ratios(record, "seconds", "wall").items()}
    apart = {name for name in result if "_vs_redis" in name}
    result = {name: value for name, value in result.items() if name not in apart or name.endswith("_wall")}
    return {name: round(value, 3) for name, value in result.items()}


def _ratios(record: dict[str, Any], of_materialization: str, of_reads: str) -> dict[str, float]:
    result: dict[str, float] = {}
    seconds = {
        kind: statistics.median(run[of_materialization] for run in runs)
        for kind, runs in record["materialize"].items()
        if runs
    }
    if seconds:
        result |= {
            "materialize_vs_feast": seconds["nothing"] / seconds["engine"],
            "materialize_store_vs_feast": seconds["nothing"] / seconds["packed"],
            "materialize_store_vs_unfrozen": seconds["unfrozen"] / seconds["packed"],
            "materialize_times_faster": seconds["stock"] / seconds["engine"],
            "materialize_store_times_faster": seconds["stock"] / seconds["packed"],
            "bulk_vs_feast": seconds["stock"] / seconds["bulk"],
        }
    times = [run[of_reads] for run in record["read_ms"]]
    for size in map(str, SIZES) if times else ():
        # Each run gives a p50 and a p99; the medians of those over runs are compared.
        p50, p99 = (
            {
                name: statistics.median(float(np.percentile(run[name][size], share)) for run in times)
                for name, read in times[0].items()
                if size in read
            }
            for share in (50, 99)
        )
        start = f"online_{size}"
        for ours, name in (("packed", start), ("cold", f"{start}_cold")):
            for other, theirs in (("stock", "feast"), ("redis", "redis")):
                if other in p50:
                    result[f"{name}_vs_{theirs}"] = p50[other] / p50[ours]
                    result[f"{name}_p99_vs_{theirs}"] = p99[other] / p99[ours]
            result[f"{name}_vs_raw"] = p50[ours] / p50["raw"]
            result[f"{name}_p99_vs_raw"] = p99[ours] / p99["raw"]
        if "unchecked" not in p50:  # a record of an earlier release
            continue
        result[f"{start}_checked"] = p50["cold"] / p50["unchecked"]
        result[f"{start}_by_feast_vs_feast"] = p50["stock"] / p50["feast"]
        for name in VALUES if size == "1" else ():
            result[f"{start}_{name}_vs_feast"] = p50["stock"] / p50[name]
            result[f"{start}_{name}_vs_raw"] = p50[name] / p50["raw_values"]
    return result


def keep(record: dict[str, Any], *, save: bool) -> None:
    """Compute the ratios of a record, and save it."""
    record["ratios"] = ratios(record)
    if not save:
        return
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")


def main() -> None:
    """Measure, print a table and save the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--million", action="store_true", help="also materialize 1,000,000 items and tell the memory")
    parser.add_argument("--only", choices=("reads", "materialize"), help="measure and print one part, and save nothing")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--one", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        what, folder, *rest = given.one
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            measured: Any = None
            if what == "materialize":
                measured = materialize(Path(folder), rest[0])
            elif what == "fill":
                fill(Path(folder), rest[0])
            else:
                measured = read(Path(folder), int(rest[0]), rest[1])
        print(json.dumps(measured))
        return
    with contextlib.ExitStack() as on:
        folder = given.work or Path(on.enter_context(tempfile.TemporaryDirectory(prefix="sidkit-bench-")))
        write_tables(folder, given.items)
        record: dict[str, Any] = {
            "command": " ".join(["python", "benchmarks/online.py", *sys.argv[1:]]),
            "shapes": {"items": given.items, "materialize": "1 list of 4, 3 integers", "read": "10 features, 2 views"},
            "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "load": os.getloadavg()},
            "versions": {
                name: importlib.metadata.version(name)
                for name in ("feast", "duckdb", "pyarrow", "numpy", "polars", "protobuf", "redis")
            }
            | {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version},
            "materialize": {kind: [] for kind in KINDS},
            "read_ms": [],
        }
        address = on.enter_context(redis_server(folder))
        if given.only != "materialize":
            apart("fill", folder, address)
        for turn in range(given.runs):
            for kind in KINDS if given.only != "reads" else ():
                record["materialize"][kind].append(apart("materialize", folder, kind))
            if given.only != "materialize":
                record["read_ms"].append(apart("read", folder, given.items, address))
            keep(record, save=not given.only)
            print(f"run {turn + 1} of {given.runs}", record["ratios"], flush=True)
        if given.million:
            write_tables(folder, 1_000_000)
            record["million"] = {kind: apart("materialize", folder, kind) for kind in ("bulk", "engine", "packed")}
        keep(record, save=not given.only)
    print(json.dumps(record["ratios"], indent=1))
    print(json.dumps(record.get("million", {}), indent=1))


if __name__ == "__main__":
    main()
