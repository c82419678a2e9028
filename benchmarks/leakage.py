"""Leaked, point-in-time and best possible AUC on the frozen world ``strong`` and on real data sets.

    python benchmarks/leakage.py --work FOLDER [--data ../shared/data/NAME ...] [--seeds 3] [--arms gbdt content]

Each data set gets a repo under FOLDER, which later calls reuse. The leaked features are the item and user counts as of the end
of the log; see :mod:`ranking.experiments.leakage` for the definitions. Results go to ``benchmarks/results/leakage.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded

from ranking.experiments.leakage import measure_leakage
from ranking.pipeline.prepare import prepare_repo
from ranking.pipeline.presets import load_preset
from ranking.pipeline.run import Job, JobOptions
from sidkit.cli.leakage import as_text

HERE = Path(__file__).parent
PRESET = HERE / "presets" / "leakage.toml"
"""The codebook and ranker settings of ``rqkmeans``, with the two arms that are measured."""


def measured(name: str, data: str, work: Path, arms: list[str], seeds: int) -> dict[str, Any]:
    repo = prepare_repo(data, work / name)
    began = time.monotonic()
    with repo.locked():
        Job(repo, JobOptions(data, str(PRESET), load_preset(str(PRESET)))).run()
    ready = time.monotonic()
    found = measure_leakage(repo, str(PRESET), arms, seeds)
    print(
        f"{name}: repo {ready - began:.0f} s, measured in {time.monotonic() - ready:.0f} s\n{as_text(found)}\n",
        flush=True,
    )
    return {"data": name, "seconds": round(time.monotonic() - ready, 1), **found.as_json(), "preset": PRESET.name}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--data", nargs="*", default=[], help="folders in the input contract")
    parser.add_argument("--arms", nargs="+", default=["gbdt", "content"])
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    sources = {"strong": "synthetic:strong", **{Path(data).name: data for data in options.data}}
    out = HERE / "results" / "leakage.json"
    results: list[dict[str, Any]] = []
    for name, data in sources.items():
        results.append(measured(name, data, options.work, options.arms, options.seeds))
        out.write_text(json.dumps({"command": "benchmarks/leakage.py", "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
