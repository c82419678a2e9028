"""Expected cells of the features besides the built-in ones in a saved frame, recomputed from plain values.

Affinities are counted over the history of the row, each item with the attributes that it had at the row's time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ranking.audit.reference import Cells
from ranking.data.schema import IDENTITY, FeatureSchema

_DAY_US = 86_400_000_000


@dataclass(frozen=True)
class PastItem:
    """An item of a history: its id, the time of the positive (microseconds UTC), and its attributes by full name."""

    item_id: str
    at_us: int
    attributes: Mapping[str, Any]


def derived_cells(schema: FeatureSchema, plain: Cells, item_id: str, at_us: int, history: Sequence[PastItem]) -> Cells:
    """Compute the cells of a schema that can be recomputed from the log.

    Parameters
    ----------
    schema : FeatureSchema
        The features of the frame.
    plain : mapping
        The row's features by Feast's full names, None for a missing value.
    item_id : str
        Candidate item.
    at_us : int
        Time of the row, microseconds UTC.
    history : sequence of PastItem
        The history, newest first.
    """
    cells: Cells = {}
    for feature in schema.features:
        if feature.of and not feature.view:
            cells[feature.name] = _affinity(feature.of, feature.kind, plain, item_id, at_us, history)
        elif not feature.view:  # history__age_2_days, history__age_3_days
            place = int(feature.name.split("_")[3]) - 1
            cells[feature.name] = _days(at_us - history[place].at_us) if len(history) > place else math.nan
        elif feature.name in plain:
            cells[feature.name] = _as_saved(feature.kind, plain[feature.name], at_us)
    return cells


def _as_saved(kind: str, value: Any, at_us: int) -> Any:
    if kind == "date":
        return math.nan if value is None else (at_us - value) / _DAY_US
    if kind in {"number", "count", "share"}:
        return math.nan if value is None else float(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return value


def _affinity(of: str, kind: str, plain: Cells, item_id: str, at_us: int, history: Sequence[PastItem]) -> float:
    own = [item_id] if of == IDENTITY else _values(plain.get(of))
    total, newest = 0.0, math.nan
    for past in history:
        theirs = [past.item_id] if of == IDENTITY else _values(past.attributes.get(of))
        shared = sum(value in theirs for value in set(own)) / len(set(own)) if own else 0.0
        total += shared
        if shared and math.isnan(newest):
            newest = _days(at_us - past.at_us)
    if kind == "gap":
        return newest
    return total / max(len(history), 1) if kind == "share" else total


def _values(value: Any) -> list[str]:
    if value is None:
        return []
    listed: Iterable[Any] = value if isinstance(value, list | tuple) else [value]
    return [("true" if each else "false") if isinstance(each, bool) else str(each) for each in listed]


def _days(micros: int) -> float:
    return max(micros, 0) / _DAY_US
