"""Base class of the adapters for published data sets: files of a local folder become the tables of the input contract.

An adapter states its tables as SQL over the published files; DuckDB streams the files in chunks, so memory does not grow
with the number of rows. Nothing is downloaded.
"""

from __future__ import annotations

import json
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

import duckdb
import pyarrow.parquet as pq

from sidkit.contract.schemas import EMBEDDINGS, INTERACTIONS, ITEMS
from sidkit.core.config import EngineSettings
from sidkit.core.engine import GROUP_ROWS, WIDE_GROUP_ROWS, connection, into, literal, working_on
from sidkit.core.errors import ConfigError, ContractError, SidkitWarning
from sidkit.core.files import remove, typed_path
from sidkit.datasets.base import GeneratedDataset

USERS = "users"
"""Name of the table of user attributes."""
_DESCRIBED = ".described.parquet"
_UNSEEN = "an item without a date that appears in no interaction"
_SPILL = ".spill"


class PublishedDataset(GeneratedDataset):
    """A data set that others publish, read from a local folder with the files as published.

    Items without a date of their own are dated by the first interaction in which they appear. Items that have neither cannot
    be dated; they are left out, with a warning that counts them.

    Parameters
    ----------
    variant : str
        Folder of the published files.

    Raises
    ------
    ConfigError
        When no folder is given, or it does not exist.
    """

    name: ClassVar[str]
    """Name of the data set in ``--data``."""
    modalities: tuple[str, ...] = ()

    def __init__(self, variant: str = "") -> None:
        super().__init__(variant)
        if not variant:
            raise ConfigError(
                f"expected the folder of the published files after {self.name}:, got none; write it as {self.name}:PATH"
            )
        self.folder = typed_path(variant)
        if not self.folder.exists():
            raise ConfigError(
                f"expected a folder with the published files of {self.name}, got {self.folder}, which does not exist; "
                "download and unpack the data set, and correct the path"
            )

    @abstractmethod
    def interactions(self) -> str:
        """SQL query for the table ``interactions``."""

    @abstractmethod
    def items(self) -> str:
        """SQL query for the described items: ``item_id``, ``published_at`` (TIMESTAMPTZ, may be null) and attributes.

        Of several rows of an item, the first one is used.
        """

    def users(self) -> str | None:
        """SQL query for the table ``users``: one row per ``user_id``; None if the data set describes no users."""
        return None

    def embeddings(self) -> str | None:
        """SQL query for the table ``item_embeddings``; None if the data set has no vectors.

        It may read ``dated``, the items that were written (``item_id``).
        """
        return None

    def appearances(self, interactions: Path) -> str:
        """SQL query for ``item_id`` and ``seen_at``, the first time at which an item appears in the log."""
        return (
            f"SELECT item_id, min(timestamp) AS seen_at FROM read_parquet({literal(interactions)}) "
            "WHERE item_id IS NOT NULL AND timestamp IS NOT NULL GROUP BY item_id"
        )

    def left_out(self, opened: duckdb.DuckDBPyConnection, interactions: Path) -> dict[str, int]:
        """Number of published rows that are in none of the tables, by what they are; ``interactions`` is the written file."""
        return {}

    def fingerprint(self) -> str:
        """Names, sizes and modification times of the published files."""
        files = [self.folder] if self.folder.is_file() else sorted(self.folder.rglob("*"))
        facts = [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files if file.is_file()]
        return json.dumps(facts)

    def write(self, folder: Path, impressions: int) -> int:
        """Write the tables; see :meth:`sidkit.datasets.base.GeneratedDataset.write`. The size is that of the files.

        Raises
        ------
        MissingTableError
            When a published file is missing.
        TableSchemaError
            When a published file lacks a column.
        ContractError
            When a published file cannot be read.
        MemoryLimitError
            When DuckDB needs more than its memory limit.
        """
        log = folder / f"{INTERACTIONS.name}.parquet"
        try:
            with connection(EngineSettings(), folder / _SPILL) as opened:
                opened.execute(
                    "SET preserve_insertion_order = true"
                )  # the last of two rows of an event is the valid one
                with self._converting(INTERACTIONS.name):
                    rows = _copy(opened, self.interactions(), log)
                with self._converting(ITEMS.name):
                    undated = self._write_items(opened, folder, log)
                for name, query in ((USERS, self.users()), (EMBEDDINGS.name, self.embeddings())):
                    if query is not None:
                        with self._converting(name):
                            _copy(opened, query, folder / f"{name}.parquet")
                left_out = {_UNSEEN: undated, **self.left_out(opened, log)}
        finally:
            remove(folder / _SPILL)
            remove(folder / _DESCRIBED)
        for what, count in left_out.items():
            if count:
                warnings.warn(f"{self.name}: left out {count:,} x {what}", SidkitWarning, stacklevel=2)
        return rows

    def _write_items(self, opened: duckdb.DuckDBPyConnection, folder: Path, log: Path) -> int:
        """Write the dated items; return the number of items without a date.

        Rows with long texts are only streamed: what is joined and sorted is their number in the file.
        """
        temporary, path = folder / _DESCRIBED, folder / f"{ITEMS.name}.parquet"
        _copy(opened, self.items(), temporary, WIDE_GROUP_ROWS)
        described = f"read_parquet({literal(temporary)}, file_row_number = true)"
        opened.execute(f"CREATE TEMP TABLE seen AS {self.appearances(log)}")
        opened.execute(
            f"""CREATE TEMP TABLE dated AS
                SELECT coalesce(first.item_id, seen.item_id) AS item_id, least(published_at, seen_at) AS created_at, number
                FROM (SELECT item_id, arg_min(published_at, file_row_number) AS published_at, min(file_row_number) AS number
                      FROM {described} GROUP BY item_id) AS first
                FULL JOIN seen ON seen.item_id = first.item_id"""
        )
        opened.execute("DROP TABLE seen")
        _copy(
            opened,
            f"""SELECT described.item_id, created_at, described.* EXCLUDE (item_id, published_at, file_row_number)
                FROM {described} AS described JOIN dated ON number = file_row_number WHERE created_at IS NOT NULL
                UNION ALL BY NAME SELECT item_id, created_at FROM dated WHERE number IS NULL""",
            path,
            WIDE_GROUP_ROWS,
        )
        undated = opened.execute("DELETE FROM dated WHERE created_at IS NULL").fetchone()
        return int(undated[0]) if undated else 0

    @contextmanager
    def _converting(self, table: str) -> Iterator[None]:
        with working_on(f"converting {table} of {self.name}"):
            try:
                yield
            except duckdb.OutOfMemoryException:
                raise
            except (duckdb.InvalidInputException, duckdb.ConversionException, duckdb.IOException) as error:
                reason = str(error).splitlines()[0]
                raise ContractError(
                    table,
                    f"{self.folder} cannot be read as published ({reason}); download and unpack the data set again",
                ) from error


def copies(opened: duckdb.DuckDBPyConnection, published: str, interactions: Path) -> int:
    """Number of rows of a query for published interactions that were merged into others of ``interactions``."""
    row = opened.execute(f"SELECT count(*) FROM ({published})").fetchone()
    return (int(row[0]) if row else 0) - int(pq.read_metadata(interactions).num_rows)


def _copy(opened: duckdb.DuckDBPyConnection, query: str, path: Path, row_group: int = GROUP_ROWS) -> int:
    row = opened.execute(f"COPY ({query}) {into(path, rows=row_group)}").fetchone()
    return int(row[0]) if row else 0
