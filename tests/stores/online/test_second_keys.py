"""All rows of one second key by a range scan: those of a search by whole keys, or one error, never other ones."""

from __future__ import annotations

import contextlib
import random
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidkit.core.errors import OnlineStoreError
from sidkit.stores.online.arrow import key_prefix, text_value
from sidkit.stores.online.codec import pack
from sidkit.stores.online.key_hashes import hashes_of
from sidkit.stores.online.layout import Cells, Layout
from sidkit.stores.online.repair import find_damage, repair
from sidkit.stores.online.second_keys import names_length, second_value
from sidkit.stores.online.sqlite_file import PackedFile

VIEW, LAYOUT = "shop_counts", Layout((("number", "INT64"),))
HEAD = key_prefix(["sid_prefix", "user_id"])
MOST = 10_000


def key_of(prefix: str, user: str) -> bytes:
    return HEAD + text_value(prefix) + text_value(user)


def write(path: Path, keys: list[bytes], *, indexed: bool = True) -> None:
    file = PackedFile(path, 1.0)
    with file.writing() as writing:
        number = writing.make(VIEW, LAYOUT)
        rows = pack(LAYOUT, number, [Cells("INT64", np.arange(len(keys)))]) if keys else []
        writing.put(VIEW, keys, [0] * len(keys), [None] * len(keys), rows)
        if indexed:
            writing.index(VIEW, key_of("", ""))
    file.close()


def scanned(path: Path, user: str, most: int = MOST) -> dict[bytes, bytes] | None:
    file = PackedFile(path, 1.0)
    try:
        with file.reading() as reading:
            return reading.rows_of_second(VIEW, len(HEAD), text_value(user), most)
    finally:
        file.close()


def searched(path: Path, keys: list[bytes]) -> dict[bytes, bytes]:
    file = PackedFile(path, 1.0)
    try:
        with file.reading() as reading:
            return {key: row for key, row in zip(keys, reading.rows(VIEW, keys), strict=True) if row is not None}
    finally:
        file.close()


texts = st.one_of(
    st.text("ab\x02\x00", max_size=6), st.sampled_from(["", "x" * 255, "x" * 256, "y" * 4_095, "x" * 65_536])
)


@settings(deadline=None, max_examples=60)
@given(pairs=st.sets(st.tuples(texts, texts), max_size=30), users=st.lists(texts, min_size=1, max_size=4))
def test_a_scan_gives_the_rows_that_a_search_gives(
    tmp_path_factory: pytest.TempPathFactory, pairs: set[tuple[str, str]], users: list[str]
) -> None:
    path = tmp_path_factory.mktemp("scan") / "online.sqlite"
    write(path, [key_of(prefix, user) for prefix, user in pairs])
    for user in {*users, *(user for _, user in pairs)}:
        keys = [key_of(prefix, other) for prefix, other in pairs if other == user]
        # Keys of 65,536 bytes or more are searched one by one.
        expected = searched(path, [key for key in keys if len(key) < 65_536])
        assert scanned(path, user) == expected


@given(prefix=texts, user=texts)
def test_the_second_value_is_that_of_the_key(prefix: str, user: str) -> None:
    key = key_of(prefix, user)
    assert names_length(key) == len(HEAD)
    if len(prefix) < 65_536:
        assert second_value(key, len(HEAD)) == text_value(user)
    assert names_length(key_prefix(["item_id"]) + text_value(user)) is None


@pytest.fixture(scope="module")
def keys() -> list[bytes]:
    draw = random.Random(0)
    return sorted({key_of(f"c/{draw.randrange(30)}", f"u{draw.randrange(40)}") for _ in range(600)})


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, keys: list[bytes]) -> Path:
    path = tmp_path_factory.mktemp("sound") / "online.sqlite"
    write(path, keys)
    with contextlib.closing(sqlite3.connect(path)) as opened:
        opened.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


def test_more_rows_than_asked_for_are_not_read(sound: Path, keys: list[bytes]) -> None:
    count = sum(second_value(key, len(HEAD)) == text_value("u1") for key in keys)
    assert scanned(sound, "u1", count - 1) is None
    found = scanned(sound, "u1", count)
    assert found is not None and len(found) == count
    assert scanned(sound, "nobody", 0) == {}


def test_a_file_without_the_index_is_read_by_whole_keys_until_it_is_written(tmp_path: Path, keys: list[bytes]) -> None:
    path = tmp_path / "online.sqlite"
    write(path, keys, indexed=False)
    assert scanned(path, "u1") is None
    write(path, keys[:1])
    assert scanned(path, "u1") == searched(path, [key for key in keys if key.endswith(text_value("u1"))])


def test_deleted_and_later_rows_are_seen(tmp_path: Path, keys: list[bytes]) -> None:
    path = tmp_path / "online.sqlite"
    write(path, keys)
    file, own = PackedFile(path, 1.0), [key for key in keys if key.endswith(text_value("u1"))]
    with file.writing() as writing:
        writing.outdate(VIEW, own[:2], [0, 0])
        writing.drop_outdated(VIEW)
    file.close()
    write(path, [key_of("later", "u1")])
    found = scanned(path, "u1")
    assert found is not None and set(found) == {*own[2:], key_of("later", "u1")}


def test_no_flipped_bit_hides_a_row_or_gives_a_wrong_one(tmp_path: Path, sound: Path, keys: list[bytes]) -> None:
    users = [f"u{number}" for number in range(42)]
    expected = {user: scanned(sound, user) for user in users}
    path, data, draw = tmp_path / "online.sqlite", sound.read_bytes(), random.Random(1)
    messages = []
    for _ in range(250):
        flipped = bytearray(data)
        flipped[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        for user in draw.sample(users, 8):
            try:
                found = scanned(path, user)
            except OnlineStoreError as error:
                messages.append(str(error))
            else:
                assert found is None or found == expected[user]
    assert all(str(path) in message for message in messages)
    assert len(messages) > 15


@pytest.mark.parametrize("part", ["user", "number"])
def test_a_damaged_index_is_one_error_and_is_repaired(
    tmp_path: Path, sound: Path, keys: list[bytes], part: str
) -> None:
    path = tmp_path / "online.sqlite"
    data, own = sound.read_bytes(), [key for key in keys if key.endswith(text_value("u7"))]
    own.sort(key=lambda key: hashes_of([key])[0])
    expected, messages = scanned(sound, "u7"), []
    for key in (own[0], own[-1], own[len(own) // 2]):
        # As in the index: the second value, and the number of the row.
        entry = text_value("u7") + hashes_of([key])[0].to_bytes(8, "big")
        assert data.count(entry) == 1
        at = data.index(entry) + len(entry) - (9 if part == "user" else 2)
        for change in (0x01, 0x40, 0x81):
            rotten = bytearray(data)
            rotten[at] ^= change
            path.write_bytes(rotten)
            # A changed value of an entry that is not searched for leaves the order as it is, or shows in it.
            try:
                assert scanned(path, "u7") == expected
            except OnlineStoreError as error:
                messages.append(str(error))
            assert list(find_damage(path).rows) == [VIEW]
    assert messages and all("is damaged" in message for message in messages)
    assert repair(path).rows == {VIEW: 1}
    assert not find_damage(path)
    assert searched(path, keys).keys() == set(keys)
    write(path, keys[:1])
    assert (scanned(path, "u7") or {}).keys() == set(own)
