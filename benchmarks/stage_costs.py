"""Processor time and memory of every stage of `sidkit run`, by the size of the log.

    python benchmarks/stage_costs.py [--impressions 100000 1000000] [--items 20000] [--work .work/stage_costs]
    python benchmarks/stage_costs.py --impressions --data ../shared/data/ml_latest_small [--preset rqkmeans]
    python benchmarks/stage_costs.py --profiles local spark [--impressions 100000 1000000] [--driver-memory 2g]

Writes an invented log per size and runs the preset ``rqkmeans`` on it with three arms and two epochs, in a process of its own.
``cpu_s`` is the processor time of a stage, ``peak_mb`` the peak memory of the process until its end. 10 million impressions
take more than an hour of one core. ``--data`` runs a preset as it is on real data sets, and reports the processor time of
the stage ``evaluate`` beside that of all trainings.

``--profiles`` measures the stages that the profile ``spark`` runs on Spark (tables, codes, frame, materialization), on one log
under each profile. ``cpu_s`` and ``peak_mb`` are then those of the process and all processes that it started, Java included:
memory is the sum of what each has resident, sampled five times a second.

Results go to ``benchmarks/results/stage_costs.json``; what is not asked for stays as it was measured.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are loaded

import argparse
import json
import re
import shutil
import threading
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
COMPARED = ("tables", "codes", "frame", "materialize")
"""Stages that Spark runs."""
SIZES = (256, 256, 256)
"""Codes per level for --profiles: the fit, which does not run on Spark, is no part of the comparison."""
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
        folder = asked.work / f"profiles-{impressions}"
        shutil.rmtree(folder, ignore_errors=True)
        write_source(folder / "source", impressions, asked.items, False, WIDTH)
        (folder / "costs.toml").write_text(PRESET)
        for profile in asked.profiles:
            key = {"impressions": impressions, "items": asked.items, "profile": profile}
            parts = str(folder / "source"), str(folder / "costs.toml")
            found = in_a_process(run_profile, folder, *parts, profile, asked.driver_memory)
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
    parser.add_argument("--items", type=int, default=20_000)
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "stage_costs")
    parser.add_argument("--data", nargs="+", default=[], help="folders of real data sets")
    parser.add_argument("--preset", default="rqkmeans", help="of --data")
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
        _save(held, measured, real)
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
        _save(held, measured, real)
        shutil.rmtree(folder)


def _save(held: dict[str, Any], measured: list[dict[str, Any]], real: dict[str, Any]) -> None:
    fixed = {"command": "python benchmarks/stage_costs.py", "width": WIDTH}
    write_json(RESULTS, {**held, **fixed, "runs": measured, "real": real})


if __name__ == "__main__":
    main()
