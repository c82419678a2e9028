"""Connections to the SQLite file of packed rows: format, version, and read-only folders."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sidkit.core.errors import OnlineStoreError
from sidkit.core.files import make_private

VERSION, BY_KEY = 3, 2
"""Version of the file, and the version whose tables are in the order of the keys, which readers read as it is and the first
writer converts; version 1 had no checksums (:mod:`sidkit.stores.online.conversion` converts both)."""
FORMAT, LAYOUTS, MARKS = '"packed:format"', '"packed:layouts"', '"packed:marks"'
REBUILD = "delete the file, then run `feast apply` and `feast materialize`"
"""How to rebuild a file in a repository without sidkit.toml."""
_UNWRITABLE = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL}

FileState = tuple[int, ...]


def open_to_write(path: Path, patience_seconds: float, remedy: str = REBUILD) -> sqlite3.Connection:
    """Open the file in WAL mode, and create the format tables if missing.

    Raises
    ------
    OnlineStoreError
        When the file has another version.
    """
    make_private(path)
    opened = _open(path, "rwc", patience_seconds, remedy)
    try:
        _make_format(opened)
    except BaseException:
        opened.close()
        raise
    return opened


def open_to_read(
    path: Path, patience_seconds: float, remedy: str = REBUILD
) -> tuple[sqlite3.Connection, FileState | None]:
    """Open the file for reading, even in a read-only folder.

    If not even the index of SQLite's log can be written (a read-only folder, a full disk), the file is opened as immutable and
    its state is returned: a reader compares it with :func:`state_of` before every read.

    Raises
    ------
    OnlineStoreError
        When the file is missing or has another version, or the folder is read-only and the newest commits are only in the
        log.
    """
    if not path.exists():
        raise OnlineStoreError(f"expected an online store at {path}, got none; run `feast apply` and materialize")
    try:
        return _open(path, "rw", patience_seconds, remedy), None
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in _UNWRITABLE:
            raise
        log = Path(f"{path}-wal")
        if log.exists() and log.stat().st_size:
            raise OnlineStoreError(
                f"the online store {path} was not closed by its last writer: its newest commits are in {log.name}, which "
                f"can be read only in a writable folder ({error}). Run `sidkit materialize` on the writable repository, then "
                "copy it again"
            ) from error
        state = state_of(path)
        return _open(path, "ro&immutable=1", patience_seconds, remedy), state


def _open(path: Path, mode: str, patience_seconds: float, remedy: str) -> sqlite3.Connection:
    opened = sqlite3.connect(
        f"file:{quote(str(path))}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=patience_seconds,
        cached_statements=512,
    )
    try:
        opened.execute("PRAGMA page_size = 8192")  # rows are stored in the leaves: wide rows need large pages
        if "immutable" not in mode and opened.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
            opened.execute("PRAGMA journal_mode = WAL")
        opened.execute(
            "PRAGMA synchronous = NORMAL"
        )  # a power cut may lose the last commits, but never corrupts the file
        opened.execute("PRAGMA cache_size = -32768")
        opened.execute("PRAGMA mmap_size = 4294967296")
        opened.execute("PRAGMA wal_autocheckpoint = 8000")
        # The first read, which also fails if the log's index cannot be written.
        known_version(opened, str(path), remedy)
    except BaseException:
        opened.close()
        raise
    return opened


def _make_format(opened: sqlite3.Connection) -> None:
    query = "SELECT 1 FROM sqlite_master WHERE name = 'packed:marks'"
    if opened.execute(query).fetchone():
        return
    opened.execute("BEGIN IMMEDIATE")
    try:
        opened.execute(f"CREATE TABLE IF NOT EXISTS {FORMAT} (version INTEGER NOT NULL)")
        opened.execute(f"INSERT INTO {FORMAT} SELECT {VERSION} WHERE NOT EXISTS (SELECT 1 FROM {FORMAT})")
        opened.execute(
            f"CREATE TABLE IF NOT EXISTS {LAYOUTS} (view TEXT NOT NULL, number INTEGER NOT NULL, columns TEXT NOT NULL, "
            "checked INTEGER NOT NULL, PRIMARY KEY (view, number))"
        )
        # Files of earlier releases get it from their first writer; see transactions.Reading.marks.
        opened.execute(f"CREATE TABLE IF NOT EXISTS {MARKS} (view TEXT PRIMARY KEY, mark INTEGER NOT NULL)")
        opened.execute("COMMIT")
    finally:
        if opened.in_transaction:
            opened.execute("ROLLBACK")


def views_of(opened: sqlite3.Connection) -> list[str]:
    """Names of the views that have a table, sorted."""
    names = opened.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB 'packed:*_*'")
    return sorted(name.removeprefix("packed:") for (name,) in names.fetchall())


def version_of(opened: sqlite3.Connection) -> Any:
    """The version of a file, or None if it has no tables of this store."""
    if not opened.execute("SELECT 1 FROM sqlite_master WHERE name = 'packed:format'").fetchone():
        return None
    versions = [version for (version,) in opened.execute(f"SELECT version FROM {FORMAT}")]
    return versions[0] if len(versions) == 1 else versions or None


def known_version(opened: sqlite3.Connection, place: str, remedy: str) -> int:
    """The version of the tables in a file, that of this release if it has none.

    Parameters
    ----------
    opened : sqlite3.Connection
        A connection to the file.
    place : str
        The file, for error messages.
    remedy : str
        How to rebuild it, for error messages.

    Raises
    ------
    OnlineStoreError
        When this release does not read the version.
    """
    version = version_of(opened)
    if version is None:
        return VERSION
    if version in {VERSION, BY_KEY}:
        return int(version)
    if version == 1:
        raise OnlineStoreError(
            f"the online store {place} was written by an earlier release: expected version {VERSION}, got version 1. "
            f"Run `sidkit upgrade`, or {remedy}"
        )
    advice = remedy if remedy.startswith("delete") else f"delete the file and {remedy}"
    raise OnlineStoreError(
        f"expected version {VERSION} of the online store {place}, got version {version!r}. Use the release that wrote it, or "
        f"{advice}"
    )


def identity_of(path: Path) -> FileState | None:
    """Device and inode of the file, which differ once it was deleted and made again; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def state_of(path: Path) -> FileState:
    """State that changes whenever a file or its write-ahead log changes."""
    status = path.stat()
    log = Path(f"{path}-wal")
    return status.st_ino, status.st_size, status.st_mtime_ns, log.stat().st_size if log.exists() else 0
