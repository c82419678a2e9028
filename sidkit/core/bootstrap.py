"""The bootstrap over clusters (users, triggers), intervals of 95 %, and the verdict on a difference.

Rows of one user are not independent, so users are drawn with replacement, not rows. A sample is how often each cluster was
drawn; all that is compared uses the same samples, which pairs it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from sidkit.core.arrays import Doubles, Ints

LEAST_POSITIVES = 500
"""A difference on fewer positives is no evidence, whatever its interval."""
NO_EVIDENCE = "no evidence"


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval; bounds are NaN where there was nothing to resample."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, samples: Doubles) -> Interval:
        """The percentile interval of bootstrap samples ``float64 [samples]``; samples that are NaN are left out.

        Bounds are NaN where fewer than two samples have a value.
        """
        finite = samples[np.isfinite(samples)]
        if len(finite) < 2:
            return cls(value, float("nan"), float("nan"))
        low, high = np.quantile(finite, [0.025, 0.975])
        return cls(value, float(low), float(high))

    @property
    def leaves_out_zero(self) -> bool:
        """Whether the whole interval lies on one side of 0; False where it has no bounds."""
        return self.low > 0 or self.high < 0

    def as_json(self, name: str = "value", digits: int | None = None) -> dict[str, float | None]:
        """``value`` (under another name where one is given), ``low`` and ``high``, rounded to ``digits``; null for NaN."""
        values = {name: self.value, "low": self.low, "high": self.high}
        return {key: finite(value if digits is None else round(value, digits)) for key, value in values.items()}


@dataclass(frozen=True)
class Verdict:
    """What a difference to a baseline shows."""

    outcome: Literal["better", "worse", "no evidence"]
    """``no evidence`` where the data does not tell the two apart."""
    reason: str
    """Why, such as ``interval holds 0`` or ``fewer than 500 positives``."""

    def __str__(self) -> str:
        """The outcome, and the reason where nothing was shown."""
        return f"{self.outcome} ({self.reason})" if self.outcome == NO_EVIDENCE else self.outcome


def verdict_on(
    difference: Interval, positives: int, *, higher_is_better: bool = True, least_positives: int = LEAST_POSITIVES
) -> Verdict:
    """Decide whether one side is better than its baseline.

    Parameters
    ----------
    difference : Interval
        Of the metric, the side's minus the baseline's.
    positives : int
        Positive rows on which both were measured.
    higher_is_better : bool
        Of the metric.
    least_positives : int
        Fewer positives are no evidence.
    """
    if positives < least_positives:
        return Verdict("no evidence", f"fewer than {least_positives} positives")
    if np.isnan(difference.low) or np.isnan(difference.high):
        return Verdict("no evidence", "no interval: one user, or one class")
    if not difference.leaves_out_zero:
        return Verdict("no evidence", "interval holds 0")
    return Verdict("better" if (difference.low > 0) == higher_is_better else "worse", "interval leaves out 0")


@dataclass(frozen=True)
class Resamples:
    """Bootstrap samples of clusters: ``weights`` float32 [clusters, samples], how often each was drawn, and ``cluster``
    int64 [rows], the cluster of each row.

    Sums of weights stay exact: they are whole numbers below 2**24.
    """

    weights: npt.NDArray[np.float32]
    cluster: Ints

    @classmethod
    def draw(cls, cluster: Ints, samples: int, seed: int = 0) -> Resamples:
        """Draw clusters with replacement, as many as there are, so many times.

        Parameters
        ----------
        cluster : int64 [rows]
            The cluster of each row, by any numbers. One cluster alone cannot be resampled: there are no samples then.
        samples : int
            Bootstrap samples.
        seed : int
            Decides the draws.
        """
        number = np.unique(cluster, return_inverse=True)[1].ravel().astype(np.int64)
        clusters = int(number.max(initial=-1)) + 1
        weights = np.empty((clusters, samples if clusters > 1 else 0), dtype=np.float32)
        for sample, times in enumerate(_drawn(clusters, weights.shape[1], seed)):
            weights[:, sample] = times
        return cls(weights, number)

    def take(self, rows: npt.NDArray[np.bool_]) -> Resamples:
        """The same samples for some of the rows, ``bool [rows]``: what is compared across slices stays paired."""
        return Resamples(self.weights, self.cluster[rows])

    def sums(self, values: Doubles) -> Doubles:
        """Weighted sums over rows ``float64 [samples, columns]`` of ``float64 [rows, columns]``, in single precision."""
        clusters = len(self.weights)
        totals = np.stack(
            [np.bincount(self.cluster, weights=column, minlength=clusters) for column in values.T], axis=1
        )
        present = np.flatnonzero(np.bincount(self.cluster, minlength=clusters))
        sums: Doubles = (self.weights[present].T @ totals[present].astype(np.float32)).astype(np.float64)
        return sums


def mean_interval(values: Doubles, cluster: Ints, samples: int, seed: int = 0) -> Interval:
    """The mean of ``float64 [rows]`` values and its interval over clusters, in double precision.

    Parameters
    ----------
    values : float64 [rows]
        At least one.
    cluster : int64 [rows]
        The cluster of each row.
    samples, seed : int
        As for :meth:`Resamples.draw`, with the same draws.
    """
    number = np.unique(cluster, return_inverse=True)[1].ravel()
    total, count = np.bincount(number, values), np.bincount(number).astype(np.float64)
    drawn = _drawn(len(count), samples if len(count) > 1 else 0, seed)
    means = [float(times @ total) / float(times @ count) for times in drawn]
    return Interval.of(float(total.sum() / count.sum()), np.array(means))


def finite(value: float | None) -> float | None:
    """The value as JSON holds it: None for NaN and infinity."""
    return value if value is not None and np.isfinite(value) else None


def _drawn(clusters: int, samples: int, seed: int) -> Iterator[Ints]:
    """Per sample: how often each cluster was drawn, ``int64 [clusters]``."""
    rng = np.random.default_rng(seed)
    for _ in range(samples):
        yield np.bincount(rng.integers(0, clusters, clusters), minlength=clusters)
