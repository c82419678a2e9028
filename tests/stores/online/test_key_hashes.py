"""Rows by the hash of their key: keys with one hash have rows of their own, whatever is written and deleted."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidkit.core.errors import OnlineStoreError
from sidkit.stores.online import key_hashes
from sidkit.stores.online.arrow import key_prefix, text_keys, text_value
from sidkit.stores.online.checksums import TAIL, event_us
from sidkit.stores.online.codec import pack
from sidkit.stores.online.erase import erase_users, keys_of_users
from sidkit.stores.online.key_hashes import PRIME, hashes_of
from sidkit.stores.online.layout import Cells, Layout
from sidkit.stores.online.repair import find_damage, repair
from sidkit.stores.online.sqlite_file import PackedFile

VIEWS = ("shop_one", "shop_two")
LAYOUT = Layout((("number", "INT64"),))
HEAD = key_prefix(["sid_prefix", "user_id"])
KEYS = [HEAD + text_value(f"c/{prefix}") + text_value(f"u{user}") for prefix in range(4) for user in range(6)]


@contextlib.contextmanager
def colliding(prime: int = 3) -> Iterator[None]:
    """Nearly every key has the hash of another one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(key_hashes, "PRIME", prime)
        yield


def body(number: int) -> bytes:
    return pack(LAYOUT, 1, [Cells("INT64", np.array([number]))])[0]


def put(file: PackedFile, view: str, keys: list[bytes], at_us: list[int], numbers: list[int]) -> None:
    with file.writing() as writing:
        assert writing.make(view, LAYOUT) == 1
        writing.put(view, keys, at_us, [None] * len(keys), list(map(body, numbers)))
        writing.index(view, KEYS[0])


@given(keys=st.lists(st.binary(max_size=80), max_size=20))
def test_a_hash_is_the_remainder_of_the_key_as_a_number(keys: list[bytes]) -> None:
    def remainder(key: bytes) -> int:
        value = 0
        for byte in key:  # Horner's rule
            value = (value * 256 + byte) % PRIME
        return value

    assert hashes_of(keys) == [remainder(key) for key in keys]
    assert all(0 <= value < 2**63 for value in hashes_of(keys))


def test_hashes_of_a_file_do_not_change() -> None:
    [one, other] = text_keys("item_id", ["i1", "i2"]) or []
    assert hashes_of([one, other]) == [2_717_396_196_977_094_186, 2_717_396_196_977_094_187]


@pytest.mark.parametrize(
    "ids",
    [
        [f"i{number}" for number in range(50_000)],
        [f"{number:010d}" for number in range(0, 10**10, 200_003)],
        [f"{a}{'0' * zeros}{b}" for a in range(100) for b in range(100) for zeros in range(8)],
        [f"{(number * 0x9E3779B97F4A7C15F39CC0605CEDC835) % 2**128:032x}" for number in range(50_000)],
        ["".join(pair) for pair in itertools.product(["aaaaaaa", "baaaaaaa", "caaaaaab"], map(chr, range(33, 900)))],
    ],
)  # fmt: skip
def test_ids_of_a_catalogue_have_different_hashes(ids: list[str]) -> None:
    keys = text_keys("item_id", ids) or []
    assert len(set(hashes_of(keys))) == len(set(ids)) > 1_000


def test_ids_that_count_up_are_neighbours() -> None:
    hashes = hashes_of(text_keys("item_id", [f"i{number}" for number in range(10_000, 20_000)]) or [])
    assert hashes == sorted(hashes) and hashes[-1] - hashes[0] < 2**40


steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "outdate", "drop outdated"]),
        st.sampled_from(VIEWS),
        st.lists(st.tuples(st.sampled_from(KEYS), st.integers(0, 3)), min_size=1, max_size=8),
    ),
    max_size=10,
)


@settings(deadline=None, max_examples=60)
@given(steps=steps, first=st.sampled_from(VIEWS), asked=st.lists(st.sampled_from([*KEYS, b"no key"]), max_size=12))
def test_keys_with_one_hash_are_read_and_written_as_if_each_had_its_own(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any], first: str, asked: list[bytes]
) -> None:
    """Compared with a dictionary."""
    path, numbers = tmp_path_factory.mktemp("same") / "online.sqlite", itertools.count()
    model: dict[str, dict[bytes, tuple[int, int]]] = {view: {} for view in VIEWS}
    group = (first, *(view for view in VIEWS if view != first))
    with colliding(), contextlib.closing(PackedFile(path, 1.0, 1 << 20)) as file:
        for view in VIEWS:
            put(file, view, [], [], [])
        for what, view, rows in steps:
            rows_of, written = model[view], [(key, at, next(numbers)) for key, at in rows]
            if what == "put":
                put(file, view, *map(list, zip(*written, strict=True)))
                for key, at, number in written:
                    if key not in rows_of or at >= rows_of[key][0]:
                        rows_of[key] = at, number
                continue
            with file.writing() as writing:
                if what == "outdate":
                    pairs = [(key, at) for key, at in dict(rows).items()]
                    writing.outdate(view, [key for key, _ in pairs], [at for _, at in pairs])
                    for key, at in pairs:
                        if key in rows_of and rows_of[key][0] == at:
                            rows_of[key] = -1, rows_of[key][1]
                else:
                    writing.drop_outdated(view)
                    model[view] = {key: row for key, row in rows_of.items() if row[0] != -1}
        expected = [
            tuple(
                None if key not in model[view] else (model[view][key][0], body(model[view][key][1])) for view in group
            )
            for key in asked
        ]
        with file.reading() as reading:
            columns = reading.rows_of([(view, None) for view in group], asked)
            entries = list(zip(*columns, strict=True)) if asked else []
            assert [tuple(row and (event_us(row), row[:-TAIL]) for row in entry) for entry in entries] == expected
            assert reading.fetch(group, asked) == entries
            assert reading.tails(group, asked) == [tuple(row and row[-TAIL:] for row in entry) for entry in entries]
            for view, rows_of in model.items():
                assert list(reading.keys(view)) == sorted(rows_of)
                assert reading.is_empty(view) == (not rows_of)
                assert reading.newest_us(view) == max((at for at, _ in rows_of.values()), default=None)
                found = reading.rows_of_second(view, len(HEAD), text_value("u1"), 100) or {}
                assert set(found) == {key for key in rows_of if key.endswith(text_value("u1"))}
            for key, entry in zip(asked, entries, strict=True):
                [layouts] = [reading.layouts(view) for view in group[:1]]
                newest = file.newest([(group, key)])
                assert newest is None or (newest[0] == [entry] and layouts)
        assert not find_damage(path)


def test_many_keys_with_one_hash_are_written_in_one_call_and_erased_alone(tmp_path: Path) -> None:
    path = tmp_path / "online.sqlite"
    keys = [HEAD + text_value(f"c/{number}") + text_value(f"u{number % 50}") for number in range(1_000)]
    with colliding(401), contextlib.closing(PackedFile(path, 1.0)) as file:
        put(file, VIEWS[0], keys, [0] * len(keys), list(range(len(keys))))
        with file.reading() as reading:
            assert [row and row[:-TAIL] for row in reading.rows(VIEWS[0], keys)] == list(map(body, range(len(keys))))
        file.close()
        assert keys_of_users(path, ["u7"], "user_id") == {"u7": 20}
        assert erase_users(path, ["u7"], "user_id") == 20
        with file.reading() as reading:
            there = [row is not None for row in reading.rows(VIEWS[0], keys)]
        assert there == [number % 50 != 7 for number in range(len(keys))]
        put(file, VIEWS[0], keys, [1] * len(keys), list(range(len(keys))))
        with file.reading() as reading:
            assert list(reading.keys(VIEWS[0])) == sorted(keys)
        assert not find_damage(path)


def test_a_damaged_row_of_a_key_with_another_ones_hash_is_found_and_repaired(tmp_path: Path) -> None:
    path = tmp_path / "online.sqlite"
    with colliding(1), contextlib.closing(PackedFile(path, 1.0)) as file:
        put(file, VIEWS[0], KEYS, [0] * len(KEYS), list(range(len(KEYS))))
        with contextlib.closing(file._connection(create=True)) as opened:
            opened.execute('UPDATE "packed:shop_one" SET row = zeroblob(length(row)) WHERE hash = -3')
        file.close()
        with pytest.raises(OnlineStoreError, match="a row does not match its checksum"), file.reading() as reading:
            reading.rows(VIEWS[0], KEYS)
        assert repair(path).rows == {VIEWS[0]: 1}
        with file.reading() as reading:
            assert sum(row is None for row in reading.rows(VIEWS[0], KEYS)) == 1
        assert not find_damage(path)


def test_a_write_over_a_damaged_key_says_so_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "online.sqlite"
    with contextlib.closing(PackedFile(path, 1.0)) as file:
        put(file, VIEWS[0], KEYS, [0] * len(KEYS), list(range(len(KEYS))))
        with file.writing() as writing:
            writing._opened.execute("UPDATE \"packed:shop_one\" SET key = x'00' WHERE key = ?", (KEYS[2],))
        with pytest.raises(OnlineStoreError, match="a row does not match its checksum in table packed:shop_one"):
            put(file, VIEWS[0], KEYS, [1] * len(KEYS), list(range(len(KEYS))))
        with file.reading() as reading:
            [row] = reading.rows(VIEWS[0], KEYS[:1])
        assert row is not None and event_us(row) == 0, "the whole transaction was taken back"
