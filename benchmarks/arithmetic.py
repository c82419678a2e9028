"""What 1 billion items and 100 billion impressions would take, computed from measured costs per row.

    python benchmarks/arithmetic.py [--write]

Reads ``benchmarks/results/*.json`` and prints the tables of ``docs/results/large-arithmetic.md``; ``--write`` replaces them in
the page. Every cost is that of the largest measured size, per row, times the rows. Sizes and machines that are assumed are in
:data:`SCALE`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from computed_blocks import written

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "results" / "large-arithmetic.md"


@dataclass(frozen=True)
class Scale:
    """What is assumed."""

    items: float = 1e9
    impressions: float = 100e9
    """Of the whole log."""
    days: float = 30
    """Of the log."""
    users: float = 2e8
    dim: int = 384
    """Of an item's vectors, ``float32``."""
    encoded_dim: int = 64
    """Of the vectors that the content encoder gives."""
    id_dim: int = 16
    levels: int = 3
    node_cores: int = 32
    node_gb: float = 256
    used: float = 0.6
    """Share of a node's cores that work."""
    hours: float = 6
    """In which a stage must end."""


SCALE = Scale()


@dataclass(frozen=True)
class Constant:
    """A measured cost: its value, unit, and where it is from."""

    value: float
    unit: str
    source: str


def read(name: str) -> Any:
    """A result file."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def stage(name: str) -> dict[str, Any]:
    """A stage of `sidkit run` in the largest run that got so far, with the run's size."""
    runs = [(run["impressions"], run["items"], each) for run in read("stage_costs")["runs"] for each in run["stages"]]
    impressions, items, found = max(
        (run for run in runs if run[2]["stage"].split(":s0")[0] == name), key=lambda run: run[:2]
    )
    return {**found, "of": f"stage_costs.json, {impressions:,} impressions of {items:,} items"}


def spark_factor() -> Constant:
    """Processor time of Spark over DuckDB for what the tables of the largest log take more than those of the smallest.

    So the time that Java takes to start and to compile is left out.
    """
    tables = {
        (run["impressions"], run["items"], run["profile"]): each["cpu_s"]
        for run in read("stage_costs")["profiles"]
        for each in run["stages"]
        if each["stage"] == "tables"
    }
    sizes = sorted(size for *size, profile in tables if profile == "spark" and (*size, "local") in tables)
    small, large = sizes[0], sizes[-1]
    spark, local = (tables[*large, profile] - tables[*small, profile] for profile in ("spark", "local"))
    source = f"stage_costs.json, tables of {large[0]:,} impressions of {large[1]:,} items less those of {small[0]:,}"
    return Constant(spark / local, "times the processor time of DuckDB", source)


def constants() -> dict[str, Constant]:
    """Measured costs, by name."""
    stats, redis = read("code_stats_costs"), read("redis_store")
    ticks = {int(size): cell for size, cell in read("tick_costs").items()}
    costs, tables = read("codebook_costs"), read("large_tables")["records"]
    book = max(costs["read"], key=lambda name: int(name.split(" x ")[0]))
    vectors, fit, publish = costs["read"][book], stage("codebook"), stage("publish")
    whole = max(costs["commands"], key=lambda name: int(name.split(" x ")[0]))
    (of_items, _), (items, dim) = (
        [int(number) for number in name.split(",")[0].split(" x ")] for name in (book, whole)
    )
    trained, frame = stage("train:content_codes"), stage("frame")
    small, large = min(ticks), max(ticks)
    ids = {record["cell"]: record for record in tables if record["items"] == max(each["items"] for each in tables)}
    bulk = read("bench_online")["million"]["bulk"]["cpu_seconds"]
    rows = redis["shape"]["entities"] * redis["shape"]["views"]
    server = redis["median_ms"]["redis_cold"]["server"] / rows
    tables_us = stats["build"]["cpu"] / stats["impressions"] * 1e6
    per_event = ticks[large]["batch"]["push_cpu_s"] / ticks[large]["batch"]["events"] * 1e6
    grown = (ticks[large]["tick_cpu_s"] - ticks[small]["tick_cpu_s"]) / (large - small) * 1e6
    log = f"logs of {small:,} and {large:,}"
    return {
        "log_bytes": Constant(
            (ticks[large]["log_bytes"] - ticks[small]["log_bytes"]) / (large - small), "bytes per impression",
            f"tick_costs.json, {log}, without the items",
        ),
        "tables_us": Constant(tables_us, "µs per impression", "code_stats_costs.json, 10M impressions"),
        "table_bytes": Constant(stats["bytes"]["without"] / stats["impressions"], "bytes per impression", "the same"),
        "stats_us": Constant(stats["count"]["cpu"] / stats["impressions"] * 1e6, "µs per impression", "the same"),
        "spark_factor": spark_factor(),
        "frame_us": Constant(frame["cpu_s"] / frame["rows"] * 1e6, "µs per row", frame["of"]),
        "train_us": Constant(
            trained["cpu_s"] / trained["rows"] / 2 * 1e6, "µs per row and epoch", trained["of"] + ", `content_codes`"
        ),
        "fit_s": Constant(fit["cpu_s"], "s in all", fit["of"]),
        "encode_us": Constant(
            vectors["encode"]["cpu_s"] / of_items * 1e6, "µs per item", f"codebook_costs.json, {book}: reading and encoding"
        ),
        "fit_bytes": Constant(
            costs["commands"][whole]["fit"]["peak_mb"] * 2**20 / items, f"bytes per item of {dim} dimensions",
            f"codebook_costs.json, `fit` of {whole}",
        ),
        "publish_us": Constant(publish["cpu_s"] / publish["rows"] * 1e6, "µs per item", publish["of"]),
        "materialize_us": Constant(bulk, "µs per row", "bench_online.json, 1M rows"),
        "online_bytes": Constant(
            ticks[large]["online_bytes"] / ticks[large]["online_rows"], "bytes per row", f"tick_costs.json, a log of {large:,}"
        ),
        "id_bytes": Constant(
            ids["train"]["table_mb"] * 2**20 / ids["train"]["items"], "bytes per id", "large_tables.json, 10M ids"
        ),
        "request_ms": Constant(read("serving")["closed"]["cpu_ms"], "ms per request", "serving.json, 500 candidates"),
        "server_us": Constant(server * 1e3, "µs per row of the Redis server", "redis_store.json"),
        "push_us": Constant(per_event, "µs per event", f"tick_costs.json, a log of {large:,}"),
        "tick_s": Constant(ticks[small]["tick_cpu_s"], "s per tick", f"tick_costs.json, a log of {small:,}"),
        "tick_us": Constant(grown, "µs per impression of the log", f"tick_costs.json, {log}"),
    }  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """A stage at the scale."""

    name: str
    rows: float
    seconds: float
    """Of one core."""
    memory_gb: float
    """That one process or server has to hold."""
    one_machine: bool
    """Whether it cannot be spread over machines today."""
    bound: str


def stages(scale: Scale = SCALE) -> list[Stage]:
    """The stages, with the seconds of one core."""
    c = {name: each.value for name, each in constants().items()}
    us, day = 1e-6, scale.impressions / scale.days
    vectors_gb = scale.items * scale.encoded_dim * 4 / 1e9
    rows_online = 3 * scale.items + 2 * scale.users
    spark = c["spark_factor"] * c["tables_us"] * us
    return [
        Stage("tables, from scratch, on Spark", scale.impressions, scale.impressions * spark, 0, False, "windows per key"),
        Stage("tables, one day more, on Spark", day, day * spark, 0, False, "windows per key"),
        Stage("statistics of codes", scale.impressions, scale.impressions * c["stats_us"] * us, 0, True, "DuckDB, one machine"),
        Stage("codebook: fit", scale.items, c["fit_s"] + scale.items * c["encode_us"] * us,
              scale.items * c["fit_bytes"] / 1e9, True, "reading the vectors; holds the encoded ones"),
        Stage("codes of all items, on Spark", scale.items, scale.items * c["publish_us"] * us, 0, False, "distances"),
        Stage("frame, 1 billion rows", 1e9, 1e9 * c["frame_us"] * us, vectors_gb, True, "the driver holds a retrieval"),
        Stage("train, an epoch of 1 billion rows", 1e9, 1e9 * c["train_us"] * us, vectors_gb, True, "rows; item vectors"),
        Stage("materialize all rows", rows_online, rows_online * c["materialize_us"] * us,
              rows_online * c["online_bytes"] / 1e9, True, "one Redis primary holds a view"),
    ]  # fmt: skip


def nodes(seconds: float, scale: Scale = SCALE) -> float:
    """Nodes that do the work of ``seconds`` of one core in time."""
    return seconds / (scale.node_cores * scale.used * scale.hours * 3600)


def hours_on_one(seconds: float, scale: Scale = SCALE) -> float:
    """Hours of one node."""
    return seconds / (scale.node_cores * scale.used * 3600)


def number(value: float) -> str:
    """Two significant digits, with thousands."""
    if value == 0:
        return "-"
    rounded = float(f"{value:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:.2g}"


def page(scale: Scale = SCALE) -> str:
    """The computed part of the page."""
    c = constants()
    lines = ["| measured cost | | source in `benchmarks/results` |", "| --- | --- | --- |"]
    lines += [f"| `{name}` | {number(each.value)} {each.unit} | {each.source} |" for name, each in c.items()]
    head = (
        "at the scale",
        "core-hours",
        "hours of one node",
        "nodes for 6 hours",
        "GB in one process",
        "runs on",
        "bound by",
    )
    lines += ["", f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for stage in stages(scale):
        where = "one machine" if stage.one_machine else "many machines"
        lines.append(
            f"| {stage.name} | {number(stage.seconds / 3600)} | {number(hours_on_one(stage.seconds, scale))} | "
            f"{number(nodes(stage.seconds, scale))} | {number(stage.memory_gb)} | {where} | {stage.bound} |"
        )
    lines += ["", *sizes(scale), "", *traffic(scale)]
    return "\n".join(lines)


def sizes(scale: Scale) -> list[str]:
    """What is stored."""
    c = {name: each.value for name, each in constants().items()}
    rows = {
        "log": scale.impressions * c["log_bytes"],
        "feature tables": scale.impressions * c["table_bytes"],
        "item vectors, `float32`": scale.items * scale.dim * 4,
        "item vectors after the encoder": scale.items * scale.encoded_dim * 4,
        "codes, one byte per level": scale.items * scale.levels,
        "online store": (3 * scale.items + 2 * scale.users) * c["online_bytes"],
        "id table of a ranker": scale.items * c["id_bytes"],
    }
    lines = ["| stored | GB | nodes that hold it in memory |", "| --- | --- | --- |"]
    return lines + [
        f"| {name} | {number(size / 1e9)} | {number(size / 1e9 / scale.node_gb)} |" for name, size in rows.items()
    ]


def traffic(scale: Scale) -> list[str]:
    """What a day of traffic takes, without queues; ``day_simulation.py`` has them."""
    c = {name: each.value for name, each in constants().items()}
    events = scale.impressions / scale.days / 86_400
    requests = events / 20
    scan = c["tick_us"] * 1e-6
    largest = (60 - c["tick_s"]) / scan if scan > 0 else float("inf")
    lines = ["| a mean second of the day | |", "| --- | --- |"]
    return [
        *lines,
        f"| impressions | {number(events)} |",
        f"| requests, 20 items shown in each | {number(requests)} |",
        f"| cores that score 500 candidates per request | {number(requests * c['request_ms'] / 1000.0)} |",
        f"| cores of Redis, if no row is cached | {number(requests * 500 * 2 * c['server_us'] * 1e-06)} |",
        f"| cores that accept the impressions as events | {number(events * c['push_us'] * 1e-06)} |",
        f"| core-hours of one tick, which scans the log | {number((c['tick_s'] + scale.impressions * scan) / 3600)} |",
        f"| impressions in the log for which a tick takes a minute of one core | {number(largest)} |",
    ]


def main() -> None:
    """Print the tables, or write them into the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true")
    if parser.parse_args().write:
        PAGE.write_text(written(PAGE.read_text(), "computed", page()))
    else:
        print(page())


if __name__ == "__main__":
    main()
