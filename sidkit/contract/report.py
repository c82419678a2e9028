"""What a check found in one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class TableReport:
    """What one table held.

    ``merged`` rows were further rows of an event that has a row already; they are no rejects. ``future_us`` is the
    earliest moment (microseconds UTC) of the rows that were rejected because it lies after now. ``warnings`` are about
    valid rows that will not do what their owner expects.
    """

    table: str
    rows: int
    rejected: int
    reasons: dict[str, int]
    facts: dict[str, str] = field(default_factory=dict)
    merged: int = 0
    future_us: int | None = None
    warnings: Sequence[str] = ()

    @property
    def valid(self) -> int:
        """Rows that keep the contract."""
        return self.rows - self.rejected
