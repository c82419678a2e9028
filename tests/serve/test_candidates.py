"""Retrieval of candidates, compared with a search item by item."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidkit.core.errors import ServingError
from sidkit.core.feature_settings import WINDOWS
from sidkit.serve.candidates import Candidates
from sidkit.serve.item_index import NEVER_US, ItemIndex

AT_US = 1_000


def index_of(seed: int, items: int = 40, levels: int = 3) -> ItemIndex:
    """Random items; every fifth lacks content and codes, every seventh was removed, every third has no category."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 3, (items, levels)).astype(np.int32)
    unit = rng.normal(size=(items, 4)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    codes[::5], unit[::5] = -1, 0
    removed = np.full(items, NEVER_US)
    removed[::7] = rng.integers(0, 2 * AT_US, len(removed[::7]))
    category = [None if at % 3 == 0 else f"c{at % 4}" for at in range(items)]
    return ItemIndex(
        ids=pd.Index(sorted(f"i{at:03}" for at in range(items)), dtype=object),
        codes=codes,
        unit=unit,
        clicks={window: rng.integers(0, 5, items).astype(np.float64) for window in WINDOWS},
        removed_us=removed,
        stale=np.zeros(items, dtype=np.bool_),
        attributes={"category": pa.array(category), "price": pa.array(rng.random(items).tolist())},
        titles=[],
    )


def allowed(index: ItemIndex, place: int, categories: list[str], most: float) -> bool:
    category, price = (index.attributes[name][place].as_py() for name in ("category", "price"))
    return bool(index.removed_us[place] > AT_US) and category in categories and price <= most


@given(st.integers(0, 50), st.integers(1, 60), st.sampled_from(WINDOWS), st.floats(0, 1))
def test_popular_items_are_those_with_the_most_clicks(seed: int, most: int, window: str, price: float) -> None:
    index = index_of(seed)
    found = Candidates(index).popular(window, AT_US, most, {"category": ["c1", "c2"], "price": {"max": price}})
    fitting = [at for at in range(len(index)) if allowed(index, at, ["c1", "c2"], price)]
    fitting.sort(key=lambda at: (-index.clicks[window][at], at))
    assert found == [index.ids[at] for at in fitting[:most]]


@given(st.integers(0, 50), st.lists(st.integers(0, 3), min_size=1, max_size=3), st.integers(1, 60))
def test_a_prefix_finds_exactly_the_items_that_have_it(seed: int, prefix: list[int], most: int) -> None:
    index = index_of(seed)
    found = Candidates(index).prefix(prefix, AT_US, most)
    fitting = [
        at
        for at in range(len(index))
        if index.codes[at].tolist()[: len(prefix)] == prefix and index.removed_us[at] > AT_US
    ]
    fitting.sort(key=lambda at: (-index.clicks["all"][at], at))
    assert found == [index.ids[at] for at in fitting[:most]]


@given(st.integers(0, 50), st.integers(1, 60))
def test_similar_items_have_the_largest_cosines(seed: int, most: int) -> None:
    index = index_of(seed)
    near = Candidates(index).similar("i001", AT_US, most)
    fitting = [at for at in range(len(index)) if at != 1 and index.unit[at].any() and index.removed_us[at] > AT_US]
    cosines = {index.ids[at]: float(index.unit[at] @ index.unit[1]) for at in fitting}
    assert len(near) == min(most, len(fitting))
    np.testing.assert_allclose(
        [each.similarity for each in near], sorted(cosines.values(), reverse=True)[:most], atol=1e-6
    )
    for each in near:
        assert each.similarity == pytest.approx(cosines[each.item_id], abs=1e-6)
        own = index.codes[1].tolist()
        shared = next((at for at in range(3) if each.codes is None or each.codes[at] != own[at]), 3)
        assert each.shared_levels == shared


@pytest.mark.parametrize(
    "where",
    [
        {"colour": "red"},
        {"price": "low"},
        {"price": True},
        {"category": {"min": 1.0}},
        {"price": {}},
        {"category": 1.5},
    ],
    ids=str,
)
def test_a_condition_that_cannot_be_met_is_refused(where: dict[str, object]) -> None:
    with pytest.raises(ServingError, match="expected .* got"):
        Candidates(index_of(0)).popular("7d", AT_US, 5, where)  # type: ignore[arg-type]
