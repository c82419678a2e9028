"""The behaviour mass of items: how much is known of what users do with them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from semantic_ids.pairs.mining import ItemPairs
from sidkit.core.arrays import Doubles, Floats


def mass_of(clicks: npt.ArrayLike, full: float) -> Doubles:
    """``min(1, log(1 + clicks) / log(1 + full))``, ``float64 [items]``: 0 without clicks, 1 from ``full`` clicks on.

    Source: MMQ-v2 (arXiv 2510.25622) for a strength that grows with behaviour; the form is ours. All are 1 if ``full`` is 0.
    """
    counts = np.asarray(clicks, dtype=np.float64)
    return np.minimum(1.0, np.log1p(counts) / np.log1p(full)) if full > 0 else np.ones_like(counts)


def pair_masses(pairs: ItemPairs, full: float, *, shuffled: bool = False, seed: int = 0) -> Floats:
    """The mass of every item, ``float32 [items]``, of which a pair has the smaller one of its two.

    Parameters
    ----------
    pairs : ItemPairs
        Their ``clicks`` are counted; an item of a pair has at least one, also if its clicks are not known.
    full : float
        See :func:`mass_of`.
    shuffled : bool
        Control: permute the masses among the items of the pairs.
    seed : int
        Of the permutation.
    """
    mass = mass_of(pairs.clicks, full)
    paired = np.unique(np.concatenate([pairs.trigger, pairs.target]))
    mass[paired] = np.maximum(mass[paired], mass_of(1, full))
    if shuffled:
        mass[paired] = mass[np.random.default_rng(seed).permutation(paired)]
    return mass.astype(np.float32)
