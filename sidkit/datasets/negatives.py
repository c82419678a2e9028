"""Negative sampling for logs of positives only, as of the positive's own time, so that no count or age reveals the label.

For each positive, ``per_positive`` items are drawn that exist at that time, are not positives of the same request, and
match the positive in whether the user had the item before (where users return to items, "it is in the history" would
otherwise reveal the label).

``stratified`` weights an item by two factors. The first decreases with the distance between item and positive in age and in
the clicks of 1, 7, 30 and all days, in octaves, as served at that time: a dormant or new positive gets dormant or new
negatives. The second is the item's click rate. Positives are clicked in proportion to their rate, so without this factor
negatives would lie where most items are, among the less active ones; with it, of two near items either is as often the
negative of the other as its positive. An item without near neighbours gets the nearest ones.
``uniform`` uses no weights.

Draws depend on the positive, the seed and what was known at its time: not on the order of the rows, nor on which other
rows get negatives, and a longer log preserves the negatives of a shorter one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sidkit.core.arrays import Bools, Doubles, Ints
from sidkit.core.clock import DAY_US
from sidkit.core.config import NegativeSettings
from sidkit.datasets.candidates import (
    Candidates,
    Catalogue,
    Offers,
    Positives,
    Serving,
    mixed,
    row_keys,
    uniform,
)
from sidkit.datasets.click_rates import ClickRates
from sidkit.datasets.served_counts import ServedCounts
from sidkit.datasets.touches import NEVER, OLDER, RECENT

__all__ = ["Catalogue", "Drawn", "Positives", "Serving", "draw_negatives", "row_keys"]


_AT_ONCE = 400_000
"""Number of candidates scored per batch."""
_REACH = 1.5
"""Distance in octaves at which the first factor is exp(-1/2)."""
_YOUNG_US = DAY_US // 96
"""Ages are compared in octaves above this value."""
_FAR = 2.0
"""Difference in octaves, in age or a count, above which a negative counts as far from its positive."""
_SCORES_WITHIN = 2.0**16
"""Upper bound on the difference of two scores of one positive."""
_NOISE = 2  # distinct from the kinds that candidates use


@dataclass(frozen=True)
class Drawn:
    """Sampled negatives and how well they match.

    ``items`` is ``int64 [rows, per_positive]``: item indices, distinct per row, -1 if no eligible item was left.
    ``far`` counts the negatives that differ from their positive by more than a factor of four in age or in a count,
    ``other_touch`` those that differ from their positive in whether the user had the item before, and
    ``missing`` the empty slots.
    """

    items: Ints
    far: int
    other_touch: int
    missing: int


def draw_negatives(
    positives: Positives, catalogue: Catalogue, settings: NegativeSettings, serving: Serving, rows: Ints | None = None
) -> Drawn:
    """Draw negatives for positives.

    Parameters
    ----------
    positives, catalogue
        The log; all positives enter the served counts.
    settings : NegativeSettings
        Number per positive, strategy and seed.
    serving : Serving
        Settings that determine what was known when.
    rows : int64 [rows], optional
        Positives to draw negatives for; default: all.
    """
    sampler = _Sampler(positives, catalogue, settings, serving)
    wanted = np.arange(len(positives.user)) if rows is None else rows
    parts = [sampler.draw(wanted[part]) for part in _parts_of(np.full(len(wanted), sampler.candidates.offered))]
    items = np.concatenate([part.items for part in parts]) if parts else np.zeros((0, settings.per_positive), np.int64)
    return Drawn(
        items, sum(part.far for part in parts), sum(part.other_touch for part in parts), int((items < 0).sum())
    )


class _Sampler:
    def __init__(
        self, positives: Positives, catalogue: Catalogue, settings: NegativeSettings, serving: Serving
    ) -> None:
        self.positives, self.catalogue, self.settings = positives, catalogue, settings
        self.count = len(catalogue.created_us)
        self.in_request = np.unique(positives.request * self.count + positives.item)
        self.counts = ServedCounts(positives.item, positives.moment_us, serving.delay_us, serving.cadence_us)
        self.rates = ClickRates(catalogue.created_us, positives.item, positives.moment_us, serving.delay_us)
        self.weighted = settings.strategy == "stratified"
        self.candidates = Candidates(
            positives, catalogue, serving, settings.seed, per_positive=settings.per_positive, anywhere=not self.weighted
        )

    def draw(self, rows: Ints) -> Drawn:
        """Draw the negatives of some positives, from near candidates first, and from all items if those are too few."""
        drawing, offers = _Drawing(self, rows), self.candidates
        new = np.flatnonzero(drawing.kind == NEVER)
        drawing.fill(new, offers.sample(rows[new]), "kind", sampled=True)
        for kind in (RECENT, OLDER):
            had = np.flatnonzero(drawing.kind == kind)
            drawing.fill(had, offers.of_user(rows[had], recent=kind == RECENT, most=offers.offered), "kind")
        self._exhaust(drawing, drawing.lacking(had=True), "touch", of_user=True)
        self._exhaust(drawing, drawing.lacking(had=False), "touch", of_user=False)
        matching = int((drawing.items >= 0).sum())
        left = drawing.lacking()
        drawing.fill(left, offers.sample(rows[left]), "any", sampled=True)
        self._exhaust(drawing, drawing.lacking(), "any", of_user=False)
        filled = int((drawing.items >= 0).sum())
        return Drawn(drawing.items, drawing.far, filled - matching, drawing.items.size - filled)

    def _exhaust(self, drawing: _Drawing, places: Ints, demand: str, *, of_user: bool) -> None:
        """Score every candidate, so that none is missed."""
        offers = self.candidates
        for part in _parts_of(offers.lengths(drawing.rows[places], of_user=of_user)):
            some = places[part]
            rows = drawing.rows[some]
            candidates = offers.of_user(rows, recent=False, most=None) if of_user else offers.all_of(rows)
            drawing.fill(some, candidates, demand)

    def position(self, item: Ints, moment_us: Ints) -> tuple[Doubles, Ints]:
        """Coordinates of items at given times, in octaves of clicks and age ``[rows, windows + 2]``; and their clicks."""
        clicks = self.counts.at(item, moment_us)
        age = np.maximum(moment_us - self.catalogue.created_us[item], 0)
        return np.column_stack([np.log2(1.0 + clicks), np.log2(1 + age / _YOUNG_US)]), clicks


class _Drawing:
    """State of one draw: ``items`` int64 [rows, per_positive], filled from the left."""

    def __init__(self, sampler: _Sampler, rows: Ints) -> None:
        self._sampler, self.rows = sampler, rows
        positives = sampler.positives
        self._user, self._item, self._moment = positives.user[rows], positives.item[rows], positives.moment_us[rows]
        self.kind = sampler.candidates.touches.kind(self._user, self._item, self._moment)
        self._position = sampler.position(self._item, self._moment)[0] if sampler.weighted else np.zeros((len(rows), 0))
        self.items = np.full((len(rows), sampler.settings.per_positive), -1, dtype=np.int64)
        self.far = 0

    def lacking(self, *, had: bool | None = None) -> Ints:
        """Indices of rows with empty slots, optionally restricted by whether the user had the positive before."""
        empty = self.items[:, -1] < 0
        return np.flatnonzero(empty if had is None else empty & ((self.kind != NEVER) == had))

    def fill(self, places: Ints, offers: Offers, demand: str, *, sampled: bool = False) -> None:
        """Fill empty slots of the rows ``places`` from offers, whose owners are indices into ``places``."""
        owner, item = places[offers.owner], offers.item
        good = self._allowed(owner, item, demand)
        owner, item = owner[good], item[good]
        score, apart = self._scores(owner, item, sampled=sampled)
        order = np.argsort(owner * _SCORES_WITHIN - score)  # by owner, and the best first
        owner, item, apart = owner[order], item[order], apart[order]
        once = np.r_[True, (owner[1:] != owner[:-1]) | (item[1:] != item[:-1])] if len(owner) else np.zeros(0, bool)
        owner, item, apart = owner[once], item[once], apart[once]
        slot = (self.items >= 0).sum(axis=1)[owner] + np.arange(len(owner)) - np.searchsorted(owner, owner)
        room = slot < self.items.shape[1]
        self.items[owner[room], slot[room]] = item[room]
        self.far += int((apart[room] > _FAR).sum())

    def _allowed(self, owner: Ints, item: Ints, demand: str) -> Bools:
        sampler, moment = self._sampler, self._moment[owner]
        good = (sampler.catalogue.created_us[item] <= moment) & (sampler.catalogue.removed_us[item] > moment)
        good &= ~_member(sampler.in_request, sampler.positives.request[self.rows[owner]] * sampler.count + item)
        for slot in range(self.items.shape[1]):
            good &= self.items[owner, slot] != item
        if demand != "any":
            eligible = np.flatnonzero(good)
            owners = owner[eligible]
            kind = sampler.candidates.touches.kind(self._user[owners], item[eligible], moment[eligible])
            wanted = self.kind[owners]
            good[eligible] = kind == wanted if demand == "kind" else (kind == NEVER) == (wanted == NEVER)
        return good

    def _scores(self, owner: Ints, item: Ints, *, sampled: bool) -> tuple[Doubles, Doubles]:
        """Log weights plus Gumbel noise, so that the largest scores are a weighted sample, and the largest difference to
        the positive in octaves.
        """
        sampler, rows = self._sampler, self.rows[owner]
        key = mixed(sampler.positives.key[rows], sampler.catalogue.key[item], _NOISE, sampler.settings.seed)
        noise = -np.log(-np.log(uniform(key)))
        if not sampler.weighted:
            return noise, np.zeros(len(owner))
        moment = self._moment[owner]
        position, clicks = sampler.position(item, moment)
        apart = position - self._position[owner]
        score = noise + np.log(sampler.rates.at(item, moment, clicks)) - (apart**2).sum(axis=1) / (2 * _REACH**2)
        if sampled:
            score -= np.log(sampler.candidates.chance(rows, item, clicks))
        return score, np.abs(apart).max(axis=1)


def _parts_of(lengths: Ints) -> Iterator[slice]:
    """Slices whose lengths add up to about one batch."""
    cuts = np.flatnonzero(np.diff(np.cumsum(lengths) // _AT_ONCE, prepend=0)) if len(lengths) else np.zeros(0, np.int64)
    for start, end in zip(np.r_[0, cuts], np.r_[cuts, len(lengths)], strict=True):
        if end > start:
            yield slice(int(start), int(end))


def _member(keys: Ints, wanted: Ints) -> Bools:
    place = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
    return keys[place] == wanted if len(keys) else np.zeros(len(wanted), dtype=bool)
