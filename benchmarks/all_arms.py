"""Every shipped arm on a data set, by the command that users have: ``sidkit ranker compare --arms all``.

    python benchmarks/all_arms.py [--data DATA...] [--work .work/all_arms] [--seeds 5] [--write]

The command trains all arms that the data allow on a sample of users, and those with auxiliary losses also without each of
them, evaluates them on test rows, and says of each pair of arms whether their difference is evidence. Its JSON is kept under
``--work``; a data set that has one there is not run again, and a run that was stopped resumes. Results go to
``benchmarks/results/all_arms.json``; ``--write`` puts one table per data set into ``docs/results/all-arms.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from computed_blocks import written
from family_page import LABELS, auc_text
from gates import interval_text
from planning import results_of, with_rows

from ranking.experiments.comparison.baselines import CONTROL, INPUTS, tested_by
from ranking.experiments.comparison.comparison import data_name
from ranking.experiments.comparison.liveness import any_alive
from sidkit.core.files import write_json

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "all_arms.json"
PAGE = ROOT / "docs" / "results" / "all-arms.md"
FIGURES = ("delta", "delta_low", "delta_high", "verdict")
SLICES = ("all", "cold")


def command(data: str, options: argparse.Namespace) -> list[str]:
    """The command for a data set, without its output."""
    own = ["--impressions", str(options.impressions)] if data.startswith("synthetic") else []
    return [
        *("ranker", "compare", "--data", data, *own, "--repo", str(options.work / f"repo-{data_name(data)}")),
        *("--arms", "all", "--seeds", str(options.seeds), "--origins", "1", "--jobs", str(options.jobs)),
        *("--max-train-rows", str(options.max_train_rows), "--max-evaluation-rows", str(options.max_evaluation_rows)),
        *("--own-sizes", "--html", str(options.work / f"{data_name(data)}.html"), "--json"),
    ]


def compared(data: str, options: argparse.Namespace) -> dict[str, Any]:
    """What the command printed, now or in an earlier run."""
    path = options.work / f"{data_name(data)}.json"
    if not path.exists():
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        asked = [sys.executable, "-m", "sidkit", *command(data, options)]
        done = subprocess.run(asked, stdout=subprocess.PIPE, env=environment, cwd=ROOT, check=True)
        path.write_bytes(done.stdout)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def digest(result: Mapping[str, Any], jobs: int) -> dict[str, Any]:
    """The AUC of every arm, and its differences to the same inputs without its idea and to its control."""
    pairs = {
        (row["arm"], row["slice"], row["baseline"]): {key: row[key] for key in FIGURES}
        for row in result["rows"]
        if row["metric"] == "auc" and row["slice"] in SLICES
    }
    seconds: dict[str, list[float]] = {}
    for trial in result["units"]:
        if trial["without"] is None:
            seconds.setdefault(trial["arm"], []).append(trial["cpu_seconds"])
    arms, testers = {}, tested_by(result)
    for arm, stated in result["arms"].items():
        arms[arm] = {
            "auc": sum(stated["auc_by_seed"]["all"]) / len(stated["auc_by_seed"]["all"]),
            "acts": any_alive([part["alive"] for part in result["liveness"].get(arm, ()) if part["own"]]),
            "cpu_seconds": round(sum(seconds[arm]) / len(seconds[arm]), 1),
            "compared": {
                role: {"arm": name, **{part: pairs.get((arm, part, name)) for part in SLICES}}
                for role, name in testers[arm].items()
            },
        }
    spent = result["seconds"]
    return {
        "rows": {part: counts["used"] for part, counts in result["origins"][0]["rows"].items()},
        "positives": {name: result["slices"][name]["positives"] for name in SLICES if name in result["slices"]},
        "trainings": len(result["units"]),
        "seeds": max(row["seeds"] for row in result["rows"]),
        "minutes": round((spent["prepare"] + spent["units"] / jobs + spent["judge"]) / 60, 1),
        "cpu_minutes_of_trainings": round(spent["units_cpu"] / 60, 1),
        "peak_rss_mb": result["peak_rss_mb"],
        "skipped": sorted(result.get("skipped", {})),
        "arms": arms,
    }


def table(found: Mapping[str, Any]) -> str:
    """A row per arm."""
    heads = [
        "arm",
        "AUC",
        "inputs",
        "above these, all",
        "cold",
        "outcome",
        "above its control, all",
        "cold",
        "acts",
        "s",
    ]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for arm, each in found["arms"].items():
        inputs, control = (each["compared"].get(role, {}) for role in (INPUTS, CONTROL))
        row = [f"`{arm}`", auc_text(each["auc"]), f"`{inputs['arm']}`" if inputs else "-"]
        row += [_difference(inputs.get(part)) for part in SLICES]
        row += [inputs["all"]["verdict"] if inputs else "-", *(_difference(control.get(part)) for part in SLICES)]
        row += [{None: "-", True: "yes", False: "no"}[each["acts"]], f"{each['cpu_seconds']:.1f}"]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def _difference(each: Mapping[str, Any] | None) -> str:
    if each is None or each["delta"] is None:
        return "-"
    return interval_text({"value": each["delta"], "low": each["delta_low"], "high": each["delta_high"]})


def costs(results: Mapping[str, Any]) -> str:
    """A row per data set."""
    kinds = ("better", "no evidence", "worse", "not exercised")
    heads = ["data", "arms", "trainings", "minutes", "processor minutes of trainings", "peak MB", *kinds]
    lines = [f"| {' | '.join(heads)} |", f"|{' --- |' * len(heads)}"]
    for data, found in sorted(results.items(), key=lambda each: list(LABELS).index(each[0])):
        compared_with = [each["compared"][INPUTS] for each in found["arms"].values() if INPUTS in each["compared"]]
        outcomes = [each["all"]["verdict"] for each in compared_with]
        row = [
            LABELS[data],
            len(found["arms"]),
            found["trainings"],
            found["minutes"],
            found["cpu_minutes_of_trainings"],
        ]
        row += [round(found["peak_rss_mb"]), *(outcomes.count(kind) for kind in kinds)]
        lines.append(f"| {' | '.join(map(str, row))} |")
    return "\n".join(lines)


def page() -> str:
    """The page with the tables of all results."""
    text, results = PAGE.read_text(), results_of(RESULTS)
    text = written(text, "costs", costs(results))
    for data, found in results.items():
        text = written(text, data, table(found))
    return text


def main() -> None:
    """Run the command on each data set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="*", default=[])
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "all_arms")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="put the tables into the page")
    with_rows(parser, train=10_000, evaluation=15_000)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    for data in options.data:
        found = digest(compared(data, options), options.jobs)
        write_json(RESULTS, {**results_of(RESULTS), data_name(data): found})
    if options.write:
        PAGE.write_text(page())


if __name__ == "__main__":
    main()
