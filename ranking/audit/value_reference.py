"""Reference of the counts per user and value of an item attribute, recomputed from the log for the rows of a saved frame.

It uses no feature table and no as-of join: the value of an event's item is that of its newest version that was available at the
event's time, the candidate's that of the row's time. Only the conversion of the columns is the tables' own.
"""

from __future__ import annotations

from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from sidkit.core.arrays import Ints
from sidkit.core.clock import DAY_US
from sidkit.core.engine import literal, quoted, set_variables
from sidkit.core.feature_settings import ITEM_ATTRIBUTES, affinity_view
from sidkit.core.integrity import checked
from sidkit.core.repo import Repo
from sidkit.tables import read_build, read_log
from sidkit.tables.attributes import read_versions

_WINDOWS_US = {"1d": DAY_US, "7d": 7 * DAY_US, "30d": 30 * DAY_US, "all": 1 << 62}
_WEIGHT = 10.0
"""Weight of the training rate in a rate, in exposures."""


class ValueReference:
    """Counts per user and value for given rows, from the log alone.

    Parameters
    ----------
    repo : Repo
        Repository with attributes in ``features.affinity``.
    opened : duckdb.DuckDBPyConnection
        Connection with the view ``events(user_id, item_id, ts_us, clicks)``.
    """

    def __init__(self, repo: Repo, opened: duckdb.DuckDBPyConnection) -> None:
        self._opened = opened
        self._kinds = {name: repo.settings.features.items[name] for name in repo.settings.features.affinity}
        self._delay_us, self._cadence_us = repo.settings.time.delay_us, repo.settings.time.cadence_us
        self._unknown = repo.settings.source.feedback == "positives_only"
        build, log = read_build(repo), read_log(repo)
        self._as_of_us: int = build["as_of_us"]
        set_variables(opened, {"delay_us": self._delay_us, "as_of_us": self._as_of_us})
        read_versions(opened, ITEM_ATTRIBUTES, self._kinds, log, build["shapes"][ITEM_ATTRIBUTES])
        opened.execute("""
            CREATE TEMP TABLE attribute_versions AS
            SELECT *, row_number() OVER () AS version FROM item_attribute_versions
        """)
        table = checked(repo.tables / f"{ITEM_ATTRIBUTES}.parquet")
        opened.execute(f"""
            CREATE TEMP TABLE corrected_items AS
            SELECT DISTINCT item_id FROM (
                SELECT item_id, epoch_us(event_timestamp) - {self._delay_us} AS _version_us
                FROM read_parquet({literal(table)})
            ) ANTI JOIN attribute_versions USING (item_id, _version_us)
        """)

    def cells(
        self, user_ids: npt.NDArray[np.object_], item_ids: npt.NDArray[np.object_], at_us: Ints, rate: float
    ) -> list[dict[str, Any]]:
        """Columns of a saved frame per row: counts, and rates smoothed towards ``rate``.

        A row is left empty if the log only has the corrected attributes of its item, or of an item of its user's events.
        """
        at = np.minimum(at_us, self._as_of_us)
        self._opened.register(
            "value_rows",
            pa.table(
                {
                    "place": np.arange(len(at)),
                    "user_id": pa.array(user_ids, pa.string()),
                    "item_id": pa.array(item_ids, pa.string()),
                    "until_us": at - self._delay_us,
                    "end_us": (at - self._delay_us) // self._cadence_us * self._cadence_us,
                }
            ),
        )
        try:
            cells: list[dict[str, Any]] = [{} for _ in at]
            for attribute in self._kinds:
                for place, row in enumerate(self._counts(attribute, len(at))):
                    cells[place] |= self._columns(affinity_view(attribute), row, rate)
            for place in self._corrected():
                cells[place] = {}
        finally:
            self._opened.unregister("value_rows")
        return cells

    def _counts(self, attribute: str, rows: int) -> list[tuple[int, ...]]:
        """Exposures and clicks per window, of each row."""
        sums = ", ".join(
            f"count(*) FILTER (ts_us > end_us - {length}), coalesce(sum(clicks) FILTER (ts_us > end_us - {length}), 0)"
            for length in _WINDOWS_US.values()
        )
        events = """
            SELECT row_number() OVER () AS place, user_id, item_id, ts_us, clicks, ts_us - getvariable('delay_us') AS until_us
            FROM events WHERE user_id IN (SELECT user_id FROM value_rows)
        """
        counted = self._opened.execute(f"""
            SELECT asked.place, {sums}
            FROM ({self._valued("SELECT * FROM value_rows", attribute)}) AS asked
            INNER JOIN ({self._valued(events, attribute)}) AS happened USING (user_id, value)
            WHERE ts_us <= end_us GROUP BY asked.place
        """).fetchall()
        found = {place: tuple(map(int, values)) for place, *values in counted}
        return [found.get(place, (0,) * 2 * len(_WINDOWS_US)) for place in range(rows)]

    def _valued(self, rows: str, attribute: str) -> str:
        """SQL for rows with each distinct value of their items, as of their ``until_us``."""
        column = f"attribute_versions.{quoted(attribute)}"
        values = column if self._kinds[attribute] == "category" else f"unnest(list_distinct({column}))"
        return f"""
            WITH given AS MATERIALIZED ({rows}),
            newest AS (
                SELECT place, max(struct_pack(a := _version_us, b := version)).b AS version
                FROM given INNER JOIN attribute_versions USING (item_id) WHERE _version_us <= until_us GROUP BY place
            )
            SELECT * FROM (
                SELECT given.*, {values} AS value
                FROM given INNER JOIN newest USING (place) INNER JOIN attribute_versions USING (version)
            ) WHERE value IS NOT NULL
        """

    def _columns(self, view: str, row: tuple[int, ...], rate: float) -> dict[str, Any]:
        columns = {}
        for at, window in enumerate(_WINDOWS_US):
            exposures, clicks = (0 if self._unknown else row[2 * at]), row[2 * at + 1]
            smoothed = (clicks + _WEIGHT * rate) / (max(exposures, clicks) + _WEIGHT)
            columns[f"{view}__exposures_{window}"] = float(exposures)
            columns[f"{view}__clicks_{window}"] = float(clicks)
            columns[f"{view}__rate_{window}"] = rate if self._unknown else smoothed
        return columns

    def _corrected(self) -> list[int]:
        rows = self._opened.execute("""
            SELECT place FROM value_rows WHERE item_id IN (FROM corrected_items) OR user_id IN (
                SELECT user_id FROM events WHERE item_id IN (FROM corrected_items)
            )
        """).fetchall()
        return [place for (place,) in rows]
