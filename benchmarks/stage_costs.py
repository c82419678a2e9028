"""Processor time and memory of every stage of `sidkit run`, by the size of the log.

    python benchmarks/stage_costs.py [--impressions 100000 1000000] [--items 20000] [--work .work/stage_costs]
    python benchmarks/stage_costs.py --impressions --data ../shared/data/ml_latest_small [--preset rqkmeans]

Writes an invented log per size and runs the preset ``rqkmeans`` on it with three arms and two epochs, in a process of its own.
``cpu_s`` is the processor time of a stage, ``peak_mb`` the peak memory of the process until its end. 10 million impressions
take more than an hour of one core. ``--data`` runs a preset as it is on real data sets, and reports the processor time of
the stage ``evaluate`` beside that of all trainings. Results go to ``benchmarks/results/stage_costs.json``; what is not asked
for stays as it was measured.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are loaded

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

from attribute_costs import write_source
from processes import in_a_process, peak_mb

from sidkit.core.files import write_json
from sidkit.core.progress import Progress, StageDone

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "stage_costs.json"
WIDTH = 64
PRESET = """
[codebook]
levels = 3
beam = 4

[ranker]
serve = ["id_content", "content_codes"]

[ranker.training]
epochs = 2
batch_rows = 512

[arms.id_content]
representations = ["id", "content"]
features = ["!*code_*"]

[arms.content_codes]
representations = ["content"]
features = ["!*code_*_1d", "!*code_*_7d"]

[arms.gbdt]
kind = "gbdt"
features = ["!*code_*"]
"""


class Costs(Progress):
    """Collects the costs of each finished stage."""

    def __init__(self) -> None:
        self.stages: list[dict[str, Any]] = []
        self._began = (time.process_time(), time.perf_counter())

    def stage_finished(self, done: StageDone) -> None:
        """Add the time since the stage before."""
        now = (time.process_time(), time.perf_counter())
        cpu, seconds = (at - began for at, began in zip(now, self._began, strict=True))
        cost = {"rows": done.rows, "cpu_s": round(cpu, 2), "seconds": round(seconds, 2), "peak_mb": peak_mb()}
        self.stages.append({"stage": done.name, **cost})
        print(self.stages[-1], flush=True)
        self._began = now


def run(folder: Path, data: str, preset: str) -> dict[str, Any]:
    """Run all stages; returns their costs."""
    from ranking.pipeline.run import run_preset

    costs = Costs()
    run_preset(folder / "repo", data, preset, progress=costs)
    size = sum(path.stat().st_size for path in (folder / "repo").rglob("*") if path.is_file())
    return {"stages": costs.stages, "repo_mb": round(size / 2**20, 1)}


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--impressions", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "stage_costs")
    parser.add_argument("--data", nargs="+", default=[], help="folders of real data sets")
    parser.add_argument("--preset", default="rqkmeans", help="of --data")
    asked = parser.parse_args()
    held = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    measured, real = held.get("runs", []), held.get("real", {})
    for impressions in asked.impressions:
        folder = asked.work / str(impressions)
        shutil.rmtree(folder, ignore_errors=True)
        write_source(folder / "source", impressions, asked.items, False, WIDTH)
        (folder / "costs.toml").write_text(PRESET)
        result = {
            "impressions": impressions,
            "items": asked.items,
            **in_a_process(run, folder, str(folder / "source"), str(folder / "costs.toml")),
        }
        result["load"] = round(os.getloadavg()[1], 1)
        measured = sorted(
            [*(old for old in measured if (old["impressions"], old["items"]) != (impressions, asked.items)), result],
            key=lambda each: (int(each["impressions"]), int(each["items"])),
        )
        _save(measured, real)
        shutil.rmtree(folder)
    for data in asked.data:
        folder = asked.work / Path(data).name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        stages = in_a_process(run, folder, data, asked.preset)["stages"]
        cpu = {
            kind: round(sum(each["cpu_s"] for each in stages if each["stage"].startswith(kind)), 2)
            for kind in ("train", "evaluate")
        }
        real[Path(data).name] = {
            "preset": Path(asked.preset).stem,
            "stages": stages,
            "cpu_s": cpu,
            "load": round(os.getloadavg()[1], 1),
        }
        print(
            f"{data}: evaluate takes {cpu['evaluate'] / cpu['train']:.3f} of the processor time of training", flush=True
        )
        _save(measured, real)
        shutil.rmtree(folder)


def _save(measured: list[dict[str, Any]], real: dict[str, Any]) -> None:
    write_json(RESULTS, {"command": "python benchmarks/stage_costs.py", "width": WIDTH, "runs": measured, "real": real})


if __name__ == "__main__":
    main()
