"""Writes that need not outlive a power failure, which no test causes: what a killed process wrote, the kernel keeps.

A registry that is applied waits for the disk 300 times, which took longer than all other work of many tests.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from sqlite3 import dbapi2
from typing import Any


def wait_for_no_disk() -> None:
    """Let this process leave it to the kernel when files reach the disk, SQLAlchemy's databases in SQLite too."""
    connect = dbapi2.connect

    def without_sync(*where: Any, **named: Any) -> sqlite3.Connection:
        opened = connect(*where, **named)
        with contextlib.suppress(sqlite3.Error):  # a file that is no database: the first query says so
            opened.execute("PRAGMA synchronous = OFF")
        return opened

    dbapi2.connect = without_sync  # type: ignore[assignment]
    os.fsync = lambda _: None
