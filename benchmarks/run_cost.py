"""Processor time, peak memory and seconds per stage of `sidkit run` on MovieLens, now and at an earlier commit.

    python benchmarks/run_cost.py --work FOLDER --data ../shared/data/ml_latest_small [--before CHECKOUT] [--repeats 2]

``--before`` is a checkout of an earlier release, for instance of 6603218 (before malformed input, damage and kills were dealt
with). Both versions run in turn, each time in a new repository, with one thread and the same preset of two arms, which both
know. Results go to ``benchmarks/results/run_cost.json``; times are processor seconds of the whole command, and wall-clock
seconds per stage.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PRESET = """\
[codebook]
encoder = "content"
quantizer = "residual_kmeans"
levels = 3
[ranker]
serve = ["id", "id_codes"]
[ranker.model]
dim = 16
heads = 2
hidden = [64, 32]
table_rows = 50000
[ranker.training]
epochs = 2
max_train_rows = 30000
[arms.id]
representations = ["id"]
[arms.id_codes]
representations = ["id", "prefix_ngram"]
"""


def one_run(package: Path, data: Path, preset: Path, repo: Path) -> dict[str, Any]:
    """Run once in a new repository, with the package of a checkout."""
    words = ["run", "--data", str(data), "--repo", str(repo), "--preset", str(preset), "--json"]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "sidkit", *words],
        env={**os.environ, "PYTHONPATH": str(package), "OMP_NUM_THREADS": "1"}, cwd=repo.parent,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"{package}: {done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = json.loads(done.stdout)
    stages: dict[str, float] = {}
    for stage in result["stages"]:
        name = stage["name"].split(":")[0]
        stages[name] = round(stages.get(name, 0) + stage["seconds"], 2)
    return {
        "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        "wall_seconds": round(time.monotonic() - began, 1),
        "peak_rss_mb": result["peak_rss_mb"],
        "stages": stages,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    options.work.mkdir(parents=True)
    preset = options.work.resolve() / "two_arms.toml"
    preset.write_text(PRESET)
    packages = {"now": HERE.parent, **({"before": options.before} if options.before else {})}
    runs: dict[str, list[dict[str, Any]]] = {when: [] for when in packages}
    for number in range(options.repeats):
        for when, package in packages.items():
            folder = options.work.resolve() / f"{when}-{number}"
            folder.mkdir()
            runs[when].append(one_run(package.resolve(), options.data.resolve(), preset, folder / "repo"))
            print(when, json.dumps(runs[when][-1]), flush=True)
    middle = {
        when: {
            name: statistics.median(run[name] for run in found)
            for name in ("cpu_seconds", "wall_seconds", "peak_rss_mb")
        }
        for when, found in runs.items()
    }
    record = {
        "command": "benchmarks/run_cost.py",
        "data": options.data.name,
        "load": os.getloadavg()[0],
        "median": middle,
    }
    (HERE / "results" / "run_cost.json").write_text(json.dumps({**record, "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
