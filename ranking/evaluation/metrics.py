"""Ranking and probability metrics, each exact with ties and usable with bootstrap weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sidkit.core.arrays import Doubles

Array = npt.NDArray[np.number]


@dataclass(frozen=True)
class SortedScores:
    """Scores in rising order with their groups of equal values, so that many weightings can be measured fast."""

    order: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, scores: Array) -> SortedScores:
        """Sort once."""
        order = np.argsort(scores, kind="stable")
        risen = scores[order]
        starts = np.flatnonzero(np.r_[True, risen[1:] != risen[:-1]]) if len(risen) else np.zeros(0, np.int64)
        return cls(order, starts)

    def auc(self, label: Array, weight: Doubles | None = None) -> float:
        """Weighted AUC: the share of (positive, negative) pairs in the right order, ties count half; NaN without both."""
        weight = np.ones(len(label)) if weight is None else weight
        positive = (weight * (label == 1))[self.order]
        negative = (weight * (label == 0))[self.order]
        if not len(self.starts) or positive.sum() == 0 or negative.sum() == 0:
            return float("nan")
        up, down = np.add.reduceat(positive, self.starts), np.add.reduceat(negative, self.starts)
        below = np.cumsum(down) - down
        return float((up * (below + down / 2)).sum() / (up.sum() * down.sum()))


def auc(label: Array, scores: Array) -> float:
    """Area under the ROC curve; NaN when one class is missing."""
    return SortedScores.of(scores).auc(label)


@dataclass(frozen=True)
class GroupAucs:
    """Per group: its number, rows, and AUC (NaN where a class is missing)."""

    group: npt.NDArray[np.int64]
    rows: Doubles
    auc: Doubles


def group_aucs(label: Array, scores: Array, group: npt.NDArray[np.int64]) -> GroupAucs:
    """The AUC of each group of rows, ties count half; groups in rising order."""
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
    """Group AUC: the mean of the groups' AUC weighted by rows, over groups with both classes.

    Parameters
    ----------
    label, scores : array [rows]
        Labels 0 or 1, and any scores.
    group : int64 [rows]
        Requests or users.

    Returns
    -------
    tuple of float
        The GAUC (NaN when no group has both classes) and the share of rows in such groups.
    """
    if not len(label):
        return float("nan"), 0.0
    found = group_aucs(label, scores, group)
    both = np.isfinite(found.auc)
    if not both.any():
        return float("nan"), 0.0
    rows = found.rows[both]
    return float((found.auc[both] * rows).sum() / rows.sum()), float(rows.sum() / len(label))


def log_loss(label: Array, probability: Array) -> float:
    """Mean negative log-likelihood in nats; probabilities are kept 1e-7 away from 0 and 1. NaN without rows."""
    if not len(label):
        return float("nan")
    p = np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7)
    return float(-np.mean(np.where(label == 1, np.log(p), np.log1p(-p))))


def normalised_entropy(label: Array, probability: Array) -> float:
    """Log-loss over the entropy of the base rate; below 1 is better than always saying the rate."""
    rate = float(np.mean(label)) if len(label) else float("nan")
    if not 0 < rate < 1:
        return float("nan")
    return log_loss(label, probability) / float(-(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)))


def calibration(label: Array, probability: Array) -> float:
    """Mean prediction over the share of positives; 1 is calibrated. NaN without positives."""
    positives = float(np.sum(label == 1))
    return float(np.sum(probability)) / positives if positives else float("nan")
