"""Paired bootstrap over users: rows of one user are not independent, so users are drawn, not rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ranking.evaluation.metrics import Array
from ranking.evaluation.resamples import Resamples, interval, mean_auc

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
    return _interval(label, scores, None, user, resamples)


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
    if len(scores) != len(baseline):
        raise ValueError(f"one side is shorter: {len(scores)} seeds of the arm, {len(baseline)} of the baseline")
    return _interval(label, scores, baseline, user, resamples)


def _interval(
    label: Array, scores: Sequence[Array], baseline: Sequence[Array] | None, user: npt.NDArray[np.int64], resamples: int
) -> Interval:
    drawn = Resamples.draw(user, resamples)
    value, samples = mean_auc(label, scores, drawn)
    if baseline is not None:
        other, others = mean_auc(label, baseline, drawn)
        value, samples = value - other, samples - others
    return Interval(value, *interval(samples))
