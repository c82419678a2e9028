"""Files of packed rows as the release with version 2 wrote them: tables in the order of the keys."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from sidkit.stores.online.checksums import record_check, sealed
from sidkit.stores.online.layout import Layout
from sidkit.stores.online.second_keys import make_index_of


def write_version_2(
    path: Path,
    view: str,
    layout: Layout,
    keys: Sequence[bytes],
    rows: Sequence[bytes],
    *,
    names: int | None = None,
) -> None:
    """Add a view to a file, which is made if it is missing: a row per key, from number 0 on, with that event time.

    Parameters
    ----------
    path : Path
        The file.
    view : str
        Name of the view in the file.
    layout : Layout
        Layout of the rows, with number 1.
    keys, rows : sequence of bytes
        Keys, and rows as packed.
    names : int, optional
        Bytes of the names in keys of two values, for an index by the second one.
    """
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as opened:
        opened.execute("PRAGMA page_size = 8192")
        opened.execute("PRAGMA journal_mode = WAL")
        opened.execute("BEGIN")
        opened.execute('CREATE TABLE IF NOT EXISTS "packed:format" (version INTEGER NOT NULL)')
        opened.execute('INSERT INTO "packed:format" SELECT 2 WHERE NOT EXISTS (SELECT 1 FROM "packed:format")')
        opened.execute(
            'CREATE TABLE IF NOT EXISTS "packed:layouts" (view TEXT NOT NULL, number INTEGER NOT NULL, columns TEXT NOT NULL, '
            "checked INTEGER NOT NULL, PRIMARY KEY (view, number))"
        )
        opened.execute('CREATE TABLE IF NOT EXISTS "packed:marks" (view TEXT PRIMARY KEY, mark INTEGER NOT NULL)')
        opened.execute(f'CREATE TABLE "packed:{view}" (key BLOB PRIMARY KEY, row BLOB NOT NULL) WITHOUT ROWID')
        if names is not None:
            make_index_of(opened, view, names)
        checked = record_check(view, 1, layout.to_json())
        opened.execute('INSERT INTO "packed:layouts" VALUES (?, 1, ?, ?)', (view, layout.to_json(), checked))
        opened.execute('INSERT INTO "packed:marks" VALUES (?, 1)', (view,))
        stored = sealed(view, keys, range(len(keys)), [None] * len(keys), rows)
        opened.executemany(f'INSERT INTO "packed:{view}" VALUES (?, ?)', sorted(zip(keys, stored, strict=True)))
        opened.execute("COMMIT")
        opened.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def version_of_file(path: Path) -> int:
    """The version that a file says it has."""
    with contextlib.closing(sqlite3.connect(path)) as opened:
        return int(opened.execute('SELECT version FROM "packed:format"').fetchone()[0])
