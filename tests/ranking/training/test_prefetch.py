"""Items made ahead by another thread: the same items, errors and order, and no thread that stays."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from ranking.training.prefetch import Prefetched


def counted(made: list[int], count: int, error: Exception | None = None) -> Iterator[int]:
    for number in range(count):
        made.append(number)
        yield number
    if error is not None:
        raise error


@pytest.mark.parametrize("count", [0, 1, 7])
def test_items_come_in_their_order(count: int) -> None:
    with Prefetched(counted([], count)) as items:
        assert list(items) == list(range(count))


def test_an_error_comes_after_the_items_before_it() -> None:
    seen = []
    with pytest.raises(ValueError, match="damaged"), Prefetched(counted([], 3, ValueError("damaged"))) as items:
        seen += items
    with Prefetched(counted([], 3, ValueError("damaged"))) as items:
        assert [next(items) for _ in range(3)] == [0, 1, 2]
        with pytest.raises(ValueError, match="damaged"):
            next(items)


def take_one(made: list[int]) -> None:
    with Prefetched(counted(made, 1000), ahead=2) as items:
        next(items)
        raise KeyboardInterrupt


def test_leaving_early_ends_the_thread_and_makes_few_items_more() -> None:
    before, made = threading.active_count(), list[int]()
    with pytest.raises(KeyboardInterrupt):
        take_one(made)
    assert threading.active_count() == before
    assert len(made) <= 5
