"""Batches of pairs for contrastive losses: no item occurs twice in a batch, and all targets are sampled equally often."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from semantic_ids.pairs.mining import ItemPairs
from sidkit.core.arrays import Bools, Ints


class PairBatches:
    """An endless stream of batches of pairs.

    Each pass samples one pair per target, in proportion to the weights of the target's pairs, in random order. A pair
    is skipped until a later pass if one of its items is already in the batch, so popular items are not favoured.

    Parameters
    ----------
    trigger, target : ndarray
        ``int64 [pairs]``.
    weight : ndarray
        ``float32 [pairs]``, above 0.
    """

    def __init__(self, trigger: Ints, target: Ints, weight: npt.NDArray[np.float32]) -> None:
        order = np.argsort(target, kind="stable")
        self.trigger, self.target = trigger[order], target[order]
        self._starts = np.flatnonzero(np.diff(self.target, prepend=-1))
        self._ends = np.append(self._starts[1:], len(target))
        self._reach = np.concatenate([[0.0], np.cumsum(weight[order].astype(np.float64))])

    def stream(self, pairs: int, rng: np.random.Generator) -> Iterator[tuple[Ints, Ints]]:
        """Yield ``(trigger, target)``, each ``int64``, of 2 to ``pairs`` pairs, without end.

        Stops only if no two pairs without a common item exist.
        """
        while True:
            useful = False
            for batch in self._pass(pairs, rng):
                useful = True
                yield self.trigger[batch], self.target[batch]
            if not useful and not self._any_two_apart():
                return

    def _pass(self, pairs: int, rng: np.random.Generator) -> Iterator[Ints]:
        low, high = self._reach[self._starts], self._reach[self._ends]
        at = low + rng.random(len(low)) * (high - low)
        sampled = np.searchsorted(self._reach, at, side="right") - 1
        sampled = rng.permutation(np.clip(sampled, self._starts, self._ends - 1))
        batch: list[int] = []
        taken: set[int] = set()
        for pair, trigger, target in zip(
            sampled.tolist(), self.trigger[sampled].tolist(), self.target[sampled].tolist(), strict=True
        ):
            if trigger in taken or target in taken:
                continue
            batch.append(pair)
            taken.update((trigger, target))
            if len(batch) == pairs:
                yield np.array(batch)
                batch, taken = [], set()
        if len(batch) > 1:
            yield np.array(batch)

    def _any_two_apart(self) -> bool:
        """Whether two pairs without a common item exist: not if all pairs share an item, or with only three items."""
        items = np.unique(np.concatenate([self.trigger, self.target]))
        if len(items) < 4:
            return False
        first = (self.trigger[0], self.target[0])
        return not any(bool(((self.trigger == item) | (self.target == item)).all()) for item in first)


class KnownPairs:
    """Known positive pairs, in both directions, which must not serve as negatives of each other.

    Parameters
    ----------
    pairs : ItemPairs
        All known pairs, including held-out ones.
    """

    def __init__(self, pairs: ItemPairs) -> None:
        items = len(pairs.clicks)
        ones = np.ones(2 * len(pairs), dtype=np.bool_)
        rows, columns = (pairs.trigger, pairs.target), (pairs.target, pairs.trigger)
        self._known = csr_array((ones, (np.concatenate(rows), np.concatenate(columns))), shape=(items, items))

    def no_negatives(self, trigger: Ints, positive: Ints, candidates: Ints) -> Bools:
        """``bool [rows, candidates]``: true where a candidate must not be a negative of a row.

        These are the row's trigger, its positive, and all known positives of the trigger.

        Parameters
        ----------
        trigger, positive : ndarray
            ``int64 [rows]``: the items of each row.
        candidates : ndarray
            ``int64 [n]``.
        """
        excluded = (candidates[None, :] == trigger[:, None]) | (candidates[None, :] == positive[:, None])
        return np.asarray(excluded | (self._known[trigger][:, candidates].toarray() > 0))
