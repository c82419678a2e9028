"""Read the ``items`` table of a source in chunks; invalid rows are counted and skipped. No vectors are required."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from sidkit.contract.reader import ParquetSource, Source, SqlSource
from sidkit.contract.rows import REASON, normalise
from sidkit.contract.schemas import ITEMS, Column, Table
from sidkit.core.config import resolved_url
from sidkit.core.errors import ContractError, MissingTableError, TableSchemaError
from sidkit.core.files import typed_path
from sidkit.core.redact import redacted, scrubbed


class _ParquetItems(ParquetSource):
    """A folder that needs to contain only ``items``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = str(folder)
        self._files(ITEMS.name)

    def rows(self) -> int:
        return sum(pq.read_metadata(file).num_rows for file in self._files(ITEMS.name))


class _SqlItems(SqlSource):
    """A database that needs to contain only ``items``."""

    def __init__(self, url: str) -> None:
        import sqlalchemy as sa

        self.url = url
        try:
            parsed = sa.engine.make_url(url)
            shown = redacted(url)
            if parsed.get_backend_name() == "sqlite" and parsed.database and not Path(parsed.database).exists():
                raise ContractError("source", f"{parsed.database} does not exist; give the path of a SQLite database")
            self.engine = sa.create_engine(url, hide_parameters=True)
            self.metadata = sa.MetaData()
            names = sa.inspect(self.engine).get_table_names()
        except (sa.exc.SQLAlchemyError, ImportError, ValueError) as error:
            raise ContractError(
                "source", f"{redacted(url)} cannot be opened ({scrubbed(error, url)}); check the URL"
            ) from None
        if ITEMS.name not in names:
            raise MissingTableError(
                ITEMS.name,
                f"the database {shown} has no such table; its tables are {', '.join(sorted(names)) or 'none'}",
            )
        self.metadata.reflect(self.engine, only=[ITEMS.name])


class Items:
    """The items of a source.

    Parameters
    ----------
    url : str
        A folder with ``items.parquet`` (or a folder ``items/`` of Parquet files), a SQLAlchemy URL, or ``env:NAME``.

    Raises
    ------
    MissingTableError
        When the table ``items`` is missing.
    TableSchemaError
        When ``item_id`` is missing.
    ContractError
        When the source cannot be opened.
    """

    def __init__(self, url: str) -> None:
        url = resolved_url(url)
        self.folder: Path | None = None
        self.rows: int | None = None
        if "://" in url:
            self.source: Source = _SqlItems(url)
        else:
            self.folder = typed_path(url)
            if not url or not self.folder.is_dir():
                raise ContractError(
                    "source", f"{redacted(url)!r} is not a folder; pass a folder of Parquet files or a SQLAlchemy URL"
                )
            self.source = _ParquetItems(self.folder)
        self.columns = tuple(self.source.columns(ITEMS.name))
        if isinstance(self.source, _ParquetItems):
            self.rows = self.source.rows()
        if "item_id" not in self.columns:
            raise TableSchemaError(ITEMS.name, f"column 'item_id' is missing; the table has {', '.join(self.columns)}")
        self.refused: Counter[str] = Counter()

    @property
    def versioned(self) -> bool:
        """Whether an item can have several rows, one per ``updated_at``."""
        return "updated_at" in self.columns

    def chunks(self, texts: Sequence[str], chunk_rows: int) -> Iterator[pa.Table]:
        """Yield the valid rows.

        Parameters
        ----------
        texts : sequence of str
            Text columns to read.
        chunk_rows : int
            Rows per chunk.

        Yields
        ------
        pyarrow.Table
            ``item_id`` (string), ``updated_at`` (``timestamp[us, UTC]``, only when :attr:`versioned`) and the texts
            (string). Invalid rows are counted in :attr:`refused`, by reason.

        Raises
        ------
        TableSchemaError
            When a column has the wrong type.
        """
        keys = ("item_id", "updated_at") if self.versioned else ("item_id",)
        further = tuple(Column(name, "string") for name in texts if name not in keys)
        table = Table(ITEMS.name, (*(column for column in ITEMS.columns if column.name in keys), *further))
        wanted = [column.name for column in table.columns]
        for batch in self.source.batches(ITEMS.name, wanted, chunk_rows):
            rows = normalise(batch, table)
            broken = rows.column(REASON)
            self.refused.update(broken.drop_null().to_pylist())
            yield rows.filter(pc.is_null(broken)).drop_columns([REASON])
