"""Tables with one row per version of an item or a user: old rows stay as they were served."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sidkit.core.engine import literal, quoted


def merge_versions(new: str, old: Path | None, key: str, payload: Sequence[str]) -> str:
    """SQL for the old rows unchanged, and the new ones; ``_fresh`` marks the latter.

    A version that was modified without a new version time became available only with this build: it gets a row at ``as_of``,
    and the previous row stays as it was served until then. The same applies to a version that arrives late, between
    existing versions.

    Parameters
    ----------
    new : str
        SQL query of the table's rows as computed from the log.
    old : Path or None
        The previous table.
    key : str
        ``item_id`` or ``user_id``.
    payload : sequence of str
        Columns that are compared.
    """
    if old is None:
        return f"SELECT *, true AS _fresh FROM ({new})"
    compared = ", ".join(map(quoted, payload))
    return f"""
        WITH _old AS (SELECT *, false AS _fresh FROM read_parquet({literal(old)})),
        _computed AS (SELECT *, true AS _fresh FROM ({new})),
        _merged AS (
            SELECT * FROM _old
            UNION ALL BY NAME
            SELECT * FROM _computed ANTI JOIN _old USING ({key}, event_timestamp)
        ),
        _latest_merged AS (
            SELECT {key}, hash({compared}) AS _payload FROM _merged
            QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY event_timestamp DESC) = 1
        ),
        _latest_computed AS (
            SELECT *, hash({compared}) AS _payload FROM _computed
            QUALIFY row_number() OVER (PARTITION BY {key} ORDER BY event_timestamp DESC) = 1
        )
        SELECT * FROM _merged
        UNION ALL BY NAME
        SELECT _latest_computed.* EXCLUDE (_payload) REPLACE (
            make_timestamptz(getvariable('as_of_us')) AS event_timestamp,
            make_timestamptz(getvariable('as_of_us')) AS created_timestamp
        )
        FROM _latest_computed INNER JOIN _latest_merged USING ({key})
        WHERE _latest_computed._payload <> _latest_merged._payload
            AND _latest_computed.event_timestamp < make_timestamptz(getvariable('as_of_us'))
    """
