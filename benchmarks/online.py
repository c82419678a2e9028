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
import importlib.metadata
import io
import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from online_reads import SIZES, VALUES, fill, read
from online_stores import BEGINNING, END, PACKED, open_store, redis_server, write_tables
from processes import peak_mb

RESULTS = Path(__file__).parent / "results" / "bench_online.json"
ENGINE = "sidkit.stores.online.PackedComputeEngine"
NOTHING, UNFROZEN = "idle_stores.NothingOnlineStore", "idle_stores.UnfrozenOnlineStore"
KINDS = ("stock", "nothing", "unfrozen", "packed", "engine", "bulk")


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
