"""Counts and rates by the prefixes of codes: against a plain loop, with each key read once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.builders import DAY, START
from ranking.data.affinity import affinities
from ranking.data.code_counts import CodeReader, code_counts, prefix_numbers
from ranking.data.code_schema import code_features, is_code_pattern, may_read_code_stats, stats_depths
from ranking.data.schema import FeatureSchema
from ranking.data.service_schema import features_read
from sidkit.core.errors import ConfigError
from sidkit.stores.offline.plan import ViewRows

SCHEMA = code_features((1, 2), conversions=True)
RATE = 0.25
CODES = np.array([[0, 0, 1], [0, 1, 1], [0, 0, 2], [3, 1, 0], [-1, -1, -1]], dtype=np.int32)
USERS = ("u", "v")
EVENTS = ("exposures", "clicks", "conversions")
WINDOWS = {"code_stats": ("1d", "7d", "30d", "all"), "user_code_stats": ("30d", "all")}


def stored(*key: Any) -> dict[str, int | None] | None:
    """Counts of a key: no row for some keys, unknown exposures for others."""
    number = sum(map(ord, "".join(map(str, key))))
    if number % 5 == 0:
        return None
    return {
        f"{event}_{window}": None if number % 7 == 0 and event == "exposures" else number % (3 + at + len(event))
        for event in EVENTS
        for at, window in enumerate(WINDOWS["code_stats"])
    }


def view_of(name: str, rows: list[dict[str, int | None] | None], windows: tuple[str, ...], events: Any) -> ViewRows:
    known = [row for row in rows if row is not None]
    has = np.array([row is not None for row in rows], dtype=bool)
    columns = [f"{event}_{window}" for event in events for window in windows]
    table = pa.table({f"{name}__{each}": pa.array([row[each] for row in known], pa.int64()) for each in columns})
    return ViewRows(name, np.where(has, np.cumsum(has) - 1, -1).astype(np.int64), table)


class Store:
    """A reader of the counts per prefix that records its reads."""

    def __init__(self) -> None:
        self.read: list[tuple[Any, ...]] = []

    def __call__(self, keys: Mapping[str, Any], at_us: np.ndarray) -> dict[str, ViewRows]:
        assert set(keys) == {"user_id", "sid_prefix_1", "sid_prefix_2"}
        self.read += zip(*(list(each) for each in keys.values()), at_us.tolist(), strict=True)
        views = {}
        for depth in (1, 2):
            prefixes, users = keys[f"sid_prefix_{depth}"], keys["user_id"]
            alone = [stored(prefix, at) for prefix, at in zip(prefixes, at_us.tolist(), strict=True)]
            paired = [stored(*each) for each in zip(users, prefixes, at_us.tolist(), strict=True)]
            for stem, rows in (("code_stats", alone), ("user_code_stats", paired)):
                name = f"{stem}_d{depth}"
                views[name] = view_of(name, rows, WINDOWS[stem], EVENTS if stem == "code_stats" else EVENTS[:2])
        return views


def rate_of(row: Mapping[str, int | None] | None, window: str, parent: float) -> float:
    if row is None or row[f"exposures_{window}"] is None:
        return parent
    shown, clicked = row[f"exposures_{window}"] or 0, row[f"clicks_{window}"] or 0
    return (clicked + 10 * parent) / (max(shown, clicked) + 10)


def by_hand(user: str, item: int, at_us: int, item_row: Any, user_row: Any) -> dict[str, float]:
    codes = CODES[item].tolist()
    cells: dict[str, float] = {}
    parents = dict.fromkeys(WINDOWS["code_stats"], RATE)
    own = {window: rate_of(user_row, window, RATE) for window in WINDOWS["user_code_stats"]}
    for depth in (1, 2):
        prefix = f"cb/{'-'.join(map(str, codes[:depth]))}"
        alone = stored(prefix, at_us) if codes[0] >= 0 else None
        paired = stored(user, prefix, at_us) if codes[0] >= 0 else None
        for window in parents:
            cells |= {
                f"code_stats_d{depth}__{event}_{window}": (alone or {}).get(f"{event}_{window}") or 0
                for event in EVENTS
            }
            parents[window] = rate_of(alone, window, parents[window])
            cells[f"code_stats_d{depth}__rate_{window}"] = parents[window]
        for window in WINDOWS["user_code_stats"]:
            for event in EVENTS[:2]:
                cells[f"user_code_stats_d{depth}__{event}_{window}"] = (paired or {}).get(f"{event}_{window}") or 0
            own[window] = rate_of(paired, window, own[window])
            cells[f"user_code_stats_d{depth}__rate_{window}"] = own[window]
    return cells | {f"code_stats__item_rate_{window}": rate_of(item_row, window, parents[window]) for window in parents}


ROWS = st.lists(st.tuples(st.sampled_from(USERS), st.integers(0, len(CODES) - 1), st.integers(0, 2)), max_size=12)


@settings(max_examples=60, deadline=None, database=None)
@given(ROWS)
def test_counts_and_rates_are_those_of_a_plain_loop(drawn: list[tuple[str, int, int]]) -> None:
    users = np.array([user for user, _, _ in drawn], dtype=object)
    items = np.array([item for _, item, _ in drawn], dtype=np.int64)
    at_us = np.array([START + day * DAY for _, _, day in drawn], dtype=np.int64)
    item_rows, user_rows = ([stored(kind, each) for each in ids] for kind, ids in (("item", items), ("user", users)))
    views = {
        "item_stats": view_of("item_stats", item_rows, WINDOWS["code_stats"], EVENTS),
        "user_stats": view_of("user_stats", user_rows, WINDOWS["code_stats"], EVENTS[:2]),
    }
    store = Store()
    found = code_counts(CodeReader("cb", (1, 2), store), CODES[items], views, users, at_us, RATE)
    assert len(store.read) == len(set(store.read))
    assert not any(None in read for read in store.read)
    assert set(found) == {each.name for each in SCHEMA.features if not each.name.startswith("code_affinity")}
    for row, (user, item, _) in enumerate(drawn):
        expected = by_hand(user, item, int(at_us[row]), item_rows[row], user_rows[row])
        assert {name: column[row] for name, column in found.items()} == pytest.approx(expected)


def test_affinities_count_items_of_the_history_with_the_candidates_prefix() -> None:
    codes = np.concatenate([[[-1, -1, -1]], CODES])  # entry 0 is padding
    candidate = np.array([1, 2, 5])
    history = np.array([[3, 2, 4, 0], [4, 0, 0, 0], [5, 5, 0, 0]])
    history_us = np.where(history > 0, START - DAY * np.array([1, 2, 3, 4]), 0)
    at_us = np.full(3, START)
    found = affinities(
        SCHEMA, np.arange(6), np.zeros((6, 0), np.int32), (), candidate, history, history_us, at_us,
        prefix_numbers(SCHEMA, codes),
    )  # fmt: skip
    assert found["code_affinity_d1__count"].tolist() == [2, 0, 0]
    assert found["code_affinity_d2__count"].tolist() == [1, 0, 0]
    assert found["code_affinity_d1__share"].tolist() == pytest.approx([2 / 3, 0, 0])
    np.testing.assert_array_equal(found["code_affinity_d2__gap_days"], [1, np.nan, np.nan])


def test_conversions_are_features_only_of_a_log_that_has_them() -> None:
    without = code_features((1, 2), conversions=False)
    assert {*SCHEMA.names} - {*without.names} == {
        f"code_stats_d{depth}__conversions_{window}" for depth in (1, 2) for window in WINDOWS["code_stats"]
    }
    assert not code_features((), conversions=True)


def test_negative_patterns_remove_and_may_match_nothing() -> None:
    both = FeatureSchema((*code_features((1,), conversions=False).features,))
    assert both.select(["!*code_*"]) == FeatureSchema()
    assert both.select(["code_stats_*", "!*_rate_*"]).names == tuple(
        name for name in both.names if name.startswith("code_stats_") and "_rate_" not in name
    )
    assert both.select(["!no_such_*"]) == both
    assert FeatureSchema().select(["!*code_*"]) == FeatureSchema()
    with pytest.raises(ConfigError, match="no_such"):
        both.select(["no_such_*", "!*code_*"])
    assert [is_code_pattern(each) for each in ("code_*", "*code_stats*", "user_code_stats_d1__*", "*", "!*code_*")] == [
        True, True, True, False, False,
    ]  # fmt: skip


def test_a_ranker_pins_only_what_it_reads() -> None:
    features = {
        "item_sid__codes": "Array(Int64)",
        "item_attributes__brand": "String",
        "code_stats_d1__clicks_1d": "Int64",
        "user_code_stats_d1__clicks_all": "Int64",
    }
    assert set(features_read(FeatureSchema(), features)) == {"item_sid__codes"}
    assert set(features_read(SCHEMA.select(["code_stats__item_rate_all"]), features)) == {*features} - {
        "item_attributes__brand"
    }
    assert set(features_read(SCHEMA.select(["code_affinity*"]), features)) == {"item_sid__codes"}


def test_depths_are_those_of_the_views_of_the_service() -> None:
    assert stats_depths(["code_stats_d3", "user_code_stats_d3", "code_stats_d1"]) == (1, 3)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (None, True), (("*",), True), (("!*code_*",), False), (("!*code_stats*",), True), (("!no_such_*",), True), ((), False),
        (("item_attributes__*",), False), (("item_attributes__*", "user_code_stats_d3__rate_all"), True),
        (("code_*", "!*_d*", "!code_stats__*"), False), (("context__device", "!item_*"), False),
    ],
)  # fmt: skip
def test_patterns_that_can_select_statistics_of_codes(patterns: tuple[str, ...] | None, expected: bool) -> None:
    assert may_read_code_stats(patterns) is expected
