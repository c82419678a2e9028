"""Recompute the ratios of the store benchmarks from their raw times, and collect them in ``results/bench.json``.

    python benchmarks/check.py [--bars]

``bench_offline.json`` and ``bench_online.json`` contain raw times, commands, shapes, versions and the ratios that the
benchmark printed; ``bench.json`` is derived from them and not committed. A ratio that does not match its raw times, or an
incomplete record, is an error; with ``--bars``, so is a ratio that misses its target.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PARTS = {"offline": "retrieval", "online": "online"}
"""Part -> the benchmark whose ``ratios(records)`` derives that part's ratios."""
RECORD = ("name", "command", "shape", "seconds", "versions")
BARS: dict[str, tuple[str, float]] = {
    "retrieval_1m_vs_asof": ("<=", 1.0),
    "retrieval_1m_vs_polars": ("<=", 0.5),
    "retrieval_1m_vs_feast": (">=", 5.0),
    "retrieval_50v_vs_feast": (">=", 25.0),
    "retrieval_50v_vs_polars": ("<=", 0.7),
    "memory_1m_vs_asof": ("<=", 1.3),
    "stream_10m_vs_1m_cpu": ("<=", 12.0),
    "stream_10m_gib": ("<=", 6.0),
    "materialize_vs_feast": (">=", 0.85),
    "materialize_times_faster": (">=", 20.0),
    "bulk_vs_feast": (">=", 10.0),
    "online_500_vs_feast": (">=", 45.0),
    "online_500_vs_raw": ("<=", 3.0),
    "online_500_p99_vs_raw": ("<=", 1.5),
    "online_500_checked": ("<=", 1.05),
    "online_1_values_vs_raw": ("<=", 3.0),
    "online_1_values_uncached_vs_raw": ("<=", 3.0),
    "online_1_values_cold_vs_raw": ("<=", 3.0),
    "online_500_cold_vs_raw": ("<=", 3.0),
    "online_500_cold_p99_vs_raw": ("<=", 1.5),
}


def problems_of(part: str, told: dict[str, Any], derived: dict[str, float]) -> list[str]:
    """Problems of one results file."""
    found = []
    for record in told.get("records", []):
        missing = [key for key in RECORD if not record.get(key)]
        if missing and "over" not in record:
            found.append(f"{part}: {record.get('name')} ({record.get('shape')}) lacks {', '.join(missing)}")
    for key in sorted(set(told["ratios"]) | set(derived)):
        was, now = told["ratios"].get(key), derived.get(key)
        if was is None or now is None or abs(was - now) > 0.005 * max(abs(now), 0.1):
            found.append(f"{part}: {key} is told as {was}, its raw times give {now}")
    return found


def beyond_bars(ratios: dict[str, float]) -> list[str]:
    """Ratios that miss their targets."""
    return [
        f"{key} is {ratios[key]}, the bar is {sign} {bar}"
        for key, (sign, bar) in BARS.items()
        if key in ratios and not (ratios[key] <= bar if sign == "<=" else ratios[key] >= bar)
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--bars", action="store_true")
    asked = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parent))
    problems: list[str] = []
    gathered: dict[str, Any] = {"records": [], "ratios": {}}
    for part, module in PARTS.items():
        path = RESULTS / f"bench_{part}.json"
        if not path.exists():
            print(f"{path.name} is not there: run `make bench`")
            continue
        told = json.loads(path.read_text())
        derived = derive(module, told)
        problems += problems_of(part, told, derived)
        gathered["records"] += told.get("records", [told])
        gathered["ratios"] |= derived
        gathered.setdefault("machines", {})[part] = told.get("machine", {})
    if asked.bars:
        problems += beyond_bars(gathered["ratios"])
    for key, value in gathered["ratios"].items():
        print(f"{key:28} {value}")
    for problem in problems:
        print(problem, file=sys.stderr)
    if problems:
        sys.exit(1)
    if gathered["records"]:
        (RESULTS / "bench.json").write_text(json.dumps(gathered, indent=1) + "\n")


def derive(module: str, told: dict[str, Any]) -> dict[str, float]:
    """The ratios computed from the raw times; the stored ratios if a benchmark has no ``ratios`` function."""
    try:
        ratios = importlib.import_module(module).ratios
    except (ImportError, AttributeError):
        print(f"benchmarks/{module}.py has no ratios(records); its ratios are taken as told")
        return dict(told["ratios"])
    # The offline part keeps one record per cell; the online part is one record of many cells.
    found: dict[str, float] = ratios(told.get("records", told))
    return found


if __name__ == "__main__":
    main()
