"""Ranking and probability metrics, exact with ties, and the AUC of bootstrap samples.

The AUC of many samples is computed by two sparse products: rows are binned by score, and the AUC follows from the weighted
positives and negatives per bin. With more than :data:`BINS` distinct scores, neighbouring scores share a bin and count as
ties. This changes a sample by about 1e-5, far less than samples vary; the point estimate is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sidkit.core.arrays import Doubles
from sidkit.core.bootstrap import Resamples

BINS = 512
"""Number of distinct scores up to which the samples of :func:`auc_samples` are exact."""

Array = npt.NDArray[np.number]


@dataclass(frozen=True)
class SortedScores:
    """Scores sorted in ascending order and grouped by value, to compute the AUC for many row weights."""

    order: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, scores: Array) -> SortedScores:
        """Sort the scores."""
        order = np.argsort(scores, kind="stable")
        ascending = scores[order]
        starts = (
            np.flatnonzero(np.r_[True, ascending[1:] != ascending[:-1]]) if len(ascending) else np.zeros(0, np.int64)
        )
        return cls(order, starts)

    def auc(self, label: Array, weight: Doubles | None = None) -> float:
        """Weighted AUC: share of correctly ordered (positive, negative) pairs, ties count half; NaN if a class is missing."""
        weight = np.ones(len(label)) if weight is None else weight
        positive = (weight * (label == 1))[self.order]
        negative = (weight * (label == 0))[self.order]
        if not len(self.starts) or positive.sum() == 0 or negative.sum() == 0:
            return float("nan")
        up, down = np.add.reduceat(positive, self.starts), np.add.reduceat(negative, self.starts)
        below = np.cumsum(down) - down
        return float((up * (below + down / 2)).sum() / (up.sum() * down.sum()))


def auc(label: Array, scores: Array) -> float:
    """Area under the ROC curve; NaN if a class is missing."""
    return SortedScores.of(scores).auc(label)


@dataclass(frozen=True)
class GroupAucs:
    """Id, number of rows and AUC of each group; the AUC is NaN if a class is missing."""

    group: npt.NDArray[np.int64]
    rows: Doubles
    auc: Doubles


def group_aucs(label: Array, scores: Array, group: npt.NDArray[np.int64]) -> GroupAucs:
    """Compute the AUC of each group, ties count half; groups are in ascending order."""
    order = np.lexsort((scores, group))
    g, y, s = group[order], label[order].astype(np.float64), scores[order]
    first = np.r_[True, g[1:] != g[:-1]][: len(g)]
    number = np.cumsum(first) - 1
    rows = np.bincount(number).astype(np.float64)
    positives = np.bincount(number, weights=y)
    # Mid-ranks within each group, so that ties count half.
    tie = np.r_[True, (g[1:] != g[:-1]) | (s[1:] != s[:-1])][: len(g)]
    tie_number = np.cumsum(tie) - 1
    starts = np.flatnonzero(tie)
    lengths = np.diff(np.r_[starts, len(g)])
    begin = np.flatnonzero(first)[number]
    rank = (starts - begin[starts] + (lengths + 1) / 2)[tie_number]
    pairs = positives * (rows - positives)
    above = np.bincount(number, weights=rank * y) - positives * (positives + 1) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        return GroupAucs(g[first], rows, np.where(pairs > 0, above / pairs, np.nan))


def gauc(label: Array, scores: Array, group: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Group AUC: mean AUC of the groups with both classes, weighted by rows.

    Parameters
    ----------
    label, scores : array [rows]
        Labels 0 or 1, and any scores.
    group : int64 [rows]
        Requests or users.

    Returns
    -------
    tuple of float
        The GAUC (NaN if no group has both classes) and the share of rows in such groups.
    """
    if not len(label):
        return float("nan"), 0.0
    groups = group_aucs(label, scores, group)
    both = np.isfinite(groups.auc)
    if not both.any():
        return float("nan"), 0.0
    rows = groups.rows[both]
    return float((groups.auc[both] * rows).sum() / rows.sum()), float(rows.sum() / len(label))


def log_loss(label: Array, probability: Array) -> float:
    """Mean negative log-likelihood in nats; probabilities are clipped 1e-7 away from 0 and 1. NaN without rows."""
    if not len(label):
        return float("nan")
    p = np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7)
    return float(-np.mean(np.where(label == 1, np.log(p), np.log1p(-p))))


def normalised_entropy(label: Array, probability: Array) -> float:
    """Log-loss divided by the entropy of the base rate; below 1 is better than predicting the base rate."""
    rate = float(np.mean(label)) if len(label) else float("nan")
    if not 0 < rate < 1:
        return float("nan")
    return log_loss(label, probability) / float(-(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)))


def calibration(label: Array, probability: Array) -> float:
    """Mean prediction divided by the share of positives; 1 is calibrated. NaN without positives."""
    positives = float(np.sum(label == 1))
    return float(np.sum(probability)) / positives if positives else float("nan")


def auc_samples(label: Array, scores: Array, resamples: Resamples) -> tuple[float, Doubles]:
    """Compute the binned AUC, and that of each bootstrap sample ``float64 [samples]`` (NaN if it lacks a class)."""
    place, count = _bins(scores)
    positive = label == 1
    up, down = (_binned(place[part], resamples, part, count) for part in (positive, ~positive))
    plain = [np.bincount(place[part], minlength=count)[:, None] for part in (positive, ~positive)]
    whole = _auc_of(*(counts.astype(np.float64) for counts in plain))
    return float(whole[0]), _auc_of(up, down)


def mean_auc(label: Array, scores: Sequence[Array], resamples: Resamples) -> tuple[float, Doubles]:
    """Compute the exact AUC, averaged over seeds, and its bootstrap samples (binned, shifted to the exact AUC)."""
    exact, samples = [], []
    for score in scores:
        value, (binned, resampled) = auc(label, score), auc_samples(label, score, resamples)
        exact.append(value)
        samples.append(resampled + (value - binned))
    return float(np.mean(exact)), np.mean(samples, axis=0)


def _bins(scores: Array) -> tuple[npt.NDArray[np.int64], int]:
    """Bin of each row, ascending with the score, equal scores in one bin; and the number of bins."""
    prepared = SortedScores.of(scores)
    few = len(prepared.starts) <= BINS
    starts = np.arange(len(prepared.starts)) if few else prepared.starts * BINS // len(scores)
    place = np.empty(len(scores), dtype=np.int64)
    place[prepared.order] = np.repeat(starts, np.diff(prepared.starts, append=len(scores)))
    return place, int(starts[-1]) + 1 if len(starts) else 0


def _binned(
    place: npt.NDArray[np.int64], resamples: Resamples, part: npt.NDArray[np.bool_], count: int
) -> npt.NDArray[np.float32]:
    """Weighted row counts ``float32 [bins, samples]`` of the rows in ``part``."""
    from scipy.sparse import csr_matrix

    weights, cluster = resamples.weights, resamples.cluster[part]
    rows = csr_matrix((np.ones(len(place), np.float32), (place, cluster)), shape=(count, len(weights)))
    binned: npt.NDArray[np.float32] = rows @ weights
    return binned


def _auc_of(up: npt.NDArray[np.number], down: npt.NDArray[np.number]) -> Doubles:
    """AUC per column of positives and negatives ``[bins, samples]``, with ascending bins."""
    below = np.cumsum(down, axis=0)
    pairs = (up * (below - down / down.dtype.type(2))).sum(axis=0, dtype=np.float64)
    total = up.sum(axis=0, dtype=np.float64) * down.sum(axis=0, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        aucs: Doubles = np.where(total > 0, pairs / total, np.nan)
    return aucs
