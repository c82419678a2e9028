"""Detection of times in a wrong unit, such as seconds read as microseconds, which fall within days of 1970."""

from __future__ import annotations

import duckdb
import pyarrow as pa

from sidkit.contract.schemas import INTERACTIONS, Table
from sidkit.core.clock import FIRST_EVENT_US, iso
from sidkit.core.engine import literal, quoted
from sidkit.core.errors import TableSchemaError

_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
UNIT_NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
"""Unit -> its name."""
_OLDEST_S, _NEWEST_S = 315_532_800, 7_258_118_400  # 1980 and 2200: a number is in this range for one unit at most


def refuse_wrong_units(
    opened: duckdb.DuckDBPyConnection, table: Table, types: dict[str, pa.DataType | None], now_us: int
) -> None:
    """Reject a table (the relation ``staged``) if all of its times are within days of 1970.

    Raises
    ------
    TableSchemaError
        Names the column, the likely unit, and the line of pandas that converts the column.
    """
    for column in table.columns:
        if column.kind != "moment" or column.name not in types:
            continue
        row = opened.execute(
            f"SELECT max(epoch_us({quoted(column.name)})) FROM staged "
            f"WHERE reason IS NULL AND epoch_us({quoted(column.name)}) <= {now_us}"
        ).fetchone()
        newest_us = row[0] if row else None
        if newest_us is None:
            _refuse_all_outside(opened, table, column.name, types[column.name])
        # An item of unknown age may be dated 1970-01-01; an event may not.
        if newest_us is None or newest_us >= FIRST_EVENT_US or (newest_us == 0 and table is not INTERACTIONS):
            continue
        raise TableSchemaError(
            table.name,
            f"column {column.name!r} has no time after {iso(newest_us)}: all times are within days of 1970, so they were read "
            f"in a wrong unit. {_remedy(column.name, newest_us, types[column.name])}",
        )


def _refuse_all_outside(opened: duckdb.DuckDBPyConnection, table: Table, name: str, kind: pa.DataType | None) -> None:
    """Reject times in the opposite wrong unit, such as milliseconds read as seconds, which fall after 2200."""
    outside, rows, middle = opened.execute(
        f"SELECT count(*) FILTER (reason = {literal(outside_range(name))}), count(*), "
        f"quantile_disc(epoch_us({quoted(name)}), 0.5) FILTER (reason = {literal(outside_range(name))}) FROM staged"
    ).fetchone() or (0, 0, None)
    if middle is not None and 2 * outside > rows:
        raise TableSchemaError(
            table.name,
            f"column {name!r}: {outside:,} of {rows:,} times are outside 1970..2200, so they were read in a wrong unit. "
            f"{_remedy(name, middle, kind)}",
        )


def outside_range(column: str) -> str:
    """Rejection reason of a row with a time outside the valid range."""
    return f"{column} is outside 1970..2200"


def _remedy(name: str, newest_us: int, kind: pa.DataType | None) -> str:
    stored = kind.unit if kind is not None and pa.types.is_timestamp(kind) else "us"
    number = newest_us * _PER_SECOND[stored] // 10**6
    column = f'df["{name}"]'
    integers = f'{column}.astype("datetime64[{stored}, UTC]").astype("int64")'  # a frame may store them in another unit
    if kind is None or not pa.types.is_timestamp(kind):
        integers = f'pd.to_datetime({column}, utc=True).astype("datetime64[us, UTC]").astype("int64")'
    unit = unit_of(number)
    if unit is not None:
        return (
            f"The numbers look like {UNIT_NAMES[unit]} since 1970 read as {UNIT_NAMES[stored]}. For example: "
            f'{column} = pd.to_datetime({integers}, unit="{unit}", utc=True)'
        )
    # Parquet has no unit of seconds: they are stored as milliseconds.
    for factor, dates in ((1, integers), (1000, f"({integers} // 1000)")):
        if number % factor == 0 and 19_000_101 <= number // factor <= 22_000_101:
            return (
                "The numbers look like dates written as YYYYMMDD. For example: "
                f'{column} = pd.to_datetime({dates}.astype(str), format="%Y%m%d", utc=True)'
            )
    unit = unit_of(number * 1000)
    if unit is not None and stored != "ns":
        return (
            f"The numbers look like {UNIT_NAMES[unit]} since 1970 read as {UNIT_NAMES['ns']} and truncated. Rewrite the "
            f'column from the original numbers. For example: {column} = pd.to_datetime(numbers, unit="{unit}", utc=True)'
        )
    return (
        "Rewrite the column from the original numbers in their original unit. For example: "
        f'{column} = pd.to_datetime(numbers, unit="s", utc=True)'
    )


def unit_of(number: int) -> str | None:
    """The unit (s, ms, us or ns) in which a number since 1970 is a time between 1980 and 2200."""
    return next((unit for unit, per in _PER_SECOND.items() if _OLDEST_S <= number / per < _NEWEST_S), None)


def unit_ranges() -> dict[str, tuple[int, int]]:
    """For each unit the half-open range of numbers that are times between 1980 and 2200; no two ranges overlap."""
    return {unit: (_OLDEST_S * per, _NEWEST_S * per) for unit, per in _PER_SECOND.items()}
