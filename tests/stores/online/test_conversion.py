"""Files of version 2: they are read as they are, and the first write converts them as a whole or not at all."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.online_version_2 import version_of_file, write_version_2
from helpers.places import TESTS
from sidkit.core.errors import OnlineStoreError
from sidkit.stores.online import key_hashes
from sidkit.stores.online.arrow import key_prefix, text_value
from sidkit.stores.online.checksums import TAIL
from sidkit.stores.online.codec import pack
from sidkit.stores.online.conversion import upgrade_online_file
from sidkit.stores.online.layout import Cells, Layout
from sidkit.stores.online.repair import find_damage, repair
from sidkit.stores.online.sqlite_file import PackedFile

ONE, TWO, COUNTS = VIEWS = ("shop_one", "shop_two", "shop_user_counts")
LAYOUT = Layout((("number", "INT64"),))
COUNT = 500
KEYS = [f"key {number}".encode() for number in range(COUNT)]
HEAD = key_prefix(["sid_prefix", "user_id"])
PAIRS = [HEAD + text_value(f"c/{number % 25}") + text_value(f"u{number // 25}") for number in range(COUNT)]
OWN = {ONE: KEYS, TWO: KEYS[::2], COUNTS: PAIRS}


def bodies(count: int, start: int = 0) -> list[bytes]:
    return pack(LAYOUT, 1, [Cells("INT64", np.arange(start, start + count))])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("two") / "online.sqlite"
    for view, keys in OWN.items():
        write_version_2(path, view, LAYOUT, keys, bodies(len(keys)), names=len(HEAD) if view == COUNTS else None)
    return path


@pytest.fixture
def path(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(whole, tmp_path / "online.sqlite"))


def read(path: Path) -> dict[str, list[bytes | None]]:
    """The features of every row of every view, of keys without one, and of the rows of one user."""
    told: dict[str, list[bytes | None]] = {}
    with contextlib.closing(PackedFile(path, 1.0, 1 << 20)) as file, file.reading() as reading:
        for view, keys in OWN.items():
            rows = reading.rows(view, [*keys, b"no key"])
            assert list(reading.keys(view)) == sorted(keys)
            assert [row for (row,) in reading.tails([view], keys)] == [row and row[-TAIL:] for row in rows[:-1]]
            told[view] = [row and row[:-TAIL] for row in rows]
        [kept] = reading.rows_of([(ONE, None)], KEYS)
        assert [row and row[:-TAIL] for row in kept] == told[ONE][:-1]
        both = reading.fetch((TWO, ONE), KEYS)
        assert [(row and row[:-TAIL], other and other[:-TAIL]) for row, other in both] == [
            (None if number % 2 else told[TWO][number // 2], told[ONE][number]) for number in range(COUNT)
        ]
        found = reading.rows_of_second(COUNTS, len(HEAD), text_value("u7"), COUNT)
        assert found is not None and reading.has_index(COUNTS, PAIRS[0])
        told["u7"] = [found[key][:-TAIL] for key in PAIRS if key.endswith(text_value("u7"))]
        assert len(found) == len(told["u7"]) == 25
    return told


def expected() -> dict[str, list[bytes | None]]:
    whole: dict[str, list[bytes | None]] = {view: [*bodies(len(keys)), None] for view, keys in OWN.items()}
    return {**whole, "u7": [*bodies(25, 7 * 25)]}


def write_one(path: Path) -> None:
    """One row of one view."""
    with contextlib.closing(PackedFile(path, 5.0)) as file, file.writing() as writing:
        writing.put(ONE, [b"new"], [1], [None], bodies(1))


def test_a_file_is_read_as_it_is(path: Path) -> None:
    before = path.read_bytes()
    assert read(path) == expected()
    assert not find_damage(path)
    assert (version_of_file(path), path.read_bytes()) == (2, before)


@pytest.mark.parametrize("prime", [key_hashes.PRIME, 11])
def test_the_first_write_converts_all_tables(path: Path, monkeypatch: pytest.MonkeyPatch, prime: int) -> None:
    monkeypatch.setattr(key_hashes, "PRIME", prime)  # 11: nearly all keys have the hash of another one
    with contextlib.closing(PackedFile(path, 5.0)) as file, file.writing() as writing:
        # An older row than the file has, one with the same time, and a newer one.
        writing.put(ONE, KEYS[5:8], [4, 6, 9], [None] * 3, bodies(3, 1_000))
    assert version_of_file(path) == 3
    rows = expected()
    rows[ONE][6:8] = bodies(2, 1_001)
    assert read(path) == rows
    assert not find_damage(path)
    assert upgrade_online_file(path) == 0


def test_an_upgrade_converts_without_a_write(path: Path) -> None:
    assert upgrade_online_file(path) == sum(map(len, OWN.values()))
    assert (version_of_file(path), read(path)) == (3, expected())


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_readers_beside_a_conversion_see_the_old_tables_and_then_the_new_ones(path: Path, cache_bytes: int) -> None:
    with contextlib.closing(PackedFile(path, 5.0, cache_bytes)) as file:
        with file.reading() as reading:
            [before] = reading.rows_of([(ONE, None)], KEYS)
            reading.layouts(ONE)
            write_one(path)
            assert reading.rows(ONE, [*KEYS, b"new"]) == [*before, None], "a snapshot stays as it was"
        assert file.newest([((ONE,), b"new")]) is None, "a transaction notices the conversion"
        for _ in range(2):
            with file.reading() as reading:
                [*rows, new] = reading.rows_of([(ONE, None)], [*KEYS, b"new"])[0]
                reading.layouts(ONE)
            assert rows == before and new is not None
        newest = file.newest([((ONE,), KEYS[3])])
        assert newest is None if cache_bytes == 0 else newest is not None and newest[0] == [(before[3],)]


def test_a_killed_conversion_leaves_the_old_file(path: Path) -> None:
    killed = (
        "import os, signal, sys; from pathlib import Path\n"
        "from sidkit.stores.online import sqlite_file\n"
        "from stores.online.test_conversion import write_one\n"
        "sqlite_file.write_marks = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_one(Path(sys.argv[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", killed, str(path)], cwd=TESTS, check=False, capture_output=True)
    assert done.returncode == -9, done.stderr.decode()
    assert read(path) == expected()
    assert version_of_file(path) == 2
    with contextlib.closing(sqlite3.connect(path)) as opened:
        assert opened.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert upgrade_online_file(path) == sum(map(len, OWN.values()))
    assert (version_of_file(path), read(path)) == (3, expected())


def test_damage_is_not_converted_but_removed_by_a_repair(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as opened, opened:
        opened.execute(f'UPDATE "packed:{TWO}" SET row = zeroblob(length(row)) WHERE key = ?', (KEYS[4],))
    with pytest.raises(
        OnlineStoreError, match=f"a row does not match its checksum in table packed:{TWO}; delete the file"
    ):
        write_one(path)
    with pytest.raises(OnlineStoreError, match=f"in table packed:{TWO}; run `sidkit materialize`"):
        upgrade_online_file(path)
    assert version_of_file(path) == 2
    assert find_damage(path).rows == repair(path).rows == {TWO: 1}
    rows = expected()
    rows[TWO][2] = None
    with contextlib.closing(PackedFile(path, 1.0)) as file, file.reading() as reading:
        for view, keys in OWN.items():
            assert [row and row[:-TAIL] for row in reading.rows(view, keys)] == rows[view][:-1]
    assert version_of_file(path) == 3
