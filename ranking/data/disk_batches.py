"""Batches of a dataset on disk, shuffled through a buffer of bounded size."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ranking.data.batch import Batch, MatchMoments
from ranking.data.batches import NO_INPUTS, SCAN_ROWS, Batches, RowTensors, TableTensors
from ranking.data.coded_inputs import CodedInputs
from ranking.data.dataset import Dataset
from ranking.data.disk_dataset import DiskDataset
from ranking.data.numeric_features import Moments, Scaling
from ranking.data.shares import Part, Share
from ranking.data.vocabulary import Vocabulary

BUFFER_ROWS = 500_000


class DiskBatches:
    """Like :class:`ranking.data.batches.Batches`, for a dataset on disk.

    Shuffling uses a buffer: row groups are read in random order until the buffer is full, and its rows are shuffled; rows
    that do not fill a batch are carried over to the next buffer. Each row occurs once per epoch, in an order determined by
    the generator's state. This is not a full shuffle: two rows of a group are at most one buffer apart, but the grouping
    changes every epoch. A group contains requests of all times, ordered by hash (see :mod:`ranking.data.labelled_rows`),
    so a buffer is a representative sample. If the buffer holds all rows, the order is a full shuffle, the same as that of
    ``Batches``.

    Several processes (:meth:`shares`) read the row groups in lanes if the buffer does not hold all rows: each process reads
    every n-th group of the random order, through its share of the buffer, and a global batch has rows of all lanes in
    proportion to their rows.

    Parameters
    ----------
    data : DiskDataset
        Rows on disk.
    scaling : Scaling
        Scaling of the numeric features, from the training rows.
    vocabulary : Vocabulary
        Vocabulary of item ids, from the training rows.
    buffer_rows : int
        Rows of the buffer; a larger row group forms a buffer by itself.
    inputs : CodedInputs
        What the model reads of coded features, from the training rows.
    """

    def __init__(
        self,
        data: DiskDataset,
        scaling: Scaling,
        vocabulary: Vocabulary,
        buffer_rows: int = BUFFER_ROWS,
        inputs: CodedInputs = NO_INPUTS,
    ) -> None:
        self._data = data
        self._scaling = scaling
        self._tables = TableTensors(
            data.items, data.history_items, data.history_us, vocabulary, inputs, data.schema, data.row_values
        )
        self._buffer_rows = buffer_rows
        self._device = torch.device("cpu")

    def __len__(self) -> int:
        return len(self._data)

    def to(self, device: torch.device) -> Self:
        """Move the tables to a device; rows are moved one buffer at a time."""
        self._tables, self._device = self._tables.to(device), device
        return self

    def learn_matches(self, matches: Callable[[Batch], Tensor]) -> MatchMoments:
        """Compute the mean and standard deviation of the matches of all rows.

        The matches are not stored, because they grow with the rows; the model computes them per batch.
        """
        with torch.no_grad():
            moments = Moments.of(matches(batch).numpy(force=True) for batch in self.batches(SCAN_ROWS))
        mean, deviation = (
            torch.from_numpy(each).to(self._device) for each in (moments.mean, np.sqrt(moments.variance))
        )
        return MatchMoments(mean, deviation)

    def forget_matches(self) -> None:
        """Do nothing: matches are not stored."""

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[Batch]:
        """All rows once, in the order of the file, or shuffled when a generator is given."""
        for rows in self._batch_rows(size, generator):
            yield self._tables.batch(rows)

    def shares(self, size: int, generator: torch.Generator, part: Part) -> Iterator[Share]:
        """One process's share of each of the shuffled batches; all processes must pass a generator in the same state.

        In lanes, a global batch has up to ``part.of`` rows more or fewer than ``size``.
        """
        if self.lanes(part) > 1:
            yield from self._lane_shares(size, generator, part)
            return
        for rows in self._batch_rows(size, generator):
            yield self._tables.share(rows, part)

    def lanes(self, part: Part) -> int:
        """Number of lanes in which rows are shuffled: one per process, unless the buffer holds all rows."""
        return part.of if len(self) > self._buffer_rows else 1

    def _lane_shares(self, size: int, generator: torch.Generator, part: Part) -> Iterator[Share]:
        sizes = self._data.group_rows
        order = torch.randperm(len(sizes), generator=generator).tolist()
        seed = int(torch.randint(2**62, (1,), generator=generator))
        lanes = [order[lane :: part.of] for lane in range(part.of)]
        rows = [sum(sizes[group] for group in lane) for lane in lanes]
        steps = -(-sum(rows) // size)
        own = self._lane_rows(lanes[part.number], torch.Generator().manual_seed(seed ^ part.number), part.of)
        left = next(own, None)
        for step in range(steps):
            counts = [lane * (step + 1) // steps - lane * step // steps for lane in rows]
            count, start, of = counts[part.number], sum(counts[: part.number]), sum(counts)
            if not count:
                yield Share(None, start, of)
                continue
            while left is None or len(left) < count:
                more = next(own)
                left = more if left is None else RowTensors.joined([left, more])
            yield Share(self._tables.batch(left.slice(0, count)), start, of)
            left = left.slice(count, len(left))

    def _lane_rows(self, groups: list[int], generator: torch.Generator, lanes: int) -> Iterator[RowTensors]:
        for buffer in self._filled(groups, self._buffer_rows // lanes):
            rows = self._read(buffer, None)
            yield rows.take(torch.randperm(len(rows), generator=generator).to(self._device))

    def _batch_rows(self, size: int, generator: torch.Generator | None) -> Iterator[RowTensors]:
        left: RowTensors | None = None
        buffers = self._buffers(generator)
        for number, groups in enumerate(buffers, start=1):
            rows = self._read(groups, left)
            if generator is not None:
                rows = rows.take(torch.randperm(len(rows), generator=generator).to(self._device))
            whole = len(rows) if number == len(buffers) else len(rows) // size * size
            for start in range(0, whole, size):
                yield rows.slice(start, min(start + size, whole))
            left = rows.slice(whole, len(rows))

    def _read(self, groups: list[int], left: RowTensors | None) -> RowTensors:
        parts = [RowTensors.of(self._data.rows(group), self._scaling).to(self._device) for group in groups]
        return RowTensors.joined([*([left] if left is not None else []), *parts])

    def _buffers(self, generator: torch.Generator | None) -> list[list[int]]:
        """The groups of each buffer."""
        sizes = self._data.group_rows
        order = list(range(len(sizes)))
        if generator is not None and sum(sizes) > self._buffer_rows:
            order = torch.randperm(len(sizes), generator=generator).tolist()
        return self._filled(order, self._buffer_rows)

    def _filled(self, order: list[int], most: int) -> list[list[int]]:
        """Groups in order, in buffers of at most so many rows, or of one group."""
        sizes = self._data.group_rows
        buffers: list[list[int]] = []
        room = 0
        for group in order:
            if not buffers or sizes[group] > room:
                buffers.append([])
                room = most
            buffers[-1].append(group)
            room -= sizes[group]
        return buffers


def training_tensors(
    data: Dataset | DiskDataset, scaling: Scaling, vocabulary: Vocabulary, inputs: CodedInputs = NO_INPUTS
) -> Batches | DiskBatches:
    """Batches of a dataset in memory or on disk."""
    if isinstance(data, DiskDataset):
        return DiskBatches(data, scaling, vocabulary, inputs=inputs)
    return Batches(data, scaling, vocabulary, inputs)
