"""Point-in-time datasets: labelled rows with their features as arrays.

Items and histories are stored once: a row holds the index of its candidate in the item table and of its history in the
history table, and batches look them up. Memory grows with distinct items and histories, not with impressions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ranking.data.coded import Coded, Codes32
from ranking.data.decoded import DECODED_VECTORS, VectorsOf
from ranking.data.feature_views import string_array
from ranking.data.item_table import ItemTable, shown_items
from ranking.data.numeric_features import model_features, numeric_columns
from ranking.data.schema import BUILT_IN, ExtraFeature, FeatureSchema
from ranking.data.targets import CLICKED, CONVERTED, Target
from sidkit.contract.row_files import checked_rows
from sidkit.contract.schemas import LABELLED_ROWS
from sidkit.core.arrays import Codes, Floats, Ints, one_chunk
from sidkit.core.errors import ContractError, EvaluationError
from sidkit.core.integrity import checked


@dataclass(frozen=True)
class LabelledRows:
    """Labelled impressions: ``user_ids`` and ``item_ids`` object, ``at_us`` int64 microseconds UTC, ``label`` int8 (0 or 1),
    and optionally ``request_ids``, whether the user ``had_before`` the item, whether a row is a ``sampled`` negative,
    ``clicked`` int8 if the label is not the click, and ``context``, further columns by name as Arrow arrays.
    """

    user_ids: npt.NDArray[np.object_]
    item_ids: npt.NDArray[np.object_]
    at_us: Ints
    label: npt.NDArray[np.int8]
    request_ids: npt.NDArray[np.object_] | None = None
    had_before: npt.NDArray[np.bool_] | None = None
    sampled: npt.NDArray[np.bool_] | None = None
    clicked: npt.NDArray[np.int8] | None = None
    context: Mapping[str, pa.Array] | None = None

    def __len__(self) -> int:
        return len(self.at_us)

    @property
    def click_rate(self) -> float:
        """The share of clicked rows."""
        return float((self.label if self.clicked is None else self.clicked).mean())

    def take(self, index: Ints) -> LabelledRows:
        """Select rows by index."""
        columns = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "context"}
        taken = {name: column[index] for name, column in columns.items() if column is not None}
        if self.context is not None:
            taken["context"] = {name: column.take(pa.array(index)) for name, column in self.context.items()}
        return replace(self, **taken)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Concatenate the rows of several parts; a column missing from any part is None."""

        def concatenated(name: str) -> Any:
            columns = [getattr(part, name) for part in parts]
            return None if any(column is None for column in columns) else np.concatenate(columns)

        joined = {each.name: concatenated(each.name) for each in fields(cls) if each.name != "context"}
        contexts = [part.context for part in parts]
        if all(context is not None for context in contexts):
            joined["context"] = {
                name: pa.concat_arrays([context[name] for context in contexts if context is not None])
                for name in contexts[0] or ()
            }
        return cls(**joined)


@dataclass(frozen=True)
class Dataset:
    """Labelled rows with their features as arrays; training, validation, test and served rows alike.

    ``numeric`` float32 [rows, columns], raw counts and unscaled values
    (:func:`ranking.data.numeric_features.numeric_columns` names the columns); ``candidate`` int32 [rows], indices into
    ``items``; ``history`` int32 [rows], indices into ``history_items`` int32 [histories, length] (indices into ``items``,
    newest first, 0 is padding) and ``history_us`` int64 [histories, length] (microseconds UTC, 0 is padding). History 0 is
    empty. ``schema`` lists the features besides the built-in ones; ``coded`` holds those that are looked up in tables and do
    not belong to items (None without any).
    """

    rows: LabelledRows
    numeric: Floats
    candidate: npt.NDArray[np.int32]
    history: npt.NDArray[np.int32]
    history_items: npt.NDArray[np.int32]
    history_us: Ints
    items: ItemTable
    schema: FeatureSchema = BUILT_IN
    coded: Coded | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: Ints) -> Dataset:
        """Select rows by index; the item and history tables are shared."""
        return replace(
            self,
            rows=self.rows.take(index),
            numeric=self.numeric[index],
            candidate=self.candidate[index],
            history=self.history[index],
            coded=self.coded.take(index) if self.coded is not None else None,
        )

    def with_own_tables(self) -> Dataset:
        """The same rows with tables of their items and histories alone, in the same order."""
        histories, history = np.unique(np.append(0, self.history), return_inverse=True)
        listed = self.history_items[histories]
        used = np.concatenate([[0], self.candidate, listed.ravel()])
        items, place = np.unique(used, return_inverse=True)
        candidate, of_history = np.split(place[1:].astype(np.int32), [len(self)])
        return replace(
            self,
            candidate=candidate,
            history=history[1:].astype(np.int32),
            history_items=of_history.reshape(listed.shape),
            history_us=self.history_us[histories],
            items=self.items.take(items),
        )

    def narrowed(self, schema: FeatureSchema) -> Dataset:
        """The same rows with some of the extra features.

        Raises
        ------
        EvaluationError
            When the schema has a feature that this dataset lacks.
        """
        if schema == self.schema:
            return self
        missing = [name for name in schema.names if name not in self.schema.names]
        if missing:
            raise EvaluationError(
                f"expected a dataset with the features {', '.join(missing)}, got one without; build it with the ranker's "
                "schema: build_dataset(..., schema=ranker.config.schema)"
            )
        return replace(
            self,
            schema=schema,
            numeric=self.numeric[:, number_places(self.schema, schema)],
            items=narrowed_items(self.items, self.schema, schema),
            coded=narrowed_rows(self.coded, self.schema, schema),
        )

    def with_vectors(self, vectors: VectorsOf, decode: Callable[[Codes], Floats]) -> Dataset:
        """The same rows with the item vectors that a ranker reads.

        Parameters
        ----------
        vectors : str
            ``"content"`` or ``"decoded"``.
        decode : callable
            See :meth:`ranking.data.item_table.ItemTable.decoded`.
        """
        if vectors != DECODED_VECTORS or self.items.vectors == vectors:
            return self
        return replace(self, items=self.items.decoded(decode))

    def refuse_other_vectors(self, vectors: VectorsOf) -> None:
        """Check that the item vectors are those that a ranker reads.

        Raises
        ------
        EvaluationError
            When they are others.
        """
        if self.items.vectors != vectors:
            raise EvaluationError(
                f'expected a dataset with vectors="{vectors}", as the ranker was trained on, got "{self.items.vectors}"; build '
                "it with the ranker's vectors: build_dataset(..., vectors=ranker.config.vectors)"
            )

    @property
    def click_rate(self) -> float:
        """The share of clicked rows."""
        return self.rows.click_rate

    @property
    def first_us(self) -> int:
        """The earliest row's time, microseconds UTC."""
        return int(self.rows.at_us.min())

    def shown(self) -> tuple[Ints, Ints]:
        """See :func:`ranking.data.item_table.shown_items`."""
        return shown_items(self.candidate, self.rows.at_us, len(self.items))

    @property
    def features(self) -> Floats:
        """The model's features of ``numeric``, unscaled; see :func:`ranking.data.numeric_features.model_features`."""
        return model_features(self.numeric, self.schema)

    def feature_chunks(self) -> Iterator[Floats]:
        """The features of all rows in one chunk; see :class:`ranking.data.disk_dataset.DiskDataset`."""
        yield self.features

    @property
    def row_values(self) -> tuple[pa.Array, ...]:
        """The values of the coded features of rows; empty without any."""
        return self.coded.values if self.coded is not None else ()

    def coded_columns(self) -> Iterator[tuple[ExtraFeature, pa.Array, Codes32]]:
        """Every coded feature of a model with its values and the code of each row, ``int32 [rows]``: items' first."""
        attributes = self.items.attributes
        if attributes is not None:
            codes = attributes.codes[self.candidate].T
            yield from zip(self.schema.item_coded, attributes.values, codes, strict=True)
        if self.coded is not None:
            yield from zip(self.schema.row_coded, self.coded.values, self.coded.codes.T, strict=True)

    def row_code_counts(self) -> list[Ints]:
        """How many rows have each value of the coded features of rows, ``int64 [values]`` per feature."""
        if self.coded is None:
            return []
        return code_counts(self.coded.codes, self.coded.values)


def code_counts(codes: Codes32, values: Sequence[pa.Array]) -> list[Ints]:
    """Occurrences of each value, ``int64 [values]`` per feature."""
    return [np.bincount(column, minlength=len(each)) for column, each in zip(codes.T, values, strict=True)]


def number_places(before: FeatureSchema, after: FeatureSchema) -> list[int]:
    """Indices of the numeric columns of a narrower schema."""
    built_in = len(numeric_columns())
    place = {each.name: built_in + at for at, each in enumerate(before.numbers)}
    return [*range(built_in), *(place[each.name] for each in after.numbers)]


def narrowed_items(items: ItemTable, before: FeatureSchema, after: FeatureSchema) -> ItemTable:
    """Item versions with the coded features of a narrower schema."""
    if items.attributes is None:
        return items
    kept = [before.item_coded.index(each) for each in after.item_coded]
    return replace(items, attributes=items.attributes.select(kept) if kept else None)


def narrowed_rows(coded: Coded | None, before: FeatureSchema, after: FeatureSchema) -> Coded | None:
    """Coded features of rows of a narrower schema."""
    kept = [before.row_coded.index(each) for each in after.row_coded]
    return coded.select(kept) if coded is not None and kept else None


def read_rows(
    path: Path | pa.Table, *, target: Target = CLICKED, may_be_empty: bool = False, context: Sequence[str] = ()
) -> LabelledRows:
    """Read and validate labelled rows from a Parquet file or an Arrow table.

    Columns ``user_id``, ``item_id`` (text or integers), ``event_timestamp`` (with a time zone) and ``label`` (0 or 1), all
    without nulls; optionally ``request_id``, ``had_before``, ``sampled`` and ``converted``. With the target ``converted``, the
    label is the conversion: a row without a click has none, and clicked rows whose conversion is unknown (null) are left out.
    Columns named in ``context`` are read as they are.

    Raises
    ------
    ContractError
        When a column is missing or has the wrong type, or any row is invalid; when the target is ``converted`` and there is no
        such column.
    """
    table = checked_rows(
        path if isinstance(path, pa.Table) else checked(path), LABELLED_ROWS, may_be_empty=may_be_empty
    )
    if context:
        table = _with_context(table, path, context)
    if target == CONVERTED:
        table = _with_known_conversion(table)
    requests = table.column("request_id") if "request_id" in table.column_names else None
    click = table.column("label").to_numpy().astype(np.int8)
    return LabelledRows(
        string_array(table.column("user_id")),
        string_array(table.column("item_id")),
        table.column("event_timestamp").cast(pa.int64()).to_numpy(),
        _flags(table.column("converted")).astype(np.int8) if target == CONVERTED else click,
        string_array(requests) if requests is not None and requests.null_count < len(table) else None,
        _flags(table.column("had_before")) if "had_before" in table.column_names else None,
        _flags(table.column("sampled")) if "sampled" in table.column_names else None,
        click if target == CONVERTED else None,
        {name: one_chunk(table.column(f"context__{name}")) for name in context} if context else None,
    )


def _with_known_conversion(table: pa.Table) -> pa.Table:
    if "converted" not in table.column_names:
        raise ContractError(
            "rows",
            'expected a column converted (0 or 1) for the target "converted", got none; write the rows of a log with '
            "conversions (`sidkit tables rows`), or add the column",
        )
    unknown = pc.and_(pc.equal(table.column("label"), 1), pc.is_null(table.column("converted")))
    return table.filter(pc.invert(unknown))


def _flags(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """A column of 0 and 1 as booleans; null is false."""
    flags: npt.NDArray[np.bool_] = column.fill_null(0.0).to_numpy() == 1
    return flags


def _with_context(table: pa.Table, path: Path | pa.Table, context: Sequence[str]) -> pa.Table:
    """Append further columns of the source, in the same row order."""
    held = path.column_names if isinstance(path, pa.Table) else pq.read_schema(path).names
    missing = [name for name in context if name not in held]
    if missing:
        raise ContractError(
            "rows",
            f"expected the context columns {', '.join(context)}, which are features of the ranker, got none for "
            f"{', '.join(missing)}; add them",
        )
    further = path.select(list(context)) if isinstance(path, pa.Table) else pq.read_table(path, columns=list(context))
    for name in context:
        table = table.append_column(f"context__{name}", further.column(name))
    return table
