"""Shuffled and random codes, as ablation baselines: any gain from them is due to capacity alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pandas as pd

from ranking.data.item_table import ItemTable
from sidkit.core.arrays import Codes
from sidkit.core.hashing import splitmix64

ControlKind: TypeAlias = Literal["shuffled", "random"]
"""How the codes of a control are made."""

Names = npt.NDArray[np.object_] | npt.NDArray[np.str_]


def shuffled_codes(items: ItemTable, seed: int) -> ItemTable:
    """Permute codes among items: the same code frequencies without semantic information.

    All versions of an item get the codes of the same other item.
    """
    coded = np.flatnonzero((items.codes >= 0).all(axis=1))
    names, first, back = np.unique(items.ids[coded].astype(str), return_index=True, return_inverse=True)
    codes = items.codes.copy()
    codes[coded] = items.codes[coded[first[donors(len(names), seed)[back.ravel()]]]]
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
    coded = (items.codes >= 0).all(axis=1, keepdims=True)
    codes = np.where(coded, hashed_codes(names, sizes, seed)[back.ravel()], items.codes)
    return dataclasses.replace(items, codes=codes)


def donors(count: int, seed: int) -> npt.NDArray[np.int64]:
    """The other item whose codes each item gets, ``int64 [count]``: a single cycle, so that no item keeps its own codes."""
    order = np.random.default_rng(seed).permutation(count)
    donor = np.empty_like(order)
    donor[order] = np.roll(order, 1)
    return donor


def hashed_codes(names: Names, sizes: Sequence[int], seed: int) -> Codes:
    """Uniform codes by a hash of names and the seed, ``int32 [names, levels]``."""
    hashes = pd.util.hash_array(names.astype(object), categorize=False).astype(np.uint64)
    codes = np.empty((len(names), len(sizes)), dtype=np.int32)
    for level, size in enumerate(sizes):
        salt = np.random.default_rng([seed, level]).integers(0, 2**64, dtype=np.uint64)
        codes[:, level] = splitmix64(hashes ^ salt) % np.uint64(size)
    return codes
