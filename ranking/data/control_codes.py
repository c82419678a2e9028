"""Shuffled and random codes, as ablation baselines: any gain from them is due to capacity alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ranking.data.item_table import ItemTable
from sidkit.core.hashing import splitmix64


def shuffled_codes(items: ItemTable, seed: int) -> ItemTable:
    """Permute codes among items: the same code frequencies without semantic information.

    All versions of an item get the codes of the same other item.
    """
    coded = np.flatnonzero((items.codes >= 0).all(axis=1))
    names, first, back = np.unique(items.ids[coded].astype(str), return_index=True, return_inverse=True)
    # A single cycle over all items, so that no item keeps its own codes.
    order = np.random.default_rng(seed).permutation(len(names))
    donor = np.empty_like(order)
    donor[order] = np.roll(order, 1)
    codes = items.codes.copy()
    codes[coded] = items.codes[coded[first[donor[back.ravel()]]]]
    return dataclasses.replace(items, codes=codes)


def random_codes(items: ItemTable, sizes: Sequence[int], seed: int) -> ItemTable:
    """Random hashing: give each item uniform codes by a hash of its id and the seed.

    All versions of an item get the same codes; items without codes stay without.

    Parameters
    ----------
    items : ItemTable
        Any items.
    sizes : sequence of int
        Codes per level.
    seed : int
        Seed of the hash.
    """
    names, back = np.unique(items.ids.astype(str), return_inverse=True)
    hashes = pd.util.hash_array(names.astype(object), categorize=False).astype(np.uint64)
    codes = np.empty((len(names), len(sizes)), dtype=np.int32)
    for level, size in enumerate(sizes):
        salt = np.random.default_rng([seed, level]).integers(0, 2**64, dtype=np.uint64)
        codes[:, level] = splitmix64(hashes ^ salt) % np.uint64(size)
    coded = (items.codes >= 0).all(axis=1, keepdims=True)
    return dataclasses.replace(items, codes=np.where(coded, codes[back.ravel()], items.codes))
