"""Kinds of attribute columns, inferred from types and values; each decision has a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from helpers.attribute_world import attribute_source
from helpers.builders import START, moments, write_tables
from helpers.contract_builders import good, sqlite
from sidkit.contract import open_source
from sidkit.contract.attributes import attribute_kinds, features
from sidkit.contract.schemas import INTERACTIONS, ITEMS, USERS

N = 40
COLUMNS: dict[str, tuple[Any, str | None, str]] = {
    "flagged": ([True, False] * 20, "flag", "true or false"),
    "yes_no": (["yes", "No"] * 20, "flag", "texts that are true or false"),
    "sold": (moments([START + n for n in range(N)]), "date", "times"),
    "day": (pa.array(range(N), pa.int32()).cast(pa.date32()), "date", "dates, read as UTC"),
    "iso": ([f"2020-01-{1 + n % 20:02d}" for n in range(N)], "date", "ISO 8601"),
    "weight": (np.linspace(0, 1, N), "number", "numbers"),
    "pages": (list(range(N)), "number", "integers"),
    "brand_id": ([n % 7 for n in range(N)], "category", "codes"),
    "parent_id": (list(range(N)), None, "most occur once"),
    "measured": ([str(n / 2) for n in range(N)], "number", "texts that are all numbers"),
    "zip": ([f"{n % 5:05d}" for n in range(N)], "category", "leading zeros"),
    "colour": (["red", "green", "blue", "red"] * 10, "category", "3 different values"),
    "author": ([f"author {n}" for n in range(N)], None, "sidkit data embed"),
    "genres": (["Action|Drama", "Drama|Comedy", "Comedy", "Action|Comedy"] * 10, "categories", "split at '|'"),
    "tags": (["new, cheap", "cheap, old", "old", "new,old"] * 10, "categories", "split at ','"),
    "address": ([f"Street {n}, Town {n}" for n in range(N)], None, "rarely repeat"),
    "keywords": ([["a", "b"], ["b"]] * 20, "categories", "lists of texts"),
    "parts": ([[1, 2], [3]] * 20, "categories", "lists of integers"),
    "vector": ([[0.5, float(n)] for n in range(N)], "vector", "lists of 2 numbers"),
    "ragged": ([[0.5], [1.0, 2.0]] * 20, None, "different lengths"),
    "json_vector": ([f"[0.5, {n}]" for n in range(N)], "vector", "JSON lists of numbers"),
    "json_tags": (['["a", "b"]', '["b"]'] * 20, "categories", "JSON lists"),
    "constant": (["x"] * N, None, "the same value"),
    "nothing": (pa.nulls(N), None, "empty"),
    "box": (pa.array([{"a": n} for n in range(N)]), None, "no feature"),
    "best_y": (list(range(N)), None, "[source.columns]"),
    "ends in blank ": (list(range(N)), None, "[source.columns]"),
    "fixed": (pa.array([[1.0, float(n)] for n in range(N)], pa.list_(pa.float32(), 2)), None, "not stored"),
    "shade": (pa.array(["red", "blue"] * 20).dictionary_encode(), "category", "2 different values"),
    "price": (np.linspace(1, 2, N), "built in", ""),
    "title": ([f"t{n % 2}" for n in range(N)], "built in", ""),
}


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str | None, str]]:
    items = {"item_id": [f"i{n}" for n in range(N)], "created_at": moments([START] * N)}
    columns = {name: values for name, (values, *_) in COLUMNS.items()}
    folder = write_tables(tmp_path_factory.mktemp("kinds"), {**good(), "items": pa.table({**items, **columns})})
    return {name: tuple(kind) for name, kind in attribute_kinds(open_source(str(folder)), ITEMS).items()}


@pytest.mark.parametrize("column", COLUMNS)
def test_the_kind_of_a_column_follows_from_its_values(kinds: dict[str, tuple[str | None, str]], column: str) -> None:
    _, kind, reason = COLUMNS[column]
    if kind == "built in":
        assert column not in kinds
    else:
        assert kinds[column][0] == kind, kinds[column]
        assert reason in kinds[column][1]


def test_the_world_of_attributes_gets_the_kinds_it_was_built_with(tmp_path: Path) -> None:
    source = open_source(str(attribute_source(tmp_path)))
    assert features(attribute_kinds(source, ITEMS)) == {
        "category": "category", "genres": "categories", "weight": "number",
        "best_before": "date", "organic": "flag", "shape": "vector",
    }  # fmt: skip
    assert features(attribute_kinds(source, USERS)) == {"country": "category"}
    context = attribute_kinds(source, INTERACTIONS)
    assert features(context) == {"device": "category"}
    assert "after the user reacts" in context["dwell_time"].reason


def test_versions_of_an_item_do_not_make_its_title_a_category(tmp_path: Path) -> None:
    names = [f"name {n}" for n in range(4)] * 3
    items = pa.table(
        {
            "item_id": [f"i{n % 4}" for n in range(12)],
            "created_at": moments([START] * 12),
            "updated_at": moments([START + n for n in range(12)]),
            "name": names,
        }
    )
    source = open_source(str(write_tables(tmp_path, {**good(), "items": items})))
    assert attribute_kinds(source, ITEMS)["name"].kind is None


def test_a_source_without_users_has_no_attributes_of_users(tmp_path: Path) -> None:
    assert attribute_kinds(open_source(str(write_tables(tmp_path, good()))), USERS) == {}


def test_values_of_a_database_get_kinds_as_well(tmp_path: Path) -> None:
    tables = good()
    users = pa.table({"user_id": ["u0", "u1", "u2"] * 4, "country": ["at", "de"] * 6, "age": list(range(12))})
    users = users.set_column(0, "user_id", pa.array([f"u{n}" for n in range(12)]))
    source = open_source(sqlite(tmp_path / "db.sqlite", {**tables, "users": users}))
    assert features(attribute_kinds(source, USERS)) == {"country": "category", "age": "number"}
