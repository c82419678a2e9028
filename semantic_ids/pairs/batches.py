"""Batches of pairs for contrastive learning: no item twice in one batch, head items no more often than others."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_array

from semantic_ids.pairs.mining import ItemPairs
from sidkit.core.arrays import Bools, Ints


class PairBatches:
    """An endless stream of batches.

    A pass draws one pair per target, in proportion to the weights of the target's pairs, in random order. A pair of
    which either item is in the batch already is left for a later pass: an item gets one pull per batch, however popular
    it is.

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
        """Endless ``(trigger, target)``, each ``int64``, of at most ``pairs`` and at least 2 pairs.

        It ends only where not even a pass of its own gives two pairs that share no item.
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
        drawn = np.searchsorted(self._reach, at, side="right") - 1
        drawn = rng.permutation(np.clip(drawn, self._starts, self._ends - 1))
        batch: list[int] = []
        taken: set[int] = set()
        for pair, trigger, target in zip(
            drawn.tolist(), self.trigger[drawn].tolist(), self.target[drawn].tolist(), strict=True
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
        """Whether two pairs share no item: not so where all share one, or where there are three items only."""
        items = np.unique(np.concatenate([self.trigger, self.target]))
        if len(items) < 4:
            return False
        first = (self.trigger[0], self.target[0])
        return not any(bool(((self.trigger == item) | (self.target == item)).all()) for item in first)


class KnownPairs:
    """Which items are known to go together, in either direction: no negatives of each other.

    Parameters
    ----------
    pairs : ItemPairs
        All that are known, also those held out.
    """

    def __init__(self, pairs: ItemPairs) -> None:
        items = len(pairs.clicks)
        ones = np.ones(2 * len(pairs), dtype=np.bool_)
        rows, columns = (pairs.trigger, pairs.target), (pairs.target, pairs.trigger)
        self._known = csr_array((ones, (np.concatenate(rows), np.concatenate(columns))), shape=(items, items))

    def no_negatives(self, trigger: Ints, positive: Ints, candidates: Ints) -> Bools:
        """``bool [rows, candidates]``: true where a candidate is no negative of a row.

        That is the row's own trigger or positive, or an item that is known to go with the trigger.

        Parameters
        ----------
        trigger, positive : ndarray
            ``int64 [rows]``: the items of each row.
        candidates : ndarray
            ``int64 [n]``.
        """
        excluded = (candidates[None, :] == trigger[:, None]) | (candidates[None, :] == positive[:, None])
        return np.asarray(excluded | (self._known[trigger][:, candidates].toarray() > 0))
