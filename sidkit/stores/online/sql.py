"""SQL statements of packed tables, cached per view and size.

A table has ``hash`` (:mod:`sidkit.stores.online.key_hashes`), which is the number of the row, ``key`` and ``row``. A key whose
hash belongs to another key's row has a number below zero, which the hash of no key is.
"""

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


def parts(values: Sequence[Any]) -> Iterator[tuple[int, list[Any], int]]:
    """Split values, such as keys, into statements: (size of the statement, its values, number of them that are in use)."""
    at = 0
    while at < len(values):
        left = len(values) - at
        size = next((size for size in _READ_KEYS if size >= left), _READ_KEYS[-1])
        part = list(values[at : at + size])
        count = len(part)
        yield size, part + [None] * (size - count), count
        at += size


def listed(size: int) -> str:
    """SQL of a table ``v`` with one column, ``column1``, and one value per row."""
    return f"(VALUES {','.join(['(?)'] * size)}) AS v"


def table_statement(name: str) -> str:
    """SQL that creates the table of a view."""
    return f"CREATE TABLE IF NOT EXISTS {name} (hash INTEGER PRIMARY KEY, key BLOB NOT NULL, row BLOB NOT NULL)"


@lru_cache(maxsize=1024)
def select(group: Group, size: int) -> str:
    """SQL that reads the rows of several views for the same hashes, and the key of the first view's row.

    A row of another view is null if its key is not the first one's.
    """
    # The left side of a left join is the outer loop, so results are in the order of the values. One key per result is enough:
    # to make a value of each would take a tenth of the look-up.
    joined = [f"LEFT JOIN {table_of(group[0])} AS t0 ON t0.hash = v.column1"]
    for place, view in enumerate(group[1:], start=1):
        joined.append(f"LEFT JOIN {table_of(view)} AS t{place} ON t{place}.hash = v.column1 AND t{place}.key = t0.key")
    columns = ", ".join(f"t{place}.row" for place in range(len(group)))
    return f"SELECT {columns}, t0.key FROM {listed(size)} {' '.join(joined)}"


@lru_cache(maxsize=1024)
def select_tails(group: Group, size: int) -> str:
    """SQL that reads times and checksums of the rows of several views for the same pairs of hash and key."""
    joined = [
        f"LEFT JOIN {table_of(view)} AS t{place} ON t{place}.hash = v.column1 AND t{place}.key = v.column2"
        for place, view in enumerate(group)
    ]
    columns = ", ".join(f"substr(t{place}.row, -{TAIL})" for place in range(len(group)))
    return f"SELECT {columns} FROM (VALUES {','.join(['(?,?)'] * size)}) AS v {' '.join(joined)}"


@lru_cache(maxsize=1024)
def select_whole(view: str, size: int) -> str:
    """SQL that reads key and row for hashes."""
    return f"SELECT t.key, t.row FROM {listed(size)} LEFT JOIN {table_of(view)} AS t ON t.hash = v.column1"


@lru_cache(maxsize=1024)
def beside(view: str, size: int) -> str:
    """SQL that reads the greatest hash up to each hash, and the smallest from it on."""
    neighbour = f"(SELECT hash FROM {table_of(view)} WHERE hash {{}} v.column1 ORDER BY hash {{}} LIMIT 1)"
    return f"SELECT {neighbour.format('<=', 'DESC')}, {neighbour.format('>=', 'ASC')} FROM {listed(size)}"


@lru_cache(maxsize=1024)
def select_apart(view: str) -> str:
    """SQL that reads all rows of keys whose hash belongs to another key's row."""
    return f"SELECT hash, key, row FROM {table_of(view)} WHERE hash < 0"


@lru_cache(maxsize=1024)
def insert_apart(view: str) -> str:
    """SQL that writes a row of a key whose hash belongs to another key's row."""
    table = table_of(view)
    return f"INSERT INTO {table} (hash, key, row) SELECT min(ifnull(min(hash), 0), 0) - 1, ?, ? FROM {table}"


@lru_cache(maxsize=1024)
def upsert(view: str, size: int) -> str:
    """SQL that writes rows, except those older than the existing ones.

    A row of another key fails the statement (``row`` would be null), and nothing of it is written.
    """
    # A row's times are the bytes before its checksum, and compare like bytes.
    values, times = ",".join(["(?,?,?)"] * size), f"-{TAIL}, 16"
    return (
        f"INSERT INTO {table_of(view)} AS t (hash, key, row) VALUES {values} ON CONFLICT (hash) DO UPDATE "
        "SET row = CASE WHEN t.key = excluded.key THEN excluded.row END "
        f"WHERE t.key <> excluded.key OR substr(excluded.row, {times}) >= substr(t.row, {times})"
    )
