"""From a training set to tensors: everything once, gathered per batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ranking.data.batch import Batch, ItemBatch, MatchMoments, Seen
from ranking.data.dataset import Dataset, FrameRows
from ranking.data.disk_dataset import DiskDataset
from ranking.data.item_table import ItemTable
from ranking.data.numeric_features import Scaling
from ranking.data.time_gaps import TIME_BUCKETS, gap_bucket
from ranking.data.vocabulary import Vocabulary
from sidkit.core.arrays import Codes, Floats, Ints

__all__ = ["TIME_BUCKETS", "Batch", "Batches", "RowTensors", "TableTensors", "Vocabulary", "gap_bucket", "seen_in"]

SCAN_ROWS = 4096
"""Rows of a batch where nothing is learned from it."""


def seen_in(
    data: Dataset | DiskDataset, vocabulary: Vocabulary, flat_vectors: Callable[[Codes], Floats] | None = None
) -> Seen:
    """What training rows showed, as the fit of a representation wants it; see :class:`Seen`."""
    shown, first_us = data.shown()
    return Seen(
        shown=shown,
        first_us=first_us,
        index=vocabulary.numbers(data.items.ids),
        codes=data.items.codes.astype(np.int64),
        flat_vectors=flat_vectors,
    )


def vocabulary_of(data: Dataset | DiskDataset) -> Vocabulary:
    """The ids of a training part's candidates."""
    return Vocabulary.fit(data.items.ids, shown=data.shown()[0])


@dataclass(frozen=True)
class RowTensors:
    """What lies in memory once per row: ``numeric`` float32 [rows, features], scaled; ``candidate`` and ``history`` int32
    [rows]; ``at_us`` int64 [rows], microseconds UTC; ``label`` float32 [rows].
    """

    numeric: Tensor
    candidate: Tensor
    history: Tensor
    at_us: Tensor
    label: Tensor

    def __len__(self) -> int:
        return len(self.label)

    @classmethod
    def of(cls, data: Dataset | FrameRows, scaling: Scaling) -> Self:
        """The rows of a set."""
        return cls(
            numeric=torch.from_numpy(scaling.apply(data.features)),
            candidate=torch.from_numpy(data.candidate),
            history=torch.from_numpy(data.history),
            at_us=torch.from_numpy(np.ascontiguousarray(data.rows.at_us)),
            label=torch.from_numpy(data.rows.label.astype(np.float32)),
        )

    def take(self, rows: Tensor) -> Self:
        """Some of the rows (``int64 [rows]``)."""
        return type(self)(*(getattr(self, each.name).index_select(0, rows) for each in fields(self)))

    def slice(self, start: int, end: int) -> Self:
        """Rows that stand together; nothing is copied."""
        return type(self)(*(getattr(self, each.name)[start:end] for each in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """All rows of some parts, in their order."""
        return cls(*(torch.cat([getattr(part, each.name) for part in parts]) for each in fields(cls)))

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        return type(self)(*(getattr(self, each.name).to(device) for each in fields(self)))


class TableTensors:
    """What rows refer to by number: the distinct items and histories.

    Parameters
    ----------
    items : ItemTable
        Distinct item versions.
    history_items, history_us
        Of a :class:`ranking.data.dataset.Dataset`.
    vocabulary : Vocabulary
        Of the item ids.
    """

    def __init__(
        self, items: ItemTable, history_items: npt.NDArray[np.int32], history_us: Ints, vocabulary: Vocabulary
    ) -> None:
        # As narrow as they came: a batch widens what it gathers.
        self._history_items = torch.from_numpy(history_items)
        self._history_us = torch.from_numpy(history_us)
        self._index = torch.from_numpy(vocabulary.numbers(items.ids))
        self._codes = torch.from_numpy(items.codes)
        self._content = torch.from_numpy(items.content)
        self._place = torch.empty(len(items), dtype=torch.int64)

    def batch(self, rows: RowTensors, matches: Tensor | None = None) -> Batch:
        """Gather what some rows refer to."""
        items = self._history_items.index_select(0, rows.history).long()
        # Representations run once per distinct item of the batch.
        distinct, back = self._distinct(torch.cat([rows.candidate.long(), items.flatten()]))
        return Batch(
            numeric=rows.numeric,
            items=ItemBatch(
                self._index.index_select(0, distinct),
                self._codes.index_select(0, distinct).long(),
                self._content.index_select(0, distinct),
            ),
            candidate=back[: len(rows)],
            history=back[len(rows) :].view(items.shape),
            mask=items != 0,
            gap_bucket=gap_bucket(rows.at_us[:, None], self._history_us.index_select(0, rows.history)),
            label=rows.label,
            at_us=rows.at_us,
            matches=matches,
        )

    def _distinct(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """The distinct numbers of some items and the place of each among them, without sorting.

        Each number's last place is written into a table of all items: who reads its own place back is the one of its kind.
        """
        order = torch.arange(len(numbers), device=numbers.device)
        self._place.scatter_(0, numbers, order)
        distinct = numbers.masked_select(self._place.index_select(0, numbers) == order)
        self._place.scatter_(0, distinct, order[: len(distinct)])
        return distinct, self._place.index_select(0, numbers)

    def to(self, device: torch.device) -> Self:
        """Move all tensors to a device; nothing is copied where they lie there already."""
        for name, value in vars(self).items():
            setattr(self, name, value.to(device))
        return self


class Batches:
    """The tensors of a training set.

    Parameters
    ----------
    data : Dataset
        Rows as arrays.
    scaling : Scaling
        Of the numeric features, from the training rows.
    vocabulary : Vocabulary
        Of the item ids, from the training rows.
    """

    def __init__(self, data: Dataset, scaling: Scaling, vocabulary: Vocabulary) -> None:
        self._rows = RowTensors.of(data, scaling)
        self._tables = TableTensors(data.items, data.history_items, data.history_us, vocabulary)
        self._matches: Tensor | None = None

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def label(self) -> Tensor:
        """``float32 [rows]``."""
        return self._rows.label

    def batch(self, rows: Tensor) -> Batch:
        """Gather some rows (``int64 [rows]``)."""
        matches = self._matches.index_select(0, rows) if self._matches is not None else None
        return self._tables.batch(self._rows.take(rows), matches)

    def to(self, device: torch.device) -> Self:
        """Move all tensors to a device; nothing is copied where they lie there already."""
        self._rows, self._tables = self._rows.to(device), self._tables.to(device)
        self._matches = self._matches.to(device) if self._matches is not None else None
        return self

    def keep_matches(self, matches: Tensor | None) -> None:
        """Give every later batch the matches of its rows (``float32 [rows, matches]``), or none."""
        self._matches = matches

    def learn_matches(self, matches: Callable[[Batch], Tensor]) -> MatchMoments:
        """Compute the matches of all rows by a model's ``matches`` and keep them: no weight changes them, so once is
        enough for all epochs. Returns their mean and deviation.
        """
        self.keep_matches(None)
        with torch.no_grad():
            found = torch.cat([matches(batch) for batch in self.batches(SCAN_ROWS)])
        self.keep_matches(found)
        return MatchMoments.of(found)

    def forget_matches(self) -> None:
        """Another model has other matches."""
        self.keep_matches(None)

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[Batch]:
        """All rows once, shuffled when a generator is given."""
        order = torch.arange(len(self)) if generator is None else torch.randperm(len(self), generator=generator)
        order = order.to(self.label.device)
        for start in range(0, len(order), size):
            yield self.batch(order[start : start + size])
