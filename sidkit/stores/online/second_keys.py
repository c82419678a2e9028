"""All rows of a view with two join keys that have one value of the second key, such as a user's counts per prefix of codes.

A table is sorted by hashes of whole keys. An index of SQLite by the second join key gives all rows of an entity in one range
scan; a key that the scan does not give has no row, and needs no search of its own. Any writer maintains the index,
as SQLite does; a table without one, of an earlier release, gets it from the next writer.

A scan is verified like a search: all rows that it gives, and those of the entries before and after them, must exist and match
their checksums, because damage of the index is near the position where it is searched.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from functools import lru_cache

from sidkit.core.engine import quoted
from sidkit.stores.online.checksums import all_intact
from sidkit.stores.online.sql import table_of

_LONGEST = 65_536
"""Longer keys are not in the index: the length of the first value is read from two bytes."""
_HEAD = 8
"""Bytes of a value's type and length."""


def names_length(key: bytes) -> int | None:
    """Number of bytes of the names at the start of a key with two join keys; None for a key with another number of them."""
    if len(key) < 4 or int.from_bytes(key[:4], "little") != 2:
        return None
    at = 4
    for _ in range(2):
        at += _HEAD + int.from_bytes(key[at + 4 : at + _HEAD], "little")
    return at


def second_value(key: bytes, names: int) -> bytes:
    """The second value of a key, with its type and length; ``names`` is the number of bytes of the names."""
    first = int.from_bytes(key[names + 4 : names + 6], "little")
    return key[names + _HEAD + first :]


def make_index(opened: sqlite3.Connection, view: str, key: bytes) -> None:
    """Create the index of a view's table if its keys, like this one, have two values."""
    names = names_length(key)
    if names is not None:
        make_index_of(opened, view, names)


def make_index_of(opened: sqlite3.Connection, view: str, names: int) -> None:
    """Create the index of a view's table whose keys have this number of bytes of names."""
    opened.execute(
        f"CREATE INDEX IF NOT EXISTS {_index(view, names)} ON {table_of(view)} ({_expression(names)}) "
        f"WHERE length(key) < {_LONGEST}"
    )


def has_index(opened: sqlite3.Connection, view: str, key: bytes) -> bool:
    """Whether a table needs no index, or has it."""
    names = names_length(key)
    return names is None or names in indices(opened, view)


def rows_of_second(
    opened: sqlite3.Connection,
    fetch: Callable[[Sequence[bytes]], Sequence[bytes | None]] | None,
    damaged: Callable[[str], Exception],
    view: str,
    names: int,
    value: bytes,
    most: int,
) -> dict[bytes, bytes] | None:
    """Rows by key of all keys with a second value; None without an index, or if there are more than ``most``.

    Parameters
    ----------
    opened : sqlite3.Connection
        A connection in a transaction.
    fetch : callable, optional
        Reads and verifies the rows of keys, None for a key without one: for a file whose index has the keys but not the
        number of each row, where SQLite does not notice that an entry has no row.
    damaged : callable
        Makes the error for a problem of the view.
    view : str
        Name of the view in the file.
    names : int
        Number of bytes of the names in its keys.
    value : bytes
        The second value, with its type and length.
    most : int
        The most rows to read.

    Raises
    ------
    OnlineStoreError
        When a row or the index is damaged.
    """
    if names not in indices(opened, view):
        return None
    before, onwards = _statements(view, names, "key" if fetch else "key, row")
    last = opened.execute(before, (value,)).fetchall()
    found: list[tuple[bytes, ...]] = []
    following: list[tuple[bytes, ...]] = []
    scan = opened.execute(onwards, (value,))
    for entry in scan:
        if not isinstance(entry[0], bytes) or second_value(entry[0], names) != value:
            following = [entry]
            break
        found.append(entry)
        if len(found) > most:
            scan.close()
            return None
    scan.close()
    beside = [key for key, *_ in (*last, *following)]
    ordered = all(isinstance(key, bytes) for key in beside)
    ordered = ordered and all(second_value(key, names) < value for key, *_ in last)
    ordered = ordered and all(second_value(key, names) > value for key, *_ in following)
    keys = [key for key, *_ in found]
    if not ordered or len(set(keys)) < len(keys):
        raise damaged("the index by the second key is out of order")
    whole = [*keys, *beside]
    rows = [row for _, row in (*found, *last, *following)] if fetch is None else fetch(whole)
    if None in rows:
        raise damaged("the index by the second key has a key without a row")
    if fetch is None and whole and not all_intact(view, whole, rows):  # type: ignore[arg-type]
        raise damaged("a row does not match its checksum")
    return dict(zip(keys, rows, strict=False))  # type: ignore[arg-type]


def indices(opened: sqlite3.Connection, view: str) -> set[int]:
    """Lengths of the names for which a table has an index."""
    start = f"packed-second:{view}:"
    found = opened.execute("SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = ?", (f"packed:{view}",))
    return {int(name.removeprefix(start)) for (name,) in found if name.startswith(start)}


def _index(view: str, names: int) -> str:
    return quoted(f"packed-second:{view}:{names}")


def _expression(names: int) -> str:
    """SQL for :func:`second_value`: SQLite has no function from bytes to a number, but one to hexadecimal digits."""
    length = f"hex(substr(key, {names + 5}, 2))"
    digits = [f"(instr('0123456789ABCDEF', substr({length}, {at}, 1)) - 1)" for at in (1, 2, 3, 4)]
    number = " + ".join(f"{digit} * {power}" for digit, power in zip(digits, (16, 1, 4096, 256), strict=True))
    return f"substr(key, {names + _HEAD + 1} + {number})"


@lru_cache(maxsize=256)
def _statements(view: str, names: int, columns: str) -> tuple[str, str]:
    """SQL for what is before a second value, and for all from it on."""
    value = _expression(names)
    source = (
        f"SELECT {columns} FROM {table_of(view)} INDEXED BY {_index(view, names)} "
        f"WHERE length(key) < {_LONGEST} AND {value}"
    )
    return f"{source} < ? ORDER BY {value} DESC LIMIT 1", f"{source} >= ? ORDER BY {value}"
