"""Erasure of users from the SQLite file of an online store: their rows, and the bytes that deleted rows leave in the file.

It covers the packed store and Feast's own SQLite store; both have a table per feature view and serialized entity keys.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sidkit.core.engine import quoted
from sidkit.core.errors import OnlineStoreError

if TYPE_CHECKING:
    from feast import FeatureStore

_KEY_COLUMNS = {"packed:": "key", "": "entity_key"}
"""Start of a table's name -> column of its serialized entity keys: of the packed store, and of Feast's."""
_TRIES = 50
_WAIT_SECONDS = 0.1


def online_file(store: FeatureStore) -> Path | None:
    """The SQLite file of a repository's online store; None if the store is another database."""
    online = store._get_provider().online_store
    if type(online).__name__ not in {"PackedSqliteOnlineStore", "SqliteOnlineStore"}:
        return None
    path = Path(store.config.online_store.path)
    return path if path.is_absolute() else Path(store.config.repo_path or "") / path


def patience_of(store: FeatureStore) -> float:
    """How many seconds a writer of the store waits for another one."""
    return float(getattr(store.config.online_store, "patience_seconds", 60.0))


def keys_of_users(path: Path, users: Sequence[str], join_key: str) -> dict[str, int]:
    """Rows per user in all tables of the file; users without any are left out."""
    if not path.exists():
        return {}
    counted: dict[str, int] = {}
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=60)) as opened:
        for _, _, _, user in _matching(opened, users, join_key):
            counted[user] = counted.get(user, 0) + 1
    return counted


def erase_users(path: Path, users: Sequence[str], join_key: str, patience_seconds: float = 60.0) -> int:
    """Delete the rows of users, overwrite what they occupied, and empty the write-ahead log.

    Parameters
    ----------
    path : Path
        The SQLite file.
    users : sequence of str
        Their ids.
    join_key : str
        Name of the key that holds them.
    patience_seconds : float
        How long to wait for another writer.

    Returns
    -------
    int
        Number of deleted rows.

    Raises
    ------
    OnlineStoreError
        When another process holds the file for too long.
    """
    if not path.exists():
        return 0
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, timeout=patience_seconds)) as opened:
        try:
            opened.execute("PRAGMA secure_delete = ON")
            opened.execute("BEGIN IMMEDIATE")
            rows = list(_matching(opened, users, join_key))
            for table, column, value, _ in rows:
                opened.execute(f"DELETE FROM {quoted(table)} WHERE {quoted(column)} = ?", (value,))
            opened.execute("COMMIT")
            compact(opened)
        except sqlite3.DatabaseError as error:
            if opened.in_transaction:
                opened.execute("ROLLBACK")
            raise OnlineStoreError(
                f"the online store {path} cannot be changed ({error}): another process holds it, the disk is full, or the "
                "file is damaged; stop the other process, free some space or delete the file, and run `sidkit forget` "
                "again, which finishes the work"
            ) from error
    return len(rows)


def compact(opened: sqlite3.Connection) -> None:
    """Rewrite the file without the pages of deleted rows, and empty the write-ahead log, where they were written too.

    Raises
    ------
    sqlite3.OperationalError
        When readers keep the log in use.
    """
    opened.execute("VACUUM")
    for _ in range(_TRIES):
        busy, *_ = opened.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if not busy:
            return
        time.sleep(_WAIT_SECONDS)
    raise sqlite3.OperationalError("readers keep the write-ahead log in use")


def _matching(opened: sqlite3.Connection, users: Sequence[str], join_key: str) -> Iterator[tuple[str, str, Any, str]]:
    """Table, a column to search for the rows by, its value, and the user, of the rows of users."""
    tables = [name for (name,) in opened.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
    for table in tables:
        column = _KEY_COLUMNS["packed:" if table.startswith("packed:") else ""]
        columns = [row[1] for row in opened.execute(f"PRAGMA table_info({quoted(table)})")]
        if column not in columns:
            continue
        # A packed table is searched by the number of the row; in a file of the release before, as in Feast's, by the key.
        searched = "hash" if column == "key" and "hash" in columns else column
        # The bytes of an id are a first guess: an id may be a part of another one, or of another key.
        named = f"{quoted(searched)}, {quoted(column)}"
        found = f"SELECT DISTINCT {named} FROM {quoted(table)} WHERE instr({quoted(column)}, ?) > 0"
        seen: set[bytes] = set()
        for user in users:
            for needle in needles_of(user):
                for value, key in opened.execute(found, (needle,)).fetchall():
                    if key in seen:
                        continue
                    if user_of(key, join_key) == user:
                        seen.add(key)
                        yield table, searched, value, user


def user_of(key: bytes, join_key: str) -> str | None:
    """The id in a serialized key; None if it has no such key, or Feast cannot read it."""
    from feast.infra.key_encoding_utils import deserialize_entity_key

    try:
        entity = deserialize_entity_key(key, 3)
    except ValueError:
        return None
    value = dict(zip(entity.join_keys, entity.entity_values, strict=False)).get(join_key)
    return None if value is None else str(getattr(value, value.WhichOneof("val")))


def needles_of(user: str) -> list[bytes]:
    """The bytes of an id within a serialized key: its text, and of an integer also the number."""
    needles = [user.encode()]
    if user.lstrip("-").isdigit() and user.isascii() and str(int(user)) == user and abs(int(user)) < 2**63:
        number = int(user)
        needles += [
            number.to_bytes(size, "little", signed=True) for size in (4, 8) if abs(number) < 2 ** (8 * size - 1)
        ]
    return needles
