"""Evaluate a comparison: from the predictions of its trials to the rows of ``arms.json`` and the data of the HTML page.

Metrics are means over the time origins: at each, the arms were trained and evaluated anew. A user or item that appears at
several origins is one cluster.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from ranking.data.dataset import Dataset
from ranking.data.storage import load_dataset
from ranking.data.targets import CLICKED
from ranking.evaluation.evaluator import (
    HIGHER_IS_BETTER,
    METRICS,
    EvaluationRows,
    Evaluator,
    MetricValue,
    SliceMetrics,
    enough,
    refuse_leakage,
)
from ranking.evaluation.metrics import auc, gauc
from ranking.evaluation.paper_slices import SliceCuts, is_hot, paper_slices
from ranking.experiments.comparison.arms import BOOSTING, CODES_AS_FEATURES, CONTENT, ID_ALONE
from ranking.experiments.comparison.baselines import Baselines
from ranking.experiments.comparison.liveness import arm_liveness
from ranking.experiments.comparison.probes import probe
from ranking.experiments.comparison.results import ArmFacts, ComparisonEvaluation, CutFacts, Row, SliceFacts
from ranking.experiments.comparison.time_origins import TimeOrigin
from ranking.experiments.comparison.trials import Plan, Trial, TrialDetails
from ranking.pipeline.world import WorldProbabilities, world_probabilities
from ranking.training.predictions import FIRST_EPOCH, read_predictions
from semantic_ids.catalog import Catalog
from sidkit.core.arrays import Doubles
from sidkit.core.errors import EvaluationError
from sidkit.core.intervals import Changes, Clusters, Support
from sidkit.core.repo import Repo

_CURVE_BINS = 10
_BY_ORIGIN = ("all", "cold")
"""Slices whose AUC is also reported at each time origin."""
_FIRST_EPOCH_SLICES = ("all", "cold", "prior 0-99")

Metrics = Mapping[str, MetricValue]
"""Metric -> value of one arm on one slice."""


@dataclass(frozen=True)
class Parts:
    """The rows of one time origin; the predictions of all arms are for these test rows, in this order."""

    train: Dataset
    validation: Dataset
    test: Dataset

    @classmethod
    def load(cls, plan: Plan, key: str) -> Parts:
        """Load a saved frame."""
        data = load_dataset(plan.frames[key].folder)
        parts = plan.frames[key].split.parts(data.rows.at_us)
        return cls(*(data.take(parts[name]) for name in ("train", "validation", "test")))


def evaluate_comparison(repo: Repo, data: str, plan: Plan, origins: Sequence[TimeOrigin]) -> ComparisonEvaluation:
    """Evaluate all finished trials of a plan.

    Parameters
    ----------
    repo : Repo
        Repository of the comparison.
    data : str
        Name of the data in the results.
    plan : Plan
        Its trials must be finished.
    origins : sequence of TimeOrigin
        The time origins of the plan, latest first.

    Raises
    ------
    LeakageError
        If a codebook was fitted on data after the training rows of its time origin.
    """
    catalog = Catalog.open(repo)
    for frame in plan.frames.values():
        record = catalog.codebook(frame.codebook)
        refuse_leakage(frame.split.train_end_us, {record.name: record.fit_end_us})
    target = plan.spec.training.target
    at_origins = _at_origins(plan, origins)
    latest = at_origins[0]
    liveness = arm_liveness(plan)
    baselines = Baselines.of(plan, liveness)
    evaluator, arms = latest.evaluator, latest.arms
    return ComparisonEvaluation(
        rows=(
            *_pooled_rows(data, at_origins, baselines),
            *_world_rows(data, evaluator, world_probabilities(repo, latest.parts.test) if target == CLICKED else None),
            *_rows_by_origin(data, at_origins, baselines),
        ),
        slices=_slice_facts(at_origins),
        cuts=CutFacts(
            latest.cuts.theta, latest.cuts.head_from, latest.cuts.tail_below, float(is_hot(latest.parts.test).mean())
        ),
        arms={arm: _arm_facts(plan, latest.trials, arm, metrics, evaluator) for arm, metrics in arms.items()},
        calibration={
            arm: _calibration_curve(evaluator.rows.label, by_seed)
            for arm, by_seed in _scores(plan, latest.trials).items()
        },
        gauc_by=evaluator.rows.grouped_by,
        train_rows=len(latest.parts.train),
        probes=probe(repo, plan),
        liveness=liveness,
        target=target,
        sampled_negatives=repo.settings.source.feedback == "positives_only",
    )


@dataclass(frozen=True)
class AtOrigin:
    """The evaluated arms of one time origin."""

    trials: list[Trial]
    parts: Parts
    cuts: SliceCuts
    evaluator: Evaluator
    arms: dict[str, dict[str, SliceMetrics]]
    """Arm -> slice -> metrics."""


def _at_origins(plan: Plan, origins: Sequence[TimeOrigin]) -> list[AtOrigin]:
    """Evaluate the trials of each time origin, with users and items numbered over all of them."""
    trials = [[trial for trial in plan.trials if trial.origin == origin.number] for origin in origins]
    parts = [Parts.load(plan, of_origin[0].frame) for of_origin in trials]
    users, items = (
        pd.factorize(np.concatenate([getattr(part.test.rows, kind) for part in parts]))[0]
        for kind in ("user_ids", "item_ids")
    )
    clusters, start = Clusters.of(users, items), 0
    evaluated = []
    for of_origin, part in zip(trials, parts, strict=True):
        rows = np.arange(start, start := start + len(part.test))
        cuts = SliceCuts.of(part.train, part.validation)
        evaluator = Evaluator(
            replace(EvaluationRows.of(part.test), clusters=clusters.take(rows)), paper_slices(part.test, cuts)
        )
        arms = {arm: evaluator.evaluate(by_seed) for arm, by_seed in _scores(plan, of_origin).items()}
        evaluated.append(AtOrigin(of_origin, part, cuts, evaluator, arms))
    return evaluated


def evaluate_external(data: str, plan: Plan, arm: str, scores: Sequence[Doubles]) -> list[Row]:
    """Evaluate an external model's test scores against the saved predictions of the shared baselines.

    Parameters
    ----------
    data : str
        Name of the data in the results.
    plan : Plan
        Its trials of the shared baselines at the latest time origin must be finished; ``id`` and ``id_codes`` are required.
    arm : str
        Name of the external model.
    scores : sequence of float64 [test rows]
        Probabilities or other ranking scores, one array per seed.

    Returns
    -------
    list of Row
        Rows of the external model.

    Raises
    ------
    EvaluationError
        If trials of the baselines are missing, or the scores have the wrong length or are not finite.
    """
    latest = baseline_trials(plan, arm)
    parts = Parts.load(plan, latest[0].frame)
    rows = EvaluationRows.of(parts.test)
    if {len(values) for values in scores} != {len(rows.label)}:
        raise EvaluationError(
            f"expected {len(rows.label)} scores per seed, one for each test row of the comparison; got "
            f"{', '.join(str(len(values)) for values in scores) or 'no'} scores per seed for {arm}"
        )
    invalid = [int((~np.isfinite(np.asarray(values, dtype=np.float64))).sum()) for values in scores]
    if any(invalid):
        raise EvaluationError(
            f"expected finite scores; got {', '.join(map(str, invalid))} per seed that are NaN or infinite for {arm}; fix "
            "the model's output"
        )
    evaluator = Evaluator(rows, paper_slices(parts.test, SliceCuts.of(parts.train, parts.validation)))
    arms = {name: evaluator.evaluate(by_seed) for name, by_seed in {arm: scores, **_scores(plan, latest)}.items()}
    return [row for row in _slice_rows(data, evaluator, arms, Baselines()) if row.arm == arm]


def baseline_trials(plan: Plan, arm: str) -> list[Trial]:
    """Return the trials of the shared baselines that an external model is compared with, those that the plan has.

    Raises
    ------
    EvaluationError
        If trials are missing.
    """
    shared = {CODES_AS_FEATURES, CONTENT, ID_ALONE, BOOSTING}
    latest = [trial for trial in plan.trials if trial.origin == 0 and trial.arm in shared]
    missing = [trial.name for trial in latest if plan.details(trial) is None]
    if missing or not {CODES_AS_FEATURES, ID_ALONE} <= {trial.arm for trial in latest}:
        raise EvaluationError(
            f"{arm} is compared with {CODES_AS_FEATURES} and {ID_ALONE}, but their trials "
            f"{', '.join(missing) + ' ' if missing else ''}are missing; run the comparison with the same options first"
        )
    return latest


def _scores(plan: Plan, trials: Iterable[Trial], part: str = "test") -> dict[str, list[Doubles]]:
    scores: dict[str, list[Doubles]] = {}
    for trial in trials:
        scores.setdefault(trial.arm, []).append(read_predictions(plan.path(trial), part))
    return scores


def _slice_rows(
    data: str, evaluator: Evaluator, arms: Mapping[str, Mapping[str, SliceMetrics]], baselines: Baselines
) -> Iterable[Row]:
    """Yield the rows of all arms, slice by slice."""
    for name in evaluator.slices:
        metrics = {arm: by_slice[name].metrics for arm, by_slice in arms.items()}
        yield from _rows(data, name, metrics, baselines)


def _rows(data: str, name: str, arms: Mapping[str, Metrics], baselines: Baselines) -> Iterable[Row]:
    """Yield the rows of all arms on one slice."""
    for arm, metrics in arms.items():
        for metric in METRICS:
            if metric not in metrics:
                continue
            against = [
                (baseline, baselines.difference(arm, baseline, metric, metrics[metric], arms[baseline][metric]))
                for baseline in baselines.among(arm, arms)
                if metric in arms[baseline] and metric in HIGHER_IS_BETTER
            ]
            # AUC is compared with all baselines; the other metrics only with the first.
            selected = against if metric == "auc" else against[:1]
            for pair in selected or (None,):
                yield Row.of(data, arm, name, metric, metrics[metric], pair)


def _world_rows(data: str, evaluator: Evaluator, known: WorldProbabilities | None) -> Iterable[Row]:
    """Yield the AUC of the true and of the knowable probabilities at the latest time origin, for worlds that have them."""
    for arm, probability in (known.by_name() if known else {}).items():
        for name, value in evaluator.reference_auc(probability).items():
            if value is not None:
                yield Row.of_reference(data, arm, name, value, evaluator.sizes[name].positives)


def _pooled_rows(data: str, at_origins: Sequence[AtOrigin], baselines: Baselines) -> Iterable[Row]:
    """Yield the rows of every slice, as means over the time origins that have the metric on it."""
    for name in _slice_names(at_origins):
        pooled: dict[str, Metrics] = {}
        for arm in at_origins[0].arms:
            found = [at.arms[arm][name].metrics for at in at_origins if name in at.evaluator.slices]
            pooled[arm] = {
                metric: _pooled([metrics[metric] for metrics in found if metric in metrics])
                for metric in METRICS
                if any(metric in metrics for metrics in found)
            }
        yield from _rows(data, name, pooled, baselines)


def _rows_by_origin(data: str, at_origins: Sequence[AtOrigin], baselines: Baselines) -> Iterable[Row]:
    """Yield the AUC rows of each of several time origins."""
    for number, at in enumerate(at_origins if len(at_origins) > 1 else ()):
        for name in _BY_ORIGIN:
            if name in at.evaluator.slices and name not in at.evaluator.without_auc:
                aucs = {arm: {"auc": _pooled([by_slice[name].metrics["auc"]])} for arm, by_slice in at.arms.items()}
                yield from _rows(data, f"{name} @ origin {number}", aucs, baselines)


def _slice_names(at_origins: Sequence[AtOrigin]) -> list[str]:
    return list(dict.fromkeys(name for at in at_origins for name in at.evaluator.slices))


def _slice_facts(at_origins: Sequence[AtOrigin]) -> dict[str, SliceFacts]:
    """Return the size of each slice over all time origins."""
    facts = {}
    for name in _slice_names(at_origins):
        present = [at for at in at_origins if name in at.evaluator.slices]
        sizes = [at.evaluator.sizes[name] for at in present]
        support = Support.pooled([at.evaluator.support[name] for at in present])
        rows = sum(size.rows for size in sizes)
        grouped = sum(size.rows * _grouped_share(at.evaluator, name) for at, size in zip(present, sizes, strict=True))
        facts[name] = SliceFacts(rows, support.positives, support.users, grouped / rows, support.effective_users)
    return facts


def _pooled(values: Sequence[MetricValue]) -> MetricValue:
    """Return the mean over time origins."""
    by_seed = tuple(float(np.mean(seed)) for seed in zip(*(value.by_seed for value in values), strict=True))
    return MetricValue(
        float(np.mean([value.value for value in values])),
        by_seed,
        Support.pooled([value.support for value in values]),
        # Of the values, not their cached changes, which would stay in memory for every slice.
        lambda: [Changes.mean(seed) for seed in zip(*(value.change() for value in values), strict=True)],
    )


def _arm_facts(
    plan: Plan, trials: Sequence[Trial], arm: str, metrics: Mapping[str, SliceMetrics], evaluator: Evaluator
) -> ArmFacts:
    arm_trials = [trial for trial in trials if trial.arm == arm]
    details = [plan.details(trial) or TrialDetails() for trial in arm_trials]
    first = [read_predictions(plan.path(trial), FIRST_EPOCH) for trial in arm_trials]
    curves = tuple(trial.validation_auc for trial in details if trial.validation_auc)
    label = evaluator.rows.label
    return ArmFacts(
        title=plan.arms[arm].title,
        baseline=plan.arms[arm].baseline,
        codebook=plan.frames[arm_trials[0].frame].codebook,
        parameters=details[0].parameters,
        table_parameters=details[0].table_parameters,
        dim=details[0].dim,
        auc_by_seed={name: part.metrics["auc"].by_seed for name, part in metrics.items() if "auc" in part.metrics},
        validation_curves=curves if len(curves) == len(details) else None,
        best_epoch=tuple(trial.best_epoch for trial in details),
        first_epoch_auc={
            name: float(np.mean([auc(label[part], scores[part]) for scores in first]))
            for name, part in evaluator.slices.items()
            if name in _FIRST_EPOCH_SLICES and all(map(len, first)) and enough(label[part])
        },
        seconds=tuple(trial.seconds for trial in details),
    )


def _grouped_share(evaluator: Evaluator, name: str) -> float:
    """Return the share of the slice's rows in groups that have both classes within the slice."""
    part = evaluator.slices[name]
    label = evaluator.rows.label[part]
    return gauc(label, label, evaluator.rows.group[part])[1]  # the share does not depend on the scores


def _calibration_curve(
    label: npt.NDArray[np.int8], scores: Sequence[Doubles]
) -> tuple[tuple[float, float, float], ...]:
    """Return mean prediction, positive rate and rows of ten equal-frequency bins of the prediction, over all seeds."""
    predicted, true = np.concatenate(scores), np.tile(label, len(scores)).astype(np.float64)
    order = np.argsort(predicted, kind="stable")
    return tuple(
        (float(predicted[rows].mean()), float(true[rows].mean()), len(rows) / len(scores))
        for rows in np.array_split(order, _CURVE_BINS)
        if len(rows)
    )
