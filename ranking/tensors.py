"""From a training set to tensors: everything once, gathered per batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ranking.features import Scaling
from ranking.representations.base import Batch, ItemBatch, Seen
from ranking.time_gaps import TIME_BUCKETS, gap_bucket
from ranking.training_set import TrainingSet
from ranking.views import Ints
from semantic_ids.item_vectors import Floats
from semantic_ids.quantizers.base import Codes

__all__ = ["TIME_BUCKETS", "Batch", "TensorSet", "Vocabulary", "gap_bucket"]


@dataclass(frozen=True)
class Vocabulary:
    """Item ids of the training window: number 0 is padding, 1 is unknown, the rest in order of the ids."""

    ids: tuple[str, ...]

    @property
    def size(self) -> int:
        """Rows of an id table."""
        return len(self.ids) + 2

    @classmethod
    def fit(cls, item_ids: npt.NDArray[np.object_], least: int = 1) -> Vocabulary:
        """The ids that occur at least ``least`` times among the training rows' candidates."""
        ids, counts = np.unique(item_ids.astype(str), return_counts=True)
        return cls(tuple(ids[counts >= least].tolist()))

    def numbers(self, item_ids: npt.NDArray[np.object_]) -> Ints:
        """``int64 [items]``: 0 for the empty string (padding), 1 for an id that is not in the vocabulary."""
        place = {name: number + 2 for number, name in enumerate(self.ids)} | {"": 0}
        return np.array([place.get(name, 1) for name in item_ids], dtype=np.int64)


def seen_in(data: TrainingSet, vocabulary: Vocabulary, flat_vectors: Callable[[Codes], Floats] | None = None) -> Seen:
    """What training rows showed, as the fit of a representation wants it; see :class:`Seen`."""
    return Seen(
        candidate=data.candidate.astype(np.int64),
        at_us=data.rows.at_us,
        index=vocabulary.numbers(data.items.ids),
        codes=data.items.codes.astype(np.int64),
        flat_vectors=flat_vectors,
    )


class TensorSet:
    """The tensors of a training set.

    Parameters
    ----------
    data : TrainingSet
        Rows as arrays.
    scaling : Scaling
        Of the numeric features, from the training rows.
    vocabulary : Vocabulary
        Of the item ids, from the training rows.
    """

    def __init__(self, data: TrainingSet, scaling: Scaling, vocabulary: Vocabulary) -> None:
        self._numeric = torch.from_numpy(scaling.apply(data.numeric))
        self._candidate = torch.from_numpy(data.candidate.astype(np.int64))
        self._history = torch.from_numpy(data.history.astype(np.int64))
        self._history_items = torch.from_numpy(data.history_items.astype(np.int64))
        self._history_us = torch.from_numpy(data.history_us)
        self._at_us = torch.from_numpy(np.ascontiguousarray(data.rows.at_us))
        self.label = torch.from_numpy(data.rows.label.astype(np.float32))
        self._index = torch.from_numpy(vocabulary.numbers(data.items.ids))
        self._codes = torch.from_numpy(data.items.codes.astype(np.int64))
        self._content = torch.from_numpy(data.items.content)
        self._place = torch.empty(len(data.items), dtype=torch.int64)
        self._matches: Tensor | None = None

    def __len__(self) -> int:
        return len(self.label)

    def batch(self, rows: Tensor) -> Batch:
        """Gather some rows (``int64 [rows]``)."""
        lists = self._history.index_select(0, rows)
        items = self._history_items.index_select(0, lists)
        candidate = self._candidate.index_select(0, rows)
        # Representations run once per distinct item of the batch.
        distinct, back = self._distinct(torch.cat([candidate, items.flatten()]))
        at_us = self._at_us.index_select(0, rows)
        return Batch(
            numeric=self._numeric.index_select(0, rows),
            items=ItemBatch(*(each.index_select(0, distinct) for each in (self._index, self._codes, self._content))),
            candidate=back[: len(rows)],
            history=back[len(rows) :].view(items.shape),
            mask=items != 0,
            gap_bucket=gap_bucket(at_us[:, None], self._history_us.index_select(0, lists)),
            label=self.label.index_select(0, rows),
            at_us=at_us,
            matches=self._matches.index_select(0, rows) if self._matches is not None else None,
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
            if isinstance(value, Tensor):
                setattr(self, name, value.to(device))
        return self

    def keep_matches(self, matches: Tensor | None) -> None:
        """Give every later batch the matches of its rows (``float32 [rows, matches]``), or none."""
        self._matches = matches

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[Batch]:
        """All rows once, shuffled when a generator is given."""
        order = torch.arange(len(self)) if generator is None else torch.randperm(len(self), generator=generator)
        order = order.to(self.label.device)
        for start in range(0, len(order), size):
            yield self.batch(order[start : start + size])
