"""The bias adapter of Reindex-Then-Adapt: a scale and a shift per item."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from ranking.training.adapters.base import Adapter, AdapterRows, halves, has_both
from sidkit.core.arrays import Doubles, Ints

DECAYS = (300.0, 100.0, 30.0, 10.0, 3.0, 1.0)
"""Precisions of the prior, the strongest first; the later half of the rows chooses one, or no correction at all."""
LEAST_SCALE = 0.1
"""Least scale: a positive one keeps the order of an item's rows."""
_SIGNIFICANT = 1.645
_ROUNDS = 50
_STEPS = (1.0, 0.5, 0.25, 0.125, 1 / 64, 0.0)
_CLOSE = 1e-9


class BiasAdapter(Adapter):
    """``y = m_i logit + b_i`` for item i, with m = 1 and b = 0 for an item without rows (arXiv 2405.12119).

    Per item, m and b minimise ``sum_r -log p(label_r) + decay / 2 ((m - 1)^2 + b^2)``, with ``p = sigmoid(m logit + b + o)``:
    weight decay pulls both to the start, which leaves the frozen score as it is. The offset o is one number, fitted to all rows
    before and discarded: it takes up that a day has more or fewer clicks than the frozen scorer learned, which is no property
    of the items with rows. The published adapter is trained by stochastic gradients with one decay. Here both numbers of an
    item are at the minimum, and the decay is that with the least log-loss of the later half of the rows, fitted on the earlier
    half; if the gain over the frozen scores is not significant there (one-sided, 5 %), nothing is corrected.

    Parameters
    ----------
    scale, shift : mapping
        Item id -> m and b; the same items.
    decay : float
        The chosen decay; infinite: no correction.
    """

    name = "bias"

    def __init__(self, scale: Mapping[str, float], shift: Mapping[str, float], decay: float) -> None:
        self._items = pd.Index(list(scale), dtype=object)
        self._scale = np.array([*scale.values(), 1.0], dtype=np.float64)
        self._shift = np.array([*(shift[item] for item in scale), 0.0], dtype=np.float64)
        self.decay = decay

    @classmethod
    def fit(cls, rows: AdapterRows) -> Self:
        """See :class:`Adapter`."""
        earlier, later = (rows.take(index) for index in halves(rows.at_us))
        if not has_both(earlier.label) or not has_both(later.label):
            return cls({}, {}, np.inf)
        frozen = _losses(later.logit, later.label)
        gains = {decay: frozen - _losses(cls.fit_with(earlier, decay).logits(later), later.label) for decay in DECAYS}
        best = max(gains, key=lambda decay: float(gains[decay].mean()))
        return cls.fit_with(rows, best if _is_above_0(gains[best]) else np.inf)

    @classmethod
    def fit_with(cls, rows: AdapterRows, decay: float) -> Self:
        """Fit with one decay; an infinite one corrects nothing."""
        if not np.isfinite(decay) or not has_both(rows.label):
            return cls({}, {}, np.inf)
        number, items = pd.factorize(rows.item_ids, sort=True)
        label = rows.label.astype(np.float64)
        moved = rows.logit + _offset(rows.logit, label)
        scale, shift = _fitted(rows.logit, moved - rows.logit, label, number.astype(np.int64), len(items), decay)
        return cls(dict(zip(items, scale.tolist(), strict=True)), dict(zip(items, shift.tolist(), strict=True)), decay)

    def logits(self, rows: AdapterRows) -> Doubles:
        """See :class:`Adapter`; an item without rows in the fit has exactly the frozen logit."""
        place = self._items.get_indexer(pd.Index(rows.item_ids, dtype=object))  # -1, the last entry: not fitted
        corrected: Doubles = self._scale[place] * rows.logit + self._shift[place]
        return corrected

    def table(self) -> pa.Table:
        """``item_id``, ``scale``, ``shift`` per item; the decay is in the metadata."""
        columns = {"item_id": pa.array(self._items.tolist(), pa.string())}
        columns |= {"scale": pa.array(self._scale[:-1]), "shift": pa.array(self._shift[:-1])}
        return pa.table(columns).replace_schema_metadata({"decay": repr(float(self.decay))})

    @classmethod
    def of_table(cls, table: pa.Table) -> Self:
        """See :class:`Adapter`."""
        items = table.column("item_id").to_pylist()
        scale, shift = (table.column(name).to_pylist() for name in ("scale", "shift"))
        decay = float((table.schema.metadata or {})[b"decay"])
        return cls(dict(zip(items, scale, strict=True)), dict(zip(items, shift, strict=True)), decay)

    @property
    def summary(self) -> dict[str, float]:
        """``items`` with a correction, their largest shift, and ``decay`` (0: no correction)."""
        largest = float(np.abs(self._shift).max(initial=0.0))
        decay = self.decay if np.isfinite(self.decay) else 0.0
        return {"items": float(len(self._items)), "largest_shift": largest, "decay": decay}


def _losses(logit: Doubles, label: npt.NDArray[np.int8]) -> Doubles:
    """Log-loss of each row, after the best offset of all."""
    moved = logit + _offset(logit, label.astype(np.float64))
    losses: Doubles = np.logaddexp(0, moved) - label * moved
    return losses


def _is_above_0(gain: Doubles) -> bool:
    """Whether the mean of a gain per row is above 0 by more than ``_SIGNIFICANT`` standard errors."""
    error = float(gain.std(ddof=1)) / np.sqrt(len(gain)) if len(gain) > 1 else np.inf
    return bool(gain.mean() > _SIGNIFICANT * error)


def _offset(logit: Doubles, label: Doubles) -> float:
    """The shift of all logits with the least log-loss; the mean probability is then the mean label. By bisection."""
    low, high = -30.0, 30.0
    for _ in range(80):
        middle = (low + high) / 2
        if _sigmoid(logit + middle).mean() > label.mean():
            high = middle
        else:
            low = middle
    return (low + high) / 2


def _fitted(
    logit: Doubles, offset: Doubles, label: Doubles, item: Ints, items: int, decay: float
) -> tuple[Doubles, Doubles]:
    """Scale and shift of each item, by Newton's method for all items at once; a step that does not help is halved."""
    scale, shift = np.ones(items), np.zeros(items)
    free = np.ones(items, dtype=bool)  # scales at the bound are fixed there

    def summed(values: Doubles) -> Doubles:
        totals: Doubles = np.bincount(item, values, minlength=items).astype(np.float64)
        return totals

    def loss(m: Doubles, b: Doubles) -> Doubles:
        y = m[item] * logit + b[item] + offset
        return summed(np.logaddexp(0, y) - label * y) + decay / 2 * ((m - 1) ** 2 + b**2)

    for _ in range(_ROUNDS):
        p = _sigmoid(scale[item] * logit + shift[item] + offset)
        curved = p * (1 - p)
        of_m = summed((p - label) * logit) + decay * (scale - 1)
        of_b = summed(p - label) + decay * shift
        mm, mb, bb = summed(curved * logit**2) + decay, summed(curved * logit), summed(curved) + decay
        free = ~((scale <= LEAST_SCALE) & (of_m > 0))
        of_m, mb = np.where(free, of_m, 0.0), np.where(free, mb, 0.0)
        determinant = mm * bb - mb**2
        toward_m = np.where(free, (bb * of_m - mb * of_b) / determinant, 0.0)
        toward_b = (mm * of_b - mb * of_m) / determinant
        before, size = loss(scale, shift), np.full(items, np.nan)
        for step in _STEPS:
            tried = loss(np.maximum(scale - step * toward_m, LEAST_SCALE), shift - step * toward_b)
            size = np.where(np.isnan(size) & (tried <= before + 1e-12), step, size)
        scale, shift = np.maximum(scale - size * toward_m, LEAST_SCALE), shift - size * toward_b
        if max(np.abs(size * toward_m).max(initial=0), np.abs(size * toward_b).max(initial=0)) < _CLOSE:
            break
    return scale, shift


def _sigmoid(logit: Doubles) -> Doubles:
    value: Doubles = 0.5 * (1 + np.tanh(0.5 * logit))
    return value
