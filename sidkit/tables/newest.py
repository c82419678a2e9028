"""The newest row of each key as of a time, for the keys whose rows may have changed since an earlier time.

A build computes every row that became due; the online store needs the newest one only. An entity's newest row changes when an
event of it becomes available, leaves a window, arrives late, is corrected or is removed. These events are found by their times
and in the parts of the log that are new; the rows of their keys are computed from all events of these keys, so they are those
of a build from scratch as of the same time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from sidkit.core.clock import DAY_US, MICROS
from sidkit.core.code_stats import SID_PREFIX
from sidkit.core.engine import literal, quoted, set_variables, working_on
from sidkit.core.repo import Repo
from sidkit.tables.affinity import EVENTS, NEW_EVENTS, read_valued_events, rows_query
from sidkit.tables.code_stats import CodeCounts
from sidkit.tables.code_table import read_codes
from sidkit.tables.keys import entity_sql
from sidkit.tables.log import Log

_SQL = Path(__file__).parent
_WINDOWS_US = (0, 1 * DAY_US, 7 * DAY_US, 30 * DAY_US)


@dataclass(frozen=True)
class Since:
    """The state that the online store has: rows as of ``as_of_us`` from the log that ``log`` records."""

    as_of_us: int
    log: Mapping[str, Any]


@dataclass(frozen=True)
class NewestRows:
    """Newest rows of a table's changed keys, and the changed keys, of which some may have no row."""

    view: str
    rows: pa.Table
    keys: pa.Table


class ChangedRows:
    """Computes newest rows.

    Parameters
    ----------
    opened : duckdb.DuckDBPyConnection
        A connection that is used for nothing else.
    repo : Repo
    log : Log
    since : Since or None
        Rows that are known; None computes the newest rows of all keys.
    as_of_us : int
        No row is later, microseconds UTC.
    """

    def __init__(
        self, opened: duckdb.DuckDBPyConnection, repo: Repo, log: Log, since: Since | None, as_of_us: int
    ) -> None:
        self._opened, self._repo, self._log, self._since, self._as_of_us = opened, repo, log, since, as_of_us
        self._time = repo.settings.time
        self._moved = self._known_codes = False
        set_variables(
            opened,
            {
                "as_of_us": as_of_us,
                "delay_us": self._time.delay_us,
                "cadence_us": self._time.cadence_us,
                "history_length": self._time.history_length,
                "default_restart_us": 0,
                "positives_only": repo.settings.source.feedback == "positives_only",
                "conversions": repo.settings.source.conversions,
            },
        )
        opened.execute("CREATE OR REPLACE TEMP TABLE restart (entity_id VARCHAR, restart_us BIGINT)")
        self._rows = "SELECT user_id, item_id, epoch_us(timestamp) AS ts_us, label, converted"
        changed = log.since(dict(since.log)) if since else ()
        self._due = "timestamp <= make_timestamptz(getvariable('as_of_us') - getvariable('delay_us'))"
        late = f"{self._rows} FROM {_files(changed or log.parts)} WHERE {self._due if changed else 'false'}"
        opened.execute(f"CREATE OR REPLACE TEMP TABLE late_events AS {late}")
        row = opened.execute("SELECT min(ts_us) FROM late_events").fetchone()
        self._first_late_us: int | None = row[0] if row else None

    def item_stats(self) -> NewestRows | None:
        """Rows of ``item_stats``."""
        return self._counts("item_stats", ("item_id",))

    def user_stats(self) -> NewestRows | None:
        """Rows of ``user_stats``."""
        return self._counts("user_stats", ("user_id",))

    @working_on("computing the newest rows of user_history")
    def user_history(self) -> NewestRows | None:
        """Rows of ``user_history``."""
        before = self._since.as_of_us - self._time.delay_us if self._since else 0
        self._collect([(before, self._as_of_us - self._time.delay_us)], None)
        self._opened.execute("DELETE FROM moved_events WHERE label <> 1")
        users = self._table("SELECT DISTINCT user_id FROM moved_events")
        if not len(users):
            return None
        self._need("user_id", "moved_events")
        self._opened.execute("CREATE OR REPLACE TEMP VIEW events AS SELECT * FROM needed")
        query = (_SQL / "user_history.sql").read_text(encoding="utf-8")
        return NewestRows("user_history", self._table(newest_of(query, "user_id")), users)

    def affinity(self, view: str, attribute: str, kind: str, attributes: Path, items: str | None) -> NewestRows | None:
        """Rows of ``user_<attribute>_stats``.

        Parameters
        ----------
        view : str
            Name of the table.
        attribute : str
            The attribute, or ``item_id``.
        kind : str
            ``category`` or ``categories``.
        attributes : Path
            File like the table ``item_attributes``, as of now.
        items : str or None
            SQL for the ids of items whose values at earlier times are new; None for all items.
        """
        self._move(self._time.cadence_us, items)
        if not self._moved:
            return None
        self._need("user_id", "moved_events")
        self._opened.execute("CREATE OR REPLACE TEMP VIEW events AS SELECT * FROM needed")
        self._opened.execute("CREATE OR REPLACE TEMP VIEW new_events AS SELECT * FROM moved_events")
        read_valued_events(self._opened, attribute, kind, attributes)
        entity = f"struct_extract(entity_id, '_0') AS user_id, struct_extract(entity_id, '_1') AS {quoted(attribute)}"
        keys = f"SELECT {entity} FROM touched"
        return self._counted(view, ("user_id", attribute), (EVENTS, NEW_EVENTS), rows_query(attribute), keys)

    def code_stats(
        self, counts: CodeCounts, codes: Path, known: Mapping[str, int] | None, assigned: Mapping[str, int]
    ) -> Iterator[NewestRows]:
        """Rows of both tables of statistics of codes.

        Parameters
        ----------
        counts : CodeCounts
            The codebook, depths and cadences.
        codes : Path
            A table like ``item_sid_<codebook>``.
        known : mapping or None
            Assignments of codes that the known rows were counted with (their times as text); None for unknown ones.
        assigned : mapping
            Those of the table now.
        """
        self._known_codes = False
        for name in counts.tables:
            cadence_us, of_users = counts.cadence_of(name) * MICROS, name == counts.tables[1]
            of_items = None if known is None else _NONE if known == assigned else self._recoded(codes, known)
            set_variables(self._opened, {"cadence_us": cadence_us})
            self._move(cadence_us, of_items)
            if not self._moved:
                continue
            self._read_codes(counts, codes)
            old = f"UNION ALL {_by_prefix('moved_events', 'coded_before')}" if known else ""
            self._opened.execute(f"""
                CREATE OR REPLACE TEMP TABLE coded_before AS
                SELECT * FROM coded WHERE assigned_at_us IN ({", ".join(known or ()) or "NULL"});
                CREATE OR REPLACE TEMP VIEW moved_prefixes AS {_by_prefix("moved_events", "coded")} {old}
            """)
            key: tuple[str, ...]
            if of_users:
                self._need("user_id", "moved_events")
                query, key, columns = _USER_CODES, ("user_id", "number"), "struct_extract(entity_id, '_0') AS user_id, "
                number = "struct_extract(entity_id, '_1')"
            else:
                self._opened.execute(
                    f"CREATE OR REPLACE TEMP TABLE needed AS {self._rows} FROM {_files(self._log.parts)} WHERE {self._due}"
                )
                query, key, columns, number = _CODES, ("number",), "", "entity_id"
            self._opened.execute(f"CREATE OR REPLACE TEMP VIEW of_prefixes AS {_by_prefix('needed', 'coded')}")
            keys = f"SELECT {columns}{SID_PREFIX} FROM touched JOIN prefixes ON number = {number}"
            with working_on(f"computing the newest rows of {name}"):
                rows = self._counted(
                    name, key, ("of_prefixes", "moved_prefixes"), query, keys, short_windows=not of_users
                )
            if rows is not None:
                yield rows
        set_variables(self._opened, {"cadence_us": self._time.cadence_us})

    def _recoded(self, codes: Path, known: Mapping[str, int]) -> str:
        """SQL for the ids of items with codes that are newer than the known rows."""
        listed = ", ".join(known) or "NULL"
        return f"SELECT item_id FROM {_files([codes])} WHERE NOT coalesce(assigned_at_us IN ({listed}), false)"

    def _read_codes(self, counts: CodeCounts, codes: Path) -> None:
        if not self._known_codes:
            read_codes(self._opened, self._repo, counts.codebook, counts.depths, codes, self._as_of_us)
            self._known_codes = True

    def _counts(self, name: str, keys: tuple[str, ...]) -> NewestRows | None:
        self._move(self._time.cadence_us, _NONE)
        if not self._moved:
            return None
        self._need(keys[0], "moved_events")
        query = (_SQL / f"{name}.sql").read_text(encoding="utf-8")
        with working_on(f"computing the newest rows of {name}"):
            return self._counted(
                name, keys, ("needed", "moved_events"), query, f"SELECT entity_id AS {keys[0]} FROM touched"
            )

    def _move(self, cadence_us: int, items: str | None) -> None:
        """Create ``moved_events``: late ones, those that enter or leave a window, and those of some items (SQL; None: all)."""
        until = (self._as_of_us - self._time.delay_us) // cadence_us * cadence_us
        ranges = [(0, self._as_of_us)]
        if self._since is not None and items is not None:
            before = (self._since.as_of_us - self._time.delay_us) // cadence_us * cadence_us
            ranges = [(before - window, until - window) for window in _WINDOWS_US if before < until]
        if not ranges and items == _NONE and (self._first_late_us is None or self._first_late_us > until):
            self._moved = False
            return
        self._collect(ranges, items if items not in {None, _NONE} else None, f"WHERE ts_us <= {until}")

    def _collect(self, ranges: Sequence[tuple[int, int]], items: str | None, late: str = "") -> None:
        source = _files(self._log.parts)
        # One query per range: the row groups of each are found by their times.
        parts = [f"SELECT * FROM late_events {late}"]
        parts += [
            f"{self._rows} FROM {source} WHERE {self._due} AND timestamp > make_timestamptz({first}) "
            f"AND timestamp <= make_timestamptz({last})"
            for first, last in ranges
        ]
        if items:
            parts.append(f"{self._rows} FROM {source} WHERE {self._due} AND item_id IN ({items})")
        self._opened.execute(f"CREATE OR REPLACE TEMP TABLE moved_events AS {' UNION ALL '.join(parts)}")
        row = self._opened.execute("SELECT count(*) FROM moved_events").fetchone()
        self._moved = bool(row and row[0])

    def _need(self, key: str, relation: str) -> None:
        """Create ``needed``: all available events of the keys of a relation."""
        self._opened.execute(
            f"CREATE OR REPLACE TEMP TABLE needed AS {self._rows} FROM {_files(self._log.parts)} AS held "
            f"SEMI JOIN (SELECT DISTINCT {key} FROM {relation}) AS wanted ON held.{key} = wanted.{key} WHERE {self._due}"
        )

    def _counted(
        self,
        view: str,
        key: Sequence[str],
        events: tuple[str, str],
        query: str,
        keys: str,
        *,
        short_windows: bool = True,
    ) -> NewestRows | None:
        entity = entity_sql(key)
        self._opened.execute(
            f"CREATE OR REPLACE TEMP TABLE touched AS SELECT DISTINCT {entity} AS entity_id FROM {events[1]}"
        )
        cadence_us = self._variable("cadence_us")
        until = (self._as_of_us - self._time.delay_us) // cadence_us * cadence_us
        set_variables(self._opened, {"window_end_us": until, "short_windows": short_windows})
        self._opened.execute(f"""
            CREATE OR REPLACE TEMP VIEW entity_events AS
            SELECT entity_id, ts_us, 1 AS exposures, label AS clicks, coalesce(converted, 0) AS conversions
            FROM (SELECT {entity} AS entity_id, ts_us, label, converted FROM {events[0]}) SEMI JOIN touched USING (entity_id)
        """)
        self._opened.execute((_SQL / "newest_counts.sql").read_text(encoding="utf-8"))
        return NewestRows(view, self._table(query), self._table(keys))

    def _table(self, query: str) -> pa.Table:
        return self._opened.execute(query).to_arrow_table()

    def _variable(self, name: str) -> int:
        row = self._opened.execute(f"SELECT getvariable({literal(name)})").fetchone()
        return int(row[0]) if row else 0


def newest_of(query: str, key: str) -> str:
    """SQL for the newest row of each key."""
    return f"SELECT * FROM ({query}) QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY event_timestamp DESC) = 1"


def _by_prefix(events: str, codes: str) -> str:
    """SQL for events by the numbers of their prefixes."""
    return (
        f"SELECT user_id, ts_us, label, converted, unnest(numbers) AS number FROM {events} AS event "
        f"ASOF JOIN {codes} AS code ON event.item_id = code.item_id AND ts_us >= known_us"
    )


def _files(paths: Sequence[Path]) -> str:
    return f"read_parquet([{', '.join(map(literal, paths))}], union_by_name = true)"


_NONE = ""
"""SQL for no items."""
_CODES = f"""
    SELECT {SID_PREFIX}, counted.* EXCLUDE (item_id)
    FROM ({(_SQL / "item_stats.sql").read_text(encoding="utf-8")}) AS counted JOIN prefixes ON number = item_id
"""
_USER_CODES = f"""
    SELECT struct_extract(counted.user_id, '_0') AS user_id, {SID_PREFIX}, event_timestamp, created_timestamp,
           exposures_30d, clicks_30d, exposures_all, clicks_all
    FROM ({(_SQL / "user_stats.sql").read_text(encoding="utf-8")}) AS counted
    JOIN prefixes ON number = struct_extract(counted.user_id, '_1')
"""
