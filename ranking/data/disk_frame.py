"""Frames whose training part is larger than memory: written chunk by chunk, with item and history tables shared by all rows.

Memory holds one chunk, the distinct items and histories, and the validation and test rows, which are thinned.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ranking.data.caps import Caps
from ranking.data.dataset import Dataset, LabelledRows
from ranking.data.disk_dataset import GROUP_ROWS, DiskDataset, DiskDatasetWriter
from ranking.data.feature_views import Reader
from ranking.data.frame_builder import FrameBuilder, feature_readers, historical_codes, value_readers
from ranking.data.frame_rows import FrameRows, row_codes
from ranking.data.labelled_rows import FAR, RowsFile, Window, click_share, row_chunks
from ranking.data.rows_used import part_rows
from ranking.data.service_schema import service_schema
from ranking.data.split import TimeSplit, check_classes
from ranking.data.storage import TRAIN, load_dataset, write_arrays
from ranking.data.targets import CLICKED, Target
from semantic_ids.catalog import Catalog
from semantic_ids.codebook import Codebook
from sidkit.core.arrays import Ints
from sidkit.core.files import folder_written_beside, remove
from sidkit.core.integrity import seal_folder
from sidkit.core.repo import Repo
from sidkit.core.stages import StageResult
from sidkit.stores.feast_repo import open_store

CHUNK_ROWS = 20 * GROUP_ROWS
"""Rows per retrieval of features; see :data:`ranking.data.frame_builder.READ_ROWS`."""


@dataclass(frozen=True)
class FrameWriter:
    """Writes a frame with its training part on disk.

    Parameters
    ----------
    of_rows : callable
        Reads the views of rows; see :func:`ranking.data.dataset.feature_readers`.
    builder : FrameBuilder
        A new builder, which indexes the items and histories of this frame.
    """

    of_rows: Reader
    builder: FrameBuilder

    def write(
        self, training: Iterable[LabelledRows], evaluation: LabelledRows, folder: Path, group_rows: int = GROUP_ROWS
    ) -> int:
        """Write a frame; an existing one is replaced only when the new one is complete.

        Parameters
        ----------
        training : iterable of LabelledRows
            The training part in chunks, in the order of its row groups.
        evaluation : LabelledRows
            Validation and test rows, stored as by :func:`ranking.data.storage.save_dataset`.
        folder : Path
            The frame's folder.
        group_rows : int
            Rows per row group.

        Returns
        -------
        int
            Number of training rows.
        """
        rows = 0
        with folder_written_beside(folder) as temporary:
            writer = DiskDatasetWriter(temporary / TRAIN, group_rows)
            try:
                for chunk in training:
                    writer.add(self.builder.retrieve(self.of_rows, chunk))
                    rows += len(chunk)
            finally:
                writer.close()
            write_arrays(self.builder.dataset(self.builder.retrieve(self.of_rows, evaluation)), temporary)
            seal_folder(temporary)
            remove(folder)
        return rows


@dataclass(frozen=True)
class DiskFrame:
    """A saved frame: ``streamed`` is the training part if it is larger than memory, else None; ``data`` holds all other
    rows, with the same tables.
    """

    streamed: DiskDataset | None
    data: Dataset

    def __len__(self) -> int:
        return len(self.data) + (len(self.streamed) if self.streamed is not None else 0)

    @classmethod
    def load(cls, folder: Path) -> DiskFrame:
        """Open a frame written by :meth:`FrameWriter.write` or :func:`ranking.data.storage.save_dataset`."""
        data = load_dataset(folder)
        if not (folder / TRAIN).exists():
            return cls(None, data)
        tables = (data.history_items, data.history_us, data.items, data.schema, data.row_values)
        train = DiskDataset(folder / TRAIN, *tables)
        return cls(train, data)

    def train(self, split: TimeSplit) -> Dataset | DiskDataset:
        """The training part."""
        return (
            self.streamed if self.streamed is not None else self.data.take(split.parts(self.data.rows.at_us)["train"])
        )

    def take(self, index: Ints) -> Dataset:
        """Select rows by ascending index ``int64 [rows]``, into memory; a streamed training part comes first."""
        if self.streamed is None:
            return self.data.take(index)
        training = len(self.streamed)
        parts = [self.streamed.take(index[index < training]), self.data.take(index[index >= training] - training)]
        both = FrameRows.joined(parts)
        return replace(
            self.data,
            rows=both.rows,
            numeric=both.numeric,
            candidate=both.candidate,
            history=both.history,
            coded=replace(self.data.coded, codes=row_codes(both)) if self.data.coded is not None else None,
        )


def write_disk_frame(
    repo: Repo, codebook: str, rows_path: Path, split: TimeSplit, caps: Caps, folder: Path, target: Target = CLICKED
) -> StageResult:
    """Retrieve the (thinned) train, validation and test rows of a file of labelled rows through a codebook's feature service
    and write them to a folder as a frame, the training part in chunks.
    """
    record = Catalog.open(repo).codebook(codebook)
    context = tuple(repo.settings.features.context)
    rows = RowsFile(rows_path, repo.settings.engine, repo.data / "tmp" / "duckdb", target, context)
    windows = {
        "train": Window(-FAR if split.train_start_us is None else split.train_start_us, split.train_end_us),
        "validation": Window(split.train_end_us, split.validation_end_us),
        "test": Window(split.validation_end_us),
    }
    available = {}
    for name, window in windows.items():
        positives, available[name] = rows.classes(window)
        if name != "test":
            check_classes(positives, available[name], name)
    evaluation = [rows.read(windows[name], caps.evaluation) for name in ("validation", "test")]
    shuffled = repo.data / "tmp" / f"{folder.name}-train.parquet"
    try:
        rows.shuffle(windows["train"], caps.train, shuffled)
        rate = click_share(shuffled)
        store = open_store(repo)
        of_rows, look_up = feature_readers(store, record.service_name)
        schema = service_schema(
            store, record.service_name, repo.settings.features, conversions=repo.settings.source.conversions
        )
        builder = FrameBuilder(
            Codebook.load(repo.codebooks / codebook),
            look_up,
            rate=rate,
            history_length=repo.settings.time.history_length,
            schema=schema,
            by_value=value_readers(store, record.service_name, schema),
            by_code=historical_codes(store, record.service_name, schema),
        )
        frame = FrameWriter(of_rows, builder)
        trained = frame.write(
            row_chunks(shuffled, CHUNK_ROWS, target, context), LabelledRows.joined(evaluation), folder
        )
    finally:
        remove(shuffled)
    used = [trained, *map(len, evaluation)]
    ends = np.cumsum(used).tolist()
    parts = part_rows(dict(zip(windows, used, strict=True)), available)
    return StageResult(ends[-1], {"ends": ends, "rate": rate, "streamed": True, "parts": parts}, (folder,))
