"""Reading of rows by the hash of their key, each verified.

A row is returned for a key only if its own key is the same and it matches its checksum. A key that is not found is verified
too: the rows beside its hash must have keys with their hashes and be in order, because a hash damaged in the file is near
the position where it is searched.

Keys with the same hash are rare: the first one written has the row with this number, and the rows of all others have numbers
below zero. A reader examines them all when it does not find a key, and there are none in nearly every file.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from itertools import chain

from sidkit.stores.online.cache import Column, Entry, Group
from sidkit.stores.online.checksums import TAIL, all_intact
from sidkit.stores.online.key_hashes import hashes_of
from sidkit.stores.online.sql import beside, parts, select, select_apart, select_tails, select_whole

Damaged = Callable[[str, str], Exception]
"""Makes the error for a problem (second) of a view (first)."""
_UNLIKE, _UNORDERED = "a row does not match its checksum", "rows are not where their keys are searched"


def columns_of(opened: sqlite3.Connection, damaged: Damaged, group: Group, keys: Sequence[bytes]) -> Sequence[Column]:
    """Read and verify the rows of each key in each of at most 32 views.

    Parameters
    ----------
    opened : sqlite3.Connection
        A connection in a transaction.
    damaged : callable
        Makes the error for a problem of a view.
    group : tuple of str
        Names of the views in the file.
    keys : sequence of bytes
        Keys as serialized by Feast.
    """
    if not keys:
        return [()] * len(group)
    taken: list[Entry] = []
    for size, part, count in parts(hashes_of(keys)):
        taken += opened.execute(select(group, size), part).fetchall()[:count]
    columns: Sequence[Column]
    *columns, stored = zip(*taken, strict=True)
    complete = stored == tuple(keys) and all(map(all, columns))
    if not complete:
        columns = _completed(opened, damaged, group, keys, stored, columns)
    for view, rows in zip(group, columns, strict=True):
        if complete or all(rows):
            intact = all_intact(view, keys, rows)
        else:
            present = [(key, row) for key, row in zip(keys, rows, strict=True) if row is not None]
            intact = not present or all_intact(view, *zip(*present, strict=True))
        if not intact:
            raise damaged(view, _UNLIKE)
    return columns


def _completed(
    opened: sqlite3.Connection,
    damaged: Damaged,
    group: Group,
    keys: Sequence[bytes],
    stored: Sequence[object],
    columns: Sequence[Column],
) -> list[list[bytes | None]]:
    """The rows of each view, with those that the hash alone does not give; what is still missing is verified."""
    complete = [list(rows) for rows in columns]
    # Without the key in the first view, the statement does not look into the others.
    unread = [place for place, (key, own) in enumerate(zip(keys, stored, strict=True)) if key != own]
    if len(group) > 1:
        rest = columns_of(opened, damaged, group[1:], [keys[place] for place in unread])
        for rows, own in zip(complete[1:], rest, strict=True):
            for place, row in zip(unread, own, strict=True):
                rows[place] = row
    for place in unread:
        complete[0][place] = None
    first = set(unread)
    for view, rows in zip(group, complete, strict=True):
        missing = [place for place, row in enumerate(rows) if row is None and (view == group[0] or place not in first)]
        if missing:
            found = _missing(opened, damaged, view, [keys[place] for place in missing])
            for place, row in zip(missing, found, strict=True):
                rows[place] = row
    return complete


def _missing(opened: sqlite3.Connection, damaged: Damaged, view: str, keys: Sequence[bytes]) -> list[bytes | None]:
    """The rows of keys whose hash has no row of theirs: None if there are none."""
    apart = rows_apart(opened, damaged, view)
    rows = [apart[key][1] if key in apart else None for key in keys]
    absent = {key for key, row in zip(keys, rows, strict=True) if row is None}
    numbers: set[int] = set()
    hashes = hashes_of(list(absent))
    for size, part, count in parts(hashes):
        for own, (before, after) in zip(
            part, opened.execute(beside(view, size), part).fetchall()[:count], strict=False
        ):
            numbers |= {before, after} - {None}
            if (before is not None and before > own) or (after is not None and after < own):
                raise damaged(view, _UNORDERED)
    nearby = sorted(numbers)
    beside_keys, beside_rows = _whole(opened, view, nearby)
    if nearby and not all_intact(view, beside_keys, beside_rows):
        raise damaged(view, _UNLIKE)
    known = {number: key for key, (number, _) in apart.items()}
    expected = [number if known.get(number) == key else own for number, key, own in _triples(nearby, beside_keys)]
    if expected != nearby or not absent.isdisjoint(beside_keys):
        raise damaged(view, _UNORDERED)
    return rows


def _triples(numbers: Sequence[int], keys: Sequence[bytes]) -> list[tuple[int, bytes, int]]:
    return list(zip(numbers, keys, hashes_of(keys), strict=True))


def _whole(opened: sqlite3.Connection, view: str, numbers: Sequence[int]) -> tuple[list[bytes], list[bytes]]:
    """Keys and rows with these numbers, as they are in the file; what is not found is damage, and is None."""
    pairs: list[tuple[bytes, bytes]] = []
    for size, part, count in parts(numbers):
        pairs += opened.execute(select_whole(view, size), part).fetchall()[:count]
    return [key for key, _ in pairs], [row for _, row in pairs]


def keys_apart(opened: sqlite3.Connection, view: str) -> set[bytes]:
    """The keys of :func:`rows_apart`, not verified."""
    return {key for _, key, _ in opened.execute(select_apart(view))}


def rows_apart(opened: sqlite3.Connection, damaged: Damaged, view: str) -> dict[bytes, tuple[int, bytes]]:
    """Key -> number and row of all keys whose hash belongs to another key's row."""
    found = opened.execute(select_apart(view)).fetchall()
    if not found:
        return {}
    numbers, keys, rows = zip(*found, strict=True)
    if not all_intact(view, keys, rows):
        raise damaged(view, _UNLIKE)
    if max(numbers) >= 0 or len(set(keys)) < len(keys):
        raise damaged(view, _UNORDERED)
    return {key: (number, row) for number, key, row in found}


def collides(opened: sqlite3.Connection, damaged: Damaged, view: str, own: int, key: bytes) -> bool:
    """Whether the row with a key's hash is that of another key, which must be intact."""
    pairs = opened.execute(select_whole(view, 1), (own,)).fetchall()
    [(stored, row)] = pairs
    if stored is None or stored == key:
        return False
    if not all_intact(view, [stored], [row]):
        raise damaged(view, _UNLIKE)
    if hashes_of([stored]) != [own]:
        raise damaged(view, _UNORDERED)
    return True


def tails(
    opened: sqlite3.Connection, damaged: Damaged, views: Sequence[str], keys: Sequence[bytes]
) -> list[tuple[bytes | None, ...]]:
    """Times and checksum of each key's row in each of at most 32 views, None without a row."""
    taken: list[tuple[bytes | None, ...]] = []
    for (size, hashes, count), (_, own, _) in zip(parts(hashes_of(keys)), parts(keys), strict=True):
        pairs = list(chain.from_iterable(zip(hashes, own, strict=True)))
        taken += opened.execute(select_tails(tuple(views), size), pairs).fetchall()[:count]
    if all(map(all, taken)):
        return taken
    columns = [list(column) for column in zip(*taken, strict=True)]
    for view, column in zip(views, columns, strict=True):
        apart = rows_apart(opened, damaged, view)
        for place, key in enumerate(keys) if apart else ():
            if column[place] is None and key in apart:
                column[place] = apart[key][1][-TAIL:]
    return list(zip(*columns, strict=True))
