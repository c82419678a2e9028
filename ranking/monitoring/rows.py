"""The rows that are monitored, and those of the ranker's training beside which they are put."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ranking.data.dataset import LabelledRows, read_rows
from ranking.data.frame_builder import build_dataset
from ranking.data.frame_table import frame_table
from ranking.monitoring.drift import UNMONITORED, MonitoredRows
from ranking.monitoring.scores import RankerScores
from ranking.serving.served_log import ServedRows, log_folder, read_log
from semantic_ids.catalog import Catalog
from semantic_ids.codebook import Codebook
from sidkit.core.arrays import Bools, Ints, one_chunk
from sidkit.core.artifact import read_manifest
from sidkit.core.clock import DAY_US, iso
from sidkit.core.errors import ArtifactMissingError
from sidkit.core.integrity import checked

if TYPE_CHECKING:
    from semantic_ids.records import RankerRecord
    from sidkit.core.repo import Repo

SCORE = "score"
TRAINING_ROWS, VALIDATION_ROWS = 20_000, 10_000
"""Sampled reference rows: training rows for features, validation rows for scores."""


@dataclass(frozen=True)
class Monitored:
    """Rows to monitor.

    Attributes
    ----------
    rows : MonitoredRows
    unknown : bool [rows], optional
        Whether the online store had no row for the item; None if the rows were not served.
    total : int
        How many rows there are, of which ``rows`` may be a sample.
    """

    rows: MonitoredRows
    unknown: Bools | None
    total: int


@dataclass(frozen=True)
class Window:
    """Rows at or after ``since_us`` and before ``until_us`` (microseconds UTC; None: without a limit), or else of the last
    ``days`` days with rows.
    """

    since_us: int | None = None
    until_us: int | None = None
    days: int = 7

    def of(self, at_us: Ints) -> Bools:
        """The rows within, ``bool [rows]``."""
        within = np.ones(len(at_us), dtype=np.bool_)
        if self.until_us is not None:
            within &= at_us < self.until_us
        since_us = self.since_us
        if since_us is None:
            days = np.unique(at_us[within] // DAY_US)[-self.days :]
            since_us = int(days[0]) * DAY_US if len(days) else 0
        return within & (at_us >= since_us)


def served(repo: Repo, ranker: str, window: Window, most: int, seed: int) -> Monitored:
    """Rows of the served log.

    Raises
    ------
    ArtifactMissingError
        When there are none.
    """
    folder = log_folder(repo)
    times, _ = read_log(folder, until_us=window.until_us, ranker=ranker, columns=("event_timestamp",))
    at_us = np.concatenate([part.at_us for part in times]) if times else np.zeros(0, np.int64)
    within = at_us[window.of(at_us)]
    if not len(within):
        raise ArtifactMissingError(
            f"expected rows of ranker {ranker} in the served log {folder}{_stated(window)}, got none; serve with `sidkit serve "
            "--log-sample 0.01`, or monitor the labelled rows after the ranker's training (--source rows)"
        )
    first, last = int(within.min()), int(within.max()) + 1
    parts, total = read_log(folder, since_us=first, until_us=last, ranker=ranker, most=most, seed=seed)
    tables = [_monitored_columns(part) for part in parts]
    keys = [part.table.select(["request_id", "event_timestamp", "user_id", "item_known"]) for part in parts]
    table, key = pa.concat_tables(tables, promote_options="default"), pa.concat_tables(keys)
    at = key.column("event_timestamp").cast(pa.int64()).to_numpy()
    unknown = ~one_chunk(key.column("item_known")).to_numpy(zero_copy_only=False)
    # A request of the inference protocol may have several users.
    request = _numbered(key.column("request_id"), key.column("user_id"))
    return Monitored(MonitoredRows(table, at, request), unknown, total)


def _monitored_columns(part: ServedRows) -> pa.Table:
    return part.table.select([*(name for name in part.features if name not in UNMONITORED), SCORE])


def _stated(window: Window) -> str:
    since = "" if window.since_us is None else f" since {iso(window.since_us)}"
    return since + ("" if window.until_us is None else f" until {iso(window.until_us)}")


def _numbered(*columns: pa.ChunkedArray) -> Ints:
    """A number per row, the same for rows that are equal in all columns."""
    frame = pd.DataFrame({str(at): column.to_pandas() for at, column in enumerate(columns)})
    numbers: Ints = frame.groupby(list(frame.columns), sort=False).ngroup().to_numpy(np.int64)
    return numbers


def _rows_at(path: Path, index: Ints) -> pa.Table:
    """Rows of a Parquet file by their ascending numbers; one row group is in memory at a time."""
    parts, first = [], 0
    with pq.ParquetFile(path) as file:
        for number in range(file.num_row_groups):
            end = first + file.metadata.row_group(number).num_rows
            wanted = index[np.searchsorted(index, first) : np.searchsorted(index, end)]
            if len(wanted):
                parts.append(file.read_row_group(number).take(pa.array(wanted - first)))
            first = end
    return pa.concat_tables(parts)


class TrainingRows:
    """The labelled rows of a repository as a ranker sees them, with features as of their times and the ranker's scores.

    Parameters
    ----------
    repo : Repo
    record : RankerRecord
        The ranker.

    Raises
    ------
    ArtifactMissingError
        When the repository has no labelled rows.
    """

    def __init__(self, repo: Repo, record: RankerRecord) -> None:
        if not repo.labelled_rows.is_file():
            raise ArtifactMissingError(
                f"expected labelled rows in {repo.labelled_rows}, with which served rows are compared, got no such file; run "
                "`sidkit tables rows`"
            )
        self._repo = repo
        self._record = record
        self._score = RankerScores(repo, record.name, record.content_hash)
        self._path = checked(repo.labelled_rows)
        self._at_us = pq.read_table(self._path, columns=["event_timestamp"]).column(0).cast(pa.int64()).to_numpy()

    @cached_property
    def _codebook(self) -> Codebook:
        return Codebook.load(self._repo.codebooks / Catalog.open(self._repo).codebook(self._record.codebook).name)

    def reference(self, seed: int) -> tuple[MonitoredRows, MonitoredRows]:
        """Samples of the training rows and of the validation rows.

        Raises
        ------
        ArtifactMissingError
            When either has no rows.
        """
        manifest = read_manifest(self._repo.rankers / self._record.name)
        at_us, shares = self._at_us, self._repo.settings.split
        before = np.sort(at_us[at_us < self._record.fit_end_us])
        share = shares.train / (shares.train + shares.validation)
        cut_us = int(before[int(len(before) * share)]) if len(before) else 0
        seen = (at_us >= int(manifest.get("fit_start_us", 0))) & (at_us < self._record.fit_end_us)
        parts = np.flatnonzero(seen & (at_us < cut_us)), np.flatnonzero(seen & (at_us >= cut_us))
        if not all(map(len, parts)):
            raise ArtifactMissingError(
                f"expected labelled rows before {iso(self._record.fit_end_us)}, on which ranker {self._record.name} was "
                f"trained, in {self._repo.labelled_rows}, got {len(before):,}; ingest the log of that time, and run `sidkit "
                "tables rows`"
            )
        first, second = (
            self._sampled(part, most, seed) for part, most in zip(parts, (TRAINING_ROWS, VALIDATION_ROWS), strict=True)
        )
        return first, second

    def later(self, window: Window, most: int, seed: int) -> Monitored:
        """A sample of the rows after the ranker's training.

        Raises
        ------
        ArtifactMissingError
            When there are none.
        """
        later = np.flatnonzero(self._at_us >= self._record.fit_end_us)
        within = later[window.of(self._at_us[later])]
        if not len(within):
            raise ArtifactMissingError(
                f"expected labelled rows after {iso(self._record.fit_end_us)}, the end of the training of ranker "
                f"{self._record.name},{_stated(window)} got none; ingest later events, and run `sidkit tables build` and "
                "`sidkit tables rows`"
            )
        return Monitored(self._sampled(within, most, seed), None, len(within))

    def _sampled(self, index: Ints, most: int, seed: int) -> MonitoredRows:
        if len(index) > most:
            index = np.sort(np.random.default_rng(seed).choice(index, most, replace=False))
        context = self._score.ranker.config.schema.context
        return self._frame(read_rows(_rows_at(self._path, index), context=context))

    def _frame(self, rows: LabelledRows) -> MonitoredRows:
        from sidkit.stores.feast_repo import open_store

        ranker = self._score.ranker
        config = ranker.config
        data = build_dataset(
            open_store(self._repo),
            self._record.service,
            self._codebook,
            rows,
            rate=ranker.smoothing_rate,
            history_length=config.history_length,
            schema=config.schema,
            vectors=config.vectors,
        )
        table = frame_table(data)
        kept = table.select([name for name in table.column_names if name not in UNMONITORED])
        scored = kept.append_column(SCORE, pa.array(self._score(data), pa.float64()))
        request = _numbered(pa.chunked_array([rows.user_ids.tolist()], pa.string()), pa.chunked_array([rows.at_us]))
        return MonitoredRows(scored, rows.at_us, request)
