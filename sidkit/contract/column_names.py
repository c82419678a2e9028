"""Validation of column names for SQL and Feast."""

from __future__ import annotations

from collections.abc import Sequence

from sidkit.contract.schemas import Table
from sidkit.contract.suggestions import suggestion
from sidkit.core.errors import TableSchemaError

_LONGEST_NAME = 255
RESERVED_COLUMNS = frozenset({"reason", "nth", "first_seen", "file_row_number", "generation"})
"""Column names reserved for the validation itself."""

_HINTS = {
    "label": '. For a log of positives only: df["label"] = 1, or positive = "true" below [source.label] in sidkit.toml '
    "(next to the data, or in the repository)",
    "created_at": '. If it is unknown: missing_created_at = "first_interaction" below [source] in sidkit.toml '
    "(next to the data, or in the repository)",
}
"""Column -> what else may help if it is missing."""


def check_columns(names: Sequence[str], table: Table, reserved: frozenset[str] = RESERVED_COLUMNS) -> None:
    """Reject a table that lacks a required column or has unusable or ``reserved`` column names.

    Raises
    ------
    TableSchemaError
        Names the columns.
    """
    taken = sorted(set(names) & reserved)
    if taken:
        raise TableSchemaError(table.name, f"column {', '.join(map(repr, taken))} has a reserved name; rename it")
    check_names(names, table.name)
    missing = [column.name for column in table.columns if column.required and column.name not in names]
    if missing:
        lines = suggestion(missing, names, table)
        raise TableSchemaError(
            table.name,
            f"expected column {', '.join(map(repr, missing))}, got {', '.join(names)}; add or rename it"
            f"{_HINTS.get(missing[0], '')}" + (f". Or write into sidkit.toml:\n{lines}" if lines else ""),
        )


def check_names(names: Sequence[str], table: str, file: str = "") -> None:
    """Reject column names that SQL cannot distinguish or use; see :func:`check_columns`."""
    where = f" of {file}" if file else ""
    twice = sorted({name for name in names if list(names).count(name) > 1})
    if twice:
        raise TableSchemaError(
            table,
            f"expected unique column names, got column{where} {', '.join(map(repr, twice))} more than once; rename one",
        )
    unusable = sorted(
        repr(name[:40]) for name in names if not name or "\0" in name or len(name.encode()) > _LONGEST_NAME
    )
    if unusable:
        raise TableSchemaError(
            table,
            f"column{where} {', '.join(unusable)} has a name that is empty, longer than {_LONGEST_NAME} bytes or holds a NUL "
            "character; rename it",
        )
    by_folded: dict[str, str] = {}
    for name in names:
        other = by_folded.setdefault(name.lower(), name)  # SQL is case-insensitive
        if other != name:
            raise TableSchemaError(table, f"columns{where} {other!r} and {name!r} differ in case only; rename one")
