"""Processor time and memory of every stage of `sidkit run`, by the size of the log.

    python benchmarks/stage_costs.py [--impressions 100000 1000000] [--items N] [--preset large] [--work .work/stage_costs]
    python benchmarks/stage_costs.py --impressions --data ../shared/data/ml_latest_small [--preset rqkmeans]
    python benchmarks/stage_costs.py --profiles local spark [--impressions 100000 1000000] [--driver-memory 2g]

Writes an invented log per size, with an item per ten impressions unless ``--items`` states another number, and runs a preset
on it in a process of its own, with the defaults of ``sidkit run``. ``cpu_s`` is the processor time of a stage, ``peak_mb`` the
peak resident memory of the process during it, and ``load`` the average of the machine's load at its end. 10 million
impressions of 1 million items need 15 GB of disk. A run that was stopped resumes: its finished stages are kept in ``--work``
until it ends. ``--data`` runs a preset as it is on real data sets, and reports the processor time of the stage ``evaluate``
beside that of all trainings.

``--profiles`` measures the stages that the profile ``spark`` runs on Spark (tables, codes, frame, materialization), on one log
under each profile. ``cpu_s`` and ``peak_mb`` are then those of the process and all processes that it started, Java included:
memory is the sum of what each has resident, sampled five times a second.

Results go to ``benchmarks/results/stage_costs.json``; what is not asked for stays as it was measured.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before numpy and torch are loaded

import argparse
import json
import re
import shutil
import threading
import time
from pathlib import Path
from typing import Any

from attribute_costs import write_source
from processes import forget_peak, in_a_process, peak_mb

from sidkit.core.files import write_json
from sidkit.core.progress import Progress, StageDone

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "stage_costs.json"
WIDTH = 64
COMPARED = ("tables", "codes", "frame", "materialize")
"""Stages that Spark runs."""
SIZES = (256, 256, 256)
"""Codes per level for --profiles: the fit, which does not run on Spark, is no part of the comparison."""


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
            cost = {"rows": done.rows, "cpu_s": round(cpu, 2), "seconds": round(seconds, 2), "peak_mb": peak_mb()}
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


class Family:
    """Processor time and memory of this process and of all that it started."""

    def __init__(self) -> None:
        self.peak_mb = 0.0
        self._stopped = threading.Event()
        threading.Thread(target=self._sample, daemon=True).start()

    def cpu_s(self) -> float:
        """Seconds so far, those of ended children included."""
        import psutil

        total = 0.0
        for each in self._members():
            try:
                total += sum(each.cpu_times()[:4])
            except psutil.NoSuchProcess:
                continue
        return total

    def stop(self) -> None:
        """Sample no more."""
        self._stopped.set()

    def _members(self) -> list[Any]:
        import psutil

        this = psutil.Process()
        return [this, *this.children(recursive=True)]

    def _sample(self) -> None:
        import psutil

        while not self._stopped.wait(0.2):
            resident = 0
            for each in self._members():
                try:
                    resident += each.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            self.peak_mb = max(self.peak_mb, round(resident / 2**20, 1))


def run_profile(folder: Path, data: str, preset_file: str, profile: str, memory: str) -> dict[str, Any]:
    """Run the stages that a profile may run on Spark; returns their costs."""
    from ranking.data.dataset import read_rows
    from ranking.data.split import TimeSplit
    from ranking.pipeline.prepare import Prepared, end_of_log, feature_inputs, prepare_repo
    from ranking.pipeline.presets import load_preset
    from semantic_ids import lifecycle
    from sidkit.core.repo import FEAST_FILE, Repo
    from sidkit.core.stages import Stages
    from sidkit.profiles.switch import switch_profile
    from sidkit.stores.feast_repo import materialize
    from sidkit.tables.labelled_rows import log_moments

    repo = prepare_repo(data, folder / profile)
    switch_profile(repo, profile)
    settings = repo.path / FEAST_FILE
    settings.write_text(re.sub(r"(spark\.driver\.memory: )\S+", rf"\g<1>{memory}", settings.read_text()))
    repo, preset, family = Repo.open(repo.path), load_preset(preset_file), Family()
    found: list[dict[str, Any]] = []

    def measured(name: str, work: Any, rows: Any) -> Any:
        began, at, family.peak_mb = family.cpu_s(), time.perf_counter(), 0.0
        made = work()
        cost = {"cpu_s": round(family.cpu_s() - began, 2), "seconds": round(time.perf_counter() - at, 2)}
        found.append({"stage": name, "rows": rows(made), **cost, "peak_mb": family.peak_mb})
        print(profile, found[-1], flush=True)
        return made

    with repo.locked():
        prepared = Prepared(repo, Stages(repo.runs / "costs" / "stages.json"), data, 0)
        log = measured("ingest", prepared.ingest, lambda _: None)
        as_of_us, split = end_of_log(repo), TimeSplit.of(log_moments(repo), repo.settings.split)
        rows = measured("rows", lambda: prepared.rows(log), lambda made: made.rows)
        tables = measured("tables", lambda: prepared.tables(log, as_of_us), lambda made: made.rows)
        inputs = [log, tables.facts, split.train_end_us]
        codebook, spec = "costs", preset.codebook.model_copy(update={"sizes": SIZES})
        measured("fit", lambda: lifecycle.fit(repo, codebook, spec, split.train_end_us), lambda _: None)
        measured("codes", lambda: lifecycle.publish(repo, codebook), lambda made: made.rows)
        labelled = read_rows(rows.files[0])
        frame_inputs = [*inputs, codebook, rows.facts, *feature_inputs(repo.settings.features)]
        caps, saved = preset.ranker.training.caps, repo.runs / "costs" / "frame"
        measured(
            "frame",
            lambda: prepared.frame("frame", frame_inputs, codebook, labelled, split, caps, saved),
            lambda made: made.rows,
        )
        lifecycle.promote(repo, codebook)
        measured("materialize", lambda: materialize(repo, as_of_us), lambda made: sum(made.values()))
    family.stop()
    return {"stages": found}


def compare_profiles(asked: argparse.Namespace, held: dict[str, Any]) -> None:
    """Measure the profiles on logs of each size, one after the other."""
    for impressions in asked.impressions:
        items, preset = asked.items or impressions // 10, asked.preset or "large"
        folder = asked.work / f"profiles-{impressions}"
        shutil.rmtree(folder, ignore_errors=True)
        write_source(folder / "source", impressions, items, False, WIDTH)
        for profile in asked.profiles:
            key = {"impressions": impressions, "items": items, "profile": profile}
            found = in_a_process(run_profile, folder, str(folder / "source"), preset, profile, asked.driver_memory)
            spark = {"driver_memory": asked.driver_memory} if profile == "spark" else {}
            result = {**key, **spark, **found, "load": round(os.getloadavg()[1], 1)}
            known = [old for old in held.get("profiles", []) if {name: old[name] for name in key} != key]
            held["profiles"] = sorted([*known, result], key=lambda each: [each[name] for name in key])
            write_json(RESULTS, held)
            shutil.rmtree(folder / profile)
        shutil.rmtree(folder)


def profile_lines(runs: list[dict[str, Any]]) -> list[str]:
    """Rows of the page: a stage under each profile, with seconds of the processor and MB."""
    cells = {
        (
            run["impressions"],
            run["items"],
            each["stage"],
            run["profile"],
        ): f"{each['cpu_s']:,.1f} | {each['peak_mb']:,.0f}"
        for run in runs
        for each in run["stages"]
        if each["stage"] in COMPARED
    }
    order = sorted({(*key[:2], COMPARED.index(key[2])) for key in cells})
    return [
        f"| {impressions:,} x {items:,} | {COMPARED[at]} | "
        + " | ".join(cells.get((impressions, items, COMPARED[at], profile), "- | -") for profile in ("local", "spark"))
        + " |"
        for impressions, items, at in order
    ]


def main() -> None:
    """Measure and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--impressions", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--items", type=int, help="default: an item per ten impressions")
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "stage_costs")
    parser.add_argument("--data", nargs="+", default=[], help="folders of real data sets")
    parser.add_argument("--preset", help="default: large, and rqkmeans for --data")
    parser.add_argument("--profiles", nargs="+", choices=("local", "spark"), default=[])
    parser.add_argument("--driver-memory", default="2g", help="of Spark; of --profiles")
    asked = parser.parse_args()
    held = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if asked.profiles:
        compare_profiles(asked, held)
        print("\n".join(profile_lines(held["profiles"])))
        return
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
        _save(held, measured, real)
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
        _save(held, measured, real)
        shutil.rmtree(folder)


def _save(held: dict[str, Any], measured: list[dict[str, Any]], real: dict[str, Any]) -> None:
    fixed = {"command": "python benchmarks/stage_costs.py", "width": WIDTH}
    write_json(RESULTS, {**held, **fixed, "runs": measured, "real": real})


if __name__ == "__main__":
    main()
