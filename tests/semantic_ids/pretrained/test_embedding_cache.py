"""The cache of vectors: kept as put, damaged, killed, full, shared."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from helpers.builders import dies
from semantic_ids.pretrained.cache import VectorCache
from sidkit.core.errors import ArtifactError, StorageError

pytestmark = pytest.mark.usefixtures("no_network")


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[VectorCache]:
    with VectorCache(tmp_path / "cache", {"kind": "text", "model": "m"}) as opened:
        yield opened


def _keys(count: int) -> list[bytes]:
    return [place.to_bytes(32, "big") for place in range(count)]


def _put(cache: VectorCache, count: int, width: int = 3) -> None:
    matrix = np.arange(count * width, dtype=np.float32).reshape(count, width)
    cache.put(_keys(count), matrix, np.arange(count) % 2 == 1)


def test_a_cache_returns_what_was_put_and_never_changes_it(cache: VectorCache) -> None:
    assert cache.width is None and cache.get(_keys(2)) == {} and len(cache) == 0
    _put(cache, 1200)
    cache.put(_keys(2), np.full((2, 3), 9, dtype=np.float32), np.ones(2, dtype=np.bool_))
    found = cache.get([*_keys(1201), *_keys(3)])
    assert len(found) == len(cache) == 1200 and cache.width == 3
    assert found[_keys(2)[1]].vector.tolist() == [3.0, 4.0, 5.0] and found[_keys(2)[1]].cut
    assert found[_keys(1)[0]].vector.dtype == np.float32 and not found[_keys(1)[0]].cut
    with pytest.raises(ArtifactError, match="has vectors of 3 elements, but the model returns 5"):
        _put(cache, 1300, width=5)
    assert len(cache) == 1200


@pytest.mark.parametrize("damage", ["overwritten", "halved", "one_vector"])
def test_a_damaged_cache_is_discarded_and_made_again(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    identity = {"kind": "text", "model": "m"}
    with VectorCache(tmp_path, identity) as cache:
        _put(cache, 2000, width=64)
        path = cache.path
    content = path.read_bytes()
    if damage == "overwritten":
        path.write_bytes(b"no database " * 1000)
    elif damage == "halved":
        path.write_bytes(content[: len(content) // 2])
    else:
        at = content.index(np.arange(64, 128, dtype="<f4").tobytes()) + 8
        path.write_bytes(content[:at] + b"\xff" + content[at + 1 :])

    with VectorCache(tmp_path, identity) as cache:
        whole = cache.get(_keys(2000))
        assert len(whole) == (1999 if damage == "one_vector" else 0)
        told = capsys.readouterr().err
        assert path.name in told and told.count("discarding and rebuilding it") == 1
        _put(cache, 2000, width=64)
        assert len(cache.get(_keys(2000))) == 2000


def _puts_until_killed(folder: str) -> None:
    with VectorCache(Path(folder), {"kind": "text", "model": "m"}) as cache:
        _put(cache, 50)
        with cache._transaction():
            cache._connection.execute("PRAGMA cache_spill = 1")
            rows = [(place.to_bytes(32, "big"), b"x" * 4096, 0, 0) for place in range(100, 3000)]
            cache._connection.executemany("INSERT INTO vectors VALUES (?, ?, ?, ?)", rows)
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_cache_killed_in_the_middle_of_a_write_is_what_it_was_before(tmp_path: Path) -> None:
    dies(_puts_until_killed, str(tmp_path))
    with VectorCache(tmp_path, {"kind": "text", "model": "m"}) as cache:
        assert len(cache) == 50 and len(cache.get(_keys(60))) == 50
        _put(cache, 60)
        assert len(cache) == 60


def test_a_full_disk_is_told_and_changes_nothing(cache: VectorCache) -> None:
    _put(cache, 10)
    pages = cache._connection.execute("PRAGMA page_count").fetchone()[0]
    cache._connection.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageError, match="database or disk is full"):
        _put(cache, 5000, width=3)
    cache._connection.execute("PRAGMA max_page_count = 100000")
    assert len(cache) == 10


def test_a_cache_in_a_place_that_is_no_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="cannot be opened for writing"):
        VectorCache(tmp_path / "file", {"kind": "text"})


def test_two_runs_may_share_a_cache(cache: VectorCache) -> None:
    with VectorCache(cache.path.parent, {"kind": "text", "model": "m"}) as other:
        assert other.path == cache.path
        _put(cache, 5)
        _put(other, 9)
        assert len(cache) == len(other) == 9
