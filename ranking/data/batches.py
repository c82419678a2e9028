"""Batches of a dataset in memory; items and histories are looked up per batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from ranking.data.batch import Batch, ItemBatch, KnownNeighbours, MatchMoments, Seen
from ranking.data.coded import Coded
from ranking.data.coded_inputs import CodedInputs
from ranking.data.dataset import Dataset
from ranking.data.disk_dataset import DiskDataset
from ranking.data.frame_rows import FrameRows, row_codes
from ranking.data.item_table import ItemTable
from ranking.data.numeric_features import Scaling
from ranking.data.schema import BUILT_IN, FeatureSchema
from ranking.data.shares import Part, Share
from ranking.data.time_gaps import TIME_BUCKETS, gap_bucket
from ranking.data.vocabulary import Vocabulary
from semantic_ids.neighbour_lists import NeighbourLists
from sidkit.core.arrays import Codes, Floats, Ints

__all__ = ["TIME_BUCKETS", "Batch", "Batches", "RowTensors", "TableTensors", "Vocabulary", "gap_bucket", "seen_in"]

NO_INPUTS = CodedInputs()
_ONE = 2
"""Histories in the table of one request: the empty one, and the user's."""
SCAN_ROWS = 4096
"""Batch size of passes without training."""


def seen_in(
    data: Dataset | DiskDataset,
    vocabulary: Vocabulary,
    flat_vectors: Callable[[Codes], Floats] | None = None,
    neighbours: KnownNeighbours | None = None,
) -> Seen:
    """Statistics of the training rows for the ``fit`` of representations; see :class:`Seen`."""
    shown, first_us = data.shown()
    return Seen(
        shown=shown,
        first_us=first_us,
        index=vocabulary.numbers(data.items.ids),
        codes=data.items.codes.astype(np.int64),
        flat_vectors=flat_vectors,
        content=data.items.content,
        neighbours=neighbours,
    )


def known_neighbours(
    lists: NeighbourLists | None, names: Sequence[str], vocabulary: Vocabulary
) -> KnownNeighbours | None:
    """The lists of a codebook that a model reads; None if it reads none, or the codebook has none.

    Raises
    ------
    FitError
        When the codebook lacks one.
    """
    if lists is None or not names:
        return None
    index = vocabulary.numbers(lists.ids.to_numpy(zero_copy_only=False).astype(object))
    return KnownNeighbours(index, {name: lists.of(name) for name in names})


def vocabulary_of(data: Dataset | DiskDataset) -> Vocabulary:
    """The vocabulary of a training set's candidates."""
    return Vocabulary.fit(data.items.ids, shown=data.shown()[0])


@dataclass(frozen=True)
class RowTensors:
    """Tensors with one entry per row: ``numeric`` float32 [rows, features], scaled; ``candidate`` and ``history`` int32
    [rows], indices; ``at_us`` int64 [rows], microseconds UTC; ``label`` float32 [rows]; ``coded`` int32 [rows, features], the
    coded features of rows.
    """

    numeric: Tensor
    candidate: Tensor
    history: Tensor
    at_us: Tensor
    label: Tensor
    coded: Tensor

    def __len__(self) -> int:
        return len(self.label)

    @classmethod
    def of(cls, data: Dataset | FrameRows, scaling: Scaling) -> Self:
        """The rows of a dataset."""
        return cls(
            numeric=torch.from_numpy(scaling.apply(data.features)),
            candidate=torch.from_numpy(data.candidate),
            history=torch.from_numpy(data.history),
            at_us=torch.from_numpy(np.ascontiguousarray(data.rows.at_us)),
            label=torch.from_numpy(data.rows.label.astype(np.float32)),
            coded=torch.from_numpy(np.ascontiguousarray(row_codes(data))),
        )

    def take(self, rows: Tensor) -> Self:
        """Select rows by index ``int64 [rows]``."""
        return type(self)(*(getattr(self, each.name).index_select(0, rows) for each in fields(self)))

    def slice(self, start: int, end: int) -> Self:
        """A contiguous slice of rows, without copying."""
        return type(self)(*(getattr(self, each.name)[start:end] for each in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Concatenate the rows of several parts."""
        return cls(*(torch.cat([getattr(part, each.name) for part in parts]) for each in fields(cls)))

    def to(self, device: torch.device) -> Self:
        """Move all tensors to a device."""
        return type(self)(*(getattr(self, each.name).to(device) for each in fields(self)))


class TableTensors:
    """The distinct items and histories that rows refer to by index.

    Parameters
    ----------
    items : ItemTable
        Distinct item versions.
    history_items, history_us
        See :class:`ranking.data.dataset.Dataset`.
    vocabulary : Vocabulary
        Vocabulary of item ids.
    inputs : CodedInputs
        What the model reads of coded features.
    schema : FeatureSchema
        The features besides the built-in ones.
    row_values : sequence of pyarrow.Array
        The values of the coded features of rows.
    """

    def __init__(
        self,
        items: ItemTable,
        history_items: npt.NDArray[np.int32],
        history_us: Ints,
        vocabulary: Vocabulary,
        inputs: CodedInputs = NO_INPUTS,
        schema: FeatureSchema = BUILT_IN,
        row_values: Sequence[pa.Array] = (),
    ) -> None:
        # Stored as int32; a batch casts only the rows it gathers to int64.
        self._history_items = torch.from_numpy(history_items)
        self._history_us = torch.from_numpy(history_us)
        known = items.numbered if items.numbered is not None and items.numbered.vocabulary is vocabulary else None
        self._index = torch.from_numpy(vocabulary.numbers(items.ids) if known is None else known.rows)
        self._codes = torch.from_numpy(items.codes)
        self._content = torch.from_numpy(items.content)
        self._place = torch.empty(len(items), dtype=torch.int64)
        attributes = items.attributes if items.attributes is not None else Coded.none(len(items))
        self._attributes = torch.from_numpy(np.ascontiguousarray(attributes.codes))
        self._values = inputs.tables(schema, attributes, row_values)

    def batch(self, rows: RowTensors, matches: Tensor | None = None) -> Batch:
        """Build a batch by looking up the items and histories of some rows."""
        if len(self._history_items) <= _ONE and self._is_one_request(rows):
            return self._request(rows, matches)
        return self._of_rows(rows, matches)[0]

    def share(self, rows: RowTensors, part: Part, matches: Tensor | None = None) -> Share:
        """One process's share of a global batch of some rows."""
        start, end = part.bounds(len(rows))
        if start == end:
            return Share(None, start, len(rows))
        own = matches[start:end] if matches is not None else None
        if part.of == 1:
            return Share(self.batch(rows, own), 0, len(rows))
        batch, distinct = self._of_rows(rows.slice(start, end), own)
        whole, _ = self._distinct(self._numbers(rows, self._history_items.index_select(0, rows.history).long()))
        return Share(batch, start, len(rows), self._place.index_select(0, distinct), len(whole))

    @staticmethod
    def _numbers(rows: RowTensors, items: Tensor) -> Tensor:
        return torch.cat([rows.candidate.long(), items.flatten()])

    def _of_rows(self, rows: RowTensors, matches: Tensor | None) -> tuple[Batch, Tensor]:
        """The batch, and the number of each of its items in the table of all items."""
        items = self._history_items.index_select(0, rows.history).long()
        # Representations are computed once per distinct item of the batch.
        distinct, back = self._distinct(self._numbers(rows, items))
        batch = Batch(
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
            coded=self._coded(rows),
        )
        return batch, distinct

    def _is_one_request(self, rows: RowTensors) -> bool:
        """Whether all rows have the same history and time, and the table has no other items to speak of."""
        few = len(self._index) <= len(rows) + self._history_items.shape[1] + 1
        same = (bool((each == each[0]).all()) for each in (rows.history, rows.at_us))
        return len(rows) > 1 and few and all(same)

    def _request(self, rows: RowTensors, matches: Tensor | None) -> Batch:
        """Rows that share a history: it is expanded, not copied, which the model's parts make use of."""
        first = rows.history[:1]
        items = self._history_items.index_select(0, first).long()
        gaps = gap_bucket(rows.at_us[:1, None], self._history_us.index_select(0, first))
        shape = (len(rows), items.shape[1])
        return Batch(
            numeric=rows.numeric,
            items=ItemBatch(self._index, self._codes.long(), self._content),
            candidate=rows.candidate.long(),
            history=items.expand(shape),
            mask=(items != 0).expand(shape),
            gap_bucket=gaps.expand(shape),
            label=rows.label,
            at_us=rows.at_us,
            matches=matches,
            coded=self._coded(rows),
        )

    def _coded(self, rows: RowTensors) -> tuple[Tensor, ...]:
        if not self._values:
            return ()
        codes = torch.cat([self._attributes.index_select(0, rows.candidate), rows.coded], dim=1)
        return tuple(values.index_select(0, codes[:, at]) for at, values in enumerate(self._values))

    def _distinct(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """The distinct item indices and the inverse mapping, like ``torch.unique`` but without sorting.

        Each index scatters its last position into a table of all items; positions that read themselves back are unique.
        """
        order = torch.arange(len(numbers), device=numbers.device)
        self._place.scatter_(0, numbers, order)
        distinct = numbers.masked_select(self._place.index_select(0, numbers) == order)
        self._place.scatter_(0, distinct, order[: len(distinct)])
        return distinct, self._place.index_select(0, numbers)

    def to(self, device: torch.device) -> Self:
        """Move all tensors to a device, without copying tensors that are already on it."""
        for name, value in vars(self).items():
            moved = tuple(each.to(device) for each in value) if isinstance(value, tuple) else value.to(device)
            setattr(self, name, moved)
        return self


class Batches:
    """Batches of a dataset whose tensors are in memory.

    Parameters
    ----------
    data : Dataset
        The rows.
    scaling : Scaling
        Scaling of the numeric features, from the training rows.
    vocabulary : Vocabulary
        Vocabulary of item ids, from the training rows.
    inputs : CodedInputs
        What the model reads of coded features, from the training rows.
    """

    def __init__(
        self, data: Dataset, scaling: Scaling, vocabulary: Vocabulary, inputs: CodedInputs = NO_INPUTS
    ) -> None:
        self._rows = RowTensors.of(data, scaling)
        self._tables = TableTensors(
            data.items,
            data.history_items,
            data.history_us,
            vocabulary,
            inputs,
            data.schema,
            data.row_values,
        )
        self._matches: Tensor | None = None

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def label(self) -> Tensor:
        """``float32 [rows]``."""
        return self._rows.label

    def batch(self, rows: Tensor) -> Batch:
        """The batch of some rows, by index ``int64 [rows]``."""
        matches = self._matches.index_select(0, rows) if self._matches is not None else None
        return self._tables.batch(self._rows.take(rows), matches)

    def to(self, device: torch.device) -> Self:
        """Move all tensors to a device, without copying tensors that are already on it."""
        self._rows, self._tables = self._rows.to(device), self._tables.to(device)
        self._matches = self._matches.to(device) if self._matches is not None else None
        return self

    def keep_matches(self, matches: Tensor | None) -> None:
        """Store precomputed match features of all rows (``float32 [rows, matches]``) for later batches, or None."""
        self._matches = matches

    def learn_matches(self, matches: Callable[[Batch], Tensor]) -> MatchMoments:
        """Compute and store the match features of all rows by a model's ``matches``, and return their moments. They do not
        depend on trained weights, so one pass serves all epochs.
        """
        self.keep_matches(None)
        with torch.no_grad():
            computed = torch.cat([matches(batch) for batch in self.batches(SCAN_ROWS)])
        self.keep_matches(computed)
        return MatchMoments.of(computed)

    def forget_matches(self) -> None:
        """Discard the stored match features; another model has different ones."""
        self.keep_matches(None)

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[Batch]:
        """Iterate over all rows once, shuffled if a generator is given."""
        if generator is None and 0 < len(self) <= size:
            yield self._tables.batch(self._rows, self._matches)
            return
        order = torch.arange(len(self)) if generator is None else torch.randperm(len(self), generator=generator)
        order = order.to(self.label.device)
        for start in range(0, len(order), size):
            yield self.batch(order[start : start + size])

    def shares(self, size: int, generator: torch.Generator, part: Part) -> Iterator[Share]:
        """One process's share of each of the shuffled batches; all processes must pass a generator in the same state."""
        order = torch.randperm(len(self), generator=generator).to(self.label.device)
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            matches = self._matches.index_select(0, rows) if self._matches is not None else None
            yield self._tables.share(self._rows.take(rows), part, matches)

    def of_part(self, size: int, part: Part) -> Iterator[Batch]:
        """The rows of one process in order, to predict them."""
        start, end = part.bounds(len(self))
        for at in range(start, end, size):
            yield self.batch(torch.arange(at, min(at + size, end), device=self.label.device))

    def lanes(self, part: Part) -> int:
        """Number of lanes in which rows are shuffled: one, so that global batches do not depend on the processes."""
        return 1
