"""Quantizers that learn from pairs of items too if their argument ``contrast`` is above 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from semantic_ids.pairs.given import Pairs, item_pairs
from semantic_ids.pairs.mining import ItemPairs
from semantic_ids.quantizers.base import Quantizer, canonical_order
from sidkit.core.arrays import Floats, Ints
from sidkit.core.errors import FitError, TooFewPairsError


class ContrastiveQuantizer(Quantizer):
    """A quantizer with an argument ``contrast``, the weight of a loss on pairs; without it, it learns from vectors alone."""

    contrast: float

    @property
    def needs_pairs(self) -> bool:  # type: ignore[override]
        """Whether ``contrast`` is above 0."""
        return self.needs_pairs_with({"contrast": self.contrast})

    @classmethod
    def needs_pairs_with(cls, arguments: Mapping[str, Any]) -> bool:
        """Whether ``contrast`` is above 0."""
        return bool(arguments.get("contrast", 0.0) > 0)

    @classmethod
    def arguments_without_pairs(cls, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """``contrast`` set to 0 where it is above."""
        return {**arguments, "contrast": 0.0} if cls.needs_pairs_with(arguments) else dict(arguments)

    def _in_order(self, rows: Floats, pairs: Pairs) -> tuple[Floats, ItemPairs | None]:
        """The rows in canonical order, and the pairs by that order; None if ``contrast`` is 0.

        Raises
        ------
        FitError
            When ``contrast`` is above 0 and the pairs are missing or were mined for other items.
        """
        order = canonical_order(rows)
        return rows[order], _ordered_pairs(item_pairs(pairs, len(rows)), order) if self.contrast > 0 else None


def _ordered_pairs(pairs: ItemPairs | None, order: Ints) -> ItemPairs:
    """The pairs, re-indexed to the canonical row order and sorted."""
    if pairs is None or not len(pairs):
        raise TooFewPairsError(
            "contrast is above 0, which requires pairs of items, but "
            f"{'no pairs were given' if pairs is None else 'the pairs are empty'}; mine pairs, or set contrast = 0"
        )
    if len(pairs.clicks) != len(order):
        raise FitError(
            f"expected pairs mined for {len(order)} items, one per vector, got pairs for {len(pairs.clicks)} items; "
            "mine them for these items, in the same order"
        )
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    trigger, target = place[pairs.trigger], place[pairs.target]
    sort = np.lexsort((target, trigger))
    return ItemPairs(trigger[sort], target[sort], pairs.weight[sort], pairs.clicks[order], pairs.end_us)
