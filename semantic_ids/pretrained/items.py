"""Read the ``items`` table of a source in chunks; invalid rows are counted and skipped. No vectors are required."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from semantic_ids.pretrained.attributes import LISTED
from sidkit.contract import open_source, stated_settings
from sidkit.contract.rows import REASON, is_list, normalise
from sidkit.contract.schemas import ITEMS, Column, Table
from sidkit.core.config import SourceSettings
from sidkit.core.errors import TableSchemaError


class Items:
    """The items of a source.

    Parameters
    ----------
    url : str
        A folder with the table ``items``, a SQLAlchemy URL, or ``env:NAME``.
    settings : SourceSettings, optional
        How the source is read; default: :func:`sidkit.contract.stated_settings`.

    Raises
    ------
    MissingTableError
        When the table ``items`` is missing.
    TableSchemaError
        When ``item_id`` is missing.
    ContractError
        When the source cannot be opened.
    """

    def __init__(self, url: str, settings: SourceSettings | None = None) -> None:
        self.source = open_source(url, settings or stated_settings(url), required=(ITEMS.name,))
        self.folder = self.source.folder
        self.columns = tuple(self.source.columns(ITEMS.name))
        self.rows = self.source.rows(ITEMS.name)
        if "item_id" not in self.columns:
            raise TableSchemaError(ITEMS.name, f"column 'item_id' is missing; the table has {', '.join(self.columns)}")
        self.refused: Counter[str] = Counter()

    @property
    def versioned(self) -> bool:
        """Whether an item can have several rows, one per ``updated_at``."""
        return "updated_at" in self.columns

    def chunks(self, texts: Sequence[str], chunk_rows: int, loose: Collection[str] = ()) -> Iterator[pa.Table]:
        """Yield the valid rows.

        Parameters
        ----------
        texts : sequence of str
            Text columns to read.
        chunk_rows : int
            Rows per chunk.
        loose : collection of str
            Those of the columns that need not be texts: their values become texts, and lists the texts of their elements,
            separated by :data:`semantic_ids.pretrained.attributes.LISTED`.

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
            rows = normalise(_with_texts(batch, loose) if loose else batch, table)
            broken = rows.column(REASON)
            self.refused.update(broken.drop_null().to_pylist())
            yield rows.filter(pc.is_null(broken)).drop_columns([REASON])


def _with_texts(batch: pa.RecordBatch, loose: Collection[str]) -> pa.RecordBatch:
    """The batch with some columns as texts, and its metadata, which the reader of rows needs."""
    columns = [
        as_text(column) if name in loose else column
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    ]
    fields = [
        pa.field(field.name, column.type, metadata=field.metadata)
        for field, column in zip(batch.schema, columns, strict=True)
    ]
    return pa.record_batch(columns, schema=pa.schema(fields, batch.schema.metadata))


def as_text(array: pa.Array) -> pa.Array:
    """Values of any plain type as texts, null where they are missing; a list as the texts of its elements.

    Raises
    ------
    TableSchemaError
        When the values are structures or lists of lists.
    """
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_string(array.type) or pa.types.is_null(array.type):
        return array
    try:
        if is_list(array.type):
            lists = array.cast(pa.list_(pa.string())).to_pylist()
            joined = [each if each is None else LISTED.join(one for one in each if one is not None) for each in lists]
            return pa.array(joined, pa.string())
        return array.cast(pa.string())
    except pa.ArrowException as error:
        raise TableSchemaError(
            ITEMS.name,
            f"expected attributes of texts, numbers, flags, or lists of them, got {array.type}; name other columns",
        ) from error
