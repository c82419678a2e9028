"""Codes without meaning: what an arm gains with them, it gains by capacity alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ranking.data.item_table import ItemTable
from sidkit.core.hashing import splitmix64


def shuffled_codes(items: ItemTable, seed: int) -> ItemTable:
    """Give each item the codes of another: the same codes with the same frequencies, without meaning.

    All versions of an item get the codes of one other item, so that an item keeps one identity.
    """
    coded = np.flatnonzero((items.codes >= 0).all(axis=1))
    names, first, back = np.unique(items.ids[coded].astype(str), return_index=True, return_inverse=True)
    # One cycle through all items, so that nobody keeps their own.
    order = np.random.default_rng(seed).permutation(len(names))
    donor = np.empty_like(order)
    donor[order] = np.roll(order, 1)
    codes = items.codes.copy()
    codes[coded] = items.codes[coded[first[donor[back.ravel()]]]]
    return dataclasses.replace(items, codes=codes)


def random_codes(items: ItemTable, sizes: Sequence[int], seed: int) -> ItemTable:
    """Give each item codes by a hash of its id and the seed, each code of a level equally likely: random hashing.

    All versions of an item get the same codes; an item without codes still has none.

    Parameters
    ----------
    items : ItemTable
        Any items.
    sizes : sequence of int
        Codes per level.
    seed : int
        Another seed gives other codes.
    """
    names, back = np.unique(items.ids.astype(str), return_inverse=True)
    mark = pd.util.hash_array(names.astype(object), categorize=False).astype(np.uint64)
    drawn = np.empty((len(names), len(sizes)), dtype=np.int32)
    for level, size in enumerate(sizes):
        salt = np.random.default_rng([seed, level]).integers(0, 2**64, dtype=np.uint64)
        drawn[:, level] = splitmix64(mark ^ salt) % np.uint64(size)
    coded = (items.codes >= 0).all(axis=1, keepdims=True)
    return dataclasses.replace(items, codes=np.where(coded, drawn[back.ravel()], items.codes))
