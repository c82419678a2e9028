"""Slices of the evaluation rows, computed point-in-time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ranking.data.dataset import Dataset
from ranking.data.numeric_features import numeric_column

COLD_BELOW = 10
"""An item with fewer earlier interactions is cold."""

_PRIOR = (
    (0, 1, "prior 0"),
    (1, 10, "prior 1-9"),
    (10, 100, "prior 10-99"),
    (100, 1000, "prior 100-999"),
    (1000, None, "prior 1000+"),
)
_AGE_DAYS = (
    (0, 1, "age < 1 d"),
    (1, 3, "age 1-3 d"),
    (3, 7, "age 3-7 d"),
    (7, 30, "age 7-30 d"),
    (30, None, "age > 30 d"),
)


def prior_interactions(data: Dataset) -> npt.NDArray[np.int64]:
    """Interactions with the row's item before the row: exposures, or positives if the log has only positives."""
    exposures, clicks = (numeric_column(data.numeric, f"item_{kind}_all") for kind in ("exposures", "clicks"))
    return np.maximum(exposures, clicks).astype(np.int64)


def slices(data: Dataset) -> dict[str, npt.NDArray[np.bool_]]:
    """Slice name -> mask: ``all``, ``cold`` and ``warm``; buckets of earlier interactions and of item age; and, if users
    revisit items, first and repeated interactions. Empty slices are omitted.
    """
    prior = prior_interactions(data)
    masks = {"all": np.ones(len(data), dtype=bool), "cold": prior < COLD_BELOW, "warm": prior >= COLD_BELOW}
    for low, high, name in _PRIOR:
        masks[name] = (prior >= low) & (prior < (high or np.inf))
    age = numeric_column(data.numeric, "item_age_days")
    dated = numeric_column(data.numeric, "item_without_content") == 0
    for low, high, name in _AGE_DAYS:
        masks[name] = dated & (age >= low) & (age < (high or np.inf))
    if data.rows.had_before is not None and data.rows.had_before.any():
        masks |= {"first touch": ~data.rows.had_before, "returning": data.rows.had_before}
    return {name: rows for name, rows in masks.items() if rows.any()}
