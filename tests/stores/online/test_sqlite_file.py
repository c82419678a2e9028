"""The packed file under many processes, kills and busy writers."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.online_load import KEYS, LAYOUT, VIEW, read, run, write
from helpers.places import TESTS
from sidkit.core.errors import OnlineStoreError
from sidkit.stores.online.sqlite_file import PackedFile


def test_eight_readers_beside_a_writer_see_whole_rows_only(tmp_path: Path) -> None:
    told = run(tmp_path, 4.0)
    assert told["writes"] > 1
    assert told["least_reads"] > 1


def test_a_killed_writer_leaves_the_old_rows_or_the_new_ones(tmp_path: Path) -> None:
    path = tmp_path / "online.sqlite"
    write(path, 1)
    for turn in range(4):
        [before] = set(read(path, KEYS))
        process = subprocess.Popen(
            [sys.executable, "-m", "helpers.online_load", "keep_writing", str(path), "60"], cwd=TESTS
        )
        while read(path, KEYS)[0] == before:
            assert process.poll() is None
            time.sleep(0.003 * (turn + 1))
        process.kill()
        process.wait()
        with contextlib.closing(sqlite3.connect(path)) as opened:
            assert opened.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        [number] = set(read(path, KEYS))  # looks at every row
        assert number > before
        write(path, number + 1)
        assert set(read(path, KEYS)) == {number + 1}


def test_a_writer_waits_for_another_one_and_then_says_so(tmp_path: Path) -> None:
    path = tmp_path / "online.sqlite"
    write(path, 1)
    impatient = PackedFile(path, 0.05)
    with PackedFile(path, 1.0).writing() as writing:
        writing.make(VIEW, LAYOUT)
        with (
            pytest.raises(
                OnlineStoreError, match=r"cannot be used \(database is locked\): another writer may be using it"
            ),
            impatient.writing(),
        ):
            pass
        assert set(read(path, KEYS)) == {1}, "readers do not wait"
    with impatient.writing() as writing:
        writing.make(VIEW, LAYOUT)


def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "online.sqlite"
    write(path, 1)
    file = PackedFile(path, 1.0)

    def fail() -> None:
        with file.writing() as writing:
            writing.drop(VIEW)
            raise KeyError(VIEW)

    with pytest.raises(KeyError):
        fail()
    assert set(read(path, KEYS)) == {1}
    with file.reading() as reading:
        assert reading.views() == [VIEW]
        assert list(reading.keys(VIEW)) == KEYS


def test_a_snapshot_stays_as_it_was_while_others_write(tmp_path: Path) -> None:
    path = tmp_path / "online.sqlite"
    write(path, 1)
    with PackedFile(path, 1.0).reading() as reading:
        before = reading.rows(VIEW, KEYS)
        write(path, 2)
        assert reading.rows(VIEW, KEYS) == before
    assert set(read(path, KEYS)) == {2}


def test_a_file_that_was_deleted_meanwhile_can_be_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "online.sqlite"
    write(path, 1)
    file = PackedFile(path, 1.0)
    file.delete()
    assert not list(tmp_path.iterdir())
    with file.writing() as writing:
        writing.make(VIEW, LAYOUT)
    with file.reading() as reading:
        assert reading.rows(VIEW, KEYS[:2]) == [None, None]
