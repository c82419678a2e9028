"""Expected cells of a saved frame, recomputed from the plain features of a row.

A saved frame contains counts, rates smoothed towards the training rate with a weight of ten exposures, and ages and gaps in
days. A feature that was missing at serving time is 0.
"""

from __future__ import annotations

import math

from ranking.audit.event_times import WINDOWS_US, smoothed
from ranking.audit.reference import Cells

HISTORY_CODES = "codes of the history"
"""Key of the codes of the history's items in a saved frame, as of the row's time."""

_DAY_US = 86_400_000_000


def saved_cells(plain: Cells, item_id: str, at_us: int, rate: float) -> Cells:
    """Compute the columns of a saved frame.

    Parameters
    ----------
    plain : mapping
        The row's features by Feast's full names, None for a missing value.
    item_id : str
        Candidate item.
    at_us : int
        Time of the row, microseconds UTC.
    rate : float
        Positive rate of the training rows.
    """
    cells: Cells = {"candidate": item_id}
    for side in ("item", "user"):
        for window in WINDOWS_US:
            exposures, clicks = plain[f"{side}_stats__exposures_{window}"], plain[f"{side}_stats__clicks_{window}"]
            cells[f"{side}_exposures_{window}"] = float(exposures or 0)
            cells[f"{side}_clicks_{window}"] = float(clicks or 0)
            cells[f"{side}_rate_{window}"] = smoothed(clicks or 0, exposures, rate)
    for window in WINDOWS_US:
        cells[f"item_conversions_{window}"] = float(plain[f"item_stats__conversions_{window}"] or 0)
    created = plain["item_content__created_at_us"]
    cells["item_age_days"] = 0.0 if created is None else _days(at_us - created)
    cells["item_without_content"] = float(created is None)
    price = plain["item_content__price"]
    cells["item_price"] = 0.0 if price is None or math.isnan(price) else max(price, 0.0)
    ids, times_us = plain["user_history__item_ids"] or [], plain["user_history__timestamps_us"] or []
    cells["history_length"] = float(len(ids))
    cells["history_gap_days"] = _days(at_us - times_us[0]) if times_us else 0.0
    cells["history_span_days"] = _days(at_us - times_us[-1]) if times_us else 0.0
    cells["item_in_history"] = float(item_id in ids)
    cells |= {"user_history__item_ids": ids, "user_history__timestamps_us": times_us}
    return cells | {"item_sid__codes": plain["item_sid__codes"], "item_content": plain["item_content"]}


def plain_name(name: str) -> str:
    """Return the feature from which a column of a saved frame is computed, or the name itself if it has no single source."""
    for side in ("item", "user"):
        for kind in ("exposures", "clicks", "conversions"):
            if name.startswith(f"{side}_{kind}_"):
                return f"{side}_stats__{name.removeprefix(f'{side}_')}"
    return {
        "item_age_days": "item_content__created_at_us",
        "item_price": "item_content__price",
        "item_without_content": "item_content__created_at_us",
        "history_length": "user_history__item_ids",
        "history_gap_days": "user_history__timestamps_us",
        "history_span_days": "user_history__timestamps_us",
        "item_in_history": "user_history__item_ids",
    }.get(name, name)


def _days(micros: int) -> float:
    return max(micros, 0) / _DAY_US
