"""A day of traffic, simulated with measured service times: latencies, cache hits and nodes.

    python benchmarks/day_simulation.py [--impressions-per-day 3.33e9] [--items 1000000000] [--seconds 60]

A discrete-event simulation of the service on one of several equal nodes. Requests come as a Poisson process whose rate follows
the hours of a day (:data:`HOURS`); of every hour, ``--seconds`` after a write are simulated. A node has one worker process per
core and one queue; the first free worker takes the oldest request. A request takes

- a service time drawn from the quantiles of ``results/serving.json`` (500 candidates, all of whose rows the worker holds),
- what Redis takes more than the file (``results/redis_store.json``), and the round trips of the network, while which it waits,
- for each candidate that the worker does not hold: reading its rows, and decoding them into arrays (the same files).

Candidates are drawn from a Zipf distribution over the items. A worker drops what it holds whenever a view is written, every
``--ticks`` seconds, and the least recently used rows when its cache is full (``row_cache_mb``, of which at least half is in
use). The Redis server answers one command at a time: ``redis_cores_for_reads`` is the processor time per second that the reads
of all nodes take there.

``nodes`` is the least number of nodes for which p99 is within :data:`AIM_MS` in every hour. Results go to
``benchmarks/results/day_simulation.json``; the same arguments give the same figures.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sidkit.core.arrays import Floats
from sidkit.core.files import write_json

RESULTS = Path(__file__).parent / "results"
OUT = RESULTS / "day_simulation.json"
AIM_MS = 25.0
"""The aim for p99 of docs/results/serving.md."""
HOURS = (
    0.45, 0.32, 0.25, 0.22, 0.22, 0.28, 0.45, 0.70, 0.90, 1.00, 1.08, 1.15,
    1.20, 1.15, 1.10, 1.10, 1.15, 1.25, 1.45, 1.70, 1.85, 1.80, 1.40, 0.83,
)  # fmt: skip
"""Requests of each hour over the mean of the day; an assumption with the shape of consumer traffic."""
DAY_S = 86_400


@dataclass(frozen=True)
class Traffic:
    """A day of requests.

    Parameters
    ----------
    impressions : float
        Shown items of the day.
    shown : int
        Items that a request shows.
    candidates : int
        Items that a request scores.
    items : int
        Size of the catalogue.
    zipf : float
        Exponent of the popularity of candidates.
    """

    impressions: float
    shown: int = 20
    candidates: int = 500
    items: int = 1_000_000_000
    zipf: float = 1.0

    @property
    def mean_rate(self) -> float:
        """Requests per second, over the day."""
        return self.impressions / self.shown / DAY_S


@dataclass(frozen=True)
class Costs:
    """Measured costs of one request.

    Parameters
    ----------
    quantiles : tuple
        (probability, milliseconds) of the service time with cached rows.
    store_ms : float
        What a request takes more on Redis than on the file, with the round trip in which marks are compared.
    missing_ms : float
        Milliseconds per candidate that is not cached, to read and decode it.
    round_trip_ms : float
        Of the network; one more when a row is not cached.
    server_row_ms : float
        Processor milliseconds of the Redis server per row that is not cached.
    server_ms : float
        The same per request whose rows are all cached.
    cached_rows : int
        Rows that a worker's cache holds.
    views : int
        Views of a candidate.
    """

    quantiles: tuple[tuple[float, float], ...]
    store_ms: float
    missing_ms: float
    round_trip_ms: float
    server_row_ms: float
    server_ms: float
    cached_rows: int
    views: int = 2


def measured_costs(cache_mb: int, row_bytes: float, round_trip_ms: float) -> Costs:
    """The costs in ``benchmarks/results``."""
    serving = json.loads((RESULTS / "serving.json").read_text())
    closed, alone = serving["closed"], serving["cpu_in_one_process"]
    decoding = (alone["scorer_before"]["p50_ms"] - alone["scorer"]["p50_ms"]) / serving["candidates"]
    redis = json.loads((RESULTS / "redis_store.json").read_text())
    rows = redis["shape"]["entities"] * redis["shape"]["views"]
    cold, warm, file = (redis["median_ms"][name] for name in ("redis_cold", "redis", "file"))
    middle, last = closed["p50_ms"], closed["p99_ms"]
    return Costs(
        quantiles=(
            (0.0, 2 * middle - closed["p90_ms"]), (0.5, middle), (0.9, closed["p90_ms"]), (0.99, last),
            (1.0, 2 * last - middle),
        ),
        store_ms=warm["wall"] - file["wall"] + round_trip_ms,
        missing_ms=(cold["wall"] - warm["wall"]) / redis["shape"]["entities"] + decoding,
        round_trip_ms=round_trip_ms,
        server_row_ms=(cold["server"] - warm["server"]) / rows,
        server_ms=warm["server"],
        cached_rows=int(cache_mb * 2**20 / 2 / row_bytes),
    )  # fmt: skip


def hit_rate(traffic: Traffic, reads: Floats, cached: int) -> Floats:
    """The share of candidates that a worker has cached after some reads since its cache was emptied.

    Under independent draws, item i is cached after n reads with probability ``1 - exp(-n p_i)``; a full cache of least recently
    used rows behaves as one emptied ``T`` reads ago, where ``T`` solves ``sum(1 - exp(-T p_i)) = cached`` (Che et al., 2002).
    """
    share, weight = _popularity(traffic.items, traffic.zipf)
    low, high = 0.0, float(max(cached, 1)) * 1e6
    if traffic.items > cached:
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if np.sum(weight * -np.expm1(-middle * share)) < cached else (low, middle)
    else:
        high = math.inf
    at = np.minimum(reads, high)[:, None]
    return np.asarray(np.sum(weight * share * -np.expm1(-at * share), axis=1))


def _popularity(items: int, zipf: float) -> tuple[Floats, Floats]:
    """Probabilities of items and how many items have each: ranks are exact up to 1,000, then in 2,000 geometric groups."""
    exact = min(items, 1000)
    edges = np.unique(np.geomspace(exact, items, 2001).round()) if items > exact else np.array([float(exact)])
    weight = np.concatenate([np.ones(exact), np.diff(edges)])
    ranks = np.concatenate([np.arange(1, exact + 1), np.sqrt((edges[:-1] + 1) * edges[1:])])
    share = ranks**-zipf
    return share / np.sum(share * weight), weight


def simulate_hour(
    rate: float, cores: int, seconds: float, tick_s: float, traffic: Traffic, costs: Costs, rng: np.random.Generator
) -> dict[str, Any]:
    """Simulate a node at a rate of requests per second; returns latencies in milliseconds and shares."""
    arrivals = np.cumsum(rng.exponential(1 / rate, size=max(int(rate * seconds), 100)))
    # The hour's window begins with a write: workers hold nothing.
    reads = (arrivals % tick_s) * rate / cores * traffic.candidates
    grid = np.linspace(0, max(float(reads.max()), 1.0), 400)
    hits = np.interp(reads, grid, hit_rate(traffic, grid, costs.cached_rows))
    missing = (1 - hits) * traffic.candidates
    service = np.interp(rng.random(len(arrivals)), *zip(*costs.quantiles, strict=True)) + costs.store_ms
    service += missing * costs.missing_ms + np.minimum(missing, 1) * costs.round_trip_ms
    latency = queue(arrivals, service / 1000, cores) * 1000
    p50, p99 = np.percentile(latency, [50, 99])
    return {
        "requests": len(arrivals),
        "p50_ms": round(float(p50), 2),
        "p99_ms": round(float(p99), 2),
        "service_ms": round(float(service.mean()), 2),
        "utilization": round(rate * float(service.mean()) / 1000 / cores, 3),
        "cache_hits": round(float(hits.mean()), 4),
        "server_ms": round(costs.server_ms + float(missing.mean()) * costs.views * costs.server_row_ms, 3),
    }


def queue(arrivals: Floats, service: Floats, workers: int) -> Floats:
    """Seconds from arrival to answer with several workers and one queue, first come, first served."""
    free = [0.0] * workers
    latency = np.empty(len(arrivals))
    for at, (came, takes) in enumerate(zip(arrivals.tolist(), service.tolist(), strict=True)):
        done = max(heapq.heappop(free), came) + takes
        heapq.heappush(free, done)
        latency[at] = done - came
    return latency


def simulate_day(traffic: Traffic, costs: Costs, nodes: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The hours of a day on each of ``nodes`` equal nodes."""
    hours = []
    for hour, share in enumerate(HOURS):
        whole = traffic.mean_rate * share / np.mean(HOURS)
        rng = np.random.default_rng([options.seed, hour])
        told = simulate_hour(whole / nodes, options.cores, options.seconds, options.tick, traffic, costs, rng)
        servers = whole * told["server_ms"] / 1000
        events = traffic.impressions / DAY_S * share / np.mean(HOURS)
        hours.append({
            "hour": hour, "requests_per_s": round(whole, 1), "events_per_s": round(events),
            "redis_cores_for_reads": round(servers, 2), **told,
        })  # fmt: skip
    return hours


def line_of(run: dict[str, Any]) -> str:
    """A run as a row of the page: the busiest hour, and the day."""
    busiest = max(run["hours"], key=lambda hour: float(hour["requests_per_s"]))
    quiet = min(run["hours"], key=lambda hour: float(hour["requests_per_s"]))
    return (
        f"| {run['tick_s']:g} s | {run['zipf']} | {run['nodes']} | {busiest['p50_ms']:.1f} | {busiest['p99_ms']:.1f} | "
        f"{quiet['p99_ms']:.1f} | {100 * busiest['cache_hits']:.0f} % | {100 * busiest['utilization']:.0f} % | "
        f"{busiest['redis_cores_for_reads']:.1f} |"
    )


def nodes_needed(traffic: Traffic, costs: Costs, options: argparse.Namespace) -> tuple[int, list[dict[str, Any]]]:
    """The least number of nodes within the aim in every hour, and their hours.

    Raises
    ------
    SystemExit
        When no number of nodes is: a request alone takes longer.
    """
    for nodes in range(1, 1000):
        hours = simulate_day(traffic, costs, nodes, options)
        if max(hour["p99_ms"] for hour in hours) <= AIM_MS:
            return nodes, hours
        if min(hour["service_ms"] for hour in hours) > AIM_MS:
            raise SystemExit(f"expected requests within {AIM_MS} ms, got {hours[0]['service_ms']} ms without any load")
    raise SystemExit("expected fewer than 1,000 nodes; lower --impressions-per-day or raise --cores")


def main() -> None:
    """Simulate and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--impressions-per-day", type=float, default=100e9 / 30)
    parser.add_argument("--items", type=int, default=1_000_000_000)
    parser.add_argument("--zipf", type=float, nargs="+", default=[1.0, 0.8])
    parser.add_argument("--ticks", type=float, nargs="+", default=[1.0, 60.0], help="seconds between writes")
    parser.add_argument("--cores", type=int, default=32, help="per node")
    parser.add_argument("--cache-mb", type=int, default=128, help="row_cache_mb")
    parser.add_argument("--row-bytes", type=float, default=1000.0, help="of a cached row, with Python's objects")
    parser.add_argument("--round-trip-ms", type=float, default=0.3, help="of the network to Redis")
    parser.add_argument("--seconds", type=float, default=60.0, help="simulated per hour")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    costs = measured_costs(options.cache_mb, options.row_bytes, options.round_trip_ms)
    runs = []
    for zipf in options.zipf:
        traffic = Traffic(options.impressions_per_day, items=options.items, zipf=zipf)
        for tick in options.ticks:
            options.tick = tick
            nodes, hours = nodes_needed(traffic, costs, options)
            runs.append({"tick_s": tick, "zipf": zipf, "nodes": nodes, "hours": hours})
            print(line_of(runs[-1]), flush=True)
    write_json(options.out, {
        "traffic": {"impressions_per_day": options.impressions_per_day, "items": options.items, "shown": 20, "candidates": 500},
        "node": {"cores": options.cores, "row_cache_mb": options.cache_mb, "row_bytes": options.row_bytes},
        "costs": asdict(costs), "seconds_per_hour": options.seconds, "seed": options.seed, "runs": runs,
    })  # fmt: skip


if __name__ == "__main__":
    main()
