"""A byte of the online store that changed on disk: the right value or one error, never a wrong value."""

from __future__ import annotations

import contextlib
import itertools
import random
import re
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.online_builders import entity_keys
from sidkit.core.errors import OnlineStoreError
from sidkit.stores.online import conversion
from sidkit.stores.online.checksums import TAIL, all_intact, event_us, sealed
from sidkit.stores.online.codec import pack, unpack
from sidkit.stores.online.conversion import upgrade_online_file
from sidkit.stores.online.key_hashes import hashes_of
from sidkit.stores.online.layout import Cells, Layout
from sidkit.stores.online.repair import find_damage, repair
from sidkit.stores.online.sqlite_file import PackedFile

VIEWS = ("shop_one", "shop_two")
LAYOUT = Layout((("number", "INT64"), ("text", "STRING")))
COUNT = 240
NEVER = [f"there is no key {number}".encode() for number in range(3)]
KEYS = [f"key {number}".encode() for number in range(COUNT)]


def texts(view: str) -> list[str]:
    return [f"{view} {number} " * (1 + number % 7) for number in range(COUNT)]


def bodies(view: str, layout: int) -> list[bytes]:
    told = texts(view)
    offsets = np.cumsum([0, *map(len, told)])
    return pack(LAYOUT, layout, [Cells("INT64", np.arange(COUNT)), Cells("STRING", "".join(told).encode(), offsets)])


def write(path: Path, views: Sequence[str] = VIEWS) -> None:
    file = PackedFile(path, 1.0)
    for view in views:
        with file.writing() as writing:
            writing.put(view, KEYS, range(COUNT), [None] * COUNT, bodies(view, writing.make(view, LAYOUT)))
    file.close()


def read(path: Path) -> dict[str, list[Any]]:
    """Number and text of every key of both views; of keys that are not there as well."""
    file, told = PackedFile(path, 1.0), {}
    try:
        with file.reading() as reading:
            for view in VIEWS:
                rows = reading.rows(view, [*KEYS, *NEVER])
                [number] = reading.layouts_of(view, rows)
                there = [row for row in rows if row is not None]
                found = unpack(LAYOUT, there, number=number)
                offsets = found["text"].offsets
                assert offsets is not None
                words = [bytes(found["text"].flat)[a:b] for a, b in itertools.pairwise(offsets)]
                told[view] = [
                    [row is not None for row in rows], np.asarray(found["number"].flat).tolist(), words,
                    [event_us(row) for row in there],
                ]  # fmt: skip
    finally:
        file.close()
    return told


def expected() -> dict[str, list[Any]]:
    return {
        view: [
            [True] * COUNT + [False] * len(NEVER), list(range(COUNT)), [text.encode() for text in texts(view)],
            list(range(COUNT)),
        ]
        for view in VIEWS
    }  # fmt: skip


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sound") / "online.sqlite"
    write(path)
    assert read(path) == expected()
    return path


def test_no_flipped_bit_gives_a_wrong_value(sound: Path, tmp_path: Path) -> None:
    path, data, draw = tmp_path / "online.sqlite", sound.read_bytes(), random.Random(0)
    messages = []
    for _ in range(150):
        flipped = bytearray(data)
        flipped[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        for suffix in ("-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        path.write_bytes(flipped)
        try:
            assert read(path) == expected()
        except OnlineStoreError as error:
            messages.append(str(error))
    assert all(str(path) in message for message in messages)
    assert len(messages) > 40, "most of the file is rows"


def change(path: Path, statement: str, *values: Any) -> None:
    with contextlib.closing(sqlite3.connect(path)) as opened, opened:
        assert opened.execute(statement, values).rowcount > 0


ROTS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "a row under another key": (
        'UPDATE "packed:shop_one" SET row = (SELECT row FROM "packed:shop_one" WHERE key = ?) WHERE key = ?',
        (KEYS[1], KEYS[2]),
    ),
    "a row of another view": (
        'UPDATE "packed:shop_one" SET row = (SELECT row FROM "packed:shop_two" WHERE key = ?) WHERE key = ?',
        (KEYS[1], KEYS[1]),
    ),
    "a shorter row": ('UPDATE "packed:shop_one" SET row = substr(row, 1, length(row) - 1) WHERE key = ?', (KEYS[3],)),
    "a row of zeros": ('UPDATE "packed:shop_one" SET row = zeroblob(length(row)) WHERE key = ?', (KEYS[3],)),
    "no bytes": ("UPDATE \"packed:shop_one\" SET row = x'' WHERE key = ?", (KEYS[3],)),
    "a text": ('UPDATE "packed:shop_one" SET row = CAST(? AS TEXT) WHERE key = ?', ("text", KEYS[3])),
    "a number": ('UPDATE "packed:shop_one" SET row = 5 WHERE key = ?', (KEYS[3],)),
    "a later time": (
        f'UPDATE "packed:shop_one" SET row = CAST(substr(row, 1, length(row) - {TAIL}) || ? || substr(row, -12) AS BLOB) '
        "WHERE key = ?",
        (b"\xff" * 8, KEYS[3]),
    ),
    "a layout": ("UPDATE \"packed:layouts\" SET columns = replace(columns, 'number', 'numbed') WHERE view = ?", ("shop_one",)),
    "a layout's number": ('UPDATE "packed:layouts" SET number = 2 WHERE view = ?', ("shop_one",)),
    "a layout's view": ("UPDATE \"packed:layouts\" SET view = 'shop_0ne' WHERE view = ?", ("shop_one",)),
}  # fmt: skip


@pytest.mark.parametrize("rot", ROTS)
def test_what_changed_is_one_error_that_names_file_table_and_remedy(sound: Path, tmp_path: Path, rot: str) -> None:
    path = Path(shutil.copy(sound, tmp_path / "online.sqlite"))
    statement, values = ROTS[rot]
    change(path, statement, *values)
    with pytest.raises(OnlineStoreError) as caught:
        read(path)
    message = str(caught.value)
    assert f"the online store {path} is damaged" in message
    assert "packed:shop_one" in message
    assert "delete the file, then run `feast apply` and `feast materialize`" in message
    assert "\n" not in message
    assert list(find_damage(path).rows) == ["shop_one"]
    repair(path)
    assert not find_damage(path)
    write(path, VIEWS[:1])
    assert read(path) == expected()


@pytest.mark.parametrize("place", [0, 1, COUNT // 2, COUNT - 1])
def test_a_key_that_changed_is_not_taken_for_one_that_is_not_there(sound: Path, tmp_path: Path, place: int) -> None:
    path, key = Path(shutil.copy(sound, tmp_path / "online.sqlite")), KEYS[place]
    data = path.read_bytes()
    for at in [found.start() for found in re.finditer(re.escape(key + b"\x01\x00"), data)]:
        for offset in range(len(key)):
            rotten = bytearray(data)
            rotten[at + offset] ^= 0x81
            path.write_bytes(rotten)
            file = PackedFile(path, 1.0)
            with pytest.raises(OnlineStoreError, match="is damaged"):  # noqa: SIM117 (both views are read)
                with file.reading() as reading:
                    reading.rows("shop_one", [key]), reading.rows("shop_two", [key])
            file.close()


def number_bytes(number: int) -> bytes:
    """The number of a row as SQLite stores it: 7 bits per byte, and 8 in a ninth one."""
    if number >= 1 << 56:
        head, last = number >> 8, bytes([number & 0xFF])
        return bytes(head >> 7 * place & 0x7F | 0x80 for place in reversed(range(8))) + last
    size = max(-(-number.bit_length() // 7), 1)
    return bytes(number >> 7 * place & 0x7F | (0x80 if place else 0) for place in reversed(range(size)))


def test_a_number_that_changed_hides_no_row(sound: Path, tmp_path: Path) -> None:
    path, data, expected_rows = tmp_path / "online.sqlite", sound.read_bytes(), {}
    with contextlib.closing(PackedFile(sound, 1.0)) as file, file.reading() as reading:
        for view in VIEWS:
            expected_rows |= {(view, key): row for key, row in zip(KEYS, reading.rows(view, KEYS), strict=True)}
    order = sorted(KEYS, key=lambda key: hashes_of([key])[0])
    # The last row of a page: its number is also in the page above.
    last = [key for key in order if data.count(number_bytes(hashes_of([key])[0])) > len(VIEWS)]
    assert len(last) >= len(VIEWS)
    errors = 0
    for key in (order[0], order[1], *last[:4], *order[3:-3:20], order[-1]):
        numbered = number_bytes(hashes_of([key])[0])
        for at in [found.start() for found in re.finditer(re.escape(numbered), data)]:
            for offset in range(len(numbered)):
                rotten = bytearray(data)
                rotten[at + offset] ^= 0x41
                path.write_bytes(rotten)
                with contextlib.closing(PackedFile(path, 1.0)) as file:
                    for near in order[max(order.index(key) - 1, 0) : order.index(key) + 2]:
                        for view in VIEWS:
                            try:
                                with file.reading() as reading:
                                    assert reading.rows(view, [near]) == [expected_rows[view, near]]
                            except OnlineStoreError:
                                errors += 1
                assert find_damage(path), "a check of the whole file finds it"
    assert errors > 200


def test_a_file_whose_numbers_changed_keeps_its_rows_when_repaired(sound: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(sound, tmp_path / "online.sqlite"))
    data = path.read_bytes()
    at = data.index(number_bytes(hashes_of([KEYS[9]])[0]))
    path.write_bytes(data[:at] + bytes([data[at] ^ 0x20]) + data[at + 1 :])
    [(view, count)] = repair(path).rows.items()
    assert count == 1
    assert not find_damage(path)
    with contextlib.closing(PackedFile(path, 1.0)) as file, file.reading() as reading:
        there = [row is not None for row in reading.rows(view, KEYS)]
    assert there == [key != KEYS[9] for key in KEYS]


@pytest.mark.parametrize("harm", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: b"x" * len(data)])
def test_a_file_that_sqlite_cannot_read_is_one_error_and_is_made_anew(
    sound: Path, tmp_path: Path, harm: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "online.sqlite"
    path.write_bytes(harm(sound.read_bytes()))
    with pytest.raises(OnlineStoreError, match=r"online\.sqlite"):
        read(path)
    repair(path)
    write(path)
    assert read(path) == expected()


def test_a_sound_row_is_kept_by_a_repair_and_a_damaged_one_can_be_written_anew(sound: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(sound, tmp_path / "online.sqlite"))
    statement, values = ROTS["a later time"]
    change(path, statement, *values)
    assert repair(path).rows == {"shop_one": 1}
    with PackedFile(path, 1.0).reading() as reading:
        there = [row is not None for row in reading.rows("shop_one", KEYS)]
    assert there == [key != KEYS[3] for key in KEYS]


@settings(deadline=None, max_examples=60)
@given(
    rows=st.lists(
        st.tuples(st.binary(max_size=9), st.integers(-(2**63), 2**63 - 1), st.binary(max_size=40)), min_size=1
    ),
    view=st.text(max_size=5),
    bit=st.integers(0, 10_000),
)
def test_times_come_back_and_any_changed_bit_of_a_row_or_key_is_found(rows: list[Any], view: str, bit: int) -> None:
    keys, events, packed = (list(column) for column in zip(*rows, strict=True))
    stored = sealed(view, keys, events, [None] * len(rows), packed)
    assert [row[:-TAIL] for row in stored] == packed
    assert [event_us(row) for row in stored] == events
    assert all_intact(view, keys, stored)
    assert not all_intact(view + "x", keys, stored)
    changed = bytearray(keys[0] + stored[0])
    changed[bit // 8 % len(changed)] ^= 1 << bit % 8
    key, row = bytes(changed[: len(keys[0])]), bytes(changed[len(keys[0]) :])
    assert not all_intact(view, [key, *keys[1:]], [row, *stored[1:]])


def mixed_rows() -> tuple[list[bytes], list[bytes]]:
    """Keys and rows of several lengths, among them empty features."""
    packed = [bytes(range(place, place + 5 * (place % 5))) for place in range(12)]
    return KEYS[: len(packed)], sealed(
        "shop_one", KEYS[: len(packed)], range(len(packed)), [None] * len(packed), packed
    )


def row_by_row(view: str, keys: Sequence[bytes], rows: Sequence[bytes]) -> bool:
    """The definition of the checksum, a row at a time."""
    return all(
        crc32(row[:-4], crc32(key)) ^ crc32(view.encode()) == int.from_bytes(row[-4:], "little")
        for key, row in zip(keys, rows, strict=True)
    )


def test_every_changed_byte_of_many_rows_and_keys_is_found() -> None:
    keys, rows = mixed_rows()
    assert all_intact("shop_one", keys, rows)
    assert row_by_row("shop_one", keys, rows)
    changed = 0
    for texts in (keys, rows):
        for place, text in enumerate(texts):
            for at in range(len(text)):
                for change in (1, 2, 4, 8, 16, 32, 64, 128, 0x81, 0xFF):
                    texts[place] = text[:at] + bytes([text[at] ^ change]) + text[at + 1 :]
                    assert not all_intact("shop_one", keys, rows)
                    changed += 1
            texts[place] = text
    assert changed == 10 * sum(map(len, [*keys, *rows]))
    assert all_intact("shop_one", keys, rows)


def test_exchanged_rows_and_pairs_of_changed_bits_are_found() -> None:
    keys, rows = mixed_rows()
    draw = random.Random(0)
    for one, other in itertools.combinations(range(len(rows)), 2):
        exchanged = list(rows)
        exchanged[one], exchanged[other] = rows[other], rows[one]
        assert not all_intact("shop_one", keys, exchanged)
        for _ in range(20):
            twice = list(map(bytearray, rows))
            for place in (one, other):
                twice[place][draw.randrange(len(rows[place]))] ^= 1 << draw.randrange(8)
            assert not all_intact("shop_one", keys, list(map(bytes, twice)))


@settings(deadline=None, max_examples=100)
@given(place=st.integers(0, 11), row=st.binary(max_size=50), more=st.integers(0, 600), view=st.text(max_size=5))
def test_one_replaced_row_is_found_exactly_when_its_own_checksum_finds_it(
    place: int, row: bytes, more: int, view: str
) -> None:
    count = 12 + more
    keys = [f"key {number}".encode() for number in range(count)]
    rows = sealed(view, keys, range(count), [None] * count, [bytes(number % 7) for number in range(count)])
    assert all_intact(view, keys, rows)
    rows[place] = row
    assert all_intact(view, keys, rows) == row_by_row(view, keys, rows)


def write_old(path: Path) -> None:
    """A file as releases before check values wrote it."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as opened:
        opened.execute("PRAGMA journal_mode = WAL")
        opened.execute("BEGIN")
        opened.execute('CREATE TABLE "packed:format" (version INTEGER NOT NULL)')
        opened.execute('INSERT INTO "packed:format" VALUES (1)')
        opened.execute(
            'CREATE TABLE "packed:layouts" (view TEXT NOT NULL, number INTEGER NOT NULL, columns TEXT NOT NULL, '
            "PRIMARY KEY (view, number))"
        )
        for view in VIEWS:
            opened.execute(
                f'CREATE TABLE "packed:{view}" (key BLOB PRIMARY KEY, event_us INTEGER NOT NULL, created_us INTEGER, '
                "row BLOB NOT NULL) WITHOUT ROWID"
            )
            opened.execute('INSERT INTO "packed:layouts" VALUES (?, 1, ?)', (view, LAYOUT.to_json()))
            rows = zip(KEYS, range(COUNT), [None, *range(1, COUNT)], bodies(view, 1), strict=True)
            opened.executemany(f'INSERT INTO "packed:{view}" VALUES (?, ?, ?, ?)', rows)
        opened.execute("COMMIT")


def test_a_file_of_the_release_before_is_refused_and_upgraded_in_place(tmp_path: Path) -> None:
    path = tmp_path / "online.sqlite"
    write_old(path)
    with pytest.raises(
        OnlineStoreError, match=r"got version 1. Run `sidkit upgrade`, or delete the file, then run `feast apply`"
    ):
        read(path)
    assert upgrade_online_file(path) == 2 * COUNT
    assert read(path) == expected()
    assert not find_damage(path)
    assert upgrade_online_file(path) == 0
    file = PackedFile(path, 1.0)
    [older], [newer] = bodies("shop_one", 1)[:1], bodies("shop_one", 1)[1:2]
    with file.writing() as writing:
        writing.put("shop_one", [KEYS[5], KEYS[6]], [4, 6], [9, 7], [older, newer])
    with file.reading() as reading:
        kept = reading.rows("shop_one", [KEYS[5], KEYS[6]])
    assert [row and row[:-TAIL] for row in kept] == [bodies("shop_one", 1)[5], newer], "times were carried over"


def test_an_upgrade_that_is_interrupted_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "online.sqlite"
    write_old(path)

    def fails(*_: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(conversion, "record_check", fails)
        with pytest.raises(KeyboardInterrupt):
            upgrade_online_file(path)
    with pytest.raises(OnlineStoreError, match="got version 1"):
        read(path)
    assert upgrade_online_file(path) == 2 * COUNT
    assert read(path) == expected()


def test_feasts_own_reads_give_the_same_error(tmp_path: Path) -> None:
    from helpers.online_builders import BASE_US, batch, config, feature_view
    from sidkit.stores.online.sqlite_store import PackedSqliteOnlineStore

    view, told, store = feature_view(), config(tmp_path), PackedSqliteOnlineStore()
    rows = [(name, {"whole": 1}, BASE_US, None) for name in ("a", "b")]
    store.update(told, [], [view], [], [], partial=False)
    store.online_write_batch(told, view, batch(view, rows), None)
    change(Path(told.online_store.path), 'UPDATE "packed:shop_thing" SET row = CAST(row || ? AS BLOB)', b"x")
    for use in (
        lambda: store.online_read(told, view, entity_keys(["a"])),
        lambda: store.online_write_batch(told, view, batch(view, rows), None),  # merges with what is there
    ):
        with pytest.raises(
            OnlineStoreError, match="a row does not match its checksum in table packed:shop_thing; delete"
        ):
            use()
