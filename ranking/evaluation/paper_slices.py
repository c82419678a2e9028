"""Slices defined by the papers, computed point-in-time; thresholds are chosen on validation rows."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ranking.data.dataset import Dataset
from ranking.data.numeric_features import numeric_column
from ranking.evaluation.slices import prior_interactions, slices
from sidkit.core.arrays import Bools, Ints

COINS_THETA = 200
"""Exposures in 7 days below which an item is cold at Kuaishou (arXiv 2510.12604, section 6)."""
COINS_HOT_CLICKS = 3
COINS_COLD_SHARE = 0.8
"""Share of test rows on cold items in COINS: 400 of 500 million."""
HEAD_SHARE, TORSO_SHARE = 0.25, 0.5
"""Shares of impressions (arXiv 2504.02137)."""


@dataclass(frozen=True)
class SliceCuts:
    """Thresholds and training items of the slices.

    ``theta`` is the number of exposures in 7 days below which about 80 % of the validation rows are cold by the COINS
    rule. ``head_from`` and ``tail_below`` are exposures in 7 days. ``trained`` contains the item ids of the training rows.
    """

    theta: int
    head_from: int
    tail_below: int
    trained: npt.NDArray[np.object_]

    @classmethod
    def of(cls, training: Dataset, validation: Dataset) -> SliceCuts:
        """Choose the thresholds on validation rows; test rows are not used."""
        seen, hot = exposures_7d(validation), is_hot(validation)
        target = math.ceil(COINS_COLD_SHARE * len(validation))
        others = np.sort(seen[~hot])
        # If more than 20 % of the rows are hot, all others are cold.
        theta = int(others[min(target, len(others)) - 1]) + 1 if len(others) else 0
        ranked = np.sort(seen)[::-1]
        head_from = int(ranked[int(HEAD_SHARE * len(ranked))]) if len(ranked) else 0
        tail_below = int(ranked[int((HEAD_SHARE + TORSO_SHARE) * len(ranked))]) if len(ranked) else 0
        return cls(theta, max(head_from, 1), tail_below, np.unique(training.rows.item_ids.astype(str)).astype(object))


def exposures_7d(data: Dataset) -> Ints:
    """Exposures of the row's item in the preceding 7 days, or clicks if the log has only clicks."""
    return np.maximum(_count(data, "item_exposures_7d"), _count(data, "item_clicks_7d"))


def is_hot(data: Dataset) -> Bools:
    """Whether the row's item had more than 3 clicks, or a conversion, in the preceding 7 days."""
    hot: Bools = (_count(data, "item_clicks_7d") > COINS_HOT_CLICKS) | (_count(data, "item_conversions_7d") > 0)
    return hot


def paper_slices(data: Dataset, cuts: SliceCuts) -> dict[str, Bools]:
    """Slice name -> mask: those of :func:`ranking.evaluation.slices.slices`, and those of the papers.

    ``prior 0-99`` is SaviorRec's bucket. In the COINS rule, hot takes precedence: ``COINS hot`` are the hot rows, and for
    each theta the others are ``cold`` (fewer exposures) or ``neither``. ``strict cold`` are rows of items without a
    training row. ``head``, ``torso`` and ``tail`` split rows by their item's exposures in 7 days, at the values that split
    validation rows 25 : 50 : 25.
    """
    seen, hot = exposures_7d(data), is_hot(data)
    masks = slices(data)
    masks["prior 0-99"] = prior_interactions(data) < 100
    masks["COINS hot"] = hot
    for name, theta in ((f"theta {COINS_THETA}", COINS_THETA), ("theta 80 %", cuts.theta)):
        masks[f"COINS cold, {name}"] = ~hot & (seen < theta)
        masks[f"COINS neither, {name}"] = ~hot & (seen >= theta)
    masks["strict cold"] = ~np.isin(data.rows.item_ids.astype(str), cuts.trained.astype(str))
    masks["head"] = seen >= cuts.head_from
    masks["tail"] = (seen < cuts.tail_below) & ~masks["head"]
    masks["torso"] = ~masks["head"] & ~masks["tail"]
    return {name: rows for name, rows in masks.items() if rows.any()}


def _count(data: Dataset, column: str) -> Ints:
    return numeric_column(data.numeric, column).astype(np.int64)
