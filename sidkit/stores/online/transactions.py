"""What a packed online store reads and writes, whichever database holds the rows.

:mod:`sidkit.stores.online.sqlite_transactions` implements it for a file, :mod:`sidkit.stores.online.redis_reading` and
:mod:`sidkit.stores.online.redis_writing` for a Redis server. Rows are the same bytes in both
(:mod:`sidkit.stores.online.layout`, :mod:`sidkit.stores.online.checksums`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager

from sidkit.core.errors import OnlineStoreError
from sidkit.stores.online.cache import Entry, Group
from sidkit.stores.online.checksums import TAIL, event_us, sealed, since
from sidkit.stores.online.codec import layout_number, unpack
from sidkit.stores.online.layout import Cells, Layout

Layouts = Mapping[str, Mapping[int, Layout]]
"""Layouts by view and number."""
OUTDATED_US = -1
"""The event time of rows that any other row may replace."""
READ_VIEWS = 32
"""Views that are read at once; SQLite joins at most 64 tables."""


class Reading(ABC):
    """Reads rows and layouts.

    Parameters
    ----------
    place : str
        The database, for error messages, without secrets.
    remedy : str
        How to rebuild it, for error messages.
    """

    def __init__(self, place: str, remedy: str) -> None:
        self.place, self.remedy = place, remedy

    @abstractmethod
    def layouts(self, view: str) -> dict[int, Layout]:
        """Layouts of a view's rows by number, the newest last.

        Raises
        ------
        OnlineStoreError
            When a layout is damaged.
        """

    @abstractmethod
    def views(self) -> list[str]:
        """Names of the views that have a table, sorted."""

    @abstractmethod
    def fetch(self, group: Group, keys: Sequence[bytes]) -> list[Entry]:
        """Read and verify the rows of each key in each of at most 32 views.

        Raises
        ------
        OnlineStoreError
            When a row is damaged.
        """

    @abstractmethod
    def marks(self, views: Sequence[str]) -> tuple[object, ...]:
        """A value per view that is another one after every write to the view; compared within a process."""

    @abstractmethod
    def tails(self, views: Sequence[str], keys: Sequence[bytes]) -> list[tuple[bytes | None, ...]]:
        """Times and checksum of each key's row in each of at most 32 views, None without a row.

        Equal bytes are the same row, which needs not be read again.
        """

    def has_index(self, view: str, key: bytes) -> bool:
        """Whether the rows of keys like this one have all indices that the database offers."""
        return True

    def rows_of_second(self, view: str, names: int, value: bytes, most: int) -> dict[bytes, bytes] | None:
        """Rows by key of all keys with a second value; None without an index, or if there are more than ``most``."""
        return None

    @abstractmethod
    def newest_us(self, view: str) -> int | None:
        """The newest event time of a view, microseconds UTC; None without rows. Examines every row."""

    @abstractmethod
    def keys(self, view: str) -> Iterator[bytes]:
        """Yield the keys of all rows, sorted."""

    @abstractmethod
    def is_empty(self, view: str) -> bool:
        """Whether a view has no rows."""

    def damaged(self, view: str, problem: str) -> OnlineStoreError:
        """Build the error for a damaged table."""
        return OnlineStoreError(
            f"the online store {self.place} is damaged: {problem} in table packed:{view}; {self.remedy}"
        )

    def cells(self, view: str, row: bytes, features: Sequence[str]) -> dict[str, Cells]:
        """Some features of one row as stored; those that its layout lacks are missing."""
        number = layout_number(row)
        return unpack(self.layouts_of(view, [row])[number], [row], features, number)

    def layouts_of(self, view: str, rows: Sequence[bytes | None]) -> dict[int, Layout]:
        """Like :meth:`layouts`, but require the layouts of all given rows."""
        layouts = self.layouts(view)
        missing = {layout_number(row) for row in rows if row is not None} - layouts.keys()
        if missing:
            raise self.damaged(view, f"layout {min(missing)} is missing")
        return layouts

    def rows(self, view: str, keys: Sequence[bytes], since_us: int | None = None) -> list[bytes | None]:
        """The packed row of each key, in order; None if there is none, or it is older than ``since_us``.

        Raises
        ------
        OnlineStoreError
            When a row is damaged.
        """
        return since([row for (row,) in self.fetch((view,), keys)], since_us)

    def rows_of(self, views: Sequence[tuple[str, int | None]], keys: Sequence[bytes]) -> list[list[bytes | None]]:
        """Like :meth:`rows` for several views (each with its ``since_us``) and the same keys, cached if possible.

        Times are compared after the look-up, so a cache includes rows that are too old.
        """
        result: list[list[bytes | None]] = []
        for at in range(0, len(views), READ_VIEWS):
            part = views[at : at + READ_VIEWS]
            entries = self.entries(tuple(view for view, _ in part), keys)
            columns = list(zip(*entries, strict=True)) or [()] * len(part)
            result += [since(list(rows), past_us) for rows, (_, past_us) in zip(columns, part, strict=True)]
        return result

    def entries(self, group: Group, keys: Sequence[bytes]) -> list[Entry]:
        """Like :meth:`fetch`, from a cache if there is one."""
        return self.fetch(group, keys)

    def timed_rows(
        self, view: str, keys: Sequence[bytes], since_us: int | None = None
    ) -> list[tuple[bytes | None, int | None]]:
        """Like :meth:`rows`, with the event time in microseconds UTC."""
        return [(row, None if row is None else event_us(row)) for row in self.rows(view, keys, since_us)]


class Writing(Reading):
    """Reads and writes."""

    @abstractmethod
    def make(self, view: str, layout: Layout) -> int:
        """Create a view's table if missing, and return the number of the layout."""

    @abstractmethod
    def put(
        self,
        view: str,
        keys: Sequence[bytes],
        events_us: Sequence[int],
        created_us: Sequence[int | None],
        rows: Sequence[bytes],
    ) -> None:
        """Write rows, except those older (by event, then created time) than the existing row.

        Among rows with the same key and times the last one wins.
        """

    def index(self, view: str, key: bytes) -> None:
        """Index the rows by their second join key, if the database offers it and keys like this one have two."""

    @abstractmethod
    def put_over(
        self, view: str, key: bytes, event_us: int, created_us: int | None, row: bytes, existing: bytes | None
    ) -> bool:
        """Write one row like :meth:`put`; False, and nothing is written, if ``existing`` is not the stored row any more."""

    @abstractmethod
    def outdate(self, view: str, keys: Sequence[bytes], events_us: Sequence[int]) -> None:
        """Allow any row to replace the rows with these keys and event times; see also :meth:`drop_outdated`."""

    def outdated(self, view: str, keys: Sequence[bytes], events_us: Sequence[int]) -> list[tuple[bytes, bytes, bytes]]:
        """Of those of the keys whose stored row has the event time: key, stored row, and the row that any other may replace."""
        stored = zip(keys, events_us, self.rows(view, keys), strict=True)
        present = [(key, row) for key, at, row in stored if row is not None and event_us(row) == at]
        count, own = len(present), [key for key, _ in present]
        rows = sealed(view, own, [OUTDATED_US] * count, [None] * count, [row[:-TAIL] for _, row in present])
        return [(*pair, row) for pair, row in zip(present, rows, strict=True)]

    @abstractmethod
    def drop_outdated(self, view: str) -> None:
        """Delete the outdated rows that were not replaced."""

    @abstractmethod
    def drop(self, view: str) -> None:
        """Drop a view's table."""


class PackedDatabase(ABC):
    """Holds the packed rows of a store's views; thread-safe and usable after a fork.

    Parameters
    ----------
    place : str
        The database, for error messages, without secrets.
    remedy : str
        How to rebuild it, for error messages.
    """

    def __init__(self, place: str, remedy: str) -> None:
        self.place, self.remedy = place, remedy

    @abstractmethod
    def exists(self) -> bool:
        """Whether the database exists; one that cannot be reached raises when it is read."""

    @abstractmethod
    def reading(self) -> AbstractContextManager[Reading]:
        """Open the database for reading.

        Raises
        ------
        OnlineStoreError
            When it cannot be read.
        """

    def cached(self, wanted: Sequence[tuple[Group, Sequence[bytes]]]) -> tuple[Reading, list[list[Entry]]] | None:
        """The rows of keys in each group of views if all of them and their layouts are cached and no commit came in between.

        None if :meth:`reading` is needed, as in a database without such a cache.
        """
        return None

    def newest(self, wanted: Sequence[tuple[Group, bytes]]) -> tuple[list[Entry], Layouts] | None:
        """The newest rows of one key in each group of at most 32 views, verified, and the layouts of views that were read.

        None if :meth:`reading` is needed, as in a database without this shortcut.
        """
        return None

    @abstractmethod
    def writing(self) -> AbstractContextManager[Writing]:
        """Open the database for writing.

        Raises
        ------
        OnlineStoreError
            When it cannot be written.
        """

    @abstractmethod
    def close(self) -> None:
        """Close all connections; the next use opens new ones."""
