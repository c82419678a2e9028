"""Read the next batches of rows on disk while the model works on one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")
_WAIT_SECONDS = 0.1


class Prefetched(Generic[T]):
    """An iterator whose items another thread makes, at most ``ahead`` before they are asked for, in the same order.

    Parameters
    ----------
    items : iterator
        Only the thread uses it. What it raises is raised by this iterator, after the items before it.
    ahead : int
        Items that may wait.
    """

    def __init__(self, items: Iterator[T], ahead: int = 2) -> None:
        self._ready: queue.Queue[tuple[T | None, BaseException | None]] = queue.Queue(ahead)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._make, args=(items,), name="next batches", daemon=True)
        self._thread.start()

    def __enter__(self) -> Iterator[T]:
        return self._items()

    def __exit__(self, *_: object) -> None:
        """Stop the thread; returns when it has ended."""
        self._closed.set()
        self._thread.join()

    def _items(self) -> Iterator[T]:
        while True:
            item, error = self._ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]  # an item, since there is no error

    def _make(self, items: Iterator[T]) -> None:
        while not self._closed.is_set():
            made: tuple[T | None, BaseException | None]
            try:
                made = (next(items), None)
            except BaseException as error:  # noqa: BLE001 - raised again by the thread that asks
                made = (None, error)
            while not self._closed.is_set():
                try:
                    self._ready.put(made, timeout=_WAIT_SECONDS)
                    break
                except queue.Full:
                    continue
            if made[1] is not None:
                return
