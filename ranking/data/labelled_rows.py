"""Read, thin and shuffle the labelled rows of a time window, within a memory limit.

DuckDB does the work; :mod:`sidkit.datasets.user_sample` selects the users.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from ranking.data.dataset import LabelledRows, read_rows
from ranking.data.feature_views import string_array
from ranking.data.targets import CLICKED, CONVERTED, Target
from sidkit.core.arrays import Ints
from sidkit.core.config import EngineSettings
from sidkit.core.engine import connection, into, literal
from sidkit.core.files import written_beside
from sidkit.core.integrity import checked
from sidkit.datasets.user_sample import kept_users

FAR = 2**62
"""A time after all others, microseconds."""


def read_moments(path: Path) -> Ints:
    """The times of all rows of a file, ``int64 [rows]`` microseconds UTC."""
    moments = pq.read_table(checked(path), columns=["event_timestamp"]).column("event_timestamp")
    at_us: Ints = moments.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy()
    return at_us


def count_before(path: Path, until_us: int) -> int:
    """Number of rows of a file before a time (microseconds UTC)."""
    return int((read_moments(path) < until_us).sum())


@dataclass(frozen=True)
class Window:
    """The half-open time window from ``from_us`` to ``until_us`` (microseconds UTC)."""

    from_us: int = -FAR
    until_us: int = FAR


@dataclass(frozen=True)
class RowsFile:
    """Labelled rows on disk.

    Parameters
    ----------
    path : Path
        ``rows.parquet``.
    engine : EngineSettings
        Limits of DuckDB.
    spill : Path
        Folder for DuckDB's spill files.
    target : str
        What :meth:`read` returns as the label; rows whose label is unknown are left out everywhere.
    context : tuple of str
        Further columns that :meth:`read` returns.
    """

    path: Path
    engine: EngineSettings
    spill: Path
    target: Target = CLICKED
    context: tuple[str, ...] = ()

    def classes(self, window: Window) -> tuple[int, int]:
        """Number of positives and number of rows of a window."""
        with connection(self.engine, self.spill) as opened:
            return self._classes(opened, window)

    def read(self, window: Window, most: int | None) -> LabelledRows:
        """Read the rows of a window in file order, thinned by user to about ``most`` (None: all)."""
        with connection(self.engine, self.spill) as opened:
            table = opened.execute(f"SELECT * EXCLUDE (row) FROM ({self._sampled(opened, window, most)}) ORDER BY row")
            read = table.to_arrow_table()
            return read_rows(read, target=self.target, may_be_empty=True, context=self.context)

    def shuffle(self, window: Window, most: int | None, out: Path) -> None:
        """Write the rows of a window, thinned by user to about ``most`` (None: all), ordered by a hash of their request.

        A request is a user at a point in time: its rows share a history and stay together, while requests of all times are
        mixed. The order is deterministic.
        """
        with connection(self.engine, self.spill) as opened, written_beside(out) as temporary:
            opened.execute(f"""
                COPY (
                    SELECT * EXCLUDE (row) FROM ({self._sampled(opened, window, most)})
                    ORDER BY md5_number(user_id || '@' || epoch_us(event_timestamp)::VARCHAR), row
                ) {into(temporary)}
            """)

    def _classes(self, opened: duckdb.DuckDBPyConnection, window: Window) -> tuple[int, int]:
        label = "converted" if self.target == CONVERTED else "label"
        counted = opened.execute(
            f"SELECT count(*) FILTER ({label} = 1), count(*) FROM ({self._within(window)})"
        ).fetchone()
        positives, rows = counted or (0, 0)
        return int(positives), int(rows)

    def _sampled(self, opened: duckdb.DuckDBPyConnection, window: Window, most: int | None) -> str:
        """SQL for the rows of a window that belong to the sample of users, with their number ``row``."""
        within = self._within(window)
        rows = self._classes(opened, window)[1]
        if most is None or rows <= most:
            return within
        users = opened.execute(f"SELECT DISTINCT user_id FROM ({within})").to_arrow_table().column("user_id")
        sampled = users.filter(pa.array(kept_users(string_array(users), most / rows)))
        opened.register("sampled_users", pa.table({"user_id": sampled}))
        return f"SELECT * FROM ({within}) WHERE user_id IN (SELECT user_id FROM sampled_users)"

    def _within(self, window: Window) -> str:
        known = "NOT (label = 1 AND converted IS NULL)" if self.target == CONVERTED else "true"
        return f"""
            SELECT * EXCLUDE (file_row_number), file_row_number AS row
            FROM read_parquet({literal(self.path)}, file_row_number = true)
            WHERE epoch_us(event_timestamp) >= {window.from_us} AND epoch_us(event_timestamp) < {window.until_us}
                AND {known}
        """


def click_share(path: Path) -> float:
    """The share of clicked rows in a file."""
    positives = rows = 0
    with pq.ParquetFile(path) as opened:
        for batch in opened.iter_batches(columns=["label"]):
            label = batch.column("label").to_numpy(zero_copy_only=False)
            positives, rows = positives + int((label == 1).sum()), rows + len(label)
    return positives / rows


def row_chunks(
    path: Path, rows: int, target: Target = CLICKED, context: tuple[str, ...] = ()
) -> Iterator[LabelledRows]:
    """Read a file in chunks of at most ``rows`` rows."""
    waiting: list[pa.Table] = []
    count = 0
    with pq.ParquetFile(path) as opened:
        for batch in opened.iter_batches(rows):
            waiting.append(pa.Table.from_batches([batch]))
            count += len(batch)
            if count >= rows:
                whole = pa.concat_tables(waiting)
                yield read_rows(whole.slice(0, rows), target=target, context=context)
                waiting, count = [whole.slice(rows)], count - rows
    if count:
        yield read_rows(pa.concat_tables(waiting), target=target, context=context)
