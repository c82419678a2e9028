"""Pairs of items that behaviour holds together: (trigger, target), mined from positives before the cut-off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ItemPairs:
    """Pairs among a set of items, and how often each item was clicked.

    ``trigger`` and ``target`` are ``int64 [pairs]``, rows of the items they were mined for, never equal to each other;
    ``weight`` is ``float32 [pairs]``, above 0; ``clicks`` is ``int64 [items]``, positives before the cut-off, which the
    logQ correction needs; ``end_us`` is the cut-off, microseconds UTC: nothing later was looked at.
    """

    trigger: Ints
    target: Ints
    weight: npt.NDArray[np.float32]
    clicks: Ints
    end_us: int

    def __len__(self) -> int:
        return len(self.trigger)
