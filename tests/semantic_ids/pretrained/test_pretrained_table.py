"""The table of vectors that a run writes: versions, other modalities, sources, what is refused; no network."""

from __future__ import annotations

import errno
import shutil
import sqlite3
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.builders import START, interactions_table, moments, write_tables
from helpers.commands import ask_well
from helpers.pretrained_builders import TITLES, embed_texts, vectors_of, write_items
from oracle.features import Event
from semantic_ids.pretrained import TextSpec, embed_items
from sidkit.cli.embed import progress_bar
from sidkit.core.errors import (
    ArtifactError,
    ConfigError,
    ContractError,
    MissingTableError,
    StorageError,
    TableSchemaError,
)

pytestmark = pytest.mark.usefixtures("no_network")


def test_other_modalities_and_versions_of_an_existing_file_are_kept(minilm: Path, tmp_path: Path) -> None:
    source = write_items(tmp_path / "s", {"a": TITLES["novel"], "b": TITLES["kettle"]})
    older = {"item_id": ["b", "gone"], "image": [[1.0, 2.0], [3.0, 4.0]], "text": [[9.0], [9.0]]}
    kept = pa.table(
        older, pa.schema({"item_id": pa.string(), "image": pa.list_(pa.float32()), "text": pa.list_(pa.float32())})
    )
    write_tables(source, {"item_embeddings": kept})
    report = embed_texts(source, minilm)
    assert (report.rows, report.carried_over) == (3, ("image",))
    found = vectors_of(report, "text", "image")
    assert [found[item]["image"] for item in ("a", "b", "gone")] == [None, [1.0, 2.0], [3.0, 4.0]]
    assert found["gone"]["text"] is None and len(found["a"]["text"]) == 384


def test_versions_of_items_carry_their_moment_and_meet_the_older_vector_of_that_moment(
    minilm: Path, tmp_path: Path
) -> None:
    columns = {
        "item_id": pa.array(["a", "a", "a", "b"]),
        "title": pa.array([TITLES["novel"], TITLES["kettle"], "a second row of this version", TITLES["shoes"]]),
        "updated_at": moments([START, START + 10, START + 10, None]),
    }
    source = write_tables(tmp_path / "s", {"items": pa.table(columns)})
    older = {
        "item_id": pa.array(["a", "a", "b"]),
        "updated_at": moments([START, START + 5, None]),
        "image": pa.array([[1.0], [2.0], [3.0]], pa.list_(pa.float32())),
    }
    write_tables(source, {"item_embeddings": pa.table(older)})
    report = embed_texts(source, minilm)
    rows = pq.read_table(report.out)
    assert rows.schema.field("updated_at").type == pa.timestamp("us", tz="UTC")
    moved = rows.set_column(1, "updated_at", rows["updated_at"].cast(pa.int64())).to_pylist()
    read = [(row["item_id"], row["updated_at"], row["image"]) for row in moved]
    assert read == [("a", START, [1.0]), ("a", START + 5, [2.0]), ("a", START + 10, [2.0]), ("b", None, [3.0])]
    texts = rows["text"].to_pylist()
    assert texts[0] == texts[1] != texts[2]
    kettle = embed_texts(write_items(tmp_path / "k", {"k": TITLES["kettle"]}), minilm)
    np.testing.assert_allclose(texts[2], vectors_of(kettle, "text")["k"]["text"], atol=1e-5)


def test_the_same_items_from_a_database_give_the_same_vectors(minilm: Path, tmp_path: Path) -> None:
    source = write_items(tmp_path / "s", {**TITLES, "none": None})
    with sqlite3.connect(tmp_path / "items.sqlite") as database:
        database.execute("CREATE TABLE items (item_id TEXT, title TEXT)")
        database.executemany("INSERT INTO items VALUES (?, ?)", [*TITLES.items(), ("none", None)])
    database.close()
    specs = {"text": TextSpec(model=str(minilm))}
    one = embed_items(source, tmp_path / "one", specs, tmp_path / "cache")
    two = embed_items(
        f"sqlite:///{tmp_path / 'items.sqlite'}", tmp_path / "two", specs, tmp_path / "cache", chunk_rows=3
    )
    assert two.modalities["text"].from_cache == 6 and one.out.read_bytes() == two.out.read_bytes()


def test_rows_that_break_the_contract_are_counted_and_left_out(minilm: Path, tmp_path: Path) -> None:
    items = pa.table({"item_id": pa.array(["a", None, ""]), "title": pa.array(["one", "two", "three"])})
    report = embed_texts(write_tables(tmp_path / "s", {"items": items}), minilm)
    assert report.refused == {"item_id is missing": 1, "item_id is empty": 1} and report.rows == 1
    with pytest.raises(ContractError, match="no valid rows"):
        embed_texts(write_tables(tmp_path / "t", {"items": items.slice(1)}), minilm)


def test_what_cannot_be_embedded_is_refused_before_a_model_is_loaded(
    minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("semantic_ids.pretrained.text.TextEmbedder.vectors", lambda *_: pytest.fail("embedded"))
    source = write_items(tmp_path / "s", dict(TITLES))
    with pytest.raises(TableSchemaError, match="'blurb' is missing; the table has item_id, title"):
        embed_texts(source, minilm, columns=("blurb",))
    with pytest.raises(TableSchemaError, match="column 'item_id' is missing"):
        embed_texts(write_tables(tmp_path / "a", {"items": pa.table({"title": ["x"]})}), minilm)
    with pytest.raises(TableSchemaError, match="columns 'text' and 'title' are missing"):
        embed_texts(write_tables(tmp_path / "b", {"items": pa.table({"item_id": ["x"]})}), minilm)
    with pytest.raises(TableSchemaError, match="expected a string in column 'title', got double"):
        embed_texts(write_tables(tmp_path / "c", {"items": pa.table({"item_id": ["x"], "title": [0.5]})}), minilm)
    (tmp_path / "empty").mkdir()
    with pytest.raises(MissingTableError, match="items: expected .*items.parquet"):
        embed_texts(tmp_path / "empty", minilm)
    with pytest.raises(ContractError, match="expected a folder of files or a SQLAlchemy URL"):
        embed_texts(tmp_path / "nowhere", minilm)
    with pytest.raises(ConfigError, match="cannot be a feature name"):
        embed_items(source, source, {"item_id": TextSpec(model=str(minilm))}, tmp_path / "cache")
    with pytest.raises(ConfigError, match="at least one"):
        embed_items(source, source, {}, tmp_path / "cache")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "items.parquet").write_bytes(b"no Parquet")
    with pytest.raises(ContractError, match="cannot be read as Parquet"):
        embed_texts(tmp_path / "broken", minilm)
    (source / "item_embeddings.parquet").write_bytes(b"no Parquet")
    with pytest.raises(ContractError, match="restore it, or delete it"):
        embed_texts(source, minilm)
    assert (source / "item_embeddings.parquet").read_bytes() == b"no Parquet"
    (source / "item_embeddings.parquet").unlink()
    shutil.copytree(write_items(tmp_path / "parts", {"a": "b"}), source / "item_embeddings")
    with pytest.raises(ContractError, match="would hide"):
        embed_texts(source, minilm)


def test_a_second_writer_of_the_file_is_told(minilm: Path, tmp_path: Path) -> None:
    source = write_items(tmp_path / "s", dict(TITLES))

    def told(*_: object) -> None:
        with pytest.raises(ArtifactError, match="written by another run"):
            embed_texts(source, minilm)

    embed_items(source, source, {"text": TextSpec(model=str(minilm))}, tmp_path / "cache", progress=told)


def test_an_error_is_the_only_line(tmp_path: Path) -> None:
    source = write_items(tmp_path / "s", dict(TITLES))
    refused = ask_well("data", "embed", source, "--text", tmp_path / "no_model", expect=1)
    assert refused.err.startswith("sidkit: ") and refused.err.count("\n") == 1


def test_progress_reaches_the_end(minilm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_items(tmp_path / "s", dict(TITLES))
    with progress_bar() as told:
        embed_items(
            source, source, {"text": TextSpec(model=str(minilm))}, source / "cache", progress=told, chunk_rows=4
        )
    assert "6/6" in capsys.readouterr().err


def test_a_source_without_vectors_keeps_the_contract_afterwards(minilm: Path, tmp_path: Path) -> None:
    log = [Event("u1", item, START + 10 + place, place % 2, None) for place, item in enumerate(TITLES)]
    source = write_items(tmp_path / "s", {**TITLES, "bare": None}, created_at=moments([START] * 7))
    write_tables(source, {"interactions": interactions_table(log)})
    assert "`sidkit data embed`" in ask_well("data", "check", source).err
    embed_texts(source, minilm)
    assert "the source is valid: feedback impressions, modalities text, 0 rows" in " ".join(
        ask_well("data", "check", source).out.split()
    )


def test_a_disk_that_fills_up_leaves_the_file_as_it_was_and_the_cache_filled(
    minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_items(tmp_path / "s", dict(TITLES))
    (source / "item_embeddings.parquet").write_bytes(embed_texts(source, minilm, max_tokens=16).out.read_bytes())
    before = (source / "item_embeddings.parquet").read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(pq.ParquetWriter, "write_table", full)
        with pytest.raises(StorageError, match="free some disk space"):
            embed_texts(source, minilm)
    assert (source / "item_embeddings.parquet").read_bytes() == before
    assert embed_texts(source, minilm).modalities["text"].from_cache == 6
