"""Candidates of a request: items that are similar to one, share a prefix of codes, are popular, or have given attributes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sidkit.core.arrays import Bools, Ints
from sidkit.core.errors import ServingError
from sidkit.core.feature_settings import WINDOWS
from sidkit.serve.item_index import ItemIndex

MOST_RETRIEVED = 1_000
"""The most candidates that a request retrieves."""
Condition = str | float | bool | Sequence[Any] | Mapping[str, float]
"""A value, a list of allowed values, or ``{"min": .., "max": ..}`` of a number."""


@dataclass(frozen=True)
class Neighbour:
    """An item similar to another: cosine similarity of their vectors, its codes, and how many leading codes they share."""

    item_id: str
    similarity: float
    codes: list[int] | None
    shared_levels: int


class Candidates:
    """Retrieves candidates from an index. Items removed by the time of the request are left out.

    Parameters
    ----------
    index : ItemIndex
        The items.
    """

    def __init__(self, index: ItemIndex) -> None:
        self.index = index

    def similar(
        self, item_id: str, at_us: int, most: int, where: Mapping[str, Condition] | None = None
    ) -> list[Neighbour]:
        """Items whose vectors have the largest cosine similarity, without the item itself; ties in the order of ids.

        Raises
        ------
        ServingError
            When the item is unknown or has no content.
        """
        [place] = self.index.places([item_id]).tolist()
        if place < 0 or not self.index.unit[place].any():
            problem = "has no content" if place >= 0 else "is unknown"
            raise ServingError(
                f"expected an item with content, got {item_id!r}, which {problem}; check the id, or build the tables and "
                "materialize them after the item was added"
            )
        allowed = self._allowed(at_us, where) & self.index.unit.any(axis=1)
        allowed[place] = False
        similarity = np.where(allowed, self.index.unit @ self.index.unit[place], -np.inf)
        order = _largest(similarity, min(most, int(allowed.sum())))
        codes, own = self.index.codes[order], self.index.codes[place]
        shared = np.cumprod((codes == own) & (own >= 0), axis=1).sum(axis=1)
        return [
            Neighbour(self.index.ids[at], float(similarity[at]), _plain(code), int(count))
            for at, code, count in zip(order.tolist(), codes, shared.tolist(), strict=True)
        ]

    def prefix(
        self, codes: Sequence[int], at_us: int, most: int, where: Mapping[str, Condition] | None = None
    ) -> list[str]:
        """Items whose codes start with a prefix, those with the most clicks first.

        Raises
        ------
        ServingError
            When the prefix is empty or longer than the codebook's levels.
        """
        levels = self.index.codes.shape[1]
        if not 1 <= len(codes) <= levels:
            raise ServingError(
                f"expected 1 to {levels} codes, coarse to fine, got {len(codes)}; shorten the prefix, or give its first code"
            )
        matching = (self.index.codes[:, : len(codes)] == np.asarray(codes, dtype=np.int64)).all(axis=1)
        return self._best("all", matching & self._allowed(at_us, where), most)

    def popular(self, window: str, at_us: int, most: int, where: Mapping[str, Condition] | None = None) -> list[str]:
        """Items with the most clicks in a window (``1d``, ``7d``, ``30d`` or ``all``); ties in the order of ids.

        Raises
        ------
        ServingError
            When there is no such window.
        """
        if window not in self.index.clicks:
            raise ServingError(f"expected a window among {', '.join(WINDOWS)}, got {window!r}; use one of them")
        return self._best(window, self._allowed(at_us, where), most)

    def by_clicks(self) -> list[str]:
        """All items, those with the most clicks in 30 days last."""
        ids: list[str] = self.index.ids[np.argsort(-self._ranks["30d"])].tolist()
        return ids

    def _best(self, window: str, allowed: Bools, most: int) -> list[str]:
        rank = self._ranks[window]
        places = np.flatnonzero(allowed)
        chosen = places[_largest(-rank[places].astype(np.float64), min(most, len(places)))]
        ids: list[str] = self.index.ids[chosen].tolist()
        return ids

    @cached_property
    def _ranks(self) -> dict[str, Ints]:
        """Rank of each item by clicks, 0 for the most, by window."""
        ranks = {}
        for window, clicks in self.index.clicks.items():
            ranks[window] = np.empty(len(clicks), dtype=np.int64)
            ranks[window][np.argsort(-clicks, kind="stable")] = np.arange(len(clicks))
        return ranks

    def _allowed(self, at_us: int, where: Mapping[str, Condition] | None) -> Bools:
        allowed: Bools = self.index.removed_us > at_us
        for name, condition in (where or {}).items():
            allowed &= self._meeting(name, condition)
        return allowed

    def _meeting(self, name: str, condition: Condition) -> Bools:
        """Items that meet a condition on one attribute; a missing value meets none."""
        column = self.index.attributes.get(name)
        if column is None:
            known = ", ".join(self.index.attributes) or "none"
            raise ServingError(f"expected an attribute among {known}, got {name!r}; filter by one of them")
        is_number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
        if isinstance(condition, Mapping):
            if not is_number or not condition or set(condition) - {"min", "max"}:
                raise ServingError(
                    f"expected a value or a list of values of {name}"
                    f"{', or an object with min and max' if is_number else ''}, got {dict(condition)!r}; correct the filter"
                )
            low, high = condition.get("min", -np.inf), condition.get("max", np.inf)
            _check(name, [low, high], is_number=True)
            values = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
            inside: Bools = (values >= low) & (values <= high)
            return inside
        wanted = list(condition) if isinstance(condition, list | tuple) else [condition]
        _check(name, wanted, is_number=is_number)
        if is_number:
            found = pc.is_in(column.cast(pa.float64()), pa.array(wanted, pa.float64()))
        else:
            found = pc.is_in(column.cast(pa.string()), pa.array([_text(each) for each in wanted], pa.string()))
        matching: Bools = found.to_numpy(zero_copy_only=False)
        return matching


def _check(name: str, values: Sequence[Any], *, is_number: bool) -> None:
    for value in values:
        fits = (
            isinstance(value, int | float) and not isinstance(value, bool)
            if is_number
            else not isinstance(value, float)
        )
        if value is None or not fits or isinstance(value, Mapping | list):
            raise ServingError(
                f"expected {'numbers' if is_number else 'texts'} for the attribute {name}, got {value!r}; correct the filter"
            )


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _largest(values: Any, most: int) -> Ints:
    """Positions of the largest values, falling; ties in the order of positions."""
    if most <= 0:
        return np.zeros(0, dtype=np.int64)
    if most < len(values):
        least = np.partition(values, len(values) - most)[len(values) - most]
        places = np.flatnonzero(values >= least)
    else:
        places = np.arange(len(values))
    order: Ints = places[np.argsort(-values[places], kind="stable")][:most]
    return order


def _plain(codes: Any) -> list[int] | None:
    return codes.tolist() if codes.min(initial=0) >= 0 else None
