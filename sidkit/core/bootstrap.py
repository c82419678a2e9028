"""Cluster bootstrap (users, triggers), 95 % intervals, and the verdict on a difference.

Rows of a user are not independent, so users, not rows, are sampled with replacement. A sample consists of the number of times
each cluster was drawn. Compared estimates use the same samples, so their differences are paired.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from sidkit.core.arrays import Doubles, Ints

LEAST_POSITIVES = 500
"""Minimum number of positives for a verdict other than ``no evidence``."""
NO_EVIDENCE = "no evidence"


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval; bounds are NaN if there was nothing to resample."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, samples: Doubles) -> Interval:
        """Compute the percentile interval of bootstrap samples ``float64 [samples]``; NaN samples are ignored.

        Bounds are NaN if fewer than two samples are finite.
        """
        finite = samples[np.isfinite(samples)]
        if len(finite) < 2:
            return cls(value, float("nan"), float("nan"))
        low, high = np.quantile(finite, [0.025, 0.975])
        return cls(value, float(low), float(high))

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval excludes 0; False if it has no bounds."""
        return self.low > 0 or self.high < 0

    def as_json(self, name: str = "value", digits: int | None = None) -> dict[str, float | None]:
        """Return the value (under ``name``), ``low`` and ``high``, rounded to ``digits``; None for NaN."""
        values = {name: self.value, "low": self.low, "high": self.high}
        return {key: finite(value if digits is None else round(value, digits)) for key, value in values.items()}


@dataclass(frozen=True)
class Verdict:
    """Verdict on a difference to a baseline."""

    outcome: Literal["better", "worse", "no evidence"]
    """``no evidence`` if the difference is not significant."""
    reason: str
    """Reason, such as ``interval contains 0`` or ``fewer than 500 positives``."""

    def __str__(self) -> str:
        """Return the outcome, with the reason if it is ``no evidence``."""
        return f"{self.outcome} ({self.reason})" if self.outcome == NO_EVIDENCE else self.outcome


def verdict_on(
    difference: Interval, positives: int, *, higher_is_better: bool = True, least_positives: int = LEAST_POSITIVES
) -> Verdict:
    """Decide whether a metric is better than its baseline.

    Parameters
    ----------
    difference : Interval
        The metric minus that of the baseline.
    positives : int
        Number of positive rows on which both were evaluated.
    higher_is_better : bool
        Whether higher values of the metric are better.
    least_positives : int
        Minimum number of positives for a verdict other than ``no evidence``.
    """
    if positives < least_positives:
        return Verdict("no evidence", f"fewer than {least_positives} positives")
    if np.isnan(difference.low) or np.isnan(difference.high):
        return Verdict("no evidence", "no interval: one user, or one class")
    if not difference.excludes_zero:
        return Verdict("no evidence", "interval contains 0")
    return Verdict("better" if (difference.low > 0) == higher_is_better else "worse", "interval excludes 0")


@dataclass(frozen=True)
class Resamples:
    """Bootstrap samples of clusters: ``weights`` float32 [clusters, samples], the number of times each was drawn, and
    ``cluster`` int64 [rows], the cluster of each row.

    Sums of weights are exact, since they are integers below 2**24.
    """

    weights: npt.NDArray[np.float32]
    cluster: Ints

    @classmethod
    def draw(cls, cluster: Ints, samples: int, seed: int = 0) -> Resamples:
        """Draw bootstrap samples: all clusters, with replacement.

        Parameters
        ----------
        cluster : int64 [rows]
            The cluster of each row, any integers. A single cluster cannot be resampled and yields no samples.
        samples : int
            Number of bootstrap samples.
        seed : int
            Random seed.
        """
        number = np.unique(cluster, return_inverse=True)[1].ravel().astype(np.int64)
        clusters = int(number.max(initial=-1)) + 1
        weights = np.empty((clusters, samples if clusters > 1 else 0), dtype=np.float32)
        for sample, times in enumerate(_draws(clusters, weights.shape[1], seed)):
            weights[:, sample] = times
        return cls(weights, number)

    def take(self, rows: npt.NDArray[np.bool_]) -> Resamples:
        """Return the same samples for a mask of rows, ``bool [rows]``, so that slices stay paired."""
        return Resamples(self.weights, self.cluster[rows])

    def sums(self, values: Doubles) -> Doubles:
        """Sum ``float64 [rows, columns]`` per sample: ``float64 [samples, columns]``, computed in single precision."""
        clusters = len(self.weights)
        totals = np.stack(
            [np.bincount(self.cluster, weights=column, minlength=clusters) for column in values.T], axis=1
        )
        present = np.flatnonzero(np.bincount(self.cluster, minlength=clusters))
        sums: Doubles = (self.weights[present].T @ totals[present].astype(np.float32)).astype(np.float64)
        return sums


def mean_interval(values: Doubles, cluster: Ints, samples: int, seed: int = 0) -> Interval:
    """Compute the mean of values ``float64 [rows]`` and its interval over clusters, in double precision.

    Parameters
    ----------
    values : float64 [rows]
        At least one value.
    cluster : int64 [rows]
        The cluster of each row.
    samples, seed : int
        As in :meth:`Resamples.draw`; the samples are the same.
    """
    number = np.unique(cluster, return_inverse=True)[1].ravel()
    total, count = np.bincount(number, values), np.bincount(number).astype(np.float64)
    draws = _draws(len(count), samples if len(count) > 1 else 0, seed)
    means = [float(times @ total) / float(times @ count) for times in draws]
    return Interval.of(float(total.sum() / count.sum()), np.array(means))


def finite(value: float | None) -> float | None:
    """Return the value for JSON: None for NaN and infinity."""
    return value if value is not None and np.isfinite(value) else None


def _draws(clusters: int, samples: int, seed: int) -> Iterator[Ints]:
    """Yield, per sample, the number of times each cluster was drawn, ``int64 [clusters]``."""
    rng = np.random.default_rng(seed)
    for _ in range(samples):
        yield np.bincount(rng.integers(0, clusters, clusters), minlength=clusters)
