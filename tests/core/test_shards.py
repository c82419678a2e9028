"""Shards: a stable hash, folders that are finished or not, and refusals that name the command."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidkit.core.errors import ArtifactCorruptError, ArtifactMissingError, ConfigError, ProcessesError
from sidkit.core.shards import Shard, ShardedWork, Shards


@given(
    st.lists(st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0")), max_size=40),
    st.integers(1, 7),
)
def test_each_key_is_in_one_shard_in_python_and_in_sql(keys: list[str], of: int) -> None:
    with duckdb.connect() as opened:
        opened.register("keys", pa.table({"key": pa.array(keys, pa.string())}))
        for number in range(1, of + 1):
            shard = Shard(number, of)
            in_sql = [key for (key,) in opened.execute(f"SELECT key FROM keys WHERE {shard.sql('key')}").fetchall()]
            expected = [key for key in keys if int(hashlib.md5(key.encode()).hexdigest()[16:], 16) % of == number - 1]
            assert sorted(in_sql) == sorted(expected) == sorted(key for key in keys if shard.has(key))


def test_the_hash_is_that_of_every_release() -> None:
    places = [next(at for at in range(1, 8) if Shard(at, 7).has(f"i{key}")) for key in range(8)]
    assert places == [int(hashlib.md5(f"i{key}".encode()).hexdigest()[16:], 16) % 7 + 1 for key in range(8)]
    assert places[:4] == [1, 4, 7, 4], "shards made by another release would be read as others"


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "1/1001", "-1/2", ""])
def test_other_texts_are_no_shard(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a shard as K/N with 1 <= K <= N <= 1000, such as 1/4, got"):
        Shard.parse(text)
    assert Shard.parse("1/4") == Shard(1, 4)


def writer(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "rows.txt").write_text(text)

    return write


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    made = Shards(tmp_path / "work", 3, {"content": "a", "codebook": "b"}, ["codebooks", "assign", "a", "--repo", "r"])
    for number in (1, 2, 3):
        assert made.make(number, writer(str(number)))
    return made


def test_finished_shards_are_read_and_not_made_again(shards: Shards) -> None:
    assert [(folder / "rows.txt").read_text() for folder in shards.read()] == ["1", "2", "3"]
    assert not shards.make(2, writer("other"))
    assert (shards.path(2) / "rows.txt").read_text() == "2"
    assert sorted(path.name for path in shards.folder.iterdir()) == ["1-of-3", "2-of-3", "3-of-3"]
    shards.remove()
    assert not shards.folder.exists()


def test_a_missing_shard_is_named_with_its_command(shards: Shards) -> None:
    (shards.path(2) / "manifest.json").unlink()
    with pytest.raises(
        ArtifactMissingError,
        match="expected 3 shards in .*, got 2: 2/3 missing; make them with `sidkit codebooks assign a --repo r --shard 2/3`",
    ):
        shards.read()


def test_shards_of_other_inputs_never_merge(shards: Shards) -> None:
    other = replace(shards, inputs={"content": "c", "codebook": "b"})
    with pytest.raises(
        ProcessesError,
        match="expected shard 1/3 .* content differ; make it again with `sidkit codebooks assign a --repo r --shard 1/3`",
    ):
        other.read()
    for number in (1, 3):
        assert other.make(number, writer("new"))
    with pytest.raises(ProcessesError, match="expected shard 2/3"):
        other.read()
    assert other.make(2, writer("new"))
    assert [(folder / "rows.txt").read_text() for folder in other.read()] == ["new"] * 3


def test_other_numbers_of_shards_lie_beside_each_other(shards: Shards) -> None:
    two = replace(shards, of=2)
    with pytest.raises(ArtifactMissingError, match="got 0: 1/2, 2/2 missing"):
        two.read()
    assert two.make(1, writer("half"))
    assert len(shards.read()) == 3


def test_a_damaged_shard_is_refused_and_made_again(shards: Shards) -> None:
    (shards.path(3) / "rows.txt").write_text("4")
    with pytest.raises(
        ArtifactCorruptError, match="delete the folder and run `sidkit codebooks assign a .*--shard 3/3`"
    ):
        shards.read()
    assert shards.make(3, writer("3"))
    shards.read()


def test_a_writer_that_fails_leaves_nothing(shards: Shards) -> None:
    def fail(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise RuntimeError("stopped")

    four = replace(shards, of=4)
    with pytest.raises(RuntimeError, match="stopped"):
        four.make(1, fail)
    assert sorted(path.name for path in shards.folder.iterdir()) == ["1-of-3", "2-of-3", "3-of-3"]


def test_merge_needs_the_number_of_shards() -> None:
    assert ShardedWork.stated(None, merge=False) is None
    assert ShardedWork.stated(3, merge=True) == ShardedWork(3, merge=True)
    with pytest.raises(ConfigError, match="expected --shards N with --merge, got --merge alone"):
        ShardedWork.stated(None, merge=True)
    with pytest.raises(ConfigError, match="expected 1 to 1000 shards, got 0"):
        ShardedWork.stated(0, merge=False)
