"""Writing a frame whose training part is larger than memory: chunk by chunk, on tables that all its rows share.

Memory holds one chunk, the distinct items and histories, and the rows that judge (validation and test, which are thinned).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ranking.data.caps import Caps
from ranking.data.dataset import Dataset, FrameBuilder, FrameRows, LabelledRows, feature_readers
from ranking.data.disk_dataset import GROUP_ROWS, DiskDataset, DiskDatasetWriter
from ranking.data.feature_views import Reader
from ranking.data.labelled_rows import RowsFile, Window, positive_share, row_chunks
from ranking.data.rows_used import part_rows
from ranking.data.split import TimeSplit, check_classes
from ranking.data.storage import TRAIN, load_dataset, write_arrays
from semantic_ids.catalog import Catalog
from semantic_ids.codebook import Codebook
from sidkit.core.arrays import Ints
from sidkit.core.files import folder_written_beside, remove
from sidkit.core.integrity import seal_folder
from sidkit.core.repo import Repo
from sidkit.core.stages import StageResult
from sidkit.stores.feast_repo import open_store

CHUNK_ROWS = 4 * GROUP_ROWS
"""Rows that are retrieved and assembled at once."""


@dataclass(frozen=True)
class FrameWriter:
    """Where the features of a streamed frame come from.

    Parameters
    ----------
    of_rows : callable
        Gives the views of rows; see :func:`ranking.data.dataset.feature_readers`.
    builder : FrameBuilder
        Fresh: it numbers the items and histories of this frame.
    """

    of_rows: Reader
    builder: FrameBuilder

    def write(
        self, training: Iterable[LabelledRows], judging: LabelledRows, folder: Path, group_rows: int = GROUP_ROWS
    ) -> int:
        """Write a frame; an older one in its place stays until this one is whole.

        Parameters
        ----------
        training : iterable of LabelledRows
            The training part, a chunk at a time, in the order in which its groups are to lie.
        judging : LabelledRows
            Validation and test rows, which are kept as :func:`ranking.data.storage.save_dataset` keeps all.
        folder : Path
            Where the frame lies.
        group_rows : int
            Rows of a group.

        Returns
        -------
        int
            Training rows.
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
            write_arrays(self.builder.training_set(self.builder.retrieve(self.of_rows, judging)), temporary)
            seal_folder(temporary)
            remove(folder)
        return rows


@dataclass(frozen=True)
class DiskFrame:
    """A frame as it lies in its folder: ``streamed`` the training part where it is larger than memory, else None; ``data``
    all other rows, on the same tables.
    """

    streamed: DiskDataset | None
    data: Dataset

    def __len__(self) -> int:
        return len(self.data) + (len(self.streamed) if self.streamed is not None else 0)

    @classmethod
    def load(cls, folder: Path) -> DiskFrame:
        """Read what :meth:`FrameWriter.write` or :func:`ranking.data.storage.save_dataset` wrote."""
        data = load_dataset(folder)
        if not (folder / TRAIN).exists():
            return cls(None, data)
        return cls(DiskDataset(folder / TRAIN, data.history_items, data.history_us, data.items), data)

    def train(self, split: TimeSplit) -> Dataset | DiskDataset:
        """The training part."""
        return (
            self.streamed if self.streamed is not None else self.data.take(split.parts(self.data.rows.at_us)["train"])
        )

    def take(self, index: Ints) -> Dataset:
        """Some of all rows (``int64 [rows]``, rising) in memory; those of a streamed training part come first."""
        if self.streamed is None:
            return self.data.take(index)
        trained = len(self.streamed)
        parts = [self.streamed.take(index[index < trained]), self.data.take(index[index >= trained] - trained)]
        both = FrameRows.joined(parts)
        return replace(self.data, rows=both.rows, numeric=both.numeric, candidate=both.candidate, history=both.history)


def write_disk_frame(
    repo: Repo, codebook: str, rows_path: Path, split: TimeSplit, caps: Caps, folder: Path
) -> StageResult:
    """Retrieve the thinned rows of all parts of a file of labelled rows through a codebook's service, the training part as a
    stream, and keep them in a folder.
    """
    record = Catalog.open(repo).codebook(codebook)
    rows = RowsFile(rows_path, repo.settings.engine, repo.data / "tmp" / "duckdb")
    windows = {
        "train": Window(until_us=split.train_end_us),
        "validation": Window(split.train_end_us, split.validation_end_us),
        "test": Window(split.validation_end_us),
    }
    available = {}
    for name, window in windows.items():
        positives, available[name] = rows.classes(window)
        if name != "test":
            check_classes(positives, available[name], name)
    judging = [rows.read(windows[name], caps.evaluation) for name in ("validation", "test")]
    shuffled = repo.data / "tmp" / f"{folder.name}-train.parquet"
    try:
        rows.shuffle(windows["train"], caps.train, shuffled)
        rate = positive_share(shuffled)
        of_rows, look_up = feature_readers(open_store(repo), record.service_name)
        builder = FrameBuilder(
            Codebook.load(repo.codebooks / codebook), look_up, rate=rate,
            history_length=repo.settings.time.history_length,
        )  # fmt: skip
        frame = FrameWriter(of_rows, builder)
        trained = frame.write(row_chunks(shuffled, CHUNK_ROWS), LabelledRows.joined(judging), folder)
    finally:
        remove(shuffled)
    used = [trained, *map(len, judging)]
    ends = np.cumsum(used).tolist()
    told = part_rows(dict(zip(windows, used, strict=True)), available)
    return StageResult(ends[-1], {"ends": ends, "rate": rate, "streamed": True, "parts": told}, (folder,))
