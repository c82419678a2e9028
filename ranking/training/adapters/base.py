"""Base class of adapters, and the rows that they read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ranking.data.dataset import Dataset
from ranking.data.numeric_features import numeric_column
from ranking.training.count_gate import gate_features
from ranking.training.mixing import logits
from sidkit.core.arrays import Doubles, Ints

RATE = "item_rate_30d"
"""Numeric column with the item's click rate of 30 days as of the row, smoothed towards the training rate: the second scorer of
a gate that is given one scorer only."""


@dataclass(frozen=True)
class AdapterRows:
    """Rows as an adapter reads them, in any order.

    Attributes
    ----------
    item_ids, user_ids : object [rows]
    at_us : int64 [rows]
        Times, microseconds UTC.
    label : int8 [rows]
        Labels; not read by :meth:`Adapter.logits`.
    logit : float64 [rows]
        Logit of the frozen scorer.
    other : float64 [rows]
        Logit of a second frozen scorer, or else of the item's click rate as of the row.
    features : float64 [rows, 3]
        ``log1p`` of the item's exposures, clicks and age as of the row; see :func:`ranking.training.count_gate.gate_features`.
    """

    item_ids: npt.NDArray[np.object_]
    user_ids: npt.NDArray[np.object_]
    at_us: Ints
    label: npt.NDArray[np.int8]
    logit: Doubles
    other: Doubles
    features: Doubles

    def __len__(self) -> int:
        return len(self.at_us)

    @classmethod
    def of(cls, data: Dataset, logit: Doubles, other: Doubles | None = None) -> Self:
        """The rows of a dataset with the logits of one or two frozen scorers, ``float64 [rows]``."""
        rows = data.rows
        if other is None:
            other = logits(numeric_column(data.numeric, RATE).astype(np.float64))
        return cls(rows.item_ids, rows.user_ids, rows.at_us, rows.label, logit, other, gate_features(data))

    @classmethod
    def joined(cls, parts: list[Self]) -> Self:
        """Concatenate rows."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))

    def take(self, index: Ints) -> Self:
        """Select rows by index."""
        return type(self)(*(getattr(self, name)[index] for name in self.__dataclass_fields__))

    def with_shuffled_items(self, seed: int) -> Self:
        """Control: each row has the item of a random row, with its counts, age and rate; labels and logits stay."""
        order = np.random.default_rng([seed, 23]).permutation(len(self))
        return replace(self, item_ids=self.item_ids[order], other=self.other[order], features=self.features[order])


class Adapter(ABC):
    """A correction of a frozen scorer's logits.

    The logit of a row must depend on this row alone, so that a request is answered as it would be evaluated. An adapter is
    saved as a table; ``of_table(adapter.table())`` gives the same logits.
    """

    name: ClassVar[str]
    """Name in :data:`ranking.training.adapters.ADAPTERS`; it becomes part of the names of rankers."""
    takes_other: ClassVar[bool] = False
    """Whether there may be a second frozen scorer."""

    @classmethod
    @abstractmethod
    def fit(cls, rows: AdapterRows) -> Self:
        """Fit on labelled rows; without both labels among them, the result must not change any logit."""

    @abstractmethod
    def logits(self, rows: AdapterRows) -> Doubles:
        """Corrected logits, ``float64 [rows]``."""

    @abstractmethod
    def table(self) -> pa.Table:
        """Everything that :meth:`logits` needs."""

    @classmethod
    @abstractmethod
    def of_table(cls, table: pa.Table) -> Self:
        """Read the table of :meth:`table`; a missing column raises KeyError."""

    @property
    @abstractmethod
    def summary(self) -> dict[str, float]:
        """What was fitted, as numbers by name, for reports."""


def halves(at_us: Ints) -> tuple[Ints, Ints]:
    """Row indices of the earlier and of the later half of rows, by time; rows of one time are in one half."""
    cut = np.sort(at_us)[len(at_us) // 2] if len(at_us) else 0
    return np.flatnonzero(at_us < cut), np.flatnonzero(at_us >= cut)


def has_both(label: npt.NDArray[np.int8]) -> bool:
    """Whether there are both labels."""
    return bool(0 < int((label == 1).sum()) < len(label))
