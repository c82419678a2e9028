"""Evaluation of a run's arms (``verdict.json``): metrics per slice, and AUC differences to baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ranking.data.dataset import Dataset
from ranking.data.targets import CLICKED, Target
from ranking.evaluation.evaluator import (
    ArmMetrics,
    Difference,
    EvaluationRows,
    Evaluator,
    SliceSize,
)
from ranking.evaluation.slices import slices
from sidkit.core.intervals import LEAST_POSITIVES, LEAST_USERS, Outcome, Verdict, finite
from sidkit.core.records import record_json

COMPARED = ("all", "cold", "warm")
"""Slices with intervals and differences."""

Predictions = Mapping[str, Sequence[npt.NDArray[np.float64]]]


@dataclass(frozen=True)
class ArmDifference:
    """AUC difference of an arm to a baseline on one slice; bounds are None if the slice has only one user.

    The interval is over users, items and, with two seeds or more, trainings.
    """

    arm: str
    baseline: str
    slice: str
    value: float
    low: float | None
    high: float | None
    positives: int
    verdict: Outcome
    reason: str = ""
    """Why there is no evidence; empty in files of earlier versions."""

    @classmethod
    def of(cls, arm: str, baseline: str, name: str, difference: Difference) -> ArmDifference:
        """Build from a difference of the evaluator."""
        interval = difference.interval
        return cls(
            arm,
            baseline,
            name,
            interval.value,
            finite(interval.low),
            finite(interval.high),
            difference.positives,
            difference.verdict.outcome,
            difference.verdict.reason,
        )

    @property
    def reasoned(self) -> Verdict:
        """The verdict with its reason."""
        return Verdict(self.verdict, self.reason)


@dataclass(frozen=True)
class RunEvaluation:
    """Contents of ``verdict.json``."""

    arms: dict[str, dict[str, ArmMetrics]]
    """Arm -> slice -> metrics."""
    differences: tuple[ArmDifference, ...]
    rows: dict[str, SliceSize]
    """Slice -> size."""
    reasons: dict[str, str]
    """Slice -> reason why it has no AUC."""
    oracle: dict[str, float | None] | None
    """Slice -> AUC of the true probabilities; None if they are unknown."""
    gauc_by: str
    """``request`` or ``user``."""
    ceiling: dict[str, float | None] | None = None
    """Slice -> AUC of the probabilities that can be known at serving time; None if they are unknown."""
    target: Target = CLICKED
    """What arms predict."""

    def as_json(self) -> dict[str, Any]:
        """Return JSON values; ``auc_interval`` is omitted from slices without one."""
        return {**record_json(self), "arms": {arm: slices_json(metrics) for arm, metrics in self.arms.items()}}


def slices_json(metrics: Mapping[str, ArmMetrics]) -> dict[str, dict[str, Any]]:
    """Return metrics per slice as JSON values."""
    return {
        name: {key: value for key, value in record_json(values).items() if key != "auc_interval" or value is not None}
        for name, values in metrics.items()
    }


def evaluate_arms(
    data: Dataset,
    predictions: Predictions,
    baselines: Sequence[str],
    oracle: npt.NDArray[np.float64] | None,
    *,
    ceiling: npt.NDArray[np.float64] | None = None,
    target: Target = CLICKED,
    least_positives: int = LEAST_POSITIVES,
    least_users: int = LEAST_USERS,
) -> RunEvaluation:
    """Evaluate arms on test rows.

    Parameters
    ----------
    data : Dataset
        The test rows.
    predictions : mapping
        Arm -> one ``float64 [rows]`` per seed.
    baselines : sequence of str
        Arms that the others are compared with; those without predictions are skipped.
    oracle : float64 [rows], optional
        True click probabilities, NaN where unknown.
    ceiling : float64 [rows], optional
        Click probabilities that can be known at serving time, NaN where unknown.
    target : str
        What the labels are.
    least_positives, least_users : int
        Minimum number of positives and effective number of users for a verdict other than ``no evidence``.
    """
    parts = slices(data)
    evaluator = Evaluator(EvaluationRows.of(data), parts, least_positives=least_positives, least_users=least_users)
    results = {arm: evaluator.evaluate(scores) for arm, scores in predictions.items()}
    return RunEvaluation(
        arms={
            arm: {name: metrics.summary(interval=name in COMPARED) for name, metrics in by_slice.items()}
            for arm, by_slice in results.items()
        },
        differences=tuple(
            ArmDifference.of(arm, baseline, name, difference)
            for baseline in baselines
            for arm in results
            if baseline in results and arm != baseline
            for name, difference in evaluator.compare(results[arm], results[baseline], slices=COMPARED).items()
        ),
        rows=evaluator.sizes,
        reasons=evaluator.without_auc,
        oracle=evaluator.reference_auc(oracle) if oracle is not None else None,
        gauc_by=evaluator.rows.grouped_by,
        ceiling=evaluator.reference_auc(ceiling) if ceiling is not None else None,
        target=target,
    )
