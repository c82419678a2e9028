"""The table of a comparison: every arm, slice and metric with its interval, and paired differences to baselines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from ranking.data.dataset import Dataset
from ranking.evaluation.judge import LEAST_POSITIVES, enough
from ranking.evaluation.metrics import auc, calibration, gauc, group_aucs, log_loss, normalised_entropy
from ranking.evaluation.resamples import Resamples, interval, mean_auc
from sidkit.core.arrays import Bools, Doubles, Ints

RESAMPLES = 1000
METRICS = ("auc", "gauc", "logloss", "normalised_entropy", "calibration")
HIGHER_IS_BETTER = {"auc": True, "gauc": True, "logloss": False, "normalised_entropy": False}
"""Calibration is best at 1: a difference of it says nothing, so none is given."""
NO_EVIDENCE = "no evidence"


@dataclass(frozen=True)
class Row:
    """One line of ``arms.json``. ``seeds`` are averaged; ``positives`` are the slice's."""

    data: str
    arm: str
    seeds: int
    slice: str
    metric: str
    mean: float | None
    low: float | None
    high: float | None
    baseline: str | None
    delta: float | None
    delta_low: float | None
    delta_high: float | None
    positives: int
    verdict: str | None

    def as_json(self) -> dict[str, Any]:
        """With figures to 6 digits: more would only tell rounding apart."""
        return {key: round(value, 6) if isinstance(value, float) else value for key, value in asdict(self).items()}


@dataclass(frozen=True)
class Figure:
    """A metric of an arm on a slice: the mean over seeds, each seed's, and the bootstrap samples of the mean."""

    value: float
    by_seed: tuple[float, ...]
    samples: Doubles


@dataclass(frozen=True)
class Evaluated:
    """The test rows as they are judged: ``label`` int8, ``user`` and ``group`` int64 [rows] (request or user)."""

    label: npt.NDArray[np.int8]
    user: Ints
    group: Ints
    grouped_by: str

    @classmethod
    def of(cls, data: Dataset) -> Evaluated:
        """Rows that name no request are grouped by user and moment; logs without requests by user."""
        user = pd.factorize(data.rows.user_ids)[0].astype(np.int64)
        if data.rows.request_ids is None:
            return cls(data.rows.label, user, user, "user")
        requests = [
            request if request is not None else f"{who}@{at}"
            for request, who, at in zip(data.rows.request_ids, data.rows.user_ids, data.rows.at_us, strict=True)
        ]
        return cls(data.rows.label, user, pd.factorize(np.array(requests, object))[0].astype(np.int64), "request")


def figures(rows: Evaluated, scores: Sequence[Doubles], part: Bools, resamples: Resamples) -> dict[str, Figure]:
    """All metrics of one arm on one slice; those that are undefined there are left out.

    Parameters
    ----------
    rows : Evaluated
        All test rows.
    scores : sequence of float64 [rows]
        One per seed.
    part : bool [rows]
        The slice.
    resamples : Resamples
        Of all test rows; the same for every arm.
    """
    label, group, taken = rows.label[part], rows.group[part], [score[part] for score in scores]
    drawn = resamples.take(part)
    found: dict[str, Figure] = {}
    if enough(label):
        value, samples = mean_auc(label, taken, drawn)
        found["auc"] = Figure(value, tuple(auc(label, score) for score in taken), samples)
    sums = [_sums(label, score, group, drawn) for score in taken]
    exact = {
        "gauc": [gauc(label, score, group)[0] for score in taken],
        "logloss": [log_loss(label, score) for score in taken],
        "normalised_entropy": [normalised_entropy(label, score) for score in taken],
        "calibration": [calibration(label, score) for score in taken],
    }
    for metric, values in exact.items():
        if np.isfinite(values).all():
            samples = np.mean([each[metric] for each in sums], axis=0)
            found[metric] = Figure(float(np.mean(values)), tuple(values), samples)
    return found


def _sums(label: npt.NDArray[np.int8], score: Doubles, group: Ints, drawn: Resamples) -> dict[str, Doubles]:
    """The samples of the metrics that are ratios of sums over rows."""
    p = np.clip(score, 1e-7, 1 - 1e-7)
    each = group_aucs(label, score, group)
    # A group's AUC counts once per row of it; a group belongs to one user.
    per_row = each.auc[np.searchsorted(each.group, group)]
    both = np.isfinite(per_row)
    columns = [
        np.ones(len(label)), label == 1, score, -np.where(label == 1, np.log(p), np.log1p(-p)), both,
        np.where(both, per_row, 0.0),
    ]  # fmt: skip
    rows, positives, predicted, loss, kept, ranked = drawn.sums(np.stack(columns, axis=1).astype(np.float64)).T
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = positives / rows
        entropy = -(rate * np.log(rate) + (1 - rate) * np.log1p(-rate))
        return {
            "gauc": ranked / kept,
            "logloss": loss / rows,
            "normalised_entropy": loss / rows / entropy,
            "calibration": predicted / positives,
        }


def row(
    data: str, arm: str, name: str, metric: str, own: Figure, against: tuple[str, Figure] | None, positives: int
) -> Row:
    """One line: an arm's figure and, where there is a baseline, the paired difference to it."""
    low, high = interval(own.samples)
    delta = delta_low = delta_high = verdict = None
    if against is not None:
        delta = own.value - against[1].value
        delta_low, delta_high = interval(own.samples - against[1].samples)
        verdict = verdict_of(metric, delta_low, delta_high, positives)
    return Row(
        data, arm, len(own.by_seed), name, metric, _finite(own.value), _finite(low), _finite(high),
        against[0] if against is not None else None, _finite(delta), _finite(delta_low), _finite(delta_high), positives,
        verdict,
    )  # fmt: skip


def verdict_of(metric: str, low: float, high: float, positives: int) -> str:
    """``better`` or ``worse`` where the interval leaves out 0 and the slice has 500 positives, else ``no evidence``."""
    if positives < LEAST_POSITIVES or not (low > 0 or high < 0):
        return NO_EVIDENCE
    return "better" if (low > 0) == HIGHER_IS_BETTER[metric] else "worse"


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None
