"""Online reads from Redis: the packed store on Redis, the packed SQLite file and Feast's own Redis store.

    python benchmarks/redis_store.py [--items 20000] [--reads 100] [--work FOLDER]

A read takes 10 features of two views of 500 random items, as in ``benchmarks/online.py``, by the reader of the ranker into
arrays: ``redis`` from the packed store on Redis and ``file`` from the packed SQLite file, both after all rows were read since
the last write, so that they are in the cache; ``redis_cold`` and ``file_cold`` with an empty cache. ``feast`` is Feast's Redis
store by ``get_online_features(...).to_dict()``. All alternate in one process, on one server. Processor time is that of this
process and of the server (``INFO cpu``, less the cost of that command); ratios are of medians.
``benchmarks/results/redis_store.json`` has the medians and the load of the machine.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.metadata
import io
import json
import os
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from online_stores import BEGINNING, END, PACKED, open_store, redis_server, write_tables

RESULTS = Path(__file__).parent / "results" / "redis_store.json"
PACKED_REDIS = "sidkit.stores.online.PackedRedisOnlineStore"
ENTITIES = 500
PACKED_WAYS = ("redis", "file", "redis_cold", "file_cold")
BARS = {"redis_vs_file": 2.0, "feast_vs_redis": 10.0}
"""At most, and at least."""


def opened(folder: Path, address: str) -> dict[str, Any]:
    """The filled stores."""
    from sidkit.stores.online.bulk import in_bulk

    kinds = {
        "redis": {"type": PACKED_REDIS, "url": f"redis://{address}/0"},
        "file": {"type": PACKED},
        "feast": {"type": "redis", "connection_string": address},
    }
    stores = {name: open_store(folder, name, online, ["stats", "content"]) for name, online in kinds.items()}
    for store in stores.values():
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), in_bulk(store):
            store.materialize(BEGINNING, END)
    stores["file_cold"] = open_store(folder, "file", kinds["file"], [], fresh=False)
    stores["redis_cold"] = open_store(folder, "redis", {**kinds["redis"], "row_cache_mb": 0}, [], fresh=False)
    return stores


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--reads", type=int, default=100)
    parser.add_argument("--work", type=Path)
    given = parser.parse_args()
    with contextlib.ExitStack() as on:
        folder = given.work or Path(on.enter_context(tempfile.TemporaryDirectory(prefix="sidkit-bench-")))
        write_tables(folder, given.items)
        address = on.enter_context(redis_server(folder))
        if not address:
            raise SystemExit("expected redis-server on the path, got none; install Redis")
        record = measured(opened(folder, address), address, given.items, given.reads)
    RESULTS.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


def measured(stores: dict[str, Any], address: str, items: int, reads: int) -> dict[str, Any]:
    """Medians of the reads, and their ratios."""
    from redis import Redis

    from ranking.serving.service_reader import ServiceReader

    server = Redis.from_url(f"redis://{address}/0")
    ways: dict[str, Any] = {}
    for name in PACKED_WAYS:
        reader = ServiceReader(stores[name], stores[name].get_feature_service("ten"))
        ways[name] = lambda asked, reader=reader: reader.read({"item_id": asked})
    service, by_feast = stores["feast"].get_feature_service("ten"), stores["feast"].get_online_features
    ways["feast"] = lambda asked: by_feast(service, {"item_id": asked}, full_feature_names=True).to_dict()
    cold = stores["file_cold"]._get_provider().online_store.file(stores["file_cold"].config)
    for at in range(0, items, ENTITIES):
        for name in PACKED_WAYS:
            ways[name]([f"i{number}" for number in range(at, min(at + ENTITIES, items))])

    def server_ms() -> float:
        used = server.info("cpu")
        return 1e3 * (used["used_cpu_user"] + used["used_cpu_sys"])

    asked = [f"i{number}" for number in range(ENTITIES)]
    for way in ways.values():
        way(asked)
    gc.collect()
    gc.freeze()
    own = statistics.median(-server_ms() + server_ms() for _ in range(50))
    spent: dict[str, dict[str, list[float]]] = {name: {"wall": [], "client": [], "server": []} for name in ways}
    for _ in range(reads):
        for name, way in ways.items():
            asked = [f"i{number}" for number in random.sample(range(items), ENTITIES)]
            if name == "file_cold":
                cold.forget()
            before, began, used = server_ms(), time.perf_counter(), time.process_time()
            way(asked)
            client, wall = time.process_time() - used, time.perf_counter() - began
            spent[name]["client"].append(1e3 * client)
            spent[name]["wall"].append(1e3 * wall)
            spent[name]["server"].append(max(server_ms() - before - own, 0.0))
    median = {
        name: {kind: round(statistics.median(values), 3) for kind, values in kinds.items()}
        for name, kinds in spent.items()
    }
    return {
        "shape": {"items": items, "entities": ENTITIES, "features": 10, "views": 2, "reads": reads},
        "load": os.getloadavg(),
        "versions": {name: importlib.metadata.version(name) for name in ("feast", "redis", "hiredis")}
        | {"server": server.info("server")["redis_version"]},
        "median_ms": median,
        "ratios": ratios(median),
        "bars": BARS,
    }


def ratios(median: dict[str, dict[str, float]]) -> dict[str, float]:
    """Ratios of processor time, the server's included; ``_client`` without it, and ``_wall`` of wall-clock time."""
    found = {}
    for suffix, kinds in (("", ("client", "server")), ("_client", ("client",)), ("_wall", ("wall",))):
        spent = {name: sum(each[kind] for kind in kinds) for name, each in median.items()}
        for name, one, other in (
            ("redis_vs_file", "redis", "file"), ("redis_cold_vs_file_cold", "redis_cold", "file_cold"),
            ("feast_vs_redis", "feast", "redis"), ("feast_vs_redis_cold", "feast", "redis_cold"),
        ):  # fmt: skip
            found[f"{name}{suffix}"] = round(spent[one] / spent[other], 2)
    return found


if __name__ == "__main__":
    main()
