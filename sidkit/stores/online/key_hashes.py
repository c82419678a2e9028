"""Hashes of entity keys: the row numbers of the tables in a file of packed rows.

The hash of a key is the key's bytes, read as a big-endian number, modulo a prime of 63 bits. SQLite searches for an integer
faster than for bytes. Keys that differ in their last seven bytes only are in the same order as their hashes, so ids that
count up are written to neighbouring pages, as in a table in the order of the keys. Different keys may have the same hash:
every row has its whole key, which is compared (:mod:`sidkit.stores.online.rows_by_hash`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from operator import mod

PRIME = 5_700_357_409_661_599_241
"""The largest prime below 2^63 divided by the golden ratio. Powers of two have no small remainder modulo this prime, so ids
that differ in a few digits far apart do not collide."""


def hashes_of(keys: Sequence[bytes]) -> list[int]:
    """The hash of each key, from zero to below 2^63."""
    return list(map(mod, map(int.from_bytes, keys), repeat(PRIME)))
