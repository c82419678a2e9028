"""Global batches of several training processes: each process computes its share of the rows."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ranking.data.batch import Batch


@dataclass(frozen=True)
class Part:
    """One of several processes: ``number`` of ``of``, from 0."""

    number: int = 0
    of: int = 1

    def bounds(self, rows: int) -> tuple[int, int]:
        """First row and end of this process's share of so many rows; shares differ by at most one row, earlier ones are the
        larger ones.
        """
        start, end = (-(-at * rows // self.of) for at in (self.number, self.number + 1))
        return start, end


WHOLE = Part()
"""A single process."""


@dataclass(frozen=True)
class Share:
    """The rows of a global batch that one process computes.

    Parameters
    ----------
    batch : Batch or None
        The rows; None if there are fewer rows than processes.
    start : int
        Place of the first of them in the global batch.
    of : int
        Rows of the global batch.
    places : Tensor, optional
        ``int64 [items]``: place of each of the batch's distinct items among those of the global batch. None where these are
        unknown: the other processes have their rows.
    items : int
        Distinct items of the global batch.
    """

    batch: Batch | None
    start: int
    of: int
    places: Tensor | None = None
    items: int = 0

    @property
    def weight(self) -> float:
        """Share of the global batch's rows."""
        return (len(self.batch) if self.batch is not None else 0) / self.of
