"""SQL for the rows of one table: those of the previous build that stay, and the new ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidkit.core.engine import literal, set_variables
from sidkit.core.feature_settings import ITEM_ATTRIBUTES, FeatureSettings
from sidkit.core.repo import Repo
from sidkit.core.sql_connection import SqlConnection, columns_of
from sidkit.core.wide_rows import REFERENCE
from sidkit.tables.affinity import EVENTS, NEW_EVENTS, read_valued_events, rows_query
from sidkit.tables.content import compared_columns, referring
from sidkit.tables.counts import count_events, merge_by_restart, next_window_us, read_events
from sidkit.tables.keys import key_columns
from sidkit.tables.log import Log
from sidkit.tables.versions import merge_versions, with_columns_of

NO_FEATURES = FeatureSettings().table_settings
"""Attributes of tables that an older release built."""
_SQL = Path(__file__).parent


def set_times(opened: SqlConnection, repo: Repo, as_of_us: int) -> None:
    """Set the variables of a build: its time, and the settings that the SQL reads."""
    time = repo.settings.time
    set_variables(
        opened,
        {
            "as_of_us": as_of_us,
            "delay_us": time.delay_us,
            "cadence_us": time.cadence_us,
            "history_length": time.history_length,
            "positives_only": repo.settings.source.feedback == "positives_only",
            "conversions": repo.settings.source.conversions,
        },
    )


def merged_query(
    opened: SqlConnection,
    repo: Repo,
    name: str,
    known: Mapping[str, Any] | None,
    settings: Mapping[str, Any],
    affinity: str | None = None,
    payload: Sequence[str] = (),
    kept: Sequence[str] = (),
) -> str:
    """SQL for all rows of a table; ``_fresh`` marks the new ones.

    Parameters
    ----------
    opened : SqlConnection
        With the variables of a build and the views of the log's events and versions.
    repo : Repo
        Its tables are those of the previous build.
    name : str
        The table.
    known : mapping or None
        The manifest of the previous build; None computes all rows.
    settings : mapping
        The settings of features.
    affinity : str, optional
        The attribute whose values a table of statistics counts.
    payload : sequence of str
        Columns of a table of attributes besides its keys.
    kept : sequence of str
        Columns of a changed table of attributes that it had before.
    """
    old = f"read_parquet({literal(repo.tables / f'{name}.parquet')})" if known else None
    time = repo.settings.time
    if name.endswith("_stats"):
        events = (EVENTS, NEW_EVENTS) if affinity is not None else ("events", "new_events")
        restart_us = next_window_us(known, time.delay_us, time.cadence_us)
        count_events(opened, key_columns(name), old, restart_us, events, conversions=name == "item_stats")
    elif name == "user_history":
        _prepare_history(opened, known, time.delay_us)
    query = rows_query(affinity) if affinity is not None else (_SQL / f"{name}.sql").read_text(encoding="utf-8")
    columns = list(payload)
    compared: list[str] | None = None
    earlier = f"SELECT * FROM {old}" if old else None
    if name == "item_content":
        by_reference, modalities = repo.settings.engine.tables == "duckdb", settings["source.modalities"]
        compared = compared_columns(by_reference=by_reference, modalities=modalities)
        columns = compared
        if by_reference:
            columns = [REFERENCE, *(compared if old else compared[1:])]
            earlier = referring(repo.tables / f"{name}.parquet", modalities) if old else None
    if kept:  # corrections in place left rows that the log does not have
        earlier = with_columns_of(repo.tables / f"{name}.parquet", query, key_columns(name)[0], columns, list(kept))
    if columns:
        return merge_versions(query, earlier, key_columns(name)[0], columns, compared)
    return merge_by_restart(query, key_columns(name), old, columns_of(opened, query))


@dataclass(frozen=True)
class TableQueries:
    """SQL for the rows of the tables of a build.

    ``before`` is the manifest of the previous build, ``defined`` has the columns of tables of attributes, ``affinity`` the
    attribute of tables ``user_<attribute>_stats``, and ``sharded`` the files of tables that were computed in shards.
    """

    opened: SqlConnection
    repo: Repo
    log: Log
    before: Mapping[str, Any] | None
    settings: Mapping[str, Any]
    defined: Mapping[str, Mapping[str, Any]]
    affinity: Mapping[str, str]
    sharded: Mapping[str, Sequence[Path]]

    @staticmethod
    def counts_events(name: str) -> bool:
        """Whether the rows of a table are computed from events, those of each key by themselves."""
        return name.endswith("_stats") or name == "user_history"

    def rows_of(self, name: str, known: Mapping[str, Any] | None, kept: Sequence[str], only: str) -> str:
        """The rows of a table, from the events for which the condition ``only`` holds; for the others see ``merged_query``."""
        if self.counts_events(name):
            read_events(self.opened, self.log, self.before, only)
        attribute, payload = self.affinity.get(name), list(self.defined.get(name, ()))
        if attribute is not None:
            kind = self.defined.get(ITEM_ATTRIBUTES, {}).get(attribute, "category")
            read_valued_events(self.opened, attribute, kind, self.repo.tables / f"{ITEM_ATTRIBUTES}.parquet")
        merged = merged_query(self.opened, self.repo, name, known, self.settings, attribute, payload, kept)
        if name in self.sharded:
            merged = f"SELECT * FROM read_parquet([{', '.join(map(literal, self.sharded[name]))}])"
        return merged


def _prepare_history(opened: SqlConnection, before: Mapping[str, Any] | None, delay_us: int) -> None:
    default = before["as_of_us"] - delay_us + 1 if before else 0
    set_variables(opened, {"default_restart_us": default})
    opened.execute("""
        CREATE OR REPLACE TEMP TABLE restart AS
        SELECT user_id AS entity_id, min(ts_us) AS restart_us FROM new_events WHERE label = 1 GROUP BY 1
        HAVING restart_us < getvariable('default_restart_us')
    """)
