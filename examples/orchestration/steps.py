"""The steps of a day: ingest, build, refresh codes, materialize. Each may be repeated; the second time changes nothing.

A day is over at 00:00 UTC of the next one. Tables move forward in time only and hold the rows of all days before, so a day
that they cover is not built again, in whatever order days are asked for. Rows that arrive late are in the next build.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import sidkit
from sidkit.core.clock import iso, moment_us
from sidkit.core.errors import (
    ArtifactMissingError,
    CatalogUnreachableError,
    ConfigError,
    OnlineStoreError,
    RepoLockedError,
    StorageError,
)
from sidkit.tables import read_build

TRANSIENT = (RepoLockedError, CatalogUnreachableError, OnlineStoreError, StorageError, ConnectionError, TimeoutError)
"""Errors that may be gone a minute later; others need a person."""


def end_of(day: date) -> datetime:
    """The end of a day: 00:00 UTC of the next one."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)


def days(first: date, last: date, now: datetime | None = None) -> list[date]:
    """The days of a range, both ends included.

    Raises
    ------
    ConfigError
        When the range is empty, or its last day is not over.
    """
    if last < first:
        raise ConfigError(f"expected --from no later than --to, got {first} and {last}; exchange them")
    if end_of(last) > (now or datetime.now(UTC)):
        raise ConfigError(f"expected days that are over (UTC), got {last}; pass an earlier --to")
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]


def ingest(repo: str) -> dict[str, Any]:
    """Read new rows of the source into the log."""
    report = sidkit.open(repo).ingest()
    return {"rows": report.rows, "new_rows": report.new_rows}


def build(repo: str, day: date) -> dict[str, Any]:
    """Bring the feature tables to the end of a day; a day that they cover takes in late rows only."""
    project = sidkit.open(repo)
    try:
        built_us = read_build(project.repo)["as_of_us"]
    except ArtifactMissingError:
        built_us = 0  # the first build
    end_us = moment_us(end_of(day))
    report = project.build(end_of(day) if end_us > built_us else iso(built_us))
    return {"as_of": iso(report.as_of_us), "new_rows": sum(report.new_rows.values()), "unchanged": report.unchanged}


def refresh(repo: str) -> dict[str, Any]:
    """Give codes of every published codebook to items that are new or changed."""
    return {"new_codes": {report.name: report.new_rows for report in sidkit.open(repo).refresh()}}


def materialize(repo: str) -> dict[str, Any]:
    """Write the newest row of every key to the online store."""
    return {"keys": dict(sidkit.open(repo).materialize())}
