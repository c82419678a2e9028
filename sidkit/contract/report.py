"""Validation report of one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypedDict


class ColumnUse(TypedDict):
    """What becomes of one column of a table."""

    column: str
    """Its name in the source."""
    use: Literal["used", "kept", "ignored"]
    """``used``: a column of the contract is made from it; ``kept``: stored in the log under its own name; ``ignored``."""
    reason: str
    """Which column it becomes and how it is read, or why it is ignored."""


@dataclass(frozen=True)
class TableReport:
    """Validation report of one table.

    ``merged`` rows are duplicates of an event that already has a row; they do not count as rejected. ``future_us`` is the
    earliest time (microseconds UTC) among rows rejected for lying in the future. ``warnings`` concern valid rows that may
    not have the effect the user expects. ``forgotten`` rows of forgotten users were left out and count nowhere else.
    """

    table: str
    rows: int
    rejected: int
    reasons: dict[str, int]
    facts: dict[str, str] = field(default_factory=dict)
    merged: int = 0
    future_us: int | None = None
    warnings: Sequence[str] = ()
    columns: Sequence[ColumnUse] = ()
    forgotten: int = 0

    @property
    def valid(self) -> int:
        """Number of valid rows."""
        return self.rows - self.rejected


def with_forgotten(report: TableReport, rows: int) -> TableReport:
    """The report of a table from which rows of forgotten users were left out."""
    facts = {**report.facts, "rows of forgotten users, left out": f"{rows:,}"}
    return replace(report, facts=facts, forgotten=rows)
