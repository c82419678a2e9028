"""What statistics of codes cost: time, memory and bytes of the tables without and with them.

    python benchmarks/code_stats_costs.py [--impressions 10000000] [--items 100000] [--levels 256,256,256] [--work ...]

Ingests an invented log and builds its tables, assigns codes, then counts the events per prefix of codes, each in a process of
its own. Depths are those that a fit chooses. Results go to ``benchmarks/results/code_stats_costs.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded

from attribute_costs import write_source

from sidkit.core.files import write_json
from sidkit.core.memory import own_peak_rss_mb
from sidkit.core.repo import Repo

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "code_stats_costs.json"


def build(repo: Repo) -> dict[str, float]:
    """Seconds of the ingest and of the tables."""
    from ranking.pipeline.prepare import end_of_log
    from sidkit.tables import build_tables, ingest

    seconds = {}
    began = time.monotonic()
    ingest(repo)
    seconds["ingest"] = time.monotonic() - began
    began = time.monotonic()
    build_tables(repo, end_of_log(repo))
    seconds["tables"] = time.monotonic() - began
    return seconds


def assign(repo: Repo, sizes: tuple[int, ...]) -> dict[str, Any]:
    """Fit a codebook that has no statistics yet, and assign its codes; returns the depths that its fit would choose."""
    from semantic_ids import lifecycle
    from semantic_ids.code_stats import CodeStatsSpec, chosen_stats
    from semantic_ids.codebook import Codebook
    from semantic_ids.pairs.known_items import known_items
    from sidkit.tables import read_build

    spec = lifecycle.CodebookSpec(sizes=sizes, force=True, encoder_arguments={"dim": 16}, stats={"depths": []})
    lifecycle.fit(repo, "c", spec)
    lifecycle.publish(repo, "c")
    content = known_items(repo, read_build(repo)["as_of_us"]).content
    stats = chosen_stats(CodeStatsSpec(), Codebook.load(repo.codebooks / "c").encode(content), repo.settings.time)
    return stats.stated() if stats else {}


def count(repo: Repo, stats: dict[str, Any]) -> dict[str, Any]:
    """Seconds and rows of the statistics."""
    from sidkit.tables import read_build
    from sidkit.tables.code_stats import CodeCounts, count_codes

    began = time.monotonic()
    rows = count_codes(repo, CodeCounts("c", "", **{**stats, "depths": tuple(stats["depths"])}), read_build(repo))
    return {"seconds": time.monotonic() - began, "rows": rows}


def step(name: str, repo: Path, **given: Any) -> dict[str, Any]:
    """Run a step in a process of its own; adds its processor time in seconds and its peak of memory in MB."""
    command = [sys.executable, __file__, name, str(repo), json.dumps(given)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(name, result, flush=True)
    return result


def main() -> None:
    """Measure and write the results."""
    if len(sys.argv) == 4 and sys.argv[1] in STEPS:
        repo, given = Repo.open(sys.argv[2]), json.loads(sys.argv[3])
        with repo.locked():
            result = STEPS[sys.argv[1]](repo, **{key: tuple(v) if key == "sizes" else v for key, v in given.items()})
        used = resource.getrusage(resource.RUSAGE_SELF)
        print(json.dumps({**result, "cpu": used.ru_utime + used.ru_stime, "peak_mb": own_peak_rss_mb()}))
        return
    from sidkit.datasets.data_repo import create_repo

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--impressions", type=int, default=10_000_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--levels", default="256,256,256", help="codes per level")
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "code_stats_costs")
    options = parser.parse_args()
    shutil.rmtree(options.work, ignore_errors=True)
    write_source(options.work / "source", options.impressions, options.items, False)
    repo = create_repo(options.work / "repo", str(options.work / "source"))
    results: dict[str, Any] = {"impressions": options.impressions, "items": options.items, "levels": options.levels}
    results["build"] = step("build", repo.path)
    assigned = step("assign", repo.path, sizes=[int(size) for size in options.levels.split(",")])
    stats = {name: assigned[name] for name in ("depths", "cadence_seconds", "user_cadence_seconds")}
    results["stats"] = stats
    plain = sum(path.stat().st_size for path in repo.tables.glob("*.parquet"))
    results["count"] = step("count", repo.path, stats=stats)
    names = ("code_stats_c", "user_code_stats_c")
    sizes = {name: (repo.tables / f"{name}.parquet").stat().st_size for name in names}
    results["bytes"] = {"without": plain, **sizes}
    seconds = results["build"]["ingest"] + results["build"]["tables"]
    results["ratio"] = {
        "seconds": 1 + results["count"]["seconds"] / seconds,
        "cpu": 1 + results["count"]["cpu"] / results["build"]["cpu"],
        "bytes": 1 + sum(sizes.values()) / plain,
    }
    write_json(RESULTS, results)
    print(json.dumps(results, indent=1))
    shutil.rmtree(options.work)


STEPS: dict[str, Any] = {"build": build, "assign": assign, "count": count}

if __name__ == "__main__":
    main()
