"""Compare point-in-time results with what leaked features would have promised.

The leak is a common one: item and user counts are read as of the end of the log for every row (one ``GROUP BY``, or one
join on the newest feature row), so they include the clicks to be predicted and later ones. Three AUCs on the same test
rows show its cost:

- *promised*: trained and tested on leaked counts, as in an offline report;
- *delivered*: the same trained model on point-in-time counts, as available in serving;
- *possible*: the same architecture, trained and tested on point-in-time counts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ranking.data.dataset import Dataset
from ranking.data.feature_views import ITEM_STATS, USER_STATS, built_in_views
from ranking.data.numeric_features import numeric_columns, numeric_features
from ranking.evaluation.evaluator import Difference, EvaluationRows, Evaluator
from ranking.evaluation.slices import slices
from ranking.pipeline.presets import arm_modules, load_preset
from ranking.pipeline.saved_run import read_run
from ranking.training.arm_spec import DERIVED, ArmSpec
from ranking.training.arms import TrainingContext, train_arm
from sidkit.core.arrays import Doubles, Ints
from sidkit.core.errors import EvaluationError
from sidkit.core.extras import require
from sidkit.core.intervals import Interval
from sidkit.core.repo import Repo
from sidkit.core.temporary import temporary_folder

WAYS = ("promised", "delivered", "possible")
SLICES = ("all", "cold", "warm")


@dataclass(frozen=True)
class SliceLeakage:
    """AUCs and differences on one slice."""

    slice: str
    rows: int
    positives: int
    promised: Interval
    delivered: Interval
    possible: Interval
    broken_promise: Difference
    """Delivered minus promised."""
    cost: Difference
    """Delivered minus possible."""

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object, with values rounded to 6 digits."""
        aucs = {way: getattr(self, way).as_json("auc", 6) for way in WAYS}
        differences = {
            name: difference.interval.as_json("delta", 6) | {"verdict": difference.verdict.outcome}
            for name, difference in (("broken_promise", self.broken_promise), ("cost", self.cost))
        }
        return {"slice": self.slice, "rows": self.rows, "positives": self.positives, **aucs, **differences}


@dataclass(frozen=True)
class LeakageResult:
    """The cost of leakage on one run."""

    preset: str
    codebook: str
    seeds: dict[str, int]
    """Arm -> number of trainings on leaked and on point-in-time counts each."""
    arms: dict[str, tuple[SliceLeakage, ...]]

    def as_json(self) -> dict[str, Any]:
        """Return the JSON object of ``sidkit leakage --json``."""
        arms = {arm: [row.as_json() for row in rows] for arm, rows in self.arms.items()}
        return {"preset": self.preset, "codebook": self.codebook, "seeds": self.seeds, "arms": arms}


def leaked_aggregates(repo: Repo, data: Dataset, service: str, rate: float) -> Dataset:
    """Return the same rows with all item and user counts read as of the end of the log.

    Parameters
    ----------
    repo : Repo
        Repository with the feature tables.
    data : Dataset
        Point-in-time rows; ids, histories, content and codes are unchanged.
    service : str
        The feature service of the rows.
    rate : float
        The positive rate that rates are smoothed towards.

    Returns
    -------
    Dataset
        Equal to ``data``, except for the columns of ``numeric`` that are derived from counts.
    """
    from sidkit.stores.feast_repo import open_store
    from sidkit.tables import read_build

    store = open_store(repo)
    keys = {"user_id": data.rows.user_ids, "item_id": data.rows.item_ids}
    views = built_in_views(store, service, keys, data.rows.at_us)
    end: Ints = np.full(len(data), read_build(repo)["as_of_us"], dtype=np.int64)
    last = built_in_views(store, service, keys, end)
    mixed = {name: last[name] if name in {ITEM_STATS, USER_STATS} else view for name, view in views.items()}
    numeric = data.numeric.copy()
    counted = [at for at, name in enumerate(numeric_columns()) if is_aggregate(name)]
    numeric[:, counted] = numeric_features(mixed, data.rows.item_ids, data.rows.at_us, rate)[:, counted]
    return dataclasses.replace(data, numeric=numeric)


def is_aggregate(name: str) -> bool:
    """Return whether a numeric column is derived from trailing counts."""
    return name.startswith(("item_", "user_")) and any(
        kind in name for kind in ("_exposures_", "_clicks_", "_conversions_", "_rate_")
    )


def train_both(
    context: TrainingContext, leaked: Mapping[str, Dataset], arm: str, spec: ArmSpec, seeds: int
) -> dict[str, list[Doubles]]:
    """Train one arm on leaked and on point-in-time counts.

    Parameters
    ----------
    context : TrainingContext
        Training context with point-in-time parts.
    leaked : mapping
        ``train``, ``validation`` and ``test`` with leaked counts.
    arm, spec : str, ArmSpec
        Name and specification of the arm.
    seeds : int
        Number of trainings on leaked and on point-in-time counts each.

    Returns
    -------
    dict
        One of :data:`WAYS` -> test predictions ``float64 [rows]`` per seed.
    """
    scores: dict[str, list[Doubles]] = {way: [] for way in WAYS}
    both = _stacked(leaked["test"], context.test)
    with temporary_folder() as folder:  # rankers that leak are not saved
        for seed in range(seeds):
            leaky = dataclasses.replace(
                context,
                train=leaked["train"],
                validation=leaked["validation"],
                test=both,
                rankers=folder / "leaked",
            )
            promised, delivered = np.split(train_arm(leaky, arm, spec, seed, f"{arm}_s{seed}").test, 2)
            point_in_time = dataclasses.replace(context, rankers=folder / "point_in_time")
            possible = train_arm(point_in_time, arm, spec, seed, f"{arm}_s{seed}").test
            for way, score in zip(WAYS, (promised, delivered, possible), strict=True):
                scores[way].append(score)
    return scores


def _stacked(first: Dataset, second: Dataset) -> Dataset:
    """Return the rows of ``first`` twice, with the numeric features of ``first`` and of ``second``."""
    rows = np.tile(np.arange(len(first)), 2)
    return dataclasses.replace(first.take(rows), numeric=np.concatenate([first.numeric, second.numeric]))


def evaluate_leakage(test: Dataset, scores: Mapping[str, Sequence[Doubles]]) -> tuple[SliceLeakage, ...]:
    """Compute the three AUCs and their differences per slice, with 95 % intervals.

    Slices are based on point-in-time counts; slices without both labels are omitted.

    Parameters
    ----------
    test : Dataset
        Test rows.
    scores : mapping
        One of :data:`WAYS` -> ``float64 [rows]`` per seed.
    """
    parts = {name: rows for name, rows in slices(test).items() if name in SLICES}
    evaluator = Evaluator(EvaluationRows.of(test), parts)
    promised, delivered, possible = (evaluator.evaluate(scores[way]) for way in WAYS)
    broken = evaluator.compare(delivered, promised)
    cost = evaluator.compare(delivered, possible)
    return tuple(
        SliceLeakage(
            slice=name,
            rows=evaluator.sizes[name].rows,
            positives=evaluator.sizes[name].positives,
            promised=promised[name].metrics["auc"].interval,
            delivered=delivered[name].metrics["auc"].interval,
            possible=possible[name].metrics["auc"].interval,
            broken_promise=broken[name],
            cost=cost[name],
        )
        for name in SLICES
        if name in broken
    )


def measure_leakage(repo: Repo, preset_name: str, arms: Sequence[str], seeds: int) -> LeakageResult:
    """Measure the cost of leakage on the saved frame of a finished run.

    Parameters
    ----------
    repo : Repo
        Repository in which ``sidkit run`` with the preset has finished.
    preset_name : str
        The preset.
    arms : sequence of str
        Arms of the preset.
    seeds : int
        Number of trainings per arm with random parts (neural, or boosting with random features), on leaked and on point-in-time
        counts each.

    Raises
    ------
    ArtifactMissingError
        If the run has no saved frame.
    EvaluationError
        If the preset does not have one of the arms.
    """
    preset = load_preset(preset_name)
    unknown = [arm for arm in arms if arm not in preset.arms]
    if unknown:
        raise EvaluationError(f"{preset_name} has no arm {', '.join(unknown)}; it has {', '.join(preset.arms)}")
    if derived := [arm for arm in arms if preset.arms[arm].kind in DERIVED]:
        listed = ", ".join(f"the {preset.arms[arm].kind} {arm}" for arm in derived)
        raise EvaluationError(f"expected arms that are trained, got {listed}; name its members instead")
    modules = arm_modules(preset.arms[arm] for arm in arms)
    require("torch", "safetensors", *modules, purpose="measuring leakage", extra="rank")
    context = read_run(repo, preset_name)
    service = context.serving.service
    leaked = {
        name: leaked_aggregates(repo, part, service, context.rate)
        for name, part in (
            ("train", context.train_in_memory()),
            ("validation", context.validation),
            ("test", context.test),
        )
    }
    # On so few rows boosting without random features samples nothing, so every seed gives the same trees.
    specs = {arm: preset.arms[arm] for arm in arms}
    trained = {arm: 1 if spec.kind == "gbdt" and not spec.boosting.is_random else seeds for arm, spec in specs.items()}
    results = {
        arm: evaluate_leakage(context.test, train_both(context, leaked, arm, preset.arms[arm], trained[arm]))
        for arm in arms
    }
    return LeakageResult(preset_name, context.serving.codebook, trained, results)
