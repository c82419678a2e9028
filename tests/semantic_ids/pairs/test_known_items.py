"""Items known at two points in time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from semantic_ids import ItemVectors
from semantic_ids.pairs.known_items import KnownItems


class Counted(str):
    """A string that counts how often it is compared."""

    compared = 0

    def __eq__(self, other: object) -> bool:
        Counted.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def known(ids: Sequence[str]) -> KnownItems:
    return KnownItems(np.array(ids, dtype=object), ItemVectors.of(np.ones((len(ids), 2), np.float32)), 0)


def test_membership_follows_the_items_and_not_their_order() -> None:
    found = known(["a", "b", "c"]).are_in(known(["c", "a", "z"]))
    assert found.tolist() == [True, False, True]
    assert known(["a"]).are_in(known([])).tolist() == [False]
    assert known([]).are_in(known(["a"])).tolist() == []


def test_membership_does_not_compare_every_item_with_every_other() -> None:
    later, before = ([Counted(f"i{n}") for n in range(0, 3000, step)] for step in (1, 2))
    found = known(later).are_in(known(before))
    assert found.sum() == len(before)
    assert Counted.compared < 10 * len(later)
