"""Slices of the evaluated rows, each decided by what was known as of the row."""

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
    """Earlier interactions with the row's item, as of the row: exposures, or positives where the log holds no others."""
    exposures, clicks = (numeric_column(data.numeric, f"item_{kind}_all") for kind in ("exposures", "clicks"))
    return np.maximum(exposures, clicks).astype(np.int64)


def slices(data: Dataset) -> dict[str, npt.NDArray[np.bool_]]:
    """Name -> rows. ``all``, ``cold`` and ``warm``; buckets of earlier interactions and of item age; and, where users
    come back to items, first touches and returns.
    """
    prior = prior_interactions(data)
    found = {"all": np.ones(len(data), dtype=bool), "cold": prior < COLD_BELOW, "warm": prior >= COLD_BELOW}
    for low, high, name in _PRIOR:
        found[name] = (prior >= low) & (prior < (high or np.inf))
    age = numeric_column(data.numeric, "item_age_days")
    dated = numeric_column(data.numeric, "item_without_content") == 0
    for low, high, name in _AGE_DAYS:
        found[name] = dated & (age >= low) & (age < (high or np.inf))
    if data.rows.had_before is not None and data.rows.had_before.any():
        found |= {"first touch": ~data.rows.had_before, "returning": data.rows.had_before}
    return {name: rows for name, rows in found.items() if rows.any()}
