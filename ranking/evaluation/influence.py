"""Influence functions of the metrics: how much each row moves the estimate, for intervals over users and items.

The AUC is a mean over (positive, negative) pairs, so its influence function is the placement of each row among the rows of the
other class (DeLong, DeLong and Clarke-Pearson 1988). GAUC is a mean of such AUCs, the other metrics are ratios of sums.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ranking.evaluation.metrics import Array, SortedScores, base_entropy, placements, row_losses, within_groups
from sidkit.core.arrays import Doubles, Ints
from sidkit.core.intervals import Influence


def auc_influence(label: Array, scores: Array) -> Influence:
    """Influence of the AUC; both classes must be present."""
    positive = label == 1
    count = np.where(positive, positive.sum(), (~positive).sum())
    placed = placements(label, SortedScores.of(scores))
    auc = float(placed[positive].mean())
    return Influence(_by_class((placed - auc) / count, positive), _by_class(1 / count, positive))


def gauc_influence(label: Array, scores: Array, group: Ints) -> Influence:
    """Influence of GAUC: of the rows within their group's AUC, and of the group's weight. Some group must have both classes."""
    inside = within_groups(label, scores, group)
    mixed = np.isfinite(inside.auc)
    weight = mixed / mixed.sum()
    value = float(inside.auc[mixed] @ weight[mixed])
    with np.errstate(invalid="ignore", divide="ignore"):
        moved = (inside.auc - value) + (inside.placement - inside.auc) * inside.group_rows / inside.class_rows
    return Influence(np.where(mixed, moved * weight, 0.0)[:, None], weight[:, None])


def ratio_influence(numerator: Doubles, denominator: Doubles) -> Influence:
    """Influence of a ratio of sums over rows, ``sum(numerator) / sum(denominator)``."""
    total = denominator.sum()
    value = numerator.sum() / total
    return Influence(((numerator - value * denominator) / total)[:, None], (denominator / total)[:, None])


def log_loss_influence(label: Array, probability: Array) -> Influence:
    """Influence of the log-loss."""
    return ratio_influence(row_losses(label, probability), np.ones(len(label)))


def normalised_entropy_influence(label: Array, probability: Array) -> Influence:
    """Influence of the log-loss divided by the entropy of the base rate; both classes must be present."""
    loss = row_losses(label, probability)
    rate, mean, rows = float(np.mean(label)), float(loss.mean()), len(label)
    entropy = base_entropy(rate)
    slope = np.log1p(-rate) - np.log(rate)  # of the entropy
    psi = (loss - mean) / entropy - mean / entropy**2 * slope * (label - rate)
    return Influence(psi[:, None] / rows, np.full((rows, 1), 1 / rows))


def calibration_influence(label: Array, probability: Array) -> Influence:
    """Influence of the mean prediction divided by the share of positives."""
    return ratio_influence(probability.astype(np.float64), (label == 1).astype(np.float64))


def _by_class(values: Doubles, positive: npt.NDArray[np.bool_]) -> Doubles:
    parts: Doubles = np.stack([np.where(positive, values, 0.0), np.where(positive, 0.0, values)], axis=1)
    return parts
