"""The papers' own slices, each decided by what was known as of the row; every threshold is chosen on validation rows."""

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
"""Exposures of 7 days below which an item is cold at Kuaishou (arXiv 2510.12604, section 6)."""
COINS_HOT_CLICKS = 3
COINS_COLD_SHARE = 0.8
"""Their share of test rows on cold items: 400 of 500 million."""
HEAD_SHARE, TORSO_SHARE = 0.25, 0.5
"""Of impressions (arXiv 2504.02137)."""


@dataclass(frozen=True)
class SliceCuts:
    """What slices need besides the row.

    ``theta`` is the number of exposures of 7 days below which about 80 % of the validation rows are cold by the COINS
    rule. ``head_from`` and ``tail_below`` are exposures of 7 days. ``trained`` holds the item ids of the training rows.
    """

    theta: int
    head_from: int
    tail_below: int
    trained: npt.NDArray[np.object_]

    @classmethod
    def of(cls, training: Dataset, validation: Dataset) -> SliceCuts:
        """Choose the cuts; no test row is looked at."""
        seen, hot = exposures_7d(validation), is_hot(validation)
        wanted = math.ceil(COINS_COLD_SHARE * len(validation))
        calm = np.sort(seen[~hot])
        # Where more than a fifth is hot, all that is not is cold.
        theta = int(calm[min(wanted, len(calm)) - 1]) + 1 if len(calm) else 0
        risen = np.sort(seen)[::-1]
        head_from = int(risen[int(HEAD_SHARE * len(risen))]) if len(risen) else 0
        tail_below = int(risen[int((HEAD_SHARE + TORSO_SHARE) * len(risen))]) if len(risen) else 0
        return cls(theta, max(head_from, 1), tail_below, np.unique(training.rows.item_ids.astype(str)).astype(object))


def exposures_7d(data: Dataset) -> Ints:
    """Exposures of the row's item in the 7 days before it, or clicks where the log holds no others."""
    return np.maximum(_count(data, "item_exposures_7d"), _count(data, "item_clicks_7d"))


def is_hot(data: Dataset) -> Bools:
    """More than 3 clicks, or a conversion, in the 7 days before the row."""
    hot: Bools = (_count(data, "item_clicks_7d") > COINS_HOT_CLICKS) | (_count(data, "item_conversions_7d") > 0)
    return hot


def paper_slices(data: Dataset, cuts: SliceCuts) -> dict[str, Bools]:
    """Name -> rows: all of :func:`ranking.evaluation.slices.slices`, and those of the papers.

    ``prior 0-99`` is SaviorRec's bucket. Of the COINS rule, hot wins: ``COINS hot`` are the hot rows, and for each theta
    the others are ``cold`` (fewer exposures) or ``neither``. ``strict cold`` are rows of items without a training row.
    ``head``, ``torso`` and ``tail`` part rows by their item's exposures of 7 days where validation rows part 25 : 50 : 25.
    """
    seen, hot = exposures_7d(data), is_hot(data)
    found = slices(data)
    found["prior 0-99"] = prior_interactions(data) < 100
    found["COINS hot"] = hot
    for name, theta in ((f"theta {COINS_THETA}", COINS_THETA), ("theta 80 %", cuts.theta)):
        found[f"COINS cold, {name}"] = ~hot & (seen < theta)
        found[f"COINS neither, {name}"] = ~hot & (seen >= theta)
    found["strict cold"] = ~np.isin(data.rows.item_ids.astype(str), cuts.trained.astype(str))
    found["head"] = seen >= cuts.head_from
    found["tail"] = (seen < cuts.tail_below) & ~found["head"]
    found["torso"] = ~found["head"] & ~found["tail"]
    return {name: rows for name, rows in found.items() if rows.any()}


def _count(data: Dataset, column: str) -> Ints:
    return numeric_column(data.numeric, column).astype(np.int64)
