"""Paired bootstrap over users: rows of one user are not independent, so users are drawn, not rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ranking.evaluation.metrics import Array, SortedScores

RESAMPLES = 1000


@dataclass(frozen=True)
class Interval:
    """A figure and its 95 % interval."""

    value: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` when the interval leaves out 0, else ``no evidence`` (for differences)."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "no evidence"


def auc_interval(
    label: Array, scores: Sequence[Array], user: npt.NDArray[np.int64], resamples: int = RESAMPLES
) -> Interval:
    """The mean AUC over seeds and its interval over users."""
    return _interval(label, [(each, None) for each in scores], user, resamples)


def auc_difference(
    label: Array,
    scores: Sequence[Array],
    baseline: Sequence[Array],
    user: npt.NDArray[np.int64],
    resamples: int = RESAMPLES,
) -> Interval:
    """The difference of AUC between two arms on the same rows, paired by row and seed, pooled over seeds.

    Parameters
    ----------
    label : array [rows]
        0 or 1.
    scores, baseline : sequence of array [rows]
        One array per seed, in the same order of seeds.
    user : int64 [rows]
        Whose row it is.
    resamples : int
        Bootstrap samples of users.
    """
    return _interval(label, list(zip(scores, baseline, strict=True)), user, resamples)


def _interval(
    label: Array, pairs: Sequence[tuple[Array, Array | None]], user: npt.NDArray[np.int64], resamples: int
) -> Interval:
    number = np.unique(user, return_inverse=True)[1].ravel()
    users = int(number.max(initial=-1)) + 1
    prepared = [(SortedScores.of(score), SortedScores.of(base) if base is not None else None) for score, base in pairs]

    def measured(weight: npt.NDArray[np.float64] | None) -> float:
        values = [
            score.auc(label, weight) - (base.auc(label, weight) if base is not None else 0.0)
            for score, base in prepared
        ]
        return float(np.mean(values))

    rng = np.random.default_rng(0)
    samples = np.array(
        [
            measured(np.bincount(rng.integers(0, users, users), minlength=users)[number].astype(np.float64))
            for _ in range(resamples if users > 1 else 0)
        ]
    )
    samples = samples[np.isfinite(samples)]
    if len(samples) < 2:
        return Interval(measured(None), float("nan"), float("nan"))
    low, high = np.quantile(samples, [0.025, 0.975])
    return Interval(measured(None), float(low), float(high))
