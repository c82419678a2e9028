"""Reference of the counts per user and value of an item attribute, or per user and item: plain Python over the log.

The values of an event's item are those of its newest version that was available at the event's time; the candidate's are those
at the row's time. An item is its own value under ``item_id``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ranking.audit.attributes import AttributeReference
from ranking.audit.event_times import EventTimes, smoothed, window_end
from sidkit.core.arrays import Ints
from sidkit.core.feature_settings import ITEM_ATTRIBUTES, WINDOWS, affinity_view
from sidkit.core.repo import Repo
from sidkit.tables import read_build

_ITEM = "item_id"
"""The name of the item itself in ``features.affinity``."""

_Versions = Mapping[str, Sequence[tuple[int, frozenset[str]]]]
"""Item -> (first time served in microseconds UTC, values), oldest first."""


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

        A row lacks counts per value if attributes of its item, or of an item of its user's events, were corrected in place: the
        log only has the corrected ones.
        """
        cells: list[dict[str, float]] = [{} for _ in at_us]
        if not self._of_view:
            return cells
        late = self._attributes.corrected().get(ITEM_ATTRIBUTES, {}).keys()
        events_of = self._events(set(user_ids))
        values = self._values({*item_ids, *(item for each in events_of.values() for item, _, _ in each)})
        stale = {user for user, events in events_of.items() if any(item in late for item, _, _ in events)}
        for view, attribute in self._of_view.items():
            happened = {user: _by_value(events, values[view]) for user, events in events_of.items()}
            for row, (user, item, at) in enumerate(zip(user_ids, item_ids, at_us.tolist(), strict=True)):
                if attribute != _ITEM and (item in late or user in stale):
                    continue
                wanted = _as_of(values[view].get(item, ()), min(at, self._as_of_us))
                end_us = window_end(min(at, self._as_of_us), self._delay_us, self._cadence_us)
                known = [happened[user][value] for value in wanted if value in happened.get(user, {})]
                cells[row].update(self._counts(view, known, end_us, rate))
        return cells

    def timeline(self, feature: str, user_id: str, item_id: str, at_us: int) -> list[tuple[int, Any]]:
        """Pairs (first time served in microseconds UTC, count) for the values that an item has at a time, oldest first."""
        view, _, name = feature.partition("__")
        kind, _, window = name.partition("_")
        if kind == "rate":
            return []
        events = self._events({user_id}).get(user_id, [])
        values = self._values({item_id, *(item for item, _, _ in events)})[view]
        happened = _by_value(events, values)
        known = [happened[value] for value in _as_of(values.get(item_id, ()), at_us) if value in happened]
        ends = sorted({end_us for each in known for end_us in each.window_ends(window, self._cadence_us)})
        return [(end_us + self._delay_us, self._counts(view, known, end_us, 0.0)[feature]) for end_us in ends]

    def _counts(self, view: str, known: Sequence[EventTimes], end_us: int, rate: float) -> dict[str, float]:
        counts = {}
        for window in WINDOWS:
            exposures = None if self._unknown else sum(each.count("exposures", window, end_us) for each in known)
            clicks = sum(each.count("clicks", window, end_us) for each in known)
            counts[f"{view}__exposures_{window}"] = float(exposures or 0)
            counts[f"{view}__clicks_{window}"] = float(clicks)
            counts[f"{view}__rate_{window}"] = smoothed(clicks, exposures, rate)
        return counts

    def _events(self, users: set[str]) -> dict[str, list[tuple[str, int, int]]]:
        """Item, time and label of all events of some users, oldest first."""
        self._opened.register("asked_users", pa.table({"user_id": pa.array(sorted(users), pa.string())}))
        try:
            rows = self._opened.execute(
                "SELECT user_id, item_id, ts_us, clicks FROM events SEMI JOIN asked_users USING (user_id) ORDER BY ts_us"
            ).fetchall()
        finally:
            self._opened.unregister("asked_users")
        events: dict[str, list[tuple[str, int, int]]] = {}
        for user, item, us, label in rows:
            events.setdefault(user, []).append((item, us, label))
        return events

    def _values(self, items: Iterable[str]) -> dict[str, _Versions]:
        """View -> values of its attribute that each item had."""
        listed = sorted(items)
        known = dict[str, list[tuple[int, dict[str, Any]]]]()
        if any(attribute != _ITEM for attribute in self._of_view.values()):
            known = self._attributes.versions(ITEM_ATTRIBUTES, listed)
        return {
            view: {item: [(0, frozenset([item]))] for item in listed}
            if attribute == _ITEM
            else {item: [(us, _as_set(values, attribute)) for us, values in each] for item, each in known.items()}
            for view, attribute in self._of_view.items()
        }


def _by_value(events: Sequence[tuple[str, int, int]], values: _Versions) -> dict[str, EventTimes]:
    """The events of one user by the values that their items had at the time."""
    happened: dict[str, EventTimes] = {}
    for item, us, label in events:
        for value in _as_of(values.get(item, ()), us):
            happened.setdefault(value, EventTimes()).add(us, label, 0)
    return happened


def _as_set(values: Mapping[str, Any], attribute: str) -> frozenset[str]:
    value = values[attribute]
    return frozenset([value] if isinstance(value, str) else value or [])


def _as_of(versions: Sequence[tuple[int, frozenset[str]]], at_us: int) -> frozenset[str]:
    served = [values for since_us, values in versions if since_us <= at_us]
    return served[-1] if served else frozenset()
