"""Processor time and memory of every stage of `sidkit run`, by the size of the log.

    python benchmarks/stage_costs.py [--impressions 100000 1000000] [--items N] [--preset large] [--work .work/stage_costs]
    python benchmarks/stage_costs.py --impressions --data ../shared/data/ml_latest_small [--preset rqkmeans]

Writes an invented log per size, with an item per ten impressions unless ``--items`` states another number, and runs a preset
on it in a process of its own, with the defaults of ``sidkit run``. ``cpu_s`` is the processor time of a stage, ``peak_mb`` the
peak resident memory of the process during it, and ``load`` the average of the machine's load at its end. 10 million
impressions of 1 million items need 15 GB of disk. A run that was stopped resumes: its finished stages are kept in ``--work``
until it ends. ``--data`` runs a preset as it is on real data sets, and reports the processor time of the stage ``evaluate``
beside that of all trainings. Results go to ``benchmarks/results/stage_costs.json``; what is not asked for stays as it was
measured.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before numpy and torch are loaded

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

from attribute_costs import write_source
from processes import forget_peak, in_a_process, stage_peak_mb

from sidkit.core.files import write_json
from sidkit.core.progress import Progress, StageDone

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "stage_costs.json"
WIDTH = 64


class Costs(Progress):
    """Collects the costs of each finished stage, in a file from which a stopped run goes on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.stages: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
        self._began = (time.process_time(), time.perf_counter())
        forget_peak()

    def stage_finished(self, done: StageDone) -> None:
        """Add the time since the stage before."""
        now = (time.process_time(), time.perf_counter())
        cpu, seconds = (at - began for at, began in zip(now, self._began, strict=True))
        known = done.name in [each["stage"] for each in self.stages]
        if not (done.reused and known):
            cost = {"rows": done.rows, "cpu_s": round(cpu, 2), "seconds": round(seconds, 2), "peak_mb": stage_peak_mb()}
            self.stages.append({"stage": done.name, **cost, "load": round(os.getloadavg()[0], 1)})
            write_json(self._path, self.stages)
            print(self.stages[-1], flush=True)
        forget_peak()
        self._began = (time.process_time(), time.perf_counter())

    def remark(self, text: str) -> None:
        """Print it."""
        print(text, flush=True)

    warning = remark


def run(folder: Path, data: str, preset: str) -> dict[str, Any]:
    """Run all stages; returns their costs."""
    from ranking.pipeline.run import run_preset

    costs = Costs(folder / "costs.json")
    run_preset(folder / "repo", data, preset, progress=costs)
    costs.stage_finished(StageDone("report", 0, 0.0, reused=False))
    size = sum(path.stat().st_size for path in (folder / "repo").rglob("*") if path.is_file())
    seconds, peaks = zip(*((each["seconds"], each["peak_mb"]) for each in costs.stages), strict=True)
    whole = {"seconds": round(sum(seconds), 1), "peak_mb": max(peaks)}
    return {"stages": costs.stages, **whole, "repo_mb": round(size / 2**20, 1)}


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--impressions", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--items", type=int, help="default: an item per ten impressions")
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "stage_costs")
    parser.add_argument("--data", nargs="+", default=[], help="folders of real data sets")
    parser.add_argument("--preset", help="default: large, and rqkmeans for --data")
    asked = parser.parse_args()
    held = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    measured, real = held.get("runs", []), held.get("real", {})
    for impressions in asked.impressions:
        items = asked.items or impressions // 10
        preset = asked.preset or "large"
        folder = asked.work / f"{impressions}-{items}"
        source = folder / "source"
        if not (folder / "written").exists():
            shutil.rmtree(folder, ignore_errors=True)
            write_source(source, impressions, items, False, WIDTH)
            (folder / "written").touch()
        costs = in_a_process(run, folder, str(source), preset)
        result = {"impressions": impressions, "items": items, "preset": Path(preset).stem, **costs}
        result["load"] = round(os.getloadavg()[1], 1)
        measured = sorted(
            [*(old for old in measured if (old["impressions"], old["items"]) != (impressions, items)), result],
            key=lambda each: (int(each["impressions"]), int(each["items"])),
        )
        _save(measured, real)
        shutil.rmtree(folder)
    for data in asked.data:
        folder, preset = asked.work / Path(data).name, asked.preset or "rqkmeans"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        stages = in_a_process(run, folder, data, preset)["stages"]
        cpu = {
            kind: round(sum(each["cpu_s"] for each in stages if each["stage"].startswith(kind)), 2)
            for kind in ("train", "evaluate")
        }
        real[Path(data).name] = {
            "preset": Path(preset).stem,
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
