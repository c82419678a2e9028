"""Users: the rules for rejecting rows of the optional table ``users``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sidkit.contract.events import after_now
from sidkit.core.config import Settings
from sidkit.core.engine import literal


def classify_users(columns: Sequence[str], settings: Settings, work: Path, now_us: int) -> str:
    """SQL for the staged users with a rejection reason per row, or null.

    A user has one row, or with ``updated_at`` one row per version, which starts at ``updated_at``, else at ``created_at``.
    """
    updated, created = (name if name in columns else "NULL::TIMESTAMPTZ" for name in ("updated_at", "created_at"))
    versioned = "updated_at" in columns
    key = f"user_id, coalesce({updated}, {created})" if versioned else "user_id"
    return f"""
        WITH checked AS (
            SELECT * EXCLUDE (reason), CASE
                WHEN reason IS NOT NULL THEN reason
                WHEN epoch_us({created}) > {now_us} THEN {literal(after_now("created_at"))}
                WHEN epoch_us({updated}) > {now_us} THEN {literal(after_now("updated_at"))}
                WHEN {updated} < {created} THEN 'updated_at is before created_at'
            END AS reason FROM staged
        ), numbered AS (
            SELECT *, row_number() OVER (PARTITION BY reason IS NULL, {key} ORDER BY file_row_number) AS nth FROM checked
        )
        SELECT * EXCLUDE (reason, nth, file_row_number), CASE
            WHEN reason IS NOT NULL THEN reason
            WHEN nth > 1 THEN 'a second row of this user{" and updated_at" if versioned else ""}'
        END AS reason, file_row_number
        FROM numbered
    """
