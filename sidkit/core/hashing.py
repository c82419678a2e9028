"""Hashes of integers: the finalizer and the increment of splitmix64."""

from __future__ import annotations

import numpy as np

from sidkit.core.arrays import Hashes

GOLDEN_GAMMA = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio, odd: the increment of splitmix64, and the multiplier of multiplicative hashing."""


def splitmix64(values: Hashes) -> Hashes:
    """Mix the bits of each number, one to one (``uint64``, any shape).

    The finalizer of Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (2014), in Stafford's
    variant 13.
    """
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(values ^ (values >> np.uint64(31)))
