"""Affinities against a plain count over the history, and the ages of the last positives."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.builders import DAY, START
from ranking.data import affinity as module
from ranking.data.affinity import affinities
from ranking.data.extra_numbers import history_ages
from ranking.data.schema import FeatureSchema, ServiceFeatures, schema_of
from sidkit.core.feature_settings import FeatureSettings

law = settings(max_examples=50, deadline=None, database=None)
SCHEMA = schema_of(
    FeatureSettings(items={"brand": "category", "genres": "categories"}),
    ServiceFeatures(
        {"item_attributes__brand": "String", "item_attributes__genres": "Array(String)"},
        {"item_attributes__brand": "String", "item_attributes__genres": "Array(String)"},
    ),
)
BRANDS = pa.array([None, "a", "b"])
GENRES = pa.array([None, ["x"], ["x", "y"], [], ["z", "z", "y"]])
ITEMS = 7


@st.composite
def worlds(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rows, length = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    numbers = st.integers(0, ITEMS)
    codes = np.array(
        [(0, 0), *draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), min_size=ITEMS, max_size=ITEMS))],
        np.int32,
    )
    candidate = np.array(draw(st.lists(st.integers(1, ITEMS), min_size=rows, max_size=rows)))
    filled = [draw(st.integers(0, length)) for _ in range(rows)]
    history = np.zeros((rows, length), np.int32)
    for row, count in enumerate(filled):
        history[row, :count] = [max(draw(numbers), 1) for _ in range(count)]
    ages = np.sort(np.array([[draw(st.integers(0, 40)) for _ in range(length)] for _ in range(rows)]), axis=1)
    history_us = np.where(history > 0, START - ages * DAY, 0)
    return codes, candidate, history, history_us, np.full(rows, START + DAY)


def by_hand(own: set[str] | None, past: list[tuple[set[str] | None, int]], at: int) -> tuple[float, float, float]:
    """Count, share and gap over (values, time) of a history, newest first."""
    weights = [len(own & each) / len(own) if own and each else 0.0 for each, _ in past]
    gaps = [(at - us) / DAY for weight, (_, us) in zip(weights, past, strict=True) if weight > 0]
    return sum(weights), sum(weights) / max(len(past), 1), min(gaps, default=math.nan)


@law
@given(worlds(), st.booleans())
def test_affinities_are_those_counted_by_hand(world: tuple[np.ndarray, ...], square: bool) -> None:
    codes, candidate, history, history_us, at_us = world
    identity = np.array([0, 1, 1, 2, 3, 4, 5, 6])  # items 1 and 2 are versions of one item
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_SQUARE", 2_000 if square else 0)
        patch.setattr(module, "_ROWS", 2)
        found = affinities(SCHEMA, identity, codes, (BRANDS, GENRES), candidate, history, history_us, at_us)
    brands, genres = BRANDS.to_pylist(), GENRES.to_pylist()
    of = {
        "item": lambda item: {str(identity[item])},
        "brand": lambda item: {brands[codes[item, 0]]} if codes[item, 0] else None,
        "genres": lambda item: set(genres[codes[item, 1]]) if codes[item, 1] else None,
    }
    for name, values in of.items():
        for row, item in enumerate(candidate):
            past = [(values(each), int(us)) for each, us in zip(history[row], history_us[row], strict=True) if each]
            wanted = by_hand(values(item), past, int(at_us[row]))
            told = [found[f"affinity__{name}_{kind}"][row] for kind in ("count", "share", "gap_days")]
            assert told == pytest.approx(wanted, nan_ok=True, rel=1e-6), (name, row)


@law
@given(worlds(), st.booleans())
def test_one_history_for_all_rows_gives_the_values_of_the_repeated_history(
    world: tuple[np.ndarray, ...], dense: bool
) -> None:
    codes, candidate, history, history_us, at_us = world
    identity, rows = np.arange(ITEMS + 1), len(candidate) + 1
    candidate, at_us = np.append(candidate, 1), np.append(at_us, at_us[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_DENSE", 100_000 if dense else 0)
        patch.setattr(module, "_MANY", 20_000 if dense else 0)
        one = affinities(SCHEMA, identity, codes, (BRANDS, GENRES), candidate, history[:1], history_us[:1], at_us)
    repeated, times = np.repeat(history[:1], rows, axis=0), np.repeat(history_us[:1], rows, axis=0)
    each = affinities(SCHEMA, identity, codes, (BRANDS, GENRES), candidate, repeated, times, at_us)
    assert one.keys() == each.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], each[name], name)


def test_ages_of_the_second_and_third_newest_positive() -> None:
    ages = history_ages(np.array([[START, START - DAY, 0], [0, 0, 0]]), np.array([START + DAY, START]))
    assert ages["history__age_2_days"].tolist()[0] == 2.0
    assert np.isnan(ages["history__age_3_days"]).all() and np.isnan(ages["history__age_2_days"][1])
    assert np.isnan(history_ages(np.zeros((2, 1), np.int64), np.array([START, START]))["history__age_2_days"]).all()


def test_a_schema_reads_kinds_from_settings_and_from_feast_types() -> None:
    names = dict(zip(SCHEMA.names, SCHEMA.features, strict=True))
    assert [each.name for each in SCHEMA.item_coded] == ["item_attributes__brand", "item_attributes__genres"]
    assert names["affinity__brand_count"].of == "item_attributes__brand"
    assert FeatureSchema.of_json(SCHEMA.as_json()) == SCHEMA
    chosen = SCHEMA.select(["affinity__brand_*"])
    assert chosen.names == ("affinity__brand_count", "affinity__brand_share", "affinity__brand_gap_days")
    assert chosen.item_coded == () and [each.name for each in chosen.item_read] == ["item_attributes__brand"]
    assert chosen.item_read[0].kind == "category" and SCHEMA.item_read == SCHEMA.item_coded
