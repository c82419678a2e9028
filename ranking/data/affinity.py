"""Affinity: how often, how recently and at what share of their positives a user had the candidate's values before.

Computed from the history as of the row's time, with the attributes that its items had at that time. Of an attribute with a
list of values, a history item counts with the share of the candidate's values that it has.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ranking.data.coded import Codes32
from ranking.data.schema import IDENTITY, ExtraFeature, FeatureSchema
from sidkit.core.arrays import Doubles, Floats, Ints
from sidkit.core.clock import DAY_US

_ROWS = 20_000
_SQUARE = 2_000
"""Maximum number of distinct lists whose overlaps are computed for all pairs."""

_MANY = 20_000
"""Numbers of values up to which the values of one history are counted in an array with a place for each."""
_DENSE = 100_000
"""Maximum number of lists times values that one history's overlaps are computed for without sparse matrices."""


def affinities(
    schema: FeatureSchema,
    identity: Ints,
    codes: Codes32,
    values: Sequence[pa.Array],
    candidate: npt.NDArray[np.integer],
    history: npt.NDArray[np.integer],
    history_us: Ints,
    at_us: Ints,
    prefixes: Mapping[str, Ints] | None = None,
) -> dict[str, Doubles]:
    """Affinity features of rows, ``float64 [rows]`` each; a gap without such a positive is NaN.

    Parameters
    ----------
    schema : FeatureSchema
        Features; those with ``of`` and without a view are computed.
    identity : int64 [items]
        A number per item, the same for all its versions.
    codes : int32 [items, item_read]
        Coded attributes of the item versions.
    values : sequence of pyarrow.Array
        Their values.
    candidate : int [rows]
        Item version of the candidate.
    history : int [rows, length]
        Item versions of the history, newest first; 0 is padding. One row if all rows have the same history, also of the times.
    history_us : int64 [rows, length]
        Times of the history, microseconds UTC.
    at_us : int64 [rows]
        Times of the rows.
    prefixes : mapping, optional
        Column of a prefix (:func:`sidkit.core.code_stats.prefix_column`) -> a number per item version, ``int64 [items]``, the
        same for items that share the prefix, 0 for items without codes.
    """
    place = {each.name: at for at, each in enumerate(schema.item_read)}
    wanted = {each.of for each in schema.numbers if each.of and not each.view}
    computed: dict[str, tuple[Doubles, Doubles]] = {}
    lengths = np.maximum((history != 0).sum(axis=1), 1)
    for name in sorted(wanted):
        counts, gaps = np.zeros(len(at_us)), np.full(len(at_us), np.nan)
        weigh: _Same | _Overlap
        if name == IDENTITY:
            weigh = _Same(identity)
        elif prefixes is not None and name in prefixes:
            weigh = _Same(prefixes[name])
        elif schema.item_read[place[name]].kind == "category":
            weigh = _Same(codes[:, place[name]].astype(np.int64))
        else:
            weigh = _Overlap(codes[:, place[name]], values[place[name]])
        if len(history) == 1 and isinstance(weigh, _Same):
            counts, then_us = weigh.in_one(candidate, history[0], history_us[0])
            gaps = np.where(counts > 0, np.maximum(at_us - then_us, 0) / DAY_US, np.nan)
            computed[name] = counts, gaps
            continue
        for start in range(0, len(at_us), _ROWS):
            rows = slice(start, start + _ROWS)
            past, past_us = (each if len(each) == 1 else each[rows] for each in (history, history_us))
            weight = weigh(candidate[rows], past) * (past != 0)
            counts[rows] = weight.sum(axis=1)
            had = weight > 0
            of_row = 0 if len(past_us) == 1 else np.arange(len(had))
            newest = past_us[of_row, had.argmax(axis=1)]
            gaps[rows] = np.where(had.any(axis=1), np.maximum(at_us[rows] - newest, 0) / DAY_US, np.nan)
        computed[name] = counts, gaps
    return {each.name: _one(each, computed, lengths) for each in schema.numbers if each.of and not each.view}


def _one(feature: ExtraFeature, computed: dict[str, tuple[Doubles, Doubles]], lengths: Ints) -> Doubles:
    counts, gaps = computed[feature.of]
    if feature.kind == "gap":
        return gaps
    return counts / lengths if feature.kind == "share" else counts


class _Same:
    """1 where the value is the same and not missing."""

    def __init__(self, value: Ints) -> None:
        self._value = value

    def __call__(self, candidate: npt.NDArray[np.integer], history: npt.NDArray[np.integer]) -> Floats:
        own = self._value[candidate][:, None]
        same: Floats = ((self._value[history] == own) & (own != 0)).astype(np.float32)
        return same

    def in_one(
        self, candidate: npt.NDArray[np.integer], history: npt.NDArray[np.integer], us: Ints
    ) -> tuple[Doubles, Ints]:
        """How often one history has each candidate's value, ``float64 [rows]``, and the newest time, ``int64 [rows]``."""
        filled = history != 0
        values, own = self._value[history[filled]], self._value[candidate]
        bound = int(max(values.max(initial=0), own.max(initial=0))) + 1
        if bound > _MANY:
            _, numbers = np.unique(np.concatenate([[0], values, own]), return_inverse=True)
            values, own, bound = numbers[1 : len(values) + 1], numbers[len(values) + 1 :], len(numbers)
        times = np.bincount(values, minlength=bound).astype(np.float64)
        times[0] = 0  # the missing value
        newest_us = np.zeros(bound, dtype=np.int64)
        newest_us[values[::-1]] = us[filled][::-1]  # of equal values, the first one of the history is written last
        return times[own], newest_us[own]


class _Overlap:
    """The share of the candidate's values that a history item has."""

    def __init__(self, codes: Codes32, lists: pa.Array) -> None:
        used, self._codes = np.unique(codes, return_inverse=True)
        taken = lists.take(pa.array(used))
        lengths = pc.fill_null(pc.list_value_length(taken), 0).to_numpy(zero_copy_only=False)
        flat = taken.flatten().dictionary_encode()
        self._shape = (len(used), max(len(flat.dictionary), 1))
        owner = np.repeat(np.arange(len(used)), lengths)
        listed = owner * self._shape[1] + flat.indices.to_numpy(zero_copy_only=False)
        self._owner, self._value = np.divmod(np.unique(listed), self._shape[1])  # a value listed twice counts once
        self._own = np.maximum(np.bincount(self._owner, minlength=len(used)), 1).astype(np.float32)

    @cached_property
    def _held(self) -> Any:
        """Whether a list has a value, sparse ``float32 [lists, values]``."""
        from scipy import sparse

        return sparse.csr_matrix((np.ones(len(self._owner), np.float32), (self._owner, self._value)), shape=self._shape)

    @cached_property
    def _square(self) -> Floats | None:
        """The shares of all pairs of lists."""
        if len(self._own) > _SQUARE:
            return None
        shares: Floats = (self._held @ self._held.T).toarray() / self._own[:, None]
        return shares

    def __call__(self, candidate: npt.NDArray[np.integer], history: npt.NDArray[np.integer]) -> Floats:
        own, past = self._codes[candidate], self._codes[history]
        if len(past) == 1:
            columns, back = np.unique(past[0], return_inverse=True)
            of_one: Floats = self._shares_with(columns)[:, back][own]
            return of_one
        if self._square is not None:
            shares: Floats = self._square[own[:, None], past]
            return shares
        pairs = own[:, None].astype(np.int64) * len(self._own) + past
        distinct, back = np.unique(pairs, return_inverse=True)
        left, right = distinct // len(self._own), distinct % len(self._own)
        common = np.asarray(self._held[left].multiply(self._held[right]).sum(axis=1)).ravel() / self._own[left]
        shared: Floats = common.astype(np.float32)[back.reshape(pairs.shape)]
        return shared

    def _shares_with(self, columns: Ints) -> Floats:
        """The shares of all lists' values that some lists have, ``float32 [lists, columns]``."""
        if math.prod(self._shape) <= _DENSE:
            held = np.zeros(self._shape, dtype=np.float32)
            held[self._owner, self._value] = 1
            common = held @ held[columns].T
        else:
            common = (self._held @ self._held[columns].T).toarray()
        shares: Floats = common / self._own[:, None]
        return shares
