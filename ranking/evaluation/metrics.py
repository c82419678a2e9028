"""Ranking and probability metrics, exact with ties."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sidkit.core.arrays import Doubles, Ints

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


def placements(label: Array, prepared: SortedScores) -> Doubles:
    """Share of the other class that each row is ordered correctly against, ``float64 [rows]``, ties count half; NaN if a class
    is missing. The mean over either class is the AUC.
    """
    ordered = (label == 1)[prepared.order].astype(np.float64)
    run = np.repeat(np.arange(len(prepared.starts)), np.diff(prepared.starts, append=len(ordered)))
    placed = np.empty(len(ordered))
    placed[prepared.order] = _placed(ordered, run, np.zeros(len(ordered), np.int64))
    return placed


@dataclass(frozen=True)
class WithinGroups:
    """Of each row: the AUC of its group, its placement within the group (see :func:`placements`), and the numbers of rows of
    its group and of its class within the group, all ``float64 [rows]``. AUC and placement are NaN if the group lacks a class.
    """

    auc: Doubles
    placement: Doubles
    group_rows: Doubles
    class_rows: Doubles


def within_groups(label: Array, scores: Array, group: Ints) -> WithinGroups:
    """Compute AUCs and placements within groups, ``int64 [rows]``."""
    order = np.lexsort((scores, group))
    g, y, s = group[order], (label[order] == 1).astype(np.float64), scores[order]
    new_group = np.r_[True, g[1:] != g[:-1]][: len(g)]
    new_run = new_group | np.r_[True, s[1:] != s[:-1]][: len(g)]
    number = np.cumsum(new_group) - 1
    placed = _placed(y, np.cumsum(new_run) - 1, number)
    rows, positives = np.bincount(number).astype(np.float64), np.bincount(number, y)
    with np.errstate(invalid="ignore", divide="ignore"):
        aucs = np.bincount(number, np.where(y == 1, placed, 0.0)) / positives
    aucs[(positives == 0) | (positives == rows)] = np.nan
    columns = (aucs[number], placed, rows[number], np.where(y == 1, positives[number], (rows - positives)[number]))
    unsorted = np.empty((4, len(g)))
    unsorted[:, order] = np.stack(columns)
    return WithinGroups(*unsorted)


def _placed(positive: Doubles, run: Ints, group: Ints) -> Doubles:
    """Placements of rows that are sorted by group and score; rows of one run are tied."""
    up, down = np.bincount(run, positive), np.bincount(run, 1 - positive)
    below, above = np.cumsum(down) - down, up.sum() - np.cumsum(up)
    group_of_run = group[np.flatnonzero(np.r_[True, run[1:] != run[:-1]][: len(run)])]
    ups, downs = (np.bincount(group_of_run, counts) for counts in (up, down))
    below -= (np.cumsum(downs) - downs)[group_of_run]
    above -= (ups.sum() - np.cumsum(ups))[group_of_run]
    with np.errstate(invalid="ignore", divide="ignore"):
        placed = np.where(
            positive == 1,
            ((below + down / 2) / downs[group_of_run])[run],
            ((above + up / 2) / ups[group_of_run])[run],
        )
    placed[(ups == 0)[group] | (downs == 0)[group]] = np.nan
    return placed


def gauc(label: Array, scores: Array, group: Ints) -> tuple[float, float]:
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
    aucs = within_groups(label, scores, group).auc
    both = np.isfinite(aucs)
    return (float(aucs[both].mean()), float(both.mean())) if both.any() else (float("nan"), 0.0)


def log_loss(label: Array, probability: Array) -> float:
    """Mean negative log-likelihood in nats; probabilities are clipped 1e-7 away from 0 and 1. NaN without rows."""
    if not len(label):
        return float("nan")
    return float(np.mean(row_losses(label, probability)))


def row_losses(label: Array, probability: Array) -> Doubles:
    """Negative log-likelihood of each row in nats, clipped as in :func:`log_loss`."""
    p = np.clip(probability.astype(np.float64), 1e-7, 1 - 1e-7)
    losses: Doubles = -np.where(label == 1, np.log(p), np.log1p(-p))
    return losses


def base_entropy(rate: float) -> float:
    """Entropy in nats of a base rate between 0 and 1: the log-loss of predicting it."""
    return float(-(rate * np.log(rate) + (1 - rate) * np.log1p(-rate)))


def normalised_entropy(label: Array, probability: Array) -> float:
    """Log-loss divided by the entropy of the base rate; below 1 is better than predicting the base rate."""
    rate = float(np.mean(label)) if len(label) else float("nan")
    if not 0 < rate < 1:
        return float("nan")
    return log_loss(label, probability) / base_entropy(rate)


def calibration(label: Array, probability: Array) -> float:
    """Mean prediction divided by the share of positives; 1 is calibrated. NaN without positives."""
    positives = float(np.sum(label == 1))
    return float(np.sum(probability)) / positives if positives else float("nan")
