"""How benchmarks of arms plan their trials and keep their results: a repository per data set, one list of trials, one file."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from ranking.experiments.comparison.arms import ComparedArm
from ranking.experiments.comparison.comparison import CompareOptions, Comparison
from ranking.experiments.comparison.time_origins import TimeOrigin
from ranking.experiments.comparison.trials import Plan, work_through
from ranking.experiments.comparison.workers import ended_on_error, start_workers
from ranking.pipeline.prepare import prepare_repo
from ranking.pipeline.presets import load_preset
from ranking.training.arm_spec import RankerSpec
from sidkit.api.progress import LineProgress
from sidkit.core.files import read_json, write_json
from sidkit.core.repo import SETTINGS_FILE, Repo


def repo_of(data: str, folder: Path, split: tuple[float, float] | None = None) -> Repo:
    """The repository of a data set; ``split`` has the shares of training and of validation rows, if not the default ones."""
    repo = prepare_repo(data, folder)
    if split is None:
        return repo
    settings = repo.path / SETTINGS_FILE
    text = re.sub(r"(?m)^train = [0-9.]+", f"train = {split[0]}", settings.read_text())
    settings.write_text(re.sub(r"(?m)^validation = [0-9.]+", f"validation = {split[1]}", text))
    return Repo.open(repo.path)


def spec_of(options: argparse.Namespace, **training: Any) -> RankerSpec:
    """The settings of the default preset, with the rows of the options and other settings of the training."""
    spec = load_preset("rqkmeans").ranker
    rows = {"max_train_rows": options.max_train_rows, "max_evaluation_rows": options.max_evaluation_rows}
    return spec.model_copy(update={"training": spec.training.model_copy(update={**training, **rows})})


def planned(
    repo: Repo,
    data: str,
    arms: Mapping[str, ComparedArm],
    spec: RankerSpec,
    options: argparse.Namespace,
    *,
    seeds: int | None = None,
    origins: int = 1,
) -> tuple[Plan, list[TimeOrigin]]:
    """Prepare the frames of the arms and list their trials; all arms keep their own sizes."""
    asked = CompareOptions(
        data,
        arms,
        spec,
        options.seeds if seeds is None else seeds,
        origins,
        impressions=options.impressions,
        equal_budgets=False,
    )
    with repo.locked():
        return Comparison(repo, asked, LineProgress(Console())).plan()


def work(plan: Plan, jobs: int) -> None:
    """Run the unfinished trials in so many processes of one thread each.

    Raises
    ------
    SystemExit
        When a process stopped before all trials were finished; those that are stay.
    """
    if jobs == 1:
        work_through(plan, LineProgress(Console()))
        return
    workers = start_workers(plan, jobs)
    with ended_on_error(workers):
        for worker in workers:
            worker.join()
    missing = [trial.name for trial in plan.all_trials if plan.details(trial) is None]
    if missing:
        raise SystemExit(
            f"{len(missing)} trials did not finish ({missing[0]}, ...): a process stopped; run it again to resume"
        )


def with_rows(parser: argparse.ArgumentParser, *, train: int, evaluation: int, impressions: int = 100_000) -> None:
    """Add the options of the rows that are used."""
    parser.add_argument("--max-train-rows", type=int, default=train)
    parser.add_argument("--max-evaluation-rows", type=int, default=evaluation)
    parser.add_argument("--impressions", type=int, default=impressions, help="of a synthetic world")


def results_of(path: Path) -> dict[str, Any]:
    """The results that a file has, by data set; none if there is no file."""
    return read_json(path) or {} if path.exists() else {}


def record(path: Path, data: str, kind: str, result: Mapping[str, Any]) -> None:
    """Write the result of a data set and a kind of rows; the others stay."""
    held = results_of(path)
    write_json(path, {**held, data: {**held.get(data, {}), kind: result}})


def print_differences(data: str, kind: str, differences: Sequence[Mapping[str, Any]]) -> None:
    """Print a line per difference."""
    for each in differences:
        print(
            f"{data} {kind} {each['slice']}: {each['arm']} - {each['baseline']} {each['value']:+.4f} "
            f"[{each['low']:+.4f}, {each['high']:+.4f}] ({each['positives']} positives)",
            flush=True,
        )
