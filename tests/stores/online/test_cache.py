"""A reader that keeps rows between commits gives what one gives that keeps none."""

from __future__ import annotations

import itertools
import threading
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidkit.core.errors import OnlineStoreError
from sidkit.stores.online.cache import RowCache
from sidkit.stores.online.checksums import TAIL
from sidkit.stores.online.layout import Layout
from sidkit.stores.online.sqlite_file import PackedFile

VIEWS = ("shop_one", "shop_two")
KEYS = [f"key {number}".encode() for number in range(6)]
LAYOUT = Layout((("whole", "INT64"),))
NUMBER = itertools.count()

TIMES = st.integers(0, 5)
PICKED = st.lists(st.sampled_from(KEYS), max_size=8)
WRITE = st.tuples(
    st.sampled_from(["other", "own", "own, and fails"]),
    st.sampled_from(VIEWS),
    st.lists(st.tuples(st.sampled_from(KEYS), TIMES, st.binary(min_size=2, max_size=40)), max_size=4),
)
DROP = st.tuples(st.sampled_from(["other drops", "own drops"]), st.sampled_from(VIEWS))
READ = st.tuples(
    st.just("read"), st.lists(st.tuples(st.sampled_from(VIEWS), st.none() | TIMES), min_size=1, max_size=3), PICKED
)


class Oracle:
    """The newest row of each key of each view, as plain dictionaries."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[bytes, tuple[int, bytes]]] = {view: {} for view in VIEWS}

    def write(self, view: str, rows: Sequence[tuple[bytes, int, bytes]]) -> None:
        for key, event, row in rows:
            if event >= self.tables[view].get(key, (event, b""))[0]:
                self.tables[view][key] = (event, row)

    def read(self, view: str, since: int | None, keys: Sequence[bytes]) -> list[bytes | None]:
        there = [self.tables[view].get(key) for key in keys]
        return [None if found is None or (since is not None and found[0] < since) else found[1] for found in there]


def write(file: PackedFile, view: str, rows: Sequence[tuple[bytes, int, bytes]], *, fail: bool = False) -> None:
    with file.writing() as writing:
        writing.make(view, LAYOUT)
        keys, events, packed = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
        writing.put(view, keys, events, [None] * len(rows), packed)
        if fail:
            raise ZeroDivisionError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cached")


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(steps=st.lists(st.one_of(READ, READ, WRITE, DROP), max_size=24), kept=st.sampled_from([1, 1500, 4000, 10**6]))
def test_whoever_writes_between_reads_a_read_gives_what_the_file_holds(
    folder: Path, steps: list[Any], kept: int
) -> None:
    path = folder / f"{next(NUMBER)}.sqlite"
    cached, plain, other, oracle = PackedFile(path, 5.0, kept), PackedFile(path, 5.0), PackedFile(path, 5.0), Oracle()
    for view in VIEWS:
        write(other, view, [])
    for what, *told in steps:
        if what == "read":
            views, keys = told
            with cached.reading() as reading, plain.reading() as uncached:
                found = reading.rows_of(views, keys)
                assert found == uncached.rows_of(views, keys)
                assert found == [uncached.rows(view, keys, since) for view, since in views]
            assert bodies(found) == [oracle.read(view, since, keys) for view, since in views]
        elif "drops" in what:
            with (cached if "own" in what else other).writing() as writing:
                writing.drop(told[0])
                writing.make(told[0], LAYOUT)
            oracle.tables[told[0]].clear()
        elif "fails" in what:
            with pytest.raises(ZeroDivisionError):
                write(cached, *told, fail=True)
        else:
            write(cached if what == "own" else other, *told)
            oracle.write(*told)
    for file in (cached, plain, other):
        file.close()
    other.delete()


def bodies(columns: list[list[bytes | None]]) -> list[list[bytes | None]]:
    """Rows without their times and check values."""
    return [[row and row[:-TAIL] for row in rows] for rows in columns]


def filled(path: Path, count: int, width: int = 50) -> list[bytes]:
    keys = [f"item {number:06d}".encode() for number in range(count)]
    for view in VIEWS:
        write(PackedFile(path, 5.0), view, [(key, 1, b"1" * width) for key in keys])
    return keys


def statements(file: PackedFile) -> list[str]:
    """The statements that this thread's connection runs from now on."""
    told: list[str] = []
    file._connection(create=False).set_trace_callback(told.append)
    return told


def searches(file: PackedFile, told: list[str], keys: list[bytes]) -> int:
    told.clear()
    with file.reading() as reading:
        reading.rows_of([(VIEWS[0], None), (VIEWS[1], 0)], keys)
    return sum("LEFT JOIN" in statement for statement in told)


def test_a_key_is_searched_once_between_commits_and_again_after_any(tmp_path: Path) -> None:
    path = tmp_path / "online.sqlite"
    keys = filled(path, 20)
    file = PackedFile(path, 5.0, 10**6)
    told = statements(file)
    assert searches(file, told, keys[:9]) == 1, "one statement for both views"
    assert searches(file, told, [*keys[3:9], keys[4]]) == 0
    assert searches(file, told, keys) == 1
    write(PackedFile(path, 5.0), VIEWS[0], [(b"somebody else", 1, b"22")])
    assert searches(file, told, keys[:3]) == 1
    write(file, VIEWS[1], [(b"somebody else", 1, b"22")])
    assert searches(file, told, keys[:3]) == 1
    uncached = PackedFile(path, 5.0)
    told = statements(uncached)
    assert [searches(uncached, told, keys[:3]) for _ in range(2)] == [1, 1]


def test_a_snapshot_stays_what_it_was_while_another_one_commits(tmp_path: Path) -> None:
    path = tmp_path / "online.sqlite"
    keys = filled(path, 6)
    file, other = PackedFile(path, 5.0, 10**6), PackedFile(path, 5.0)
    views = [(VIEWS[0], None)]
    with file.reading() as reading:
        assert bodies(reading.rows_of(views, keys[:3])) == [[b"1" * 50] * 3]
        write(other, VIEWS[0], [(key, 2, b"22") for key in keys])
        assert bodies(reading.rows_of(views, keys)) == [[b"1" * 50] * 6], (
            "half from the cache, half from the file: one snapshot"
        )
    with file.reading() as reading:
        assert bodies(reading.rows_of(views, keys)) == [[b"22"] * 6]


def test_each_thread_keeps_its_own_rows(tmp_path: Path) -> None:
    path = tmp_path / "online.sqlite"
    keys = filled(path, 300)
    file = PackedFile(path, 5.0, 10**6)
    wrong: list[Any] = []

    def read(turn: int) -> None:
        for at in range(60):
            with file.reading() as reading:
                [found] = bodies(reading.rows_of([(VIEWS[turn % 2], None)], keys[at : at + 200]))
            if None in found or len({row for row in found if row}) != 1:
                wrong.append(found)

    threads = [threading.Thread(target=read, args=(turn,)) for turn in range(4)]
    for thread in threads:
        thread.start()
    for number in range(2, 12):
        write(file, VIEWS[number % 2], [(key, number, str(number).encode() * 7) for key in keys])
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("width", [2, 60, 5000])
def test_what_is_kept_stays_under_its_bound_as_python_counts_memory(tmp_path: Path, width: int) -> None:
    path, most = tmp_path / "online.sqlite", 2**20
    keys = filled(path, 6000 if width < 5000 else 600, width)
    file = PackedFile(path, 5.0, most)
    largest = 0
    views = [(VIEWS[0], 0), (VIEWS[1], None)]
    with file.reading() as reading:
        reading.rows_of(views, keys[:100])
    file.forget()
    tracemalloc.start()
    try:
        for at in range(0, len(keys), 50):
            asked = [bytes(bytearray(key)) for key in keys[at : at + 50]]  # as a request makes them: objects of its own
            with file.reading() as reading:
                reading.rows_of(views, asked)
            largest = max(largest, file._mine.cache.size)
        del asked
        taken = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert most // 4 < largest <= most
    assert taken <= most + 50_000


def test_rows_that_would_fill_half_of_the_bound_at_once_are_not_kept() -> None:
    cache = RowCache(4000)
    cache.at(1)
    group = ("shop_one",)
    cache.look_up(group, KEYS[:2], lambda keys: [(b"x" * 100,) for _ in keys])
    before = cache.size
    found = cache.look_up(group, KEYS, lambda keys: [(b"y" * 900,) for _ in keys])
    assert found == [(b"x" * 100,)] * 2 + [(b"y" * 900,)] * 4
    assert cache.size == before > 0


def test_a_row_that_is_asked_for_again_outlives_those_that_are_not() -> None:
    cache = RowCache(4 * 2 * 450)
    cache.at(1)
    group = ("shop_one",)
    fetched: list[bytes] = []

    def fetch(keys: list[bytes]) -> list[tuple[bytes]]:
        fetched.extend(keys)
        return [(b"xx",) for _ in keys]

    for number in range(40):
        cache.look_up(group, [b"often"], fetch)
        cache.look_up(group, [str(number).encode()], fetch)
    assert fetched.count(b"often") == 1
    cache.look_up(group, [b"0"], fetch)
    assert fetched.count(b"0") == 2, "the others were forgotten on the way"


def test_more_views_than_sqlite_joins_are_read_at_once(tmp_path: Path) -> None:
    path = tmp_path / "online.sqlite"
    file = PackedFile(path, 5.0, 10**6)
    views = [f"shop_v{number}" for number in range(70)]
    for number, view in enumerate(views):
        write(file, view, [(KEYS[0], number, b"%02d" % number)])
    for _ in range(2):
        with file.reading() as reading:
            found = reading.rows_of([(view, 10 if view == "shop_v9" else None) for view in views], [KEYS[1], KEYS[0]])
        assert bodies(found) == [[None, None if number == 9 else b"%02d" % number] for number in range(70)]
    with pytest.raises(OnlineStoreError, match="no such table: packed:shop_none"), file.reading() as reading:
        reading.rows_of([("shop_none", None)], KEYS)
