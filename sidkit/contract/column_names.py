"""Names of columns that the checks, SQL and Feast can work with."""

from __future__ import annotations

from collections.abc import Sequence

from sidkit.contract.schemas import Table
from sidkit.core.errors import TableSchemaError

_LONGEST_NAME = 255
RESERVED_COLUMNS = frozenset({"reason", "nth", "first_seen", "file_row_number", "generation"})
"""Names that the checks themselves use."""


def check_columns(found: Sequence[str], table: Table, reserved: frozenset[str] = RESERVED_COLUMNS) -> None:
    """Refuse a table that lacks a required column, or whose column names cannot be used (``reserved`` ones among them).

    Raises
    ------
    TableSchemaError
        Naming the columns.
    """
    taken = sorted(set(found) & reserved)
    if taken:
        raise TableSchemaError(
            table.name, f"column {', '.join(map(repr, taken))} has a name that the checks use themselves; rename it"
        )
    check_names(found, table.name)
    missing = [column.name for column in table.columns if column.required and column.name not in found]
    if missing:
        raise TableSchemaError(
            table.name, f"column {', '.join(map(repr, missing))} is missing; the table has {', '.join(found)}"
        )


def check_names(found: Sequence[str], table: str, file: str = "") -> None:
    """Refuse names of columns that SQL cannot distinguish or use; see :func:`check_columns`."""
    where = f" of {file}" if file else ""
    twice = sorted({name for name in found if list(found).count(name) > 1})
    if twice:
        raise TableSchemaError(
            table,
            f"column{where} {', '.join(map(repr, twice))} is there more than once; expected each name once, rename one",
        )
    unusable = sorted(
        repr(name[:40]) for name in found if not name or "\0" in name or len(name.encode()) > _LONGEST_NAME
    )
    if unusable:
        raise TableSchemaError(
            table,
            f"column{where} {', '.join(unusable)} has a name that is empty, longer than {_LONGEST_NAME} bytes or holds a NUL "
            "character; rename it",
        )
    by_folded: dict[str, str] = {}
    for name in found:
        other = by_folded.setdefault(name.lower(), name)  # SQL does not tell them apart
        if other != name:
            raise TableSchemaError(table, f"columns{where} {other!r} and {name!r} differ in case only; rename one")
