"""Pushed events and items: checked like those of a source, then queued (:mod:`sidkit.tables.queue`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sidkit.contract.pushed_rows import CheckedItems, CheckedRows, RejectedRow, check_events, check_items
from sidkit.contract.times import is_text
from sidkit.core.clock import present_us
from sidkit.core.engine import connection
from sidkit.core.forgotten import Forgotten, read_forgotten
from sidkit.core.integrity import MANIFEST, read_sealed
from sidkit.core.repo import Repo
from sidkit.tables.log import read_log
from sidkit.tables.queue import EVENTS, ITEMS, VECTORS, enqueue

Checked = TypeVar("Checked", CheckedRows, CheckedItems)
_ATTEMPTS = 3
FORGOTTEN = "the user was forgotten (sidkit forget)"


@dataclass(frozen=True)
class PushReport:
    """Result of a push: rows that were queued, rejected rows with their reasons, and rows that repeat another or the log."""

    accepted: int
    rejected: tuple[RejectedRow, ...]
    duplicates: int = 0


def push_events(repo: Repo, rows: pa.Table, now_us: int | None = None) -> PushReport:
    """Check events and queue the valid ones; they are durable once this returns. Needs no lock.

    Parameters
    ----------
    repo : Repo
        A repository with a log.
    rows : pyarrow.Table
        Columns of ``interactions`` by the contract's names, whatever they are called in the source.
    now_us : int, optional
        Current time, microseconds UTC: later events are rejected.

    Raises
    ------
    ContractError
        When a required column is missing, or a column has a type that cannot be converted.
    ArtifactMissingError
        When no log was ingested yet.
    """

    own, left_out = without_forgotten(rows, read_forgotten(repo.path))

    def check(items: Path, _: Path, manifest: dict[str, Any]) -> CheckedRows:
        with connection(repo.settings.engine, None, shared=True) as opened:
            return check_events(opened, own, repo.settings, items, manifest.get("shapes", {}), _now(now_us))

    checked = _with_log(repo, check)
    enqueue(repo, {EVENTS: checked.valid})
    rejected = [RejectedRow(place, FORGOTTEN) for place in left_out]
    others = np.setdiff1d(np.arange(len(rows)), left_out)
    rejected += [RejectedRow(int(others[each.row]), each.reason) for each in checked.rejected]
    return PushReport(len(checked.valid), tuple(sorted(rejected, key=lambda each: each.row)), checked.duplicates)


def push_items(repo: Repo, rows: pa.Table, now_us: int | None = None) -> PushReport:
    """Check new items and queue the valid ones; they are durable once this returns. Needs no lock.

    Parameters
    ----------
    repo : Repo
        A repository with a log.
    rows : pyarrow.Table
        ``item_id``, ``created_at``, further columns of the log's items, and vectors by the names of their modalities.
    now_us : int, optional
        Current time, microseconds UTC: items created later are rejected.

    Raises
    ------
    ContractError
        When a required column is missing, a column is unknown, or one has a type that cannot be converted.
    ArtifactMissingError
        When no log was ingested yet.
    """

    def check(items: Path, vectors: Path, _: dict[str, Any]) -> CheckedItems:
        with connection(repo.settings.engine, None, shared=True) as opened:
            return check_items(opened, rows, repo.settings, items, vectors, _now(now_us))

    checked = _with_log(repo, check)
    given: Mapping[str, pa.Table] = {VECTORS: checked.vectors} if checked.vectors is not None else {}
    enqueue(repo, {**given, ITEMS: checked.items})  # vectors first: items without them would get no codes
    return PushReport(len(checked.items), checked.rejected, checked.duplicates)


def without_forgotten(rows: pa.Table, forgotten: Forgotten | None) -> tuple[pa.Table, list[int]]:
    """The rows of users who are not forgotten, and the positions of the others."""
    if forgotten is None or "user_id" not in rows.column_names:
        return rows, []
    users = rows.column("user_id")
    if not (pa.types.is_integer(users.type) or is_text(users.type)):
        return rows, []  # the contract refuses them
    found = forgotten.among(pc.cast(users, pa.string()))
    return rows.filter(pc.invert(found)), np.flatnonzero(found.to_numpy(zero_copy_only=False)).tolist()


def _now(now_us: int | None) -> int:
    return present_us() if now_us is None else now_us


def _with_log(repo: Repo, check: Callable[[Path, Path, dict[str, Any]], Checked]) -> Checked:
    """Check rows against the log's items and vectors; again if an ingest replaced these files meanwhile."""
    for left in reversed(range(_ATTEMPTS)):
        path = repo.log / MANIFEST
        if not path.exists():
            read_log(repo)  # raises
        manifest = read_sealed(path)
        items, vectors = (repo.log / manifest["snapshots"][name]["file"] for name in ("items", "item_embeddings"))
        try:
            return check(items, vectors, manifest)
        except duckdb.IOException:
            if not left or (items.exists() and vectors.exists()):
                raise
    raise AssertionError
