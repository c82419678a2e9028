"""Attributes of items as columns of a vector, and as one text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from helpers.builders import write_tables
from helpers.commands import ask, ask_well
from helpers.pretrained_builders import TITLES, vectors_of, write_items
from semantic_ids.encoders.attribute_graph import AttributeGraphEncoder
from semantic_ids.item_vectors import ItemVectors
from semantic_ids.pretrained import AttributeSpec, KgTextSpec, embed_items
from semantic_ids.pretrained.attributes import AttributeEmbedder, values_of
from semantic_ids.pretrained.kg_text import KgTextEmbedder
from sidkit.core.errors import TableSchemaError

BRANDS = ["Acme", None, "acme ", "Zeta", "", "Acme|Zeta"]
TAGS = [["sale", "new"], ["new"], None, [], ["sale", None], ["old"]]


def source(folder: Path) -> Path:
    return write_items(
        folder,
        dict(TITLES),
        brand=pa.array(BRANDS),
        tags=pa.array(TAGS, pa.list_(pa.string())),
        year=pa.array([2001, 2001, None, 1999, 2001, None], pa.int32()),
        imported=pa.array([True, False, None, None, None, None]),
    )


def test_items_with_the_same_attribute_share_a_column_and_nothing_else_does(tmp_path: Path) -> None:
    spec = AttributeSpec(columns=("brand", "tags", "year", "imported"), width=4096)
    report = embed_items(source(tmp_path / "s"), tmp_path, {"attributes": spec}, tmp_path / "cache")
    actual = vectors_of(report, "attributes")
    embedder = AttributeEmbedder(spec)
    expected = {
        "shoes": {"brand=acme", "tags=sale", "tags=new", "year=2001", "imported=true"},
        "sneakers": {"tags=new", "year=2001", "imported=false"},
        "kettle": {"brand=acme"},
        "teapot": {"brand=zeta", "year=1999"},
        "novel": {"tags=sale", "year=2001"},
        "thriller": {"brand=acme", "brand=zeta", "tags=old"},
    }
    for item, attributes in expected.items():
        columns = set(np.flatnonzero(actual[item]["attributes"]).tolist())
        assert columns == {embedder.column_of(each) for each in attributes}, item
    assert report.modalities["attributes"].width == 4096
    again = embed_items(tmp_path / "s", tmp_path, {"attributes": spec}, tmp_path / "cache").modalities["attributes"]
    assert (again.embedded, again.from_cache) == (0, 6)


def test_an_item_without_attributes_has_no_vector(tmp_path: Path) -> None:
    items = pa.table({"item_id": ["a", "b"], "attributes": pa.array([["red"], None], pa.list_(pa.string()))})
    folder = write_tables(tmp_path / "s", {"items": items})
    report = embed_items(folder, tmp_path, {"attributes": AttributeSpec()}, tmp_path / "cache")
    assert vectors_of(report, "attributes")["b"]["attributes"] is None
    assert report.modalities["attributes"].missing == {"no attributes": 1}


def test_texts_list_values_by_the_first_separator_that_they_have() -> None:
    assert values_of("Action|Drama, old") == ["action", "drama, old"]
    assert values_of("a; b ;;") == ["a", "b"]
    assert values_of(" Deep   Red ") == ["deep red"]
    assert values_of(None) == values_of("  ") == []


@pytest.mark.usefixtures("no_network")
def test_attributes_become_one_text_that_the_model_reads(minilm: Path, tmp_path: Path) -> None:
    folder = source(tmp_path / "s")
    spec = KgTextSpec(model=str(minilm), columns=("title", "brand", "tags", "year"))
    embedder = KgTextEmbedder(spec)
    rows = pa.table(
        {"title": ["a shoe", None], "brand": ["Acme", " "], "tags": ["new\x1fsale", None], "year": ["1", None]}
    )
    assert embedder.contents(rows)[0] == "title: a shoe; brand: Acme; tags: new, sale; year: 1"
    assert getattr(embedder.contents(rows)[1], "reason", None) == "no text"
    report = embed_items(folder, tmp_path, {"kg_text": spec}, tmp_path / "cache")
    vectors = {item: np.array(each["kg_text"]) for item, each in vectors_of(report, "kg_text").items()}
    assert {len(each) for each in vectors.values()} == {384}
    assert vectors["novel"] @ vectors["thriller"] > vectors["novel"] @ vectors["kettle"]


def test_columns_that_are_missing_or_are_no_attributes_are_refused(tmp_path: Path) -> None:
    items = pa.table({"item_id": ["a"], "size": pa.array([{"w": 1}])})
    folder = write_tables(tmp_path / "s", {"items": items})
    with pytest.raises(TableSchemaError, match="'colour' is missing; the table has item_id, size"):
        embed_items(folder, tmp_path, {"attributes": AttributeSpec(columns=("colour",))}, tmp_path / "cache")
    with pytest.raises(TableSchemaError, match="attributes of texts, numbers, flags, or lists of them, got struct"):
        embed_items(folder, tmp_path, {"attributes": AttributeSpec(columns=("size",))}, tmp_path / "cache")


def test_the_command_writes_what_the_encoder_reads(tmp_path: Path) -> None:
    folder = source(tmp_path / "s")
    none = ask("data", "embed", str(folder))
    assert none.code != 0 and "set --text, --image, --kg-text or --attributes" in none.err
    ask_well("data", "embed", str(folder), "--attributes", "brand,tags", "--attribute-width", "64")
    table = pq.read_table(folder / "item_embeddings.parquet")
    items = ItemVectors.from_arrow(table, ["attributes"])
    assert AttributeGraphEncoder(dim=4, steps=5).fit_transform(items).shape == (6, 4)
