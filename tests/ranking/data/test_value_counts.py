"""Counts by user and value, read with the candidate's values: against a plain loop, with each key read once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.builders import DAY, START
from ranking.data.schema import FeatureSchema, ServiceFeatures, schema_of
from ranking.data.value_counts import value_counts
from sidkit.core.errors import ConfigError
from sidkit.core.feature_settings import COUNTS, WINDOWS, FeatureSettings
from sidkit.stores.offline.plan import ViewRows

SETTINGS = FeatureSettings(items={"brand": "category", "genres": "categories"}, affinity=("brand", "genres"))
TYPES = {"item_attributes__brand": "String", "item_attributes__genres": "Array(String)"}
SCHEMA = schema_of(SETTINGS, ServiceFeatures(TYPES, TYPES))
RATE = 0.25
ITEMS: list[tuple[str | None, list[str | None] | None]] = [
    ("a", ["x", "y", "x"]),
    ("b", None),
    (None, []),
    ("a", ["y", None]),
]
USERS = ("u", "v")


def stored(user: str, value: str, at_us: int) -> dict[str, int | None] | None:
    """What the store has: nothing for some keys, no exposures for others."""
    number = sum(map(ord, f"{user}{value}")) + at_us // DAY
    if number % 4 == 0:
        return None
    return {
        name: None if number % 7 == 0 and name.startswith("exp") else number % (3 + at)
        for at, name in enumerate(COUNTS)
    }


class Store:
    """A reader of one view that notes its reads."""

    def __init__(self, attribute: str) -> None:
        self.attribute, self.read = attribute, []  # type: ignore[var-annotated]

    def __call__(self, keys: Mapping[str, Any], at_us: np.ndarray) -> dict[str, ViewRows]:
        assert set(keys) == {"user_id", self.attribute}
        read = list(zip(keys["user_id"], keys[self.attribute], at_us.tolist(), strict=True))
        self.read += read
        rows = [stored(*key) for key in read]
        known = [row for row in rows if row is not None]
        index = np.where([row is not None for row in rows], np.cumsum([row is not None for row in rows]) - 1, -1)
        name = f"user_{self.attribute}_stats"
        table = {f"{name}__{each}": pa.array([row[each] for row in known], pa.int64()) for each in COUNTS}
        return {name: ViewRows(name, index.astype(np.int64), pa.table(table))}


def by_hand(user: str, values: set[str], at_us: int, window: str) -> tuple[float, float, float]:
    rows = [row for value in values if (row := stored(user, value, at_us))]
    shown, clicked = (sum(row[f"{event}_{window}"] or 0 for row in rows) for event in ("exposures", "clicks"))
    if all(row[f"exposures_{window}"] is None for row in rows):
        return shown, clicked, RATE
    return shown, clicked, (clicked + 10 * RATE) / (max(shown, clicked) + 10)


@settings(max_examples=60, deadline=None, database=None)
@given(st.lists(st.tuples(st.sampled_from(USERS), st.integers(-1, len(ITEMS) - 1), st.integers(0, 2)), max_size=12))
def test_counts_are_those_of_a_plain_loop(drawn: list[tuple[str, int, int]]) -> None:
    users = np.array([user for user, _, _ in drawn], dtype=object)
    index = np.array([item for _, item, _ in drawn], dtype=np.int64)
    at_us = np.array([START + day * DAY for _, _, day in drawn], dtype=np.int64)
    brands, genres = zip(*ITEMS, strict=True)
    columns = [pa.array(brands, pa.string()), pa.array(genres, pa.list_(pa.string()))]
    view = ViewRows("item_attributes", index, pa.table(columns, names=list(TYPES)))
    stores = {f"user_{name}_stats": Store(name) for name in ("brand", "genres")}
    item_ids = np.array([str(item) for _, item, _ in drawn], dtype=object)
    found = value_counts(SCHEMA, stores, {"item_attributes": view}, users, item_ids, at_us, RATE)
    for at, attribute in enumerate(("brand", "genres")):
        read = stores[f"user_{attribute}_stats"].read
        assert len(read) == len(set(read))
        for row, (user, item, _) in enumerate(drawn):
            value = ITEMS[item][at] if item >= 0 else None
            values = {value} if isinstance(value, str) else {each for each in value or () if each}
            for window in WINDOWS:
                names = [f"user_{attribute}_stats__{stem}_{window}" for stem in ("exposures", "clicks", "rate")]
                told = [found[name][row] for name in names]
                assert told == pytest.approx(by_hand(user, values, int(at_us[row]), window))


def test_the_features_come_last_and_name_their_view_and_attribute() -> None:
    without = schema_of(FeatureSettings(items=SETTINGS.items), ServiceFeatures(TYPES, TYPES))
    assert SCHEMA.features[: len(without.features)] == without.features
    counts = SCHEMA.features[len(without.features) :]
    assert [each.name for each in counts[:3]] == [
        f"user_brand_stats__{stem}_1d" for stem in ("exposures", "clicks", "rate")
    ]
    assert [each.kind for each in counts[:3]] == ["count", "count", "share"]
    assert SCHEMA.by_value == {
        "user_brand_stats": "brand",
        "user_genres_stats": "genres",
    }
    assert len(counts) == 24
    assert SCHEMA.select(["user_brand_*"]).by_value == {"user_brand_stats": "brand"}
    assert FeatureSchema.of_json(SCHEMA.as_json()) == SCHEMA


def test_an_attribute_that_was_not_applied_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected item_attributes__brand in the feature service, .*`sidkit apply`"):
        schema_of(SETTINGS, ServiceFeatures({}))
