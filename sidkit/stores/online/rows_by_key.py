"""Reading of rows from files of version 2, whose tables are in the order of the keys.

A reader, which may not be able to write the file, reads them as they are; the first writer converts them
(:mod:`sidkit.stores.online.conversion`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from functools import lru_cache

from sidkit.stores.online.cache import Column, Entry, Group
from sidkit.stores.online.checksums import TAIL, all_intact
from sidkit.stores.online.rows_by_hash import Damaged
from sidkit.stores.online.sql import listed, parts, table_of


def columns_of(opened: sqlite3.Connection, damaged: Damaged, group: Group, keys: Sequence[bytes]) -> Sequence[Column]:
    """Like :func:`sidkit.stores.online.rows_by_hash.columns_of`.

    The neighbours in the table of a key that is not found must be intact, because a key damaged in the file is near the
    position where it is searched.
    """
    taken: list[Entry] = []
    for size, part, count in parts(keys):
        taken += opened.execute(_joined(group, size, "t{}.row"), part).fetchall()[:count]
    columns: Sequence[Column] = list(zip(*taken, strict=True)) or [()] * len(group)
    for view, rows in zip(group, columns, strict=True):
        present = [(key, row) for key, row in zip(keys, rows, strict=True) if row is not None]
        missing = [key for key, row in zip(keys, rows, strict=True) if row is None]
        nearby = list(_neighbours(opened, view, missing))
        intact = not present or all_intact(view, *zip(*present, strict=True))
        if not intact or not all_intact(view, [b""] * len(nearby), nearby):
            raise damaged(view, "a row does not match its checksum")
    return columns


def tails(
    opened: sqlite3.Connection, damaged: Damaged, views: Sequence[str], keys: Sequence[bytes]
) -> list[tuple[bytes | None, ...]]:
    """Like :func:`sidkit.stores.online.rows_by_hash.tails`."""
    taken: list[tuple[bytes | None, ...]] = []
    for size, part, count in parts(keys):
        statement = _joined(tuple(views), size, f"substr(t{{}}.row, -{TAIL})")
        taken += opened.execute(statement, part).fetchall()[:count]
    return taken


def _neighbours(opened: sqlite3.Connection, view: str, keys: Sequence[bytes]) -> Iterator[bytes]:
    """Key and row, as one value each, of the neighbours of missing keys."""
    for size, part, _ in parts(keys):
        for pair in opened.execute(_beside(view, size), part):
            yield from (neighbour for neighbour in pair if neighbour is not None)


@lru_cache(maxsize=1024)
def _joined(group: Group, size: int, column: str) -> str:
    joined = [f"LEFT JOIN {table_of(view)} AS t{place} ON t{place}.key = v.column1" for place, view in enumerate(group)]
    columns = ", ".join(column.format(place) for place in range(len(group)))
    return f"SELECT {columns} FROM {listed(size)} {' '.join(joined)}"


@lru_cache(maxsize=1024)
def _beside(view: str, size: int) -> str:
    # A null row is damage: it is read as an empty value, which fails the checksum.
    neighbour = (
        f"(SELECT ifnull(CAST(key || row AS BLOB), x'') FROM {table_of(view)} WHERE key {{}} v.column1 "
        "ORDER BY key {} LIMIT 1)"
    )
    return f"SELECT {neighbour.format('<=', 'DESC')}, {neighbour.format('>=', 'ASC')} FROM {listed(size)}"
