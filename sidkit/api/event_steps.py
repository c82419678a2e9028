"""Steps that bring events and items in while the service runs, and write what they change to the online store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa

from sidkit.api.base import ProjectBase
from sidkit.api.tables import TableLike, to_arrow
from sidkit.core.clock import Moment, moment_us
from sidkit.core.errors import ContractError, RepoLockedError

if TYPE_CHECKING:
    from semantic_ids.ticks import TickReport
    from sidkit.contract.pushed_rows import RejectedRow

Rows: TypeAlias = "TableLike | Sequence[Mapping[str, Any]]"
"""A table in memory, or a list of mappings, such as JSON objects."""


@dataclass(frozen=True)
class Pushed:
    """Result of a push.

    ``accepted`` rows are durable. ``rejected`` rows have a position (``row``, from 0) and a ``reason``. Of the accepted
    events, ``new`` are new in the log, ``changed`` became positives or conversions or brought unknown values, and
    ``duplicates`` changed nothing; of items, ``new`` are new. ``waiting``: another command holds the repository, so that the
    rows are in the queue until the next tick.
    """

    accepted: int
    rejected: tuple[RejectedRow, ...] = field(default=())
    new: int = 0
    changed: int = 0
    duplicates: int = 0
    waiting: bool = False


class EventSteps(ProjectBase):
    """Methods of a project for events and items that arrive one by one."""

    def push_events(self, rows: Rows) -> Pushed:
        """Add events to the log at once, without the source; call :meth:`tick` to update the online store.

        An event is its user, item, time, request and position: pushed again, or ingested later with the source, it stays one
        event. A label of 1 and a conversion win over 0.

        Parameters
        ----------
        rows : table or list of mappings
            Columns of ``interactions`` by their names in the input contract; times are datetimes with a zone, or ISO 8601 text
            with one.

        Returns
        -------
        Pushed
            Counts, and the rejected rows with their reasons.

        Raises
        ------
        ContractError
            When a required column is missing, or a column cannot be converted.
        ArtifactMissingError
            When nothing was ingested yet.
        """
        from sidkit.tables.push import push_events

        report = push_events(self.repo, rows_table(rows, "interactions"))
        return self._absorbed(report.accepted, report.rejected, report.duplicates)

    def push_items(self, rows: Rows) -> Pushed:
        """Add new items to the log at once, without the source; the next :meth:`tick` gives them codes.

        Parameters
        ----------
        rows : table or list of mappings
            ``item_id``, ``created_at``, further columns of the source's items, and a vector per modality.

        Returns
        -------
        Pushed
            Counts, and the rejected rows with their reasons. An item that exists with other values is rejected.

        Raises
        ------
        ContractError
            When a required column is missing, a column is unknown, or one cannot be converted.
        ArtifactMissingError
            When nothing was ingested yet.
        """
        from sidkit.tables.push import push_items

        report = push_items(self.repo, rows_table(rows, "items"))
        return self._absorbed(report.accepted, report.rejected, report.duplicates, items=True)

    def tick(self, at: Moment | None = None) -> TickReport:
        """Write the features that pushed rows, or the passage of time, change to the online store.

        Afterwards it has the values of tables that were built as of the same time.

        Parameters
        ----------
        at : str or datetime, optional
            The time, with a zone, for replays; default: now.

        Raises
        ------
        TimeError
            When the time is before that of the online store.
        RepoLockedError
            When another command holds the repository.
        """
        from semantic_ids.ticks import Ticker

        return Ticker(self.repo).tick(None if at is None else moment_us(at))

    def _absorbed(
        self, accepted: int, rejected: tuple[RejectedRow, ...], duplicates: int, *, items: bool = False
    ) -> Pushed:
        from sidkit.tables.absorb import absorb

        try:
            with self.repo.locked():
                done = absorb(self.repo)
        except RepoLockedError:
            return Pushed(accepted, rejected, duplicates=duplicates, waiting=True)
        if items:
            return Pushed(accepted, rejected, done.items, duplicates=duplicates + accepted - done.items)
        return Pushed(accepted, rejected, done.new, done.changed, duplicates + done.duplicates)


def rows_table(rows: Rows, name: str) -> pa.Table:
    """Convert rows to Arrow.

    Raises
    ------
    ContractError
        When there are none, or a column has values of several types.
    """
    if isinstance(rows, Sequence):
        wrong = next((row for row in rows if not isinstance(row, Mapping)), None)
        if wrong is not None:
            raise ContractError(name, f"expected mappings of columns to values, got {type(wrong).__name__}; pass dicts")
        columns = dict.fromkeys(column for row in rows for column in row)
        try:
            table = pa.table({column: pa.array([row.get(column) for row in rows]) for column in columns})
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise ContractError(
                name, f"a column cannot be converted to Arrow ({error}); give every column values of one type"
            ) from error
    else:
        table = to_arrow(rows, name)
    if not len(table):
        raise ContractError(name, "expected at least one row, got none; pass the rows")
    return table
