"""The gate adapter of Reindex-Then-Adapt: mix a frozen scorer with a second one, by counts as of the row."""

from __future__ import annotations

from typing import Self

import numpy as np
import pyarrow as pa

from ranking.training.adapters.base import Adapter, AdapterRows, has_both
from ranking.training.count_gate import CountGate
from ranking.training.mixing import best_weights
from sidkit.core.arrays import Doubles


class GateAdapter(Adapter):
    """``y = c logit + (1 - c) other``.

    The published gate has one number, ``c = sigmoid(w)`` (arXiv 2405.12119). Here c may also depend on the item's exposures,
    clicks and age as of the row (:class:`ranking.training.count_gate.CountGate`), if a cross-validation over users says so.

    ``other`` is a second frozen scorer. Without one, it is the item's click rate of 30 days as of the row.

    Parameters
    ----------
    gate : CountGate, optional
        The fitted gate; None: only the frozen scorer.
    """

    name = "gate"
    takes_other = True

    def __init__(self, gate: CountGate | None) -> None:
        self.gate = gate

    @classmethod
    def fit(cls, rows: AdapterRows) -> Self:
        """See :class:`Adapter`."""
        if not has_both(rows.label):
            return cls(None)
        both = np.stack([rows.logit, rows.other])
        share = float(best_weights(rows.label, both)[0])
        return cls(CountGate.fit(rows.label, rows.features, both, rows.user_ids, share))

    def logits(self, rows: AdapterRows) -> Doubles:
        """See :class:`Adapter`."""
        if self.gate is None:
            return rows.logit
        return self.gate.blended(rows.features, np.stack([rows.logit, rows.other]))

    def table(self) -> pa.Table:
        """One row with the numbers of the gate by name; no row: only the frozen scorer."""
        values = self.gate.as_json() if self.gate is not None else CountGate.constant(1.0).as_json()
        table = pa.table({name: pa.array([value]) for name, value in values.items()})
        return table if self.gate is not None else table.slice(0, 0)

    @classmethod
    def of_table(cls, table: pa.Table) -> Self:
        """See :class:`Adapter`."""
        gates = [CountGate.of_json(row) for row in table.to_pylist()]
        return cls(gates[0] if gates else None)

    @property
    def summary(self) -> dict[str, float]:
        """The numbers of the gate."""
        return self.gate.as_json() if self.gate is not None else {}
