"""One table of counts per prefix of codes, from the log and a table of codes: rows that are due, merged with earlier ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import duckdb

from sidkit.core.code_stats import SID_PREFIX
from sidkit.core.engine import literal, quoted, set_variables
from sidkit.core.errors import ArtifactCorruptError
from sidkit.core.integrity import checked
from sidkit.core.repo import Repo
from sidkit.tables.counts import count_events, next_window_us, read_events
from sidkit.tables.keys import key_columns
from sidkit.tables.log import Log
from sidkit.tables.table_files import parts_of, write_all, write_table
from sidkit.tables.withdrawn import withdraw

_SQL = Path(__file__).parent
_LOOK_BACK_US = 30 * 86_400_000_000
_MICROS = 1_000_000
_CODES_SQL = """
    CREATE OR REPLACE TEMP TABLE code_rows AS
    SELECT item_id, epoch_us(event_timestamp) AS known_us, codes, assigned_at_us
    FROM read_parquet({table}, file_row_number = true)
    QUALIFY row_number() OVER (PARTITION BY item_id, event_timestamp ORDER BY file_row_number DESC) = 1;

    CREATE OR REPLACE TEMP TABLE deep AS
    SELECT item_id, known_us, assigned_at_us,
           {start} || array_to_string(list_slice(codes, 1, depth), '-') AS sid_prefix
    FROM (SELECT *, unnest({depths}) AS depth FROM code_rows);

    CREATE OR REPLACE TEMP TABLE prefixes AS
    SELECT sid_prefix, row_number() OVER (ORDER BY sid_prefix) - 1 AS number
    FROM (SELECT DISTINCT sid_prefix FROM deep WHERE sid_prefix IS NOT NULL);

    CREATE OR REPLACE TEMP TABLE coded AS
    SELECT item_id, known_us, any_value(assigned_at_us) AS assigned_at_us,
           list(number) FILTER (number IS NOT NULL) AS numbers
    FROM deep LEFT JOIN prefixes USING (sid_prefix) GROUP BY item_id, known_us;

    DROP TABLE code_rows;
    DROP TABLE deep;
"""


def read_codes(
    opened: duckdb.DuckDBPyConnection, repo: Repo, codebook: str, depths: Sequence[int], codes: Path, as_of_us: int
) -> None:
    """Set the variables of the counts, and create the tables of codes and prefixes that :class:`CodeTable` reads.

    Parameters
    ----------
    opened : duckdb.DuckDBPyConnection
        Receives them.
    repo : Repo
        Its settings.
    codebook : str
        First part of the keys of prefixes.
    depths : sequence of int
        Numbers of codes per prefix.
    codes : Path
        A table like ``item_sid_<codebook>``.
    as_of_us : int
        No row is counted beyond it, microseconds UTC.
    """
    _set_variables(opened, repo, as_of_us)
    start = literal(f"{codebook}/")
    opened.execute(_CODES_SQL.format(table=literal(codes), start=start, depths=list(depths)))
    # As a variable: DuckDB plans a join on a subquery's value as a product of both sides.
    set_variables(opened, {"prefixes": max(1, _count(opened, "SELECT count(*) FROM prefixes"))})


def _set_variables(opened: duckdb.DuckDBPyConnection, repo: Repo, as_of_us: int) -> None:
    set_variables(
        opened,
        {
            "as_of_us": as_of_us,
            "delay_us": repo.settings.time.delay_us,
            "positives_only": repo.settings.source.feedback == "positives_only",
            "conversions": repo.settings.source.conversions,
        },
    )


def _count(opened: duckdb.DuckDBPyConnection, query: str) -> int:
    row = opened.execute(query).fetchone()
    return int(row[0]) if row else 0


class CodeTable:
    """A table of counts during an update; :func:`read_codes` comes first.

    Parameters
    ----------
    repo : Repo
        Holds the table, unless ``folder`` does.
    name : str
        The table; its keys follow from its name.
    cadence_seconds : int
        Seconds between window ends.
    before : dict or None
        The record of the table that the update starts from; None counts all rows.
    log : Log
        The log.
    folder : Path, optional
        Where the table lies; default: the repository's tables.
    """

    def __init__(
        self,
        repo: Repo,
        name: str,
        cadence_seconds: int,
        before: dict[str, Any] | None,
        log: Log,
        folder: Path | None = None,
    ) -> None:
        self._repo, self._name, self._before, self._log = repo, name, before, log
        self._keys = key_columns(name)
        self._of_users = len(self._keys) > 1
        self._entity = "who * getvariable('prefixes') + number" if self._of_users else "number"
        self._join_users = "JOIN users USING (user_id)" if self._of_users else ""
        self._cadence_us = cadence_seconds * _MICROS
        self._path = (folder or repo.tables) / f"{name}.parquet"

    def update(self, opened: duckdb.DuckDBPyConnection) -> int:
        """Write the table if it changes; returns the number of new rows."""
        set_variables(opened, {"cadence_us": self._cadence_us})
        if self._before is None:
            rows_of, parts, spill = partial(self._rows_of, opened), self._parts(opened), self._repo.data / "tmp"
            replacing = partial(self._withdraw_early, opened)
            return write_all(
                opened, self._name, self._path, rows_of, parts, spill, manifest=self._manifest, replacing=replacing
            )
        recoded = self._prepare(opened, "true")
        opened.execute(f"CREATE OR REPLACE TEMP TABLE written AS {self._merged()}")
        self._withdraw(opened, recoded=recoded)
        stored = _count(opened, f"SELECT count(*) FROM {self._stored}")
        return write_table(opened, self._name, self._path, stored, manifest=self._manifest)[1]

    def _parts(self, opened: duckdb.DuckDBPyConnection) -> int:
        """The parts by a hash of the user in which all rows are computed: an event counts once for each prefix of its item.

        Those of prefixes, which are few, are computed together: 0.
        """
        if not self._of_users:
            return 0
        prefixes = _count(opened, "SELECT coalesce(max(len(numbers)), 0) FROM coded")
        return parts_of(self._log.rows * prefixes, self._repo.settings.engine.memory_limit)

    def _rows_of(self, opened: duckdb.DuckDBPyConnection, only: str) -> str:
        """The query of the rows of the users for which a condition holds."""
        self._prepare(opened, only)
        return self._merged()

    def _prepare(self, opened: duckdb.DuckDBPyConnection, only: str) -> bool:
        """Create what :meth:`_merged` reads of the events for which a condition holds; returns whether items have new codes."""
        read_events(opened, self._log, self._before, only)
        restart_us = next_window_us(self._before, self._repo.settings.time.delay_us, self._cadence_us)
        recoded = self._read_recoded(opened)
        self._bound_events(opened, restart_us)
        if self._of_users:
            opened.execute("""
                CREATE OR REPLACE TEMP TABLE users AS
                SELECT user_id, row_number() OVER () - 1 AS who
                FROM (SELECT user_id FROM needed_events UNION SELECT user_id FROM changed_events)
            """)
        changed = self._by_prefix("changed_events", "coded")
        if recoded:
            changed += f" UNION ALL {self._by_prefix('changed_events', 'coded_before')}"
        opened.execute(f"CREATE OR REPLACE TEMP VIEW coded_events AS {self._by_prefix('needed_events', 'coded')}")
        opened.execute(f"CREATE OR REPLACE TEMP VIEW new_coded_events AS {changed}")
        old = self._with_entities(opened) if self._before else None
        count_events(
            opened,
            ("entity",),
            old,
            restart_us,
            ("coded_events", "new_coded_events"),
            conversions=not self._of_users,
            short_windows=not self._of_users,
        )
        users = "JOIN users ON who = entity_id // getvariable('prefixes')" if self._of_users else ""
        opened.execute(f"""
            CREATE OR REPLACE TEMP TABLE restarted AS
            SELECT {self._listed_keys}, restart_us
            FROM restart JOIN prefixes ON number = entity_id % getvariable('prefixes') {users}
        """)
        return recoded

    @property
    def _listed_keys(self) -> str:
        return ", ".join(map(quoted, self._keys))

    @property
    def _manifest(self) -> Path:
        return self._path.with_suffix(".json")

    @property
    def _stored(self) -> str:
        return f"read_parquet({literal(self._path)})"

    def _read_recoded(self, opened: duckdb.DuckDBPyConnection) -> bool:
        """Create ``changed_events``: those added or removed, and those of items with new codes, if any has; returns whether."""
        where = "true" if self._before else "false"  # all rows are computed anyway
        opened.execute(f"CREATE OR REPLACE TEMP VIEW changed_events AS SELECT * FROM new_events WHERE {where}")
        if self._before is None:
            return False
        known = ", ".join(self._before["assignments"]) or "NULL"
        opened.execute(f"""
            CREATE OR REPLACE TEMP TABLE recoded AS
            SELECT item_id, min(known_us) AS first_us FROM coded
            WHERE NOT coalesce(assigned_at_us IN ({known}), false) GROUP BY item_id
        """)
        if not _count(opened, "SELECT count(*) FROM recoded"):
            return False
        opened.execute(
            f"CREATE OR REPLACE TEMP TABLE coded_before AS SELECT * FROM coded WHERE assigned_at_us IN ({known})"
        )
        opened.execute("""
            CREATE OR REPLACE TEMP VIEW changed_events AS
            SELECT * FROM new_events
            UNION ALL
            SELECT events.* FROM events JOIN recoded ON events.item_id = recoded.item_id AND ts_us >= first_us
        """)
        return True

    def _bound_events(self, opened: duckdb.DuckDBPyConnection, restart_us: int) -> None:
        """Create ``needed_events``: those that can be in a window that is computed."""
        where = "true"
        if self._before is not None:
            row = opened.execute("SELECT min(ts_us) FROM changed_events").fetchone()
            first_us = restart_us if not row or row[0] is None else min(restart_us, int(row[0]))
            where = f"ts_us >= {first_us - _LOOK_BACK_US - 2 * self._cadence_us}"
        opened.execute(f"CREATE OR REPLACE TEMP VIEW needed_events AS SELECT * FROM events WHERE {where}")

    def _by_prefix(self, events: str, coded: str) -> str:
        """SQL for events by their prefixes, as numbers: structs of texts are several times slower."""
        return (
            f"SELECT {self._entity} AS entity, ts_us, label, converted FROM ("
            f"SELECT user_id, ts_us, label, converted, unnest(numbers) AS number FROM {events} AS event "
            f"ASOF JOIN {coded} AS code ON event.item_id = code.item_id AND ts_us >= known_us) {self._join_users}"
        )

    def _with_entities(self, opened: duckdb.DuckDBPyConnection) -> str:
        opened.execute(
            f"CREATE OR REPLACE TEMP VIEW counted_before AS SELECT {self._entity} AS entity, old.* FROM {self._stored} AS old "
            f"JOIN prefixes USING ({SID_PREFIX}) {self._join_users}"
        )
        return "counted_before"

    def _merged(self) -> str:
        kept = ""
        if self._before is not None:
            kept = (
                f"SELECT old.*, false AS _fresh FROM {self._stored} AS old LEFT JOIN restarted USING ({self._listed_keys}) "
                "WHERE epoch_us(event_timestamp) - getvariable('delay_us') "
                "< coalesce(restart_us, getvariable('default_restart_us')) UNION ALL BY NAME "
            )
        if not self._of_users:
            counted = (_SQL / "item_stats.sql").read_text(encoding="utf-8")
            new = (
                f"SELECT sid_prefix, counted.* EXCLUDE (item_id) FROM ({counted}) AS counted "
                "JOIN prefixes ON number = item_id"
            )
        else:
            counted = (_SQL / "user_stats.sql").read_text(encoding="utf-8")
            new = f"""
                SELECT users.user_id, sid_prefix, event_timestamp, created_timestamp,
                       exposures_30d, clicks_30d, exposures_all, clicks_all
                FROM ({counted}) AS counted
                JOIN prefixes ON number = counted.user_id % getvariable('prefixes')
                JOIN users ON who = counted.user_id // getvariable('prefixes')
            """
        return f"{kept}SELECT *, true AS _fresh FROM ({new})"

    def _withdraw(self, opened: duckdb.DuckDBPyConnection, *, recoded: bool) -> None:
        """Record rows that leave the table in an update and would stay in the online store."""
        assert self._before is not None
        if recoded or self._log.lost_since(self._before["log"]):
            restarted = f"SELECT * FROM {self._stored} AS old SEMI JOIN restarted USING ({self._listed_keys})"
            withdraw(opened, self._repo.tables, self._name, restarted)

    def _withdraw_early(self, opened: duckdb.DuckDBPyConnection, new: str) -> None:
        """Record rows of the table that is replaced that a relation of new ones lacks, if they are not beyond its end."""
        if not self._path.exists():
            return
        try:
            checked(self._path)
        except ArtifactCorruptError:
            return  # the rows of a damaged table are unknown
        early = "epoch_us(event_timestamp) <= getvariable('as_of_us')"
        withdraw(opened, self._repo.tables, self._name, f"SELECT * FROM {self._stored} AS old WHERE {early}", new)
