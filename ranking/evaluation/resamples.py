"""One set of bootstrap samples of users, shared by all arms, seeds, slices and metrics: fast, and paired by itself.

A sample gives every user a weight, how often it was drawn. Any metric that is a sum over rows becomes one matrix product
of the weights and sums per user. AUC becomes two sparse products: rows fall into bins of equal scores, and the weighted
positives and negatives of each bin decide it. With more than :data:`BINS` distinct scores neighbours share a bin and
count as ties, which moves a sample by some hundred-thousandths, far less than samples differ; the point estimate is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ranking.evaluation.metrics import Array, SortedScores
from sidkit.core.arrays import Doubles, Ints

BINS = 512


@dataclass(frozen=True)
class Resamples:
    """``weights`` float32 [users, samples] and ``user`` int64 [rows], whose row it is.

    Sums of weights stay exact: they are whole numbers below 2**24.
    """

    weights: npt.NDArray[np.float32]
    user: Ints

    @classmethod
    def draw(cls, user: Ints, samples: int, seed: int = 0) -> Resamples:
        """Draw users with replacement, as many as there are, so many times; one user alone cannot be resampled."""
        number = np.unique(user, return_inverse=True)[1].ravel().astype(np.int64)
        users = int(number.max(initial=-1)) + 1
        rng = np.random.default_rng(seed)
        weights = np.empty((users, samples if users > 1 else 0), dtype=np.float32)
        for sample in range(weights.shape[1]):
            weights[:, sample] = np.bincount(rng.integers(0, users, users), minlength=users)
        return cls(weights, number)

    def take(self, rows: npt.NDArray[np.bool_]) -> Resamples:
        """The same samples for some of the rows: what is compared across slices stays paired."""
        return Resamples(self.weights, self.user[rows])

    def sums(self, values: Doubles) -> Doubles:
        """Weighted sums over rows ``float64 [samples, columns]`` of ``float64 [rows, columns]``."""
        users = len(self.weights)
        per_user = np.stack([np.bincount(self.user, weights=column, minlength=users) for column in values.T], axis=1)
        there = np.flatnonzero(np.bincount(self.user, minlength=users))
        found: Doubles = (self.weights[there].T @ per_user[there].astype(np.float32)).astype(np.float64)
        return found

    def auc(self, label: Array, scores: Array) -> tuple[float, Doubles]:
        """The AUC of the bins, and that of every sample ``float64 [samples]`` (NaN where a class was lost)."""
        place, count = _bins(scores)
        positive = label == 1
        up, down = (self._binned(place[part], self.user[part], count) for part in (positive, ~positive))
        plain = [np.bincount(place[part], minlength=count)[:, None] for part in (positive, ~positive)]
        whole = _auc_of(*(counts.astype(np.float64) for counts in plain))
        return float(whole[0]), _auc_of(up, down)

    def _binned(self, place: Ints, user: Ints, count: int) -> npt.NDArray[np.float32]:
        from scipy.sparse import csr_matrix

        rows = csr_matrix((np.ones(len(place), np.float32), (place, user)), shape=(count, len(self.weights)))
        found: npt.NDArray[np.float32] = rows @ self.weights
        return found


def mean_auc(label: Array, scores: Sequence[Array], resamples: Resamples) -> tuple[float, Doubles]:
    """The exact AUC, a mean over seeds, and the samples of that mean, each as far from it as in the bins."""
    exact, samples = [], []
    for each in scores:
        value, (binned, drawn) = SortedScores.of(each).auc(label), resamples.auc(label, each)
        exact.append(value)
        samples.append(drawn + (value - binned))
    return float(np.mean(exact)), np.mean(samples, axis=0)


def interval(samples: Doubles) -> tuple[float, float]:
    """The 95 % interval; NaN where fewer than two samples have a value."""
    finite = samples[np.isfinite(samples)]
    if len(finite) < 2:
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [0.025, 0.975])
    return float(low), float(high)


def _bins(scores: Array) -> tuple[Ints, int]:
    """Bin of each row, rising with the score, equal scores together; and how many bins there are."""
    prepared = SortedScores.of(scores)
    few = len(prepared.starts) <= BINS
    starts = np.arange(len(prepared.starts)) if few else prepared.starts * BINS // len(scores)
    place = np.empty(len(scores), dtype=np.int64)
    place[prepared.order] = np.repeat(starts, np.diff(prepared.starts, append=len(scores)))
    return place, int(starts[-1]) + 1 if len(starts) else 0


def _auc_of(up: npt.NDArray[np.number], down: npt.NDArray[np.number]) -> Doubles:
    """AUC per column of positives and negatives ``[bins, samples]`` in rising bins."""
    below = np.cumsum(down, axis=0)
    pairs = (up * (below - down / down.dtype.type(2))).sum(axis=0, dtype=np.float64)
    total = up.sum(axis=0, dtype=np.float64) * down.sum(axis=0, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Doubles = np.where(total > 0, pairs / total, np.nan)
    return found
