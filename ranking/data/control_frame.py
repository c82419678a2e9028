"""Build the control part of a frame: count the log by shuffled or random codes, and read the counts as of each row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ranking.data.affinity import affinities
from ranking.data.code_counts import CodeReader, code_counts, prefix_numbers
from ranking.data.code_schema import names_code_stats
from ranking.data.control_codes import ControlKind, donors, hashed_codes
from ranking.data.control_part import CONTROL_CODES, TRAIN, ControlPart
from ranking.data.dataset import Dataset
from ranking.data.disk_dataset import DiskDataset
from ranking.data.disk_frame import DiskFrame
from ranking.data.extra_numbers import stacked
from ranking.data.feature_views import ITEM_STATS, USER_STATS, Reader
from ranking.data.frame_builder import CHUNK_ROWS
from ranking.data.item_table import ItemTable
from ranking.data.numeric_features import numeric_column
from ranking.data.schema import FeatureSchema
from ranking.data.split import TimeSplit
from semantic_ids.catalog import Catalog
from semantic_ids.code_stats import counts_of
from sidkit.core.arrays import Codes, Floats, Ints, one_chunk
from sidkit.core.code_stats import (
    CODE_WINDOWS,
    SID_PREFIX,
    USER_CODE_WINDOWS,
    code_stats_alias,
    prefix_column,
    user_code_stats_alias,
)
from sidkit.core.config import EngineSettings, content_hash
from sidkit.core.errors import EvaluationError
from sidkit.core.feature_settings import WINDOWS
from sidkit.core.files import folder_written_beside, remove
from sidkit.core.integrity import checked, seal_folder
from sidkit.core.repo import Repo
from sidkit.stores.offline.own_tables import plan_table
from sidkit.stores.offline.plan import ViewRows
from sidkit.stores.offline.point_in_time import PointInTime
from sidkit.tables import read_build
from sidkit.tables.code_stats import count_other_codes

_EVENTS = ("exposures", "clicks", "conversions")


def control_seed(codebook: str) -> int:
    """Seed of the control codes of a codebook's frames: fixed by its name, so that time origins have different ones."""
    return int(content_hash([codebook])[:8], 16)


def write_control(
    repo: Repo, codebook: str, kind: ControlKind, split: TimeSplit, frame: Path, rate: float, folder: Path
) -> int:
    """Write the control part of a frame to a folder, replacing an existing one; returns the number of rows.

    Parameters
    ----------
    repo : Repo
        Holds the feature tables and the codes of the codebook.
    codebook : str
        The codebook of the frame; it has statistics of prefixes.
    kind : str
        ``shuffled``: all versions of an item get the codes of the same other item, along a single cycle over all items with
        codes. ``random``: uniform codes by a hash of the item.
    split : TimeSplit
        The parts of the frame.
    frame : Path
        The folder of the frame.
    rate : float
        The share of positives among the training rows, towards which rates are smoothed.
    folder : Path
        Where the control part is written.
    """
    seed, record = control_seed(codebook), Catalog.open(repo).codebook(codebook)
    counts = counts_of(repo, codebook, record.content_hash)
    assert counts is not None, "a codebook without statistics of prefixes has no control parts"
    saved = DiskFrame.load(frame)
    schema = FeatureSchema(tuple(each for each in saved.data.schema.numbers if names_code_stats([each.name])))
    remove(folder)
    with folder_written_beside(folder) as temporary:
        codes_table, tables = temporary / CONTROL_CODES, temporary / "tables"
        tables.mkdir()
        stored = checked(repo.tables / f"{record.view_name}.parquet")
        codes_of = _write_codes(stored, kind, record.sizes, seed, codes_table)
        paths = count_other_codes(repo, counts, codes_table, tables, int(read_build(repo)["as_of_us"]))
        codes = codes_of.of(saved.data.items)
        reader = CodeReader(codebook, counts.depths, _reader(paths, counts.depths, repo.settings.engine))
        counted = _Control(schema, reader, codes, rate, repo.settings.source.feedback == "positives_only")
        numbers = {
            name: counted.numbers(saved.data.take(rows)) for name, rows in split.parts(saved.data.rows.at_us).items()
        }
        if saved.streamed is not None:
            del numbers["train"]
            counted.write(saved.streamed, temporary / TRAIN)
        ControlPart(kind, seed, schema.names, codes, numbers).write(temporary)
        remove(tables)
        seal_folder(temporary)
    return len(saved)


@dataclass(frozen=True)
class _CodesOf:
    """Control codes of items: ``names`` are sorted, ``codes`` ``int32 [names, levels]``."""

    names: npt.NDArray[np.object_]
    codes: Codes

    def of(self, items: ItemTable) -> Codes:
        """The control codes of item versions; those without codes stay without."""
        coded = np.flatnonzero((items.codes >= 0).all(axis=1))
        codes = items.codes.copy()
        place = pd.Index(self.names).get_indexer(items.ids[coded])
        if (place < 0).any():
            raise EvaluationError(
                f"expected codes of all items of the frame, got none for {items.ids[coded][place < 0][0]!r}: the table of "
                "codes changed after the frame was made; run the command again"
            )
        codes[coded] = self.codes[place]
        return codes


def _write_codes(stored: Path, kind: ControlKind, sizes: tuple[int, ...], seed: int, out: Path) -> _CodesOf:
    """Write a table of codes with control codes in the rows that have any."""
    table = pq.read_table(stored)
    lists = one_chunk(table.column("codes"))
    rows = np.flatnonzero(lists.is_valid().to_numpy(zero_copy_only=False))
    flat = np.asarray(lists.drop_null().flatten())
    known = flat.reshape(len(rows), -1) if len(rows) else np.zeros((0, len(sizes)), flat.dtype)
    ids = np.array(table.column("item_id").take(pa.array(rows)).to_pylist(), dtype=object)
    # The oldest row of each item: rows are in no order that an update keeps.
    moments = table.column("event_timestamp").cast(pa.int64()).to_numpy()[rows]
    order = np.lexsort((moments, ids.astype(str)))
    names, first, back = np.unique(ids[order].astype(str), return_index=True, return_inverse=True)
    own = known[order][first]
    made = own[donors(len(names), seed)] if kind == "shuffled" else hashed_codes(names, sizes, seed)
    back_of_rows = np.empty(len(rows), dtype=np.int64)
    back_of_rows[order] = back.ravel()
    values = made[back_of_rows].astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(lists.is_valid().to_numpy(zero_copy_only=False) * len(sizes))])
    replaced = pa.ListArray.from_arrays(
        pa.array(offsets, pa.int32()), pa.array(values.ravel(), pa.int64()), mask=lists.is_null()
    )
    place = table.column_names.index("codes")
    pq.write_table(table.set_column(place, "codes", replaced.cast(lists.type)), out, compression="zstd")
    return _CodesOf(names.astype(object), made.astype(np.int32))


def _reader(paths: tuple[Path, Path], depths: tuple[int, ...], engine: EngineSettings) -> Reader:
    """A reader of the counts per depth, with the names of the feature service of counts."""
    of_prefixes = [f"{event}_{window}" for window in CODE_WINDOWS for event in _EVENTS]
    of_users = [f"{event}_{window}" for window in USER_CODE_WINDOWS for event in _EVENTS[:2]]
    plans = []
    for depth in depths:
        keys = {SID_PREFIX: prefix_column(depth)}
        plans.append(plan_table(code_stats_alias(depth), paths[0], keys, of_prefixes))
        plans.append(plan_table(user_code_stats_alias(depth), paths[1], {"user_id": "user_id", **keys}, of_users))
    join = PointInTime(plans, engine)

    def read(keys: Any, at_us: Ints) -> dict[str, ViewRows]:
        columns = {key: pa.array(keys[key], pa.string()) for key in join.keys}
        return {view.name: view for view in join.views(columns, pa.array(at_us))}

    return read


@dataclass(frozen=True)
class _Control:
    """Computes the features of code prefixes for rows of a frame, by control codes ``int32 [item versions, levels]``."""

    schema: FeatureSchema
    reader: CodeReader
    codes: Codes
    rate: float
    positives_only: bool

    def numbers(self, data: Dataset) -> Floats:
        """The features of all rows, ``float32 [rows, features]``."""
        parts = [self._numbers(data.take(rows)) for rows in _chunks(len(data))]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.schema.numbers)), dtype=np.float32)

    def write(self, rows: DiskDataset, path: Path) -> None:
        """Write the features of rows on disk, in the same row groups."""
        kinds = pa.schema([(name, pa.float32()) for name in self.schema.names])
        with pq.ParquetWriter(path, kinds, compression="zstd") as writer:
            for group in rows.chunks():
                columns = [pa.array(np.ascontiguousarray(column)) for column in self.numbers(group).T]
                writer.write_table(pa.table(columns, schema=kinds), max(len(group), 1))

    def _numbers(self, data: Dataset) -> Floats:
        rows, items, times_us = data.rows, data.history_items[data.history], data.history_us[data.history]
        columns = affinities(
            self.schema,
            np.zeros(len(self.codes), dtype=np.int64),
            np.zeros((len(self.codes), 0), dtype=np.int32),
            (),
            data.candidate,
            items,
            times_us,
            rows.at_us,
            prefix_numbers(self.schema, self.codes),
        )
        views = {name: self._trailing(name, side, data.numeric) for name, side in _SIDES}
        columns |= code_counts(self.reader, self.codes[data.candidate], views, rows.user_ids, rows.at_us, self.rate)
        return stacked(self.schema, columns, len(data))

    def _trailing(self, view: str, side: str, numeric: Floats) -> ViewRows:
        """The counts of a view from the columns of the frame, which has 0 where exposures are unknown."""
        columns = {}
        for window in WINDOWS:
            for event in ("exposures", "clicks"):
                unknown = self.positives_only and event == "exposures"
                values = numeric_column(numeric, f"{side}_{event}_{window}").astype(np.float64)
                columns[f"{view}__{event}_{window}"] = pa.array(np.full_like(values, np.nan) if unknown else values)
        return ViewRows(view, np.arange(len(numeric)), pa.table(columns))


_SIDES = ((ITEM_STATS, "item"), (USER_STATS, "user"))


def _chunks(rows: int) -> Iterator[Ints]:
    for start in range(0, rows, CHUNK_ROWS):
        yield np.arange(start, min(start + CHUNK_ROWS, rows))
