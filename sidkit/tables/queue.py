"""The queue of pushed rows: checked rows that are durable before they are in the log.

Every push writes one Parquet file to ``data/events/queue``, which is complete when it has its name. Any number of processes
may write at the same time, without the repository's lock. Its name has the time, the process and the start of the file's
SHA-256. :mod:`sidkit.tables.absorb` moves the rows to the log; a file that is absorbed twice changes nothing.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from sidkit.core.errors import StorageError
from sidkit.core.files import sha256, sync
from sidkit.core.repo import Repo

EVENTS, ITEMS, VECTORS = "events", "items", "vectors"
"""Kinds of queued rows; vectors have the same order as the items that they were pushed with."""
_HASH_LETTERS = 16
_ABANDONED_SECONDS = 3600
_numbers = itertools.count()


def events_folder(repo: Repo) -> Path:
    """Folder of the queue and of the state of the ticks (``data/events``)."""
    return repo.data / "events"


def queue_folder(repo: Repo) -> Path:
    """Folder of the queue, whose files only :func:`dequeue` removes: each has the hash of its content in its name."""
    return events_folder(repo) / "queue"


def enqueue(repo: Repo, tables: Mapping[str, pa.Table]) -> list[Path]:
    """Write checked rows to the queue; they survive a crash once this returns.

    Parameters
    ----------
    repo : Repo
    tables : mapping
        Kind -> rows. Kinds are written in the order given, and an empty one is left out.

    Raises
    ------
    StorageError
        When the disk refuses the write.
    """
    folder = queue_folder(repo)
    # Not the temporary names of sidkit.core.files: those are removed by whoever takes the repository's lock.
    stamp = f"{time.time_ns():020d}-{os.getpid()}-{next(_numbers)}"
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for kind, table in tables.items():
            if not len(table):
                continue
            temporary = folder / f"{stamp}-{kind}.tmp"
            pq.write_table(table, temporary, compression="zstd")
            path = folder / f"{kind}-{stamp}-{sha256(temporary)[:_HASH_LETTERS]}.parquet"
            sync(temporary)
            temporary.rename(path)
            written.append(path)
        sync(folder)
    except OSError as error:
        raise StorageError(folder, error) from error
    return written


def queued(repo: Repo, kind: str) -> list[Path]:
    """The queue's files of a kind, the oldest first; a damaged one is set aside with a warning."""
    folder = queue_folder(repo)
    intact = []
    for path in sorted(folder.glob(f"{kind}-*.parquet")):
        if sha256(path)[:_HASH_LETTERS] == path.stem.rpartition("-")[2]:
            intact.append(path)
            continue
        aside = folder.parent / "damaged"
        aside.mkdir(exist_ok=True)
        path.rename(aside / path.name)
        sys.stderr.write(f"sidkit: {aside / path.name}: queued rows that do not match their SHA-256 were set aside\n")
    return intact


def queued_rows(repo: Repo) -> dict[str, int]:
    """Number of rows per kind that wait in the queue."""
    folder = queue_folder(repo)
    counts = {}
    for kind in (EVENTS, ITEMS):
        counts[kind] = 0
        for path in folder.glob(f"{kind}-*.parquet"):
            with contextlib.suppress(OSError, pa.ArrowException):  # absorbed meanwhile
                counts[kind] += pq.read_metadata(path).num_rows
    return counts


def dequeue(repo: Repo, paths: list[Path]) -> None:
    """Remove absorbed files, and what killed writers left behind."""
    for path in paths:
        path.unlink(missing_ok=True)
    for path in (queue_folder(repo)).glob("*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                path.unlink()
