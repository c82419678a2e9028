"""The SQL of packed tables; each statement is made once per view and size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from sidkit.core.engine import quoted
from sidkit.stores.online.cache import Group
from sidkit.stores.online.checksums import TAIL

_READ_KEYS = (1, 8, 64, 512, 4096)  # a statement per size is prepared once; unused places are null and find nothing


def table_of(view: str) -> str:
    """The quoted name of a view's table; a colon cannot be in a name that Feast makes, so other stores' tables stay apart."""
    return quoted(f"packed:{view}")


def parts(keys: Sequence[bytes]) -> Iterator[tuple[int, list[Any], int]]:
    """Keys in statements: (size of the statement, its values, how many of them are keys)."""
    at = 0
    while at < len(keys):
        left = len(keys) - at
        size = next((size for size in _READ_KEYS if size >= left), _READ_KEYS[-1])
        part: list[Any] = list(keys[at : at + size])
        asked = len(part)
        yield size, part + [None] * (size - asked), asked
        at += size


def table_statement(name: str) -> str:
    """How the table of a view is made."""
    return f"CREATE TABLE IF NOT EXISTS {name} (key BLOB PRIMARY KEY, row BLOB NOT NULL) WITHOUT ROWID"


@lru_cache(maxsize=1024)
def select(group: Group, size: int) -> str:
    """The rows of several views for the same keys."""
    # The left side of a left join is the outer loop, so rows come in the order of the values.
    joined = [f"LEFT JOIN {table_of(view)} AS t{place} ON t{place}.key = v.column1" for place, view in enumerate(group)]
    columns = ", ".join(f"t{place}.row" for place in range(len(group)))
    return f"SELECT {columns} FROM (VALUES {','.join(['(?)'] * size)}) AS v {' '.join(joined)}"


@lru_cache(maxsize=1024)
def beside(view: str, size: int) -> str:
    """Key and row, in one value, of what lies before and behind each key."""
    # A row that is null is no row: an empty value, which no check takes, stands for it.
    found = (
        f"(SELECT ifnull(CAST(key || row AS BLOB), x'') FROM {table_of(view)} WHERE key {{}} v.column1 "
        "ORDER BY key {} LIMIT 1)"
    )
    places = ",".join(["(?)"] * size)
    return f"SELECT {found.format('<=', 'DESC')}, {found.format('>=', 'ASC')} FROM (VALUES {places}) AS v"


@lru_cache(maxsize=1024)
def upsert(view: str, size: int) -> str:
    """Write rows, except those that are older than what is there."""
    # A row's times are the bytes before its check value, and compare as these do.
    values, times = ",".join(["(?,?)"] * size), f"-{TAIL}, 16"
    return (
        f"INSERT INTO {table_of(view)} AS t (key, row) VALUES {values} ON CONFLICT (key) DO UPDATE SET row = excluded.row "
        f"WHERE substr(excluded.row, {times}) >= substr(t.row, {times})"
    )
