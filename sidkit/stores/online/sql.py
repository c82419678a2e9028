"""SQL statements of packed tables, cached per view and size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from sidkit.core.engine import quoted
from sidkit.stores.online.cache import Group
from sidkit.stores.online.checksums import TAIL

_READ_KEYS = (
    1,
    8,
    32,
    64,
    128,
    256,
    512,
    4096,
)  # one prepared statement per size; unused places are null and match nothing


def table_of(view: str) -> str:
    """The quoted name of a view's table; Feast's names have no colon, so tables of other stores do not collide."""
    return quoted(f"packed:{view}")


def parts(keys: Sequence[bytes]) -> Iterator[tuple[int, list[Any], int]]:
    """Split keys into statements: (size of the statement, its values, number of keys)."""
    at = 0
    while at < len(keys):
        left = len(keys) - at
        size = next((size for size in _READ_KEYS if size >= left), _READ_KEYS[-1])
        part: list[Any] = list(keys[at : at + size])
        count = len(part)
        yield size, part + [None] * (size - count), count
        at += size


def table_statement(name: str) -> str:
    """SQL that creates the table of a view."""
    return f"CREATE TABLE IF NOT EXISTS {name} (key BLOB PRIMARY KEY, row BLOB NOT NULL) WITHOUT ROWID"


@lru_cache(maxsize=1024)
def select(group: Group, size: int) -> str:
    """SQL that reads the rows of several views for the same keys."""
    return _joined(group, size, "t{}.row")


@lru_cache(maxsize=1024)
def select_tails(group: Group, size: int) -> str:
    """SQL that reads times and checksums of the rows of several views for the same keys."""
    return _joined(group, size, f"substr(t{{}}.row, -{TAIL})")


def _joined(group: Group, size: int, column: str) -> str:
    # The left side of a left join is the outer loop, so results are in the order of the values.
    joined = [f"LEFT JOIN {table_of(view)} AS t{place} ON t{place}.key = v.column1" for place, view in enumerate(group)]
    columns = ", ".join(column.format(place) for place in range(len(group)))
    return f"SELECT {columns} FROM (VALUES {','.join(['(?)'] * size)}) AS v {' '.join(joined)}"


@lru_cache(maxsize=1024)
def beside(view: str, size: int) -> str:
    """SQL that reads, as one value each, key and row of the neighbours before and after each key."""
    # A null row is damage: it is read as an empty value, which fails the checksum.
    neighbour = (
        f"(SELECT ifnull(CAST(key || row AS BLOB), x'') FROM {table_of(view)} WHERE key {{}} v.column1 "
        "ORDER BY key {} LIMIT 1)"
    )
    places = ",".join(["(?)"] * size)
    return f"SELECT {neighbour.format('<=', 'DESC')}, {neighbour.format('>=', 'ASC')} FROM (VALUES {places}) AS v"


@lru_cache(maxsize=1024)
def upsert(view: str, size: int) -> str:
    """SQL that writes rows, except those older than the existing ones."""
    # A row's times are the bytes before its checksum, and compare like bytes.
    values, times = ",".join(["(?,?)"] * size), f"-{TAIL}, 16"
    return (
        f"INSERT INTO {table_of(view)} AS t (key, row) VALUES {values} ON CONFLICT (key) DO UPDATE SET row = excluded.row "
        f"WHERE substr(excluded.row, {times}) >= substr(t.row, {times})"
    )
