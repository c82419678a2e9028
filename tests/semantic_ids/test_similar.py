"""Similar items: the largest cosines, ties in the order of ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.codebook_builders import AS_OF, CUT, SPEC, built_repo
from semantic_ids import item_vectors, lifecycle, similar
from semantic_ids.codebook import Codebook
from semantic_ids.pairs.known_items import known_items
from semantic_ids.similar import ItemNeighbours
from sidkit.core.errors import ConfigError


@settings(deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.data())
def test_the_largest_values_come_in_the_order_of_a_stable_sort(values: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(values)))
    array = np.array([-np.inf if value == -3 else value for value in values], dtype=np.float32)
    assert similar._largest(array, count).tolist() == np.argsort(-array, kind="stable")[:count].tolist()


def test_similar_items_are_those_of_the_cosines_whether_vectors_fit_in_memory_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = built_repo(tmp_path)
    lifecycle.fit(repo, "a", SPEC, CUT)
    codebook = Codebook.load(repo.codebooks / "a")
    known = known_items(repo, AS_OF)
    vectors = codebook.vectors(known.content).astype(np.float64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    at = len(known) // 2
    cosines = unit @ unit[at]
    cosines[at] = -2
    for most in (2**28, 0):
        monkeypatch.setattr(item_vectors, "IN_MEMORY_BYTES", most)
        found = ItemNeighbours(repo, codebook).of(str(known.ids[at]), k=5)
        np.testing.assert_allclose(found.similarity, np.sort(cosines)[::-1][:5], atol=1e-5)
        assert known.ids[at] not in found.ids
        everything = ItemNeighbours(repo, codebook).of(str(known.ids[at]), k=10_000)
        assert sorted([*everything.ids, known.ids[at]]) == known.ids.tolist()
        with pytest.raises(ConfigError, match="expected an item with content in the tables, got 'none'"):
            ItemNeighbours(repo, codebook).of("none")
