"""Every system that the two papers are compared with, beside its plain baseline, its control and the arm that is served.

    python benchmarks/family.py --data DATA... [--work .work/family] [--seeds 5] [--systems NAME...] [--losses NAME...]
        [--reindex] [--finished] [--open] [--write]

One time origin: rankers train on a sample of users of the training window, choose their epoch on the next rows, and are
compared on validation rows, or with ``--open`` on test rows. Every system has one arm, the same inputs without its idea
(baseline), the same arm with its idea made meaningless (control), and is also compared with ``content_codes``, the arm that
the default preset serves; a system whose codebook learns from clicks, with that arm on the same later rows too. All arms have
their shipped settings; none is tuned. ColdGPT reads the attributes of the items, which its baseline reads as a modality like
any other. ``--losses`` also trains the arms of these systems without each of their auxiliary losses, and ``--reindex``
measures rows of the id table for new items. Differences on cold rows are corrected by Holm over all systems and data sets of
the table. Results go to ``benchmarks/results/family.json``, one entry per data set and kind of rows, to which a run of other
systems on the same rows adds, with the processor seconds of a training, the size of the model, and what its parts contribute.
Saved trials are not repeated; ``--finished`` compares the systems whose trials are finished, and trains nothing. ``--write``
replaces the tables of ``docs/results/family.md`` by those of all results, those of ``benchmarks/planted_worlds.py`` included
(``--results benchmarks/results/family_planted.json``).
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line does, before torch is loaded
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import planning
from codes import measured_difference
from computed_blocks import written
from family_page import blocks
from family_reindex import reindexed
from family_sources import with_attributes
from family_systems import ATTRIBUTES, SERVED, SHUFFLED_ATTRIBUTES, SYSTEMS, WITH_ATTRIBUTES, System
from planning import record, repo_of, results_of, spec_of, with_rows

from ranking.data.dataset import Dataset
from ranking.evaluation.evaluator import EvaluationRows, Evaluator, MetricValue
from ranking.evaluation.slices import slices
from ranking.experiments.comparison.arms import load_arms, shipped_arms
from ranking.experiments.comparison.comparison import data_name
from ranking.experiments.comparison.evaluation import Parts
from ranking.experiments.comparison.liveness import arm_liveness
from ranking.experiments.comparison.trials import Plan, Trial, TrialDetails
from ranking.training.predictions import read_predictions
from sidkit.core.intervals import Variance
from sidkit.core.records import record_json

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "family.json"
PAGE = ROOT / "docs" / "results" / "family.md"
SLICES = ("all", "cold", "warm")


@dataclass(frozen=True)
class Compared:
    """The trials of an arm, under the name by which it is compared."""

    plan: Plan
    arm: str
    trials: tuple[Trial, ...]

    def details(self) -> list[TrialDetails]:
        """Of the finished trials."""
        return [each for trial in self.trials if (each := self.plan.details(trial)) is not None]

    @property
    def finished(self) -> bool:
        """Whether all trials are."""
        return len(self.details()) == len(self.trials)


def planned(data: str, options: argparse.Namespace) -> dict[str, Compared]:
    """Prepare the frames of a data set and list the trials of all arms by their names."""
    systems = [SYSTEMS[name] for name in options.systems]
    plain = [SERVED, *(arm for system in systems if not system.attributes for arm in system.names)]
    with_losses = [SYSTEMS[name].arm for name in options.losses]
    found = _planned(data, options.work / data_name(data), plain, options, with_losses)
    if any(system.attributes for system in systems) and data_name(data) in ATTRIBUTES:
        columns = ATTRIBUTES[data_name(data)]
        for suffix, names in (
            ("attributes", {"content_attributes": "content_attributes", "content": WITH_ATTRIBUTES}),
            ("shuffled_attributes", {"content_attributes": SHUFFLED_ATTRIBUTES}),
        ):
            folder = options.work / "sources" / f"{data_name(data)}_{suffix}"
            source = with_attributes(Path(data), folder, columns, shuffled=suffix.startswith("shuffled"))
            arms = _planned(str(source), options.work / source.name, list(names), options)
            found |= {name: arms[arm] for arm, name in names.items()}
    return found


def _planned(
    data: str, folder: Path, names: Sequence[str], options: argparse.Namespace, with_losses: Sequence[str] = ()
) -> dict[str, Compared]:
    """The arms, and what blends and adapters are made of; arms without a loss are named after it."""
    named = list(dict.fromkeys(names))
    for name in list(named):
        named += [member for member in shipped_arms()[name].of if member not in named]
    plan = planning.planned(repo_of(data, folder), data, load_arms(named), spec_of(options), options)[0]
    plan = replace(plan, loss_trials=tuple(trial for trial in plan.loss_trials if trial.arm in with_losses))
    trials: dict[str, list[Trial]] = {}
    for trial in plan.all_trials:
        trials.setdefault(trial.arm if trial.without is None else without(trial.arm, trial.without), []).append(trial)
    return {name: Compared(plan, each[0].arm, tuple(each)) for name, each in trials.items()}


def without(arm: str, loss: str) -> str:
    """Name of an arm that is trained without a loss."""
    return f"{arm} without {loss}"


def plans_of(arms: Mapping[str, Compared]) -> list[Plan]:
    """The plans of the arms, each once."""
    return list({id(each.plan): each.plan for each in arms.values()}.values())


def rows_of(arms: Mapping[str, Compared], part: str) -> Dataset:
    """The rows of the comparison, after a check that all plans have the same ones."""
    found: list[Dataset] = [getattr(Parts.load(plan, plan.trials[0].frame), part) for plan in plans_of(arms)]
    for other in found[1:]:
        for column in ("user_ids", "item_ids", "at_us", "label"):
            if not np.array_equal(getattr(found[0].rows, column), getattr(other.rows, column)):
                raise SystemExit(f"the sources have different rows ({column}); empty --work and start again")
    return found[0]


def compared(arms: Mapping[str, Compared], options: argparse.Namespace) -> dict[str, Any]:
    """AUC of all arms, the differences of every system, costs and liveness, on validation or test rows."""
    part = "test" if options.open else "validation"
    listed, arms = set(arms), {name: each for name, each in arms.items() if each.finished}
    rows = rows_of(arms, part)
    evaluator = Evaluator(
        EvaluationRows.of(rows), {name: mask for name, mask in slices(rows).items() if name in SLICES}
    )
    values: dict[str, dict[str, MetricValue]] = {}
    for arm, each in arms.items():
        scores = [read_predictions(each.plan.path(trial), part) for trial in each.trials]
        for name, metrics in evaluator.evaluate(scores).items():
            if "auc" in metrics.metrics:
                values.setdefault(name, {})[arm] = metrics.metrics["auc"]
    chosen = {name: SYSTEMS[name] for name in options.systems}
    complete = {name: system for name, system in chosen.items() if set(system.names) <= set(arms)}
    result = {
        "rows": len(rows),
        "train_rows": {arm: each.details()[0].train_rows for arm, each in arms.items()},
        "seeds": options.seeds,
        "auc": {name: {arm: value.value for arm, value in known.items()} for name, known in values.items()},
        "differences": [each for name, system in complete.items() for each in differences(name, system, values)],
        "cpu_seconds": {arm: _mean(each, lambda details: details.cpu_seconds) for arm, each in arms.items()},
        "megabytes": {arm: _mean(each, _megabytes) for arm, each in arms.items()},
        "liveness": {} if options.open else living(arms, complete),  # is of validation rows
        "missing": {
            name: "not finished" if set(system.names) <= listed else "the data have no attributes"
            for name, system in chosen.items()
            if name not in complete
        },
    }
    if options.reindex and "id_content" in arms:
        result["reindex"] = reindexed(arms["id_content"].plan, part, difference_of)
    return result


def differences(name: str, system: System, values: Mapping[str, Mapping[str, MetricValue]]) -> list[dict[str, Any]]:
    """The differences of a system to its baseline, its control, the arm that is served, and itself without its losses."""
    found = []
    for part, known in values.items():
        losses = {other: other for other in known if other.startswith(without(system.arm, ""))}
        found += [
            {"system": name, "role": role, **difference_of(system.arm, other, part, known[system.arm], known[other])}
            for role, other in {**system.others, **losses}.items()
        ]
    return found


def difference_of(arm: str, baseline: str, name: str, own: MetricValue, other: MetricValue) -> dict[str, Any]:
    """A difference on the slice ``name``, with its standard errors by rows and by trainings."""
    by_rows = (own.changes - other.changes).variance(own.support)
    trainings = [each for each in (own.training, other.training) if each is not None]
    total = Variance.total([by_rows, *trainings])
    return {
        **asdict(measured_difference(arm, baseline, name, own, other)),
        "rows_error": _root(by_rows.value),
        "trainings_error": _root(sum(each.value for each in trainings)),
        "degrees": total.degrees if math.isfinite(total.degrees) else None,
    }


def living(arms: Mapping[str, Compared], systems: Mapping[str, System]) -> dict[str, Any]:
    """System -> the parts of its arm; ``own`` are those that its baseline lacks."""
    measured: dict[int, Mapping[str, Any]] = {}
    found: dict[str, Any] = {}
    for plan in plans_of(arms):
        baselines = {system.arm: arms[system.baseline].arm for system in systems.values()}
        changed = {name: spec.model_copy(update={"baseline": baselines.get(name)}) for name, spec in plan.arms.items()}
        there = [arm.trials for arm in arms.values() if arm.plan is plan]
        done = tuple(trial for trials in there for trial in trials)
        own = {
            "trials": tuple(t for t in done if t.without is None),
            "loss_trials": tuple(t for t in done if t.without),
        }
        measured[id(plan)] = arm_liveness(replace(plan, arms=changed, **own))
    for name, system in systems.items():
        parts = measured[id(arms[system.arm].plan)].get(system.arm, ())
        found[name] = [record_json(part) for part in parts]
    return found


def merged(held: Mapping[str, Any] | None, result: Mapping[str, Any]) -> dict[str, Any]:
    """The result with the systems of an earlier one on the same rows with as many seeds; that of other rows is replaced."""
    if held is None or any(held[key] != result[key] for key in ("rows", "seeds")):
        return dict(result)
    new = {each["system"] for each in result["differences"]}
    found: dict[str, Any] = {**held, **result}
    for key in ("train_rows", "cpu_seconds", "megabytes", "liveness"):
        found[key] = {**held.get(key, {}), **result[key]}
    served = held["cpu_seconds"].get(SERVED, result["cpu_seconds"].get(SERVED))
    found["cpu_seconds"] |= (
        {SERVED: served} if served is not None else {}
    )  # both have it; the machine was busier in one
    found["auc"] = {name: {**held["auc"].get(name, {}), **arms} for name, arms in result["auc"].items()}
    found["differences"] = [
        *(each for each in held["differences"] if each["system"] not in new),
        *result["differences"],
    ]
    order = list(SYSTEMS)
    found["differences"].sort(key=lambda each: order.index(each["system"]))
    there = {each["system"] for each in found["differences"]}
    missing = {**held.get("missing", {}), **result["missing"]}
    found["missing"] = {name: why for name, why in missing.items() if name not in there}
    found["cpu_seconds_in_all"] = held["cpu_seconds_in_all"] + result["cpu_seconds_in_all"]
    return found


def page() -> str:
    """The page with the tables of all results."""
    text = PAGE.read_text()
    others = (results_of(RESULTS.with_name(name)) for name in ("gates.json", "family_planted.json", "attention.json"))
    for part, computed in blocks(results_of(RESULTS), *others).items():
        text = written(text, part, computed)
    return text


def _mean(arm: Compared, of: Callable[[TrialDetails], float | None]) -> float | None:
    values = [value for each in arm.details() if (value := of(each)) is not None]
    return round(float(np.mean(values)), 2) if values else None


def _megabytes(details: TrialDetails) -> float | None:
    if details.parameters is None:
        return None
    return 4 * (details.parameters + (details.reranker_parameters or 0)) / 1e6


def _root(value: float) -> float | None:
    return math.sqrt(value) if value >= 0 else None


def main() -> None:
    """Compare the systems on the data sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", default=[])
    parser.add_argument("--work", type=Path, default=ROOT / ".work" / "family")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument(
        "--losses", nargs="+", default=[], choices=list(SYSTEMS), help="systems to train without each loss"
    )
    parser.add_argument("--reindex", action="store_true", help="measure rows of the id table for new items")
    parser.add_argument("--finished", action="store_true", help="compare what is finished, and train nothing")
    parser.add_argument("--open", action="store_true", help="compare on test rows")
    parser.add_argument("--write", action="store_true", help="write the tables of the page from the results")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    with_rows(parser, train=20_000, evaluation=20_000)
    options = parser.parse_args()
    for data in options.data:
        began, name = time.process_time(), data_name(data)
        arms = planned(data, options)
        for plan in () if options.finished else plans_of(arms):
            planning.work(plan, options.jobs)
        result = compared(arms, options) | {"cpu_seconds_in_all": round(time.process_time() - began)}
        kind = "test" if options.open else "validation"
        record(options.results, name, kind, merged(results_of(options.results).get(name, {}).get(kind), result))
    if options.write:
        PAGE.write_text(page())


if __name__ == "__main__":
    main()
