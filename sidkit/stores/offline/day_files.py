"""Files of a source that sidkit partitioned by day (:mod:`sidkit.tables.day_partitions`): only the days that a read needs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from sidkit.core.clock import MICROS
from sidkit.core.errors import ArtifactCorruptError
from sidkit.core.integrity import DAYS_MANIFEST, FILES, PENDING, manifest_of, read_sealed, verify
from sidkit.stores.offline.sources import SourceParts
from sidkit.tables.day_partitions import COLUMN, TABLE

_DAY_US = 86_400 * MICROS
_EPOCH = date(1970, 1, 1).toordinal()
_BEFORE_ALL = -(2**62)
_FEW_DAYS = 32


@dataclass(frozen=True)
class Within:
    """Moments, microseconds UTC, both inclusive, whose rows are needed; None: no bound."""

    first_us: int | None = None
    last_us: int | None = None

    def holds(self, other: Within) -> bool:
        """Whether another range lies in this one."""
        begins = self.first_us is None or (other.first_us is not None and self.first_us <= other.first_us)
        ends = self.last_us is None or (other.last_us is not None and other.last_us <= self.last_us)
        return begins and ends

    def and_before(self, ttl_us: int | None) -> Within:
        """The range of the rows that are valid at some moment of this one, with a TTL in microseconds; None: for ever."""
        return Within(None if ttl_us is None or self.first_us is None else self.first_us - ttl_us, self.last_us)


ALWAYS = Within()
NEVER = Within(_BEFORE_ALL, _BEFORE_ALL)


def is_by_day(path: Path) -> bool:
    """Whether a path is a folder that sidkit partitioned by day."""
    return os.path.isfile(path / DAYS_MANIFEST)  # noqa: PTH113  (false for a path that no disk can have)


def files_within(path: Path, within: Within) -> list[Path]:
    """The files that may have rows within a range, oldest first; at least one, for its columns.

    Parameters
    ----------
    path : Path
        A folder for which :func:`is_by_day` is true.
    within : Within
        The range of ``event_timestamp``.

    Raises
    ------
    ArtifactCorruptError
        When a file is damaged, or the days are older than their table.
    """
    manifest = refuse_outdated(path)
    names = sorted(manifest[FILES])
    needed = [name for name in names if _overlaps(name, within)] or names[:1]
    verify(path, manifest, needed)
    return [path / name for name in needed]


def days_or_table(path: Path, within: Within) -> Path:
    """The folder if a read within a range opens few of its days, else the table with the same rows in one file.

    Spark takes as long to open a file as to read thousands of rows, and skips row groups outside a range of time anyway.

    Raises
    ------
    ArtifactCorruptError
        When the days are older than their table.
    """
    needed = sum(_overlaps(name, within) for name in refuse_outdated(path)[FILES])
    return path if needed <= _FEW_DAYS else _table_of(path)


def _table_of(path: Path) -> Path:
    return path.parent.parent / "tables" / f"{path.name}.parquet"


def refuse_outdated(path: Path) -> dict[str, Any]:
    """The manifest of a folder whose days have the rows of its table; no file but manifests is read.

    Raises
    ------
    ArtifactCorruptError
        When the days are older than their table.
    """
    manifest = read_sealed(path / DAYS_MANIFEST)
    table = _table_of(path)
    listing = manifest_of(table)
    stated = read_sealed(listing) if listing is not None else {}
    known = {stated.get(key, {}).get(table.name) for key in (FILES, PENDING)}
    if not manifest[FILES] or manifest[TABLE] not in known:
        raise ArtifactCorruptError(
            path,
            f"its days do not have the rows of {table.name}",
            "run `sidkit tables build`; after a change of engine.partitions, `sidkit apply` too",
        )
    return manifest


def parts_within(
    source: str, path: Path, mapping: Mapping[str, str], declared: Mapping[str, pa.DataType] | None, within: Within
) -> SourceParts:
    """Like :meth:`SourceParts.find`, with :func:`files_within` of a source that is partitioned by day."""
    if not is_by_day(path):
        return SourceParts.find(source, path, mapping, declared)
    return replace(SourceParts.of(source, files_within(path, within), mapping, declared or {}), by_day=True)


def moments_within(at_us: pa.Array) -> Within:
    """The range of an array of moments, int64 microseconds UTC; one before all days if there are none."""
    found = pc.min_max(at_us).as_py()
    return NEVER if found["min"] is None else Within(found["min"], found["max"])


def _overlaps(name: str, within: Within) -> bool:
    day = date.fromisoformat(name.split("/", maxsplit=1)[0].removeprefix(f"{COLUMN}="))
    begin_us = (day.toordinal() - _EPOCH) * _DAY_US
    early = within.last_us is not None and begin_us > within.last_us
    late = within.first_us is not None and begin_us + _DAY_US <= within.first_us
    return not (early or late)
