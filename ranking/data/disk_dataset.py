"""A training set on disk: rows in the row groups of a Parquet file, distinct items and histories in memory.

Every numeric column is stored under its name. Files of older releases contain the model's features instead; reading
converts them back. Each row group contains rows of all times (see :mod:`ranking.data.labelled_rows`), so a few groups are a
representative sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ranking.data.coded import Coded, Codes32
from ranking.data.dataset import Dataset, LabelledRows, narrowed_items, narrowed_rows
from ranking.data.feature_views import string_array
from ranking.data.frame_rows import FrameRows, row_codes
from ranking.data.item_table import ItemTable, shown_items
from ranking.data.numeric_features import feature_names, model_features, numeric_columns, undo_model_features
from ranking.data.schema import BUILT_IN, FeatureSchema
from sidkit.core.arrays import Floats, Ints
from sidkit.datasets.user_sample import kept_users

GROUP_ROWS = 50_000
"""Rows per row group, which is read as a whole."""

_NARROW = ("candidate", "history", "at_us", "label")


class DiskDatasetWriter:
    """Writes the rows of a :class:`DiskDataset` in several calls.

    Parameters
    ----------
    path : Path
        The Parquet file.
    group_rows : int
        Rows per row group; added parts should have a multiple of it.
    """

    def __init__(self, path: Path, group_rows: int = GROUP_ROWS) -> None:
        self._path = path
        self._group_rows = group_rows
        self._writer: pq.ParquetWriter | None = None

    def add(self, part: FrameRows) -> None:
        """Append rows, which refer to items and histories by index."""
        rows = part.rows
        columns = {
            "user_id": pa.array(rows.user_ids, pa.string()),
            "candidate": pa.array(part.candidate),
            "history": pa.array(part.history),
            "at_us": pa.array(rows.at_us),
            "label": pa.array(rows.label),
        }
        for name, values in (("had_before", rows.had_before), ("clicked", rows.clicked)):
            if values is not None:
                columns[name] = pa.array(values)
        numeric = zip(numeric_columns(part.schema), part.numeric.T, strict=True)
        columns |= {name: pa.array(np.ascontiguousarray(values)) for name, values in numeric}
        coded = zip(part.schema.row_coded, row_codes(part).T, strict=True)
        columns |= {each.name: pa.array(np.ascontiguousarray(codes)) for each, codes in coded}
        table = pa.table(columns)
        self._writer = self._writer or pq.ParquetWriter(self._path, table.schema, compression="zstd")
        self._writer.write_table(table, self._group_rows)

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()


@dataclass(frozen=True)
class DiskDataset:
    """Like :class:`ranking.data.dataset.Dataset`, with the rows on disk.

    Parameters
    ----------
    path : Path
        A file written by :class:`DiskDatasetWriter`.
    history_items, history_us, items, schema
        See :class:`ranking.data.dataset.Dataset`.
    row_values : tuple of pyarrow.Array
        The values of the coded features of rows.
    replaced : Path, optional
        A file with the same row groups, whose columns take the place of those of the same name.
    """

    path: Path
    history_items: npt.NDArray[np.int32]
    history_us: Ints
    items: ItemTable
    schema: FeatureSchema = BUILT_IN
    row_values: tuple[pa.Array, ...] = ()
    replaced: Path | None = None

    def __len__(self) -> int:
        return int(self._metadata.num_rows)

    @cached_property
    def _metadata(self) -> pq.FileMetaData:
        return pq.read_metadata(self.path)

    @property
    def group_rows(self) -> list[int]:
        """Rows per row group."""
        return [self._metadata.row_group(group).num_rows for group in range(self._metadata.num_row_groups)]

    def rows(self, group: int) -> FrameRows:
        """The rows of one group for training; user and item ids are empty strings."""
        return self._read(group, ids=False)

    def chunks(self) -> Iterator[Dataset]:
        """All rows, one group at a time, with the shared tables."""
        for group in range(len(self.group_rows)):
            yield self._on_tables(self._read(group, ids=True))

    def take(self, index: Ints) -> Dataset:
        """Select rows by ascending index ``int64 [rows]``, into memory."""
        ends = np.cumsum(self.group_rows)
        wanted = np.split(index, np.searchsorted(index, ends[:-1]))
        starts = ends - self.group_rows
        parts = [
            self._read(group, ids=True).take(rows - starts[group])
            for group, rows in enumerate(wanted)
            if len(rows) or group == 0
        ]
        return self._on_tables(FrameRows.joined(parts))

    def thinned(self, most: int) -> Dataset:
        """About ``most`` rows of a sample of users, in memory; see :func:`sidkit.datasets.user_sample.thin_by_user`."""
        parts = []
        for group in range(len(self.group_rows)):
            part = self._read(group, ids=True)
            parts.append(part.take(np.flatnonzero(kept_users(part.rows.user_ids, most / len(self)))))
        return self._on_tables(FrameRows.joined(parts))

    def narrowed(self, schema: FeatureSchema) -> DiskDataset:
        """See :meth:`ranking.data.dataset.Dataset.narrowed`."""
        coded = narrowed_rows(
            Coded(np.zeros((0, len(self.row_values)), np.int32), self.row_values), self.schema, schema
        )
        return replace(
            self,
            schema=schema,
            items=narrowed_items(self.items, self.schema, schema),
            row_values=coded.values if coded is not None else (),
        )

    def row_code_counts(self) -> list[Ints]:
        """See :meth:`ranking.data.dataset.Dataset.row_code_counts`."""
        counts = [np.zeros(len(values), dtype=np.int64) for values in self.row_values]
        for table in self._tables([each.name for each in self.schema.row_coded]):
            for at, each in enumerate(self.schema.row_coded):
                counts[at] += np.bincount(table.column(each.name).to_numpy(), minlength=len(counts[at]))
        return counts

    def shown(self) -> tuple[Ints, Ints]:
        """See :func:`ranking.data.item_table.shown_items`."""
        shown = np.zeros(len(self.items), dtype=np.int64)
        first_us = np.full(len(self.items), np.iinfo(np.int64).max)
        for table in self._tables(["candidate", "at_us"]):
            more, earliest = shown_items(
                table.column("candidate").to_numpy(), table.column("at_us").to_numpy(), len(self.items)
            )
            shown += more
            first_us = np.minimum(first_us, earliest)
        return shown, first_us

    def feature_chunks(self) -> Iterator[Floats]:
        """The model's features of all rows, ``float32 [rows, features]``, unscaled, one group at a time."""
        for table in self._tables(list(self._numeric_names)):
            yield model_features(self._numeric(table), self.schema)

    @property
    def click_rate(self) -> float:
        """The share of clicked rows."""
        name = "clicked" if "clicked" in self._metadata.schema.to_arrow_schema().names else "label"
        return sum(int(table.column(name).to_numpy().sum()) for table in self._tables([name])) / len(self)

    @property
    def first_us(self) -> int:
        """The earliest row's time, microseconds UTC."""
        return min(int(table.column("at_us").to_numpy().min()) for table in self._tables(["at_us"]))

    @cached_property
    def _numeric_names(self) -> tuple[str, ...]:
        """The names of the numeric columns in the file."""
        held = set(self._metadata.schema.to_arrow_schema().names)
        return numeric_columns(self.schema) if held.issuperset(numeric_columns()) else feature_names()

    def _numeric(self, table: pa.Table) -> Floats:
        matrix = np.empty((len(table), len(self._numeric_names)), dtype=np.float32)
        for column, name in enumerate(self._numeric_names):
            matrix[:, column] = table.column(name).to_numpy()
        return matrix if self._numeric_names == numeric_columns(self.schema) else undo_model_features(matrix)

    def _opened(self) -> pq.ParquetFile:
        return pq.ParquetFile(self.path, metadata=self._metadata)

    def _tables(self, columns: list[str]) -> Iterator[pa.Table]:
        with self._opened() as opened:
            for group in range(opened.num_row_groups):
                yield self._group(opened, group, columns)

    def _group(self, opened: pq.ParquetFile, group: int, columns: list[str]) -> pa.Table:
        if self.replaced is None:
            return opened.read_row_group(group, columns)
        with pq.ParquetFile(self.replaced) as other:
            names = [name for name in columns if name in other.schema_arrow.names]
            table = opened.read_row_group(group, [name for name in columns if name not in names])
            replaced = other.read_row_group(group, names)
        return pa.table({**_columns(table), **_columns(replaced)})

    def _read(self, group: int, *, ids: bool) -> FrameRows:
        with self._opened() as opened:
            known = set(opened.schema_arrow.names)
            extra = [name for name in ("user_id", "had_before") if ids and name in known]
            coded = [each.name for each in self.schema.row_coded]
            table = self._group(opened, group, [*_NARROW, *self._numeric_names, *coded, *extra])
        narrow = {name: table.column(name).to_numpy().copy() for name in _NARROW}
        no_ids = np.full(len(table) if not ids else 0, "", dtype=object)
        return FrameRows(
            rows=LabelledRows(
                user_ids=string_array(table.column("user_id")) if ids else no_ids,
                item_ids=self.items.ids[narrow["candidate"]] if ids else no_ids,
                at_us=narrow["at_us"],
                label=narrow["label"],
                had_before=table.column("had_before").to_numpy() if "had_before" in extra else None,
            ),
            numeric=self._numeric(table),
            candidate=narrow["candidate"],
            history=narrow["history"],
            coded=_matrix(table, coded),
            schema=self.schema,
        )

    def _on_tables(self, part: FrameRows) -> Dataset:
        return Dataset(
            part.rows,
            part.numeric,
            part.candidate,
            part.history,
            self.history_items,
            self.history_us,
            self.items,
            self.schema,
            Coded(row_codes(part), self.row_values) if self.row_values else None,
        )


def _columns(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    return dict(zip(table.column_names, table.columns, strict=True))


def _matrix(table: pa.Table, columns: list[str]) -> Codes32:
    matrix = np.zeros((len(table), len(columns)), dtype=np.int32)
    for at, name in enumerate(columns):
        matrix[:, at] = table.column(name).to_numpy()
    return matrix
