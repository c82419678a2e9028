"""The evaluation of a run's arms (``verdict.json``): metrics per slice, and AUC differences to baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ranking.data.dataset import Dataset
from ranking.evaluation.evaluator import (
    ArmMetrics,
    Difference,
    EvaluationRows,
    Evaluator,
    SliceSize,
)
from ranking.evaluation.slices import slices
from sidkit.core.bootstrap import LEAST_POSITIVES, Interval, Verdict, finite, verdict_on
from sidkit.core.records import record_json

COMPARED = ("all", "cold", "warm")
"""Slices with intervals and differences."""
RESAMPLES = 400

Predictions = Mapping[str, Sequence[npt.NDArray[np.float64]]]


@dataclass(frozen=True)
class ArmDifference:
    """The AUC of an arm minus that of a baseline on one slice; bounds are None where one user leaves no interval."""

    arm: str
    baseline: str
    slice: str
    value: float
    low: float | None
    high: float | None
    positives: int
    verdict: Literal["better", "worse", "no evidence"]

    @classmethod
    def of(cls, arm: str, baseline: str, name: str, found: Difference) -> ArmDifference:
        """As it is written."""
        interval = found.interval
        return cls(
            arm,
            baseline,
            name,
            interval.value,
            finite(interval.low),
            finite(interval.high),
            found.positives,
            found.verdict.outcome,
        )

    @property
    def reasoned(self) -> Verdict:
        """The verdict with its reason."""
        low, high = (float("nan") if bound is None else bound for bound in (self.low, self.high))
        return verdict_on(Interval(self.value, low, high), self.positives)


@dataclass(frozen=True)
class RunEvaluation:
    """What ``verdict.json`` holds."""

    arms: dict[str, dict[str, ArmMetrics]]
    """Arm -> slice -> metrics."""
    differences: tuple[ArmDifference, ...]
    rows: dict[str, SliceSize]
    """Slice -> its size."""
    reasons: dict[str, str]
    """Slice -> why it has no AUC."""
    oracle: dict[str, float | None] | None
    """Slice -> the AUC of the true probabilities; None where the data has none."""
    gauc_by: str
    """``request`` or ``user``."""

    def as_json(self) -> dict[str, Any]:
        """As JSON values; ``auc_interval`` stands only on slices that have one."""
        return {**record_json(self), "arms": {arm: slices_json(each) for arm, each in self.arms.items()}}


def slices_json(found: Mapping[str, ArmMetrics]) -> dict[str, dict[str, Any]]:
    """Slice -> metrics, as JSON values."""
    return {
        name: {key: value for key, value in record_json(each).items() if key != "auc_interval" or value is not None}
        for name, each in found.items()
    }


def evaluate_arms(
    data: Dataset,
    predictions: Predictions,
    baselines: Sequence[str],
    oracle: npt.NDArray[np.float64] | None,
    *,
    least_positives: int = LEAST_POSITIVES,
) -> RunEvaluation:
    """Evaluate arms on test rows.

    Parameters
    ----------
    data : Dataset
        The test rows.
    predictions : mapping
        Arm -> one ``float64 [rows]`` per seed.
    baselines : sequence of str
        Arms against which the others are compared; those without predictions are left out.
    oracle : float64 [rows], optional
        True click probabilities, NaN where unknown.
    least_positives : int
        A difference on fewer positives is no evidence.
    """
    parts = slices(data)
    evaluator = Evaluator(EvaluationRows.of(data), parts, RESAMPLES, redraw=True, least_positives=least_positives)
    measured = {arm: evaluator.evaluate(scores) for arm, scores in predictions.items()}
    return RunEvaluation(
        arms={
            arm: {name: each.summary(interval=name in COMPARED) for name, each in found.items()}
            for arm, found in measured.items()
        },
        differences=tuple(
            ArmDifference.of(arm, baseline, name, each)
            for baseline in baselines
            for arm in measured
            if baseline in measured and arm != baseline
            for name, each in evaluator.compare(measured[arm], measured[baseline], slices=COMPARED).items()
        ),
        rows=evaluator.sizes,
        reasons=evaluator.without_auc,
        oracle=evaluator.reference_auc(oracle) if oracle is not None else None,
        gauc_by=evaluator.rows.grouped_by,
    )
