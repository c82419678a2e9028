"""The evaluation of a comparison: from the predictions of its trials to the rows of ``arms.json`` and the facts of the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from ranking.data.dataset import Dataset
from ranking.data.storage import load_dataset
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
from ranking.pipeline.prepare import oracle_of
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
"""Metric -> its value, of one arm on one slice."""


@dataclass(frozen=True)
class Parts:
    """The rows of one time origin; predictions of all arms are of these test rows, in their order."""

    train: Dataset
    validation: Dataset
    test: Dataset

    @classmethod
    def load(cls, plan: Plan, key: str) -> Parts:
        """Read a saved frame."""
        data = load_dataset(plan.frames[key].folder)
        parts = plan.frames[key].split.parts(data.rows.at_us)
        return cls(*(data.take(parts[name]) for name in ("train", "validation", "test")))


def evaluate_comparison(repo: Repo, data: str, plan: Plan, places: Sequence[TimeOrigin]) -> ComparisonEvaluation:
    """Evaluate all finished trials of a plan.

    Parameters
    ----------
    repo : Repo
        The comparison's.
    data : str
        What the data is called in the table.
    plan : Plan
        Whose trials are finished.
    places : sequence of TimeOrigin
        Its time origins, the latest first.

    Raises
    ------
    LeakageError
        When a codebook was fitted on what came after its time origin's training rows.
    """
    catalog = Catalog.open(repo)
    for frame in plan.frames.values():
        record = catalog.codebook(frame.codebook)
        refuse_leakage(frame.split.train_end_us, {record.name: record.fit_end_us})
    latest = [trial for trial in plan.trials if trial.origin == 0]
    parts = Parts.load(plan, latest[0].frame)
    cuts = SliceCuts.of(parts.train, parts.validation)
    evaluator = Evaluator(EvaluationRows.of(parts.test), paper_slices(parts.test, cuts))
    scores = _scores(plan, latest)
    arms = {arm: evaluator.evaluate(each) for arm, each in scores.items()}
    return ComparisonEvaluation(
        rows=(
            *_slice_rows(data, evaluator, arms, plan.ablation_baselines),
            *_oracle_rows(data, evaluator, oracle_of(repo, parts.test)),
            *_rolling_rows(data, plan, places),
        ),
        slices={
            name: SliceFacts(size.rows, size.positives, size.users, _grouped_share(evaluator, name))
            for name, size in evaluator.sizes.items()
        },
        cuts=CutFacts(cuts.theta, cuts.head_from, cuts.tail_below, float(is_hot(parts.test).mean())),
        arms={arm: _arm_facts(plan, latest, arm, found, evaluator) for arm, found in arms.items()},
        calibration={arm: _calibration_curve(evaluator.rows.label, each) for arm, each in scores.items()},
        gauc_by=evaluator.rows.grouped_by,
        train_rows=len(parts.train),
        probes=probe(repo, plan),
    )


def evaluate_external(data: str, plan: Plan, arm: str, scores: Sequence[Doubles]) -> list[Row]:
    """Evaluate an external model's scores of the test rows, beside the saved predictions of the two shared baselines.

    Parameters
    ----------
    data : str
        What the data is called in the table.
    plan : Plan
        Whose trials of both baselines at the latest time origin are finished.
    arm : str
        What the external model is called.
    scores : sequence of float64 [test rows]
        Probabilities, or anything that sorts; one per seed.

    Returns
    -------
    list of Row
        Of the external model.

    Raises
    ------
    EvaluationError
        When trials of the baselines are not finished, the scores are not of the test rows, or one is no finite number.
    """
    latest = baseline_trials(plan, arm)
    parts = Parts.load(plan, latest[0].frame)
    rows = EvaluationRows.of(parts.test)
    if {len(each) for each in scores} != {len(rows.label)}:
        raise EvaluationError(
            f"{arm} came with {', '.join(str(len(each)) for each in scores) or 'no'} scores per seed; the comparison has "
            f"{len(rows.label)} test rows"
        )
    broken = [int((~np.isfinite(np.asarray(each, dtype=np.float64))).sum()) for each in scores]
    if any(broken):
        raise EvaluationError(
            f"{arm} came with {', '.join(map(str, broken))} scores per seed that are NaN or infinite; expected a number for "
            "each test row"
        )
    evaluator = Evaluator(rows, paper_slices(parts.test, SliceCuts.of(parts.train, parts.validation)))
    arms = {who: evaluator.evaluate(each) for who, each in {arm: scores, **_scores(plan, latest)}.items()}
    return [row for row in _slice_rows(data, evaluator, arms, {}) if row.arm == arm]


def baseline_trials(plan: Plan, arm: str) -> list[Trial]:
    """The trials of the two shared baselines beside which an external model is evaluated.

    Raises
    ------
    EvaluationError
        When some are not finished.
    """
    latest = [trial for trial in plan.trials if trial.origin == 0 and trial.arm in {CODES_AS_FEATURES, ID_ALONE}]
    left = [trial.name for trial in latest if plan.details(trial) is None]
    if left or not latest:
        raise EvaluationError(
            f"{arm} is evaluated beside {CODES_AS_FEATURES} and {ID_ALONE}, and {', '.join(left) or 'neither'} is "
            "trained; run the comparison with the same options first"
        )
    return latest


def _scores(plan: Plan, trials: Iterable[Trial], part: str = "test") -> dict[str, list[Doubles]]:
    found: dict[str, list[Doubles]] = {}
    for trial in trials:
        found.setdefault(trial.arm, []).append(read_predictions(plan.path(trial), part))
    return found


def _baselines(arm: str, arms: Iterable[str], own: Mapping[str, str]) -> list[str]:
    """Every arm is compared with codes as features, the id alone and boosting, and codes as features with shuffled codes
    besides; an arm may name an ablation baseline of its own.
    """
    wanted = [ID_ALONE, SHUFFLED] if arm == CODES_AS_FEATURES else [CODES_AS_FEATURES, ID_ALONE]
    wanted.append(BOOSTING)
    wanted += [own[arm]] if own.get(arm) and own[arm] not in wanted else []
    present = set(arms)
    return [baseline for baseline in wanted if baseline in present and baseline != arm]


def _slice_rows(
    data: str, evaluator: Evaluator, arms: Mapping[str, Mapping[str, SliceMetrics]], own: Mapping[str, str]
) -> Iterable[Row]:
    """Rows slice by slice, arm by arm."""
    for name, size in evaluator.sizes.items():
        yield from _rows(data, name, {arm: found[name].metrics for arm, found in arms.items()}, own, size.positives)


def _rows(data: str, name: str, arms: Mapping[str, Metrics], own: Mapping[str, str], positives: int) -> Iterable[Row]:
    """Rows of all arms on one slice; ``own`` holds ablation baselines."""
    for arm, metrics in arms.items():
        for metric in METRICS:
            if metric not in metrics:
                continue
            against = [
                (baseline, difference(metrics[metric], arms[baseline][metric], positives, metric))
                for baseline in _baselines(arm, arms, own)
                if metric in arms[baseline] and metric in HIGHER_IS_BETTER
            ]
            # AUC is compared with all baselines; the other metrics only with the first.
            chosen = against if metric == "auc" else against[:1]
            for each in chosen or (None,):
                yield Row.of(data, arm, name, metric, metrics[metric], each, positives)


def _oracle_rows(data: str, evaluator: Evaluator, probability: Doubles | None) -> Iterable[Row]:
    """The AUC of the true probabilities, where a world knows them: no arm can be better."""
    found = evaluator.reference_auc(probability) if probability is not None else {}
    for name, value in found.items():
        if value is not None:
            own = MetricValue(value, (value,), _no_samples)
            yield Row.of(data, "oracle", name, "auc", own, None, evaluator.sizes[name].positives)


def _no_samples() -> Doubles:
    return np.zeros(0)


def _rolling_rows(data: str, plan: Plan, places: Sequence[TimeOrigin]) -> list[Row]:
    """AUC at every time origin of the arms that roll, and over all origins with users drawn once for all of them."""
    if len(places) < 2:
        return []
    names: list[str] = []
    loaded = []
    for place in places:
        trials = [trial for trial in plan.trials if trial.origin == place.number]
        loaded.append((Parts.load(plan, trials[0].frame), trials))
        names += list(dict.fromkeys(loaded[-1][0].test.rows.user_ids))
    seeds = 1 + max(trial.seed for trial in plan.trials if trial.origin == places[-1].number)
    rolling = {trial.arm for trial in plan.trials if trial.origin == places[-1].number}
    users = pd.Index(dict.fromkeys(names))
    everyone = Resamples.draw(np.arange(len(users)), RESAMPLES)
    found: dict[str, dict[str, list[MetricValue]]] = {name: {} for name in _ROLLED}
    positives: dict[str, list[int]] = {name: [] for name in _ROLLED}
    lines: list[Row] = []
    for place, (parts, trials) in zip(places, loaded, strict=True):
        slices = paper_slices(parts.test, SliceCuts.of(parts.train, parts.validation))
        drawn = Resamples(everyone.weights, users.get_indexer(parts.test.rows.user_ids).astype(np.int64))
        rolled = {name: slices[name] for name in _ROLLED if name in slices}
        evaluator = Evaluator(EvaluationRows.of(parts.test), rolled, drawn)
        scores = _scores(plan, [trial for trial in trials if trial.arm in rolling and trial.seed < seeds])
        arms = {arm: evaluator.evaluate(each) for arm, each in scores.items()}
        for name in rolled:
            if name in evaluator.without_auc:
                continue
            positives[name].append(evaluator.sizes[name].positives)
            at = {arm: {"auc": each[name].metrics["auc"]} for arm, each in arms.items()}
            lines += _rows(data, f"{name} @ origin {place.number}", at, plan.ablation_baselines, positives[name][-1])
            for arm, own in at.items():
                found[name].setdefault(arm, []).append(own["auc"])
    for name, each in found.items():
        if len(positives[name]) == len(places):
            pooled = {arm: {"auc": _pooled(values)} for arm, values in each.items()}
            lines += _rows(
                data, f"{name} @ {len(places)} origins", pooled, plan.ablation_baselines, sum(positives[name])
            )
    return lines


def _pooled(each: Sequence[MetricValue]) -> MetricValue:
    """The mean over time origins."""
    by_seed = tuple(float(np.mean(values)) for values in zip(*(one.by_seed for one in each), strict=True))
    return MetricValue(
        float(np.mean([one.value for one in each])), by_seed, lambda: np.mean([one.samples for one in each], axis=0)
    )


def _arm_facts(
    plan: Plan, trials: Sequence[Trial], arm: str, found: Mapping[str, SliceMetrics], evaluator: Evaluator
) -> ArmFacts:
    own = [trial for trial in trials if trial.arm == arm]
    details = [plan.details(trial) or TrialDetails() for trial in own]
    first = [read_predictions(plan.path(trial), FIRST_EPOCH) for trial in own]
    curves = tuple(each.validation_auc for each in details if each.validation_auc)
    label = evaluator.rows.label
    return ArmFacts(
        title=plan.arms[arm].title,
        baseline=plan.arms[arm].baseline,
        codebook=plan.frames[own[0].frame].codebook,
        parameters=details[0].parameters,
        table_parameters=details[0].table_parameters,
        dim=details[0].dim,
        auc_by_seed={name: each.metrics["auc"].by_seed for name, each in found.items() if "auc" in each.metrics},
        validation_curves=curves if len(curves) == len(details) else None,
        best_epoch=tuple(each.best_epoch for each in details),
        first_epoch_auc={
            name: float(np.mean([auc(label[part], each[part]) for each in first]))
            for name, part in evaluator.slices.items()
            if name in _FIRST_EPOCH_SLICES and all(map(len, first)) and enough(label[part])
        },
        seconds=tuple(each.seconds for each in details),
    )


def _grouped_share(evaluator: Evaluator, name: str) -> float:
    """Share of the slice's rows in groups that have both classes inside it."""
    part = evaluator.slices[name]
    label = evaluator.rows.label[part]
    return gauc(label, label, evaluator.rows.group[part])[1]  # whatever the scores are


def _calibration_curve(
    label: npt.NDArray[np.int8], scores: Sequence[Doubles]
) -> tuple[tuple[float, float, float], ...]:
    """Mean prediction, share of positives and rows of ten equally full bins of the prediction, all seeds together."""
    predicted, true = np.concatenate(scores), np.tile(label, len(scores)).astype(np.float64)
    order = np.argsort(predicted, kind="stable")
    return tuple(
        (float(predicted[rows].mean()), float(true[rows].mean()), len(rows) / len(scores))
        for rows in np.array_split(order, _CURVE_BINS)
        if len(rows)
    )
