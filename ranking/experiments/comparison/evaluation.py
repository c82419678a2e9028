"""Evaluate a comparison: from the predictions of its trials to the rows of ``arms.json`` and the data of the HTML page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from ranking.data.dataset import Dataset
from ranking.data.storage import load_dataset
from ranking.data.targets import CLICKED
from ranking.evaluation.evaluator import (
    HIGHER_IS_BETTER,
    METRICS,
    RESAMPLES,
    EvaluationRows,
    Evaluator,
    MetricValue,
    SliceMetrics,
    difference,
    enough,
    refuse_leakage,
)
from ranking.evaluation.metrics import auc, gauc
from ranking.evaluation.paper_slices import SliceCuts, is_hot, paper_slices
from ranking.experiments.comparison.arms import BOOSTING, CODES_AS_FEATURES, ID_ALONE, SHUFFLED
from ranking.experiments.comparison.probes import probe
from ranking.experiments.comparison.results import ArmFacts, ComparisonEvaluation, CutFacts, Row, SliceFacts
from ranking.experiments.comparison.time_origins import TimeOrigin
from ranking.experiments.comparison.trials import Plan, Trial, TrialDetails
from ranking.pipeline.world import WorldProbabilities, world_probabilities
from ranking.training.arms import FIRST_EPOCH, read_predictions
from semantic_ids.catalog import Catalog
from sidkit.core.arrays import Doubles
from sidkit.core.bootstrap import Resamples
from sidkit.core.errors import EvaluationError
from sidkit.core.repo import Repo

_CURVE_BINS = 10
_ROLLED = ("all", "cold")
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
    latest = [trial for trial in plan.trials if trial.origin == 0]
    parts = Parts.load(plan, latest[0].frame)
    cuts = SliceCuts.of(parts.train, parts.validation)
    evaluator = Evaluator(EvaluationRows.of(parts.test), paper_slices(parts.test, cuts))
    scores = _scores(plan, latest)
    arms = {arm: evaluator.evaluate(by_seed) for arm, by_seed in scores.items()}
    return ComparisonEvaluation(
        rows=(
            *_slice_rows(data, evaluator, arms, plan.ablation_baselines),
            *_world_rows(data, evaluator, world_probabilities(repo, parts.test) if target == CLICKED else None),
            *_rolling_rows(data, plan, origins),
        ),
        slices={
            name: SliceFacts(size.rows, size.positives, size.users, _grouped_share(evaluator, name))
            for name, size in evaluator.sizes.items()
        },
        cuts=CutFacts(cuts.theta, cuts.head_from, cuts.tail_below, float(is_hot(parts.test).mean())),
        arms={arm: _arm_facts(plan, latest, arm, metrics, evaluator) for arm, metrics in arms.items()},
        calibration={arm: _calibration_curve(evaluator.rows.label, by_seed) for arm, by_seed in scores.items()},
        gauc_by=evaluator.rows.grouped_by,
        train_rows=len(parts.train),
        probes=probe(repo, plan),
        target=target,
        sampled_negatives=repo.settings.source.feedback == "positives_only",
    )


def evaluate_external(data: str, plan: Plan, arm: str, scores: Sequence[Doubles]) -> list[Row]:
    """Evaluate an external model's test scores against the saved predictions of the two shared baselines.

    Parameters
    ----------
    data : str
        Name of the data in the results.
    plan : Plan
        Its trials of both baselines at the latest time origin must be finished.
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
    return [row for row in _slice_rows(data, evaluator, arms, {}) if row.arm == arm]


def baseline_trials(plan: Plan, arm: str) -> list[Trial]:
    """Return the trials of the two shared baselines that an external model is compared with.

    Raises
    ------
    EvaluationError
        If trials are missing.
    """
    latest = [trial for trial in plan.trials if trial.origin == 0 and trial.arm in {CODES_AS_FEATURES, ID_ALONE}]
    missing = [trial.name for trial in latest if plan.details(trial) is None]
    if missing or not latest:
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


def _baselines(arm: str, arms: Iterable[str], ablations: Mapping[str, str]) -> list[str]:
    """Return the baselines of an arm that were run: the shared ones, then its ablation baseline.

    The shared baselines are ``id_codes``, ``id`` and ``gbdt``; ``id_codes`` itself has ``id_codes_shuffled`` as control.
    """
    candidates = [ID_ALONE, SHUFFLED] if arm == CODES_AS_FEATURES else [CODES_AS_FEATURES, ID_ALONE]
    candidates.append(BOOSTING)
    candidates += [ablations[arm]] if ablations.get(arm) and ablations[arm] not in candidates else []
    present = set(arms)
    return [baseline for baseline in candidates if baseline in present and baseline != arm]


def _slice_rows(
    data: str, evaluator: Evaluator, arms: Mapping[str, Mapping[str, SliceMetrics]], ablations: Mapping[str, str]
) -> Iterable[Row]:
    """Yield the rows of all arms, slice by slice."""
    for name, size in evaluator.sizes.items():
        metrics = {arm: by_slice[name].metrics for arm, by_slice in arms.items()}
        yield from _rows(data, name, metrics, ablations, size.positives)


def _rows(
    data: str, name: str, arms: Mapping[str, Metrics], ablations: Mapping[str, str], positives: int
) -> Iterable[Row]:
    """Yield the rows of all arms on one slice; ``ablations`` maps arms to their ablation baselines."""
    for arm, metrics in arms.items():
        for metric in METRICS:
            if metric not in metrics:
                continue
            against = [
                (baseline, difference(metrics[metric], arms[baseline][metric], positives, metric))
                for baseline in _baselines(arm, arms, ablations)
                if metric in arms[baseline] and metric in HIGHER_IS_BETTER
            ]
            # AUC is compared with all baselines; the other metrics only with the first.
            selected = against if metric == "auc" else against[:1]
            for pair in selected or (None,):
                yield Row.of(data, arm, name, metric, metrics[metric], pair, positives)


def _world_rows(data: str, evaluator: Evaluator, known: WorldProbabilities | None) -> Iterable[Row]:
    """Yield the AUC of the true and of the knowable probabilities, upper bounds, for data sets that have them."""
    for arm, probability in (known.by_name() if known else {}).items():
        for name, value in evaluator.reference_auc(probability).items():
            if value is not None:
                metric = MetricValue(value, (value,), _no_samples)
                yield Row.of(data, arm, name, "auc", metric, None, evaluator.sizes[name].positives)


def _no_samples() -> Doubles:
    return np.zeros(0)


def _rolling_rows(data: str, plan: Plan, origins: Sequence[TimeOrigin]) -> list[Row]:
    """Return the AUC of the rolling arms at each time origin, and over all origins with users resampled jointly."""
    if len(origins) < 2:
        return []
    user_ids: list[str] = []
    loaded = []
    for origin in origins:
        trials = [trial for trial in plan.trials if trial.origin == origin.number]
        loaded.append((Parts.load(plan, trials[0].frame), trials))
        user_ids += list(dict.fromkeys(loaded[-1][0].test.rows.user_ids))
    seeds = 1 + max(trial.seed for trial in plan.trials if trial.origin == origins[-1].number)
    rolling = {trial.arm for trial in plan.trials if trial.origin == origins[-1].number}
    users = pd.Index(dict.fromkeys(user_ids))
    all_users = Resamples.draw(np.arange(len(users)), RESAMPLES)
    aucs: dict[str, dict[str, list[MetricValue]]] = {name: {} for name in _ROLLED}
    positives: dict[str, list[int]] = {name: [] for name in _ROLLED}
    rows: list[Row] = []
    for origin, (parts, trials) in zip(origins, loaded, strict=True):
        slices = paper_slices(parts.test, SliceCuts.of(parts.train, parts.validation))
        resamples = Resamples(all_users.weights, users.get_indexer(parts.test.rows.user_ids).astype(np.int64))
        rolled = {name: slices[name] for name in _ROLLED if name in slices}
        evaluator = Evaluator(EvaluationRows.of(parts.test), rolled, resamples)
        scores = _scores(plan, [trial for trial in trials if trial.arm in rolling and trial.seed < seeds])
        arms = {arm: evaluator.evaluate(by_seed) for arm, by_seed in scores.items()}
        for name in rolled:
            if name in evaluator.without_auc:
                continue
            positives[name].append(evaluator.sizes[name].positives)
            at_origin = {arm: {"auc": by_slice[name].metrics["auc"]} for arm, by_slice in arms.items()}
            rows += _rows(
                data, f"{name} @ origin {origin.number}", at_origin, plan.ablation_baselines, positives[name][-1]
            )
            for arm, metrics in at_origin.items():
                aucs[name].setdefault(arm, []).append(metrics["auc"])
    for name, by_arm in aucs.items():
        if len(positives[name]) == len(origins):
            pooled = {arm: {"auc": _pooled(values)} for arm, values in by_arm.items()}
            rows += _rows(
                data, f"{name} @ {len(origins)} origins", pooled, plan.ablation_baselines, sum(positives[name])
            )
    return rows


def _pooled(values: Sequence[MetricValue]) -> MetricValue:
    """Return the mean over time origins."""
    by_seed = tuple(float(np.mean(seed)) for seed in zip(*(value.by_seed for value in values), strict=True))
    return MetricValue(
        float(np.mean([value.value for value in values])),
        by_seed,
        lambda: np.mean([value.samples for value in values], axis=0),
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
