"""Tables with one row per version of an item or a user: old rows stay as they were served."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sidkit.core.engine import literal, quoted


def read_table(path: Path) -> str:
    """SQL for the rows of a table."""
    return f"SELECT * FROM read_parquet({literal(path)})"


def with_columns_of(path: Path, new: str, key: str, columns: Sequence[str], kept: Sequence[str]) -> str:
    """SQL for the rows of a table whose columns were changed: rows that corrections in place left behind are preserved.

    Parameters
    ----------
    path : Path
        The previous table.
    new : str
        SQL query of the table's rows as computed from the log.
    key : str
        ``item_id`` or ``user_id``.
    columns : sequence of str
        All columns besides the key and the times.
    kept : sequence of str
        Columns whose old values are valid; the others are those of ``new`` at the row's time.
    """
    values = ", ".join(f"{'_old' if name in kept else '_new'}.{quoted(name)} AS {quoted(name)}" for name in columns)
    return f"""
        SELECT _old.{key}, _old.event_timestamp, _old.created_timestamp, {values}
        FROM ({read_table(path)}) AS _old ASOF LEFT JOIN ({new}) AS _new
            ON _old.{key} = _new.{key} AND _old.event_timestamp >= _new.event_timestamp
    """


def merge_versions(
    new: str, old: str | None, key: str, payload: Sequence[str], compared: Sequence[str] | None = None
) -> str:
    """SQL for the old rows unchanged, and the new ones; ``_fresh`` marks the latter.

    A version that was modified without a new version time became available only with this build: it gets a row at ``as_of``,
    and the previous row stays as it was served until then. The same applies to a version that arrives late, between
    existing versions.

    Parameters
    ----------
    new : str
        SQL query of the table's rows as computed from the log.
    old : str or None
        SQL query of the rows of the previous table.
    key : str
        ``item_id`` or ``user_id``.
    payload : sequence of str
        All columns besides the key and the times.
    compared : sequence of str, optional
        Those of them that are compared; all by default.
    """
    listed = ", ".join((key, "event_timestamp", "created_timestamp", *map(quoted, payload)))
    if old is None:
        return f"SELECT {listed}, true AS _fresh FROM ({new})"
    hashed = ", ".join(map(quoted, payload if compared is None else compared))
    values = ", ".join(map(quoted, payload))
    return f"""
        WITH _old AS (SELECT {listed} FROM ({old})),
        _computed AS (SELECT {listed} FROM ({new})),
        _merged AS (
            SELECT {listed}, false AS _fresh FROM _old
            UNION ALL
            SELECT {listed}, true AS _fresh FROM _computed ANTI JOIN _old USING ({key}, event_timestamp)
        ),
        _latest_merged AS (
            SELECT {key}, hash({hashed}) AS _payload FROM _merged
            QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY event_timestamp DESC) = 1
        ),
        _latest_computed AS (
            SELECT {listed}, hash({hashed}) AS _payload FROM _computed
            QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY event_timestamp DESC) = 1
        )
        SELECT {listed}, _fresh FROM _merged
        UNION ALL
        SELECT
            {key},
            make_timestamptz(getvariable('as_of_us')) AS event_timestamp,
            make_timestamptz(getvariable('as_of_us')) AS created_timestamp,
            {values},
            true AS _fresh
        FROM _latest_computed INNER JOIN _latest_merged USING ({key})
        WHERE _latest_computed._payload <> _latest_merged._payload
            AND _latest_computed.event_timestamp < make_timestamptz(getvariable('as_of_us'))
    """
