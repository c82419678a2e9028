"""What a saved frame must hold of a row: the arithmetic of its columns, repeated from the row's plain features.

A saved frame holds counts, rates smoothed towards the training rate with the weight of ten exposures, ages and gaps in
days, and 0 where serving knew nothing.
"""

from __future__ import annotations

import math

from ranking.audit.reference import WINDOWS_US, Cells

HISTORY_CODES = "codes of the history"
"""A saved frame's codes of the history's items, as of the row's time."""

_DAY_US = 86_400_000_000
_WEIGHT = 10.0


def saved_cells(plain: Cells, item_id: str, at_us: int, rate: float) -> Cells:
    """The columns of a saved frame.

    Parameters
    ----------
    plain : mapping
        The row's features by Feast's full names, None where serving had nothing.
    item_id : str
        The candidate.
    at_us : int
        The row's time, microseconds UTC.
    rate : float
        The share of positives among the training rows.
    """
    found: Cells = {"candidate": item_id}
    for side in ("item", "user"):
        for window in WINDOWS_US:
            exposures, clicks = plain[f"{side}_stats__exposures_{window}"], plain[f"{side}_stats__clicks_{window}"]
            found[f"{side}_exposures_{window}"] = float(exposures or 0)
            found[f"{side}_clicks_{window}"] = float(clicks or 0)
            shown = max(exposures or 0, clicks or 0)
            smoothed = ((clicks or 0) + _WEIGHT * rate) / (shown + _WEIGHT)
            found[f"{side}_rate_{window}"] = rate if exposures is None else smoothed
    for window in WINDOWS_US:
        found[f"item_conversions_{window}"] = float(plain[f"item_stats__conversions_{window}"] or 0)
    created = plain["item_content__created_at_us"]
    found["item_age_days"] = 0.0 if created is None else _days(at_us - created)
    found["item_without_content"] = float(created is None)
    price = plain["item_content__price"]
    found["item_price"] = 0.0 if price is None or math.isnan(price) else max(price, 0.0)
    ids, moments = plain["user_history__item_ids"] or [], plain["user_history__timestamps_us"] or []
    found["history_length"] = float(len(ids))
    found["history_gap_days"] = _days(at_us - moments[0]) if moments else 0.0
    found["history_span_days"] = _days(at_us - moments[-1]) if moments else 0.0
    found["item_in_history"] = float(item_id in ids)
    found |= {"user_history__item_ids": ids, "user_history__timestamps_us": moments}
    return found | {"item_sid__codes": plain["item_sid__codes"], "item_content": plain["item_content"]}


def plain_name(name: str) -> str:
    """The feature of which a column of a saved frame is made (itself when it is made of no single one)."""
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
