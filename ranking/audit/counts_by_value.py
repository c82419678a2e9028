"""Reference of the counts per user and value of an item attribute: plain Python over the events of the log.

The values of an event's item are those of its newest version that was available at the event's time; the candidate's are those
at the row's time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ranking.audit.attributes import AttributeReference
from sidkit.core.arrays import Ints
from sidkit.core.clock import DAY_US
from sidkit.core.feature_settings import ITEM_ATTRIBUTES, affinity_view
from sidkit.core.repo import Repo
from sidkit.tables import read_build

_WINDOWS_US: dict[str, int | None] = {"1d": DAY_US, "7d": 7 * DAY_US, "30d": 30 * DAY_US, "all": None}
_WEIGHT = 10.0
"""Weight of the training rate in a rate, in exposures."""

_Event = tuple[int, int, frozenset[str]]
"""Time in microseconds UTC, label, values of the item."""


class CountsByValue:
    """Columns of a saved frame for ``features.affinity``, from the log alone.

    Parameters
    ----------
    repo : Repo
        Repository of the log.
    opened : duckdb.DuckDBPyConnection
        Connection with the view ``events(user_id, item_id, ts_us, clicks)``.
    attributes : AttributeReference
        Values of items over time.
    """

    def __init__(self, repo: Repo, opened: duckdb.DuckDBPyConnection, attributes: AttributeReference) -> None:
        self._opened = opened
        self._attributes = attributes
        self._of_view = {affinity_view(name): name for name in repo.settings.features.affinity}
        self._delay_us, self._cadence_us = repo.settings.time.delay_us, repo.settings.time.cadence_us
        self._unknown = repo.settings.source.feedback == "positives_only"
        self._as_of_us = int(read_build(repo)["as_of_us"])

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the views."""
        return tuple(self._of_view)

    def cells(
        self, user_ids: npt.NDArray[np.object_], item_ids: npt.NDArray[np.object_], at_us: Ints, rate: float
    ) -> list[dict[str, float]]:
        """Counts of rows, and rates smoothed towards ``rate``, by the names of the frame's columns.

        A row is empty if attributes of its item, or of an item of its user's events, were corrected in place: the log only has
        the corrected ones.
        """
        cells: list[dict[str, float]] = [{} for _ in at_us]
        if not self._of_view:
            return cells
        late = self._attributes.corrected().get(ITEM_ATTRIBUTES, {})
        items_of = self._events(set(user_ids))
        candidates = self._values({*item_ids, *(item for each in items_of.values() for item, _, _ in each)})
        for view in self._of_view:
            happened = {
                user: [(us, label, _as_of(candidates[view].get(item, ()), us)) for item, us, label in events]
                for user, events in items_of.items()
            }
            for row, (user, item, at) in enumerate(zip(user_ids, item_ids, at_us.tolist(), strict=True)):
                if late.keys() & {item, *(other for other, _, _ in items_of.get(user, ()))}:
                    continue
                wanted = _as_of(candidates[view].get(item, ()), min(at, self._as_of_us))
                end_us = (min(at, self._as_of_us) - self._delay_us) // self._cadence_us * self._cadence_us
                cells[row].update(self._counts(view, happened.get(user, []), wanted, end_us, rate))
        return cells

    def timeline(self, feature: str, user_id: str, item_id: str, at_us: int) -> list[tuple[int, Any]]:
        """Pairs (first time served in microseconds UTC, count) for the values that an item has at a time, oldest first."""
        view, _, name = feature.partition("__")
        kind, _, window = name.partition("_")
        if kind == "rate":
            return []
        events = self._events({user_id}).get(user_id, [])
        values = self._values({item_id, *(item for item, _, _ in events)})[view]
        wanted = _as_of(values.get(item_id, ()), at_us)
        happened = [(us, label, _as_of(values.get(item, ()), us)) for item, us, label in events]
        moves = {us + gone for us, _, _ in happened for gone in (0, _WINDOWS_US[window] or 0)}
        ends = sorted({-(-us // self._cadence_us) * self._cadence_us for us in moves})
        return [(end + self._delay_us, self._counts(view, happened, wanted, end, 0.0)[feature]) for end in ends]

    def _counts(
        self, view: str, events: Sequence[_Event], wanted: frozenset[str], end_us: int, rate: float
    ) -> dict[str, float]:
        counts = {}
        for window, length in _WINDOWS_US.items():
            start_us = end_us - length if length else -1
            weights = [(len(wanted & has), label) for us, label, has in events if start_us < us <= end_us]
            exposures = 0 if self._unknown else sum(weight for weight, _ in weights)
            clicks = sum(weight * label for weight, label in weights)
            smoothed = (clicks + _WEIGHT * rate) / (max(exposures, clicks) + _WEIGHT)
            counts[f"{view}__exposures_{window}"] = float(exposures)
            counts[f"{view}__clicks_{window}"] = float(clicks)
            counts[f"{view}__rate_{window}"] = rate if self._unknown else smoothed
        return counts

    def _events(self, users: set[str]) -> dict[str, list[tuple[str, int, int]]]:
        """Item, time and label of all events of some users."""
        self._opened.register("asked_users", pa.table({"user_id": pa.array(sorted(users), pa.string())}))
        try:
            rows = self._opened.execute(
                "SELECT user_id, item_id, ts_us, clicks FROM events SEMI JOIN asked_users USING (user_id)"
            ).fetchall()
        finally:
            self._opened.unregister("asked_users")
        events: dict[str, list[tuple[str, int, int]]] = {}
        for user, item, us, label in rows:
            events.setdefault(user, []).append((item, us, label))
        return events

    def _values(self, items: Iterable[str]) -> dict[str, dict[str, list[tuple[int, frozenset[str]]]]]:
        """View -> item -> (first time served in microseconds UTC, values), oldest first."""
        versions = self._attributes.versions(ITEM_ATTRIBUTES, sorted(items))
        return {
            view: {
                item: [(since_us, _as_set(values, attribute)) for since_us, values in each]
                for item, each in versions.items()
            }
            for view, attribute in self._of_view.items()
        }


def _as_set(values: Mapping[str, Any], attribute: str) -> frozenset[str]:
    value = values[attribute]
    return frozenset([value] if isinstance(value, str) else value or [])


def _as_of(versions: Sequence[tuple[int, frozenset[str]]], at_us: int) -> frozenset[str]:
    served = [values for since_us, values in versions if since_us <= at_us]
    return served[-1] if served else frozenset()
