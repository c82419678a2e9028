"""Rows of the id table for items that are newer than a ranker, without training it again.

Reindex-Then-Adapt (arXiv 2405.12119) learns one vector per item from the vectors of its text, so that items get an index in a
frozen model. Here the frozen model is a trained ranker: a linear map from content vectors to the rows of its id table is fitted
on the items that have a trained row, and gives items that came later a row of their own. The paper's aggregator of token
vectors and its contrastive training on a language model's labels have no counterpart: content is one vector, and the rows are
known.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch

from ranking.data.vocabulary import UNKNOWN, Vocabulary
from ranking.models.representations.base import Table
from sidkit.core.arrays import Doubles, Floats
from sidkit.core.errors import FitError

if TYPE_CHECKING:
    import numpy.typing as npt

    from ranking.training.ranker import Ranker

STRENGTHS = (1e3, 1e2, 1e1, 1e0)
"""Ridge strengths in units of standardised content, the strongest first; held-out items choose one, or no rows at all."""
_HELD_OUT = 0.2
_LEAST_ITEMS = 20


@dataclass(frozen=True)
class Reindexed:
    """Rows for new items.

    Attributes
    ----------
    ids : object [items]
        New items; none if the map is no better than the row of unknown ids.
    rows : float32 [items, dim]
    error : float
        Mean squared error of the map for the rows of held-out known items, divided by that of the row of unknown ids, which new
        items have otherwise; below 1 if there are rows.
    """

    ids: npt.NDArray[np.object_]
    rows: Floats
    error: float

    def table(self) -> pa.Table:
        """``item_id`` and ``row`` per item."""
        return pa.table(
            {"item_id": pa.array(self.ids, pa.string()), "row": pa.array(list(self.rows), pa.list_(pa.float32()))}
        )


def reindex(ranker: Ranker, known: Floats, new_ids: npt.NDArray[np.object_], new: Floats) -> Reindexed:
    """Give new items rows of the ranker's id table.

    Parameters
    ----------
    ranker : Ranker
        A ranker with the representation ``id``.
    known : float32 [vocabulary, content_dim]
        Content vectors of the items of ``ranker.vocabulary``, in its order; zeros without content.
    new_ids : object [items]
        Items outside the vocabulary.
    new : float32 [items, content_dim]
        Their content vectors; items without content get no row.

    Raises
    ------
    FitError
        When the ranker has no plain id table.
    """
    table = id_table(ranker)
    with torch.no_grad():
        rows = table.weight[UNKNOWN + 1 :].double().numpy()
        unknown = table.weight[UNKNOWN].double().numpy()
    has, new_has = known.any(axis=1), new.any(axis=1)
    content, rows = known[has].astype(np.float64), rows[has]
    nothing = Reindexed(new_ids[:0], np.zeros((0, rows.shape[1]), np.float32), 1.0)
    if len(content) < _LEAST_ITEMS:
        return nothing
    held = np.random.default_rng(0).random(len(content)) < _HELD_OUT
    base = _mean_square(rows[held] - unknown)
    errors = {
        strength: _mean_square(rows[held] - _Ridge(content[~held], rows[~held], strength)(content[held]))
        for strength in STRENGTHS
    }
    best = min(errors, key=lambda strength: errors[strength])
    error = errors[best] / max(base, 1e-30)
    if not error < 1 or not new_has.any():
        return replace(nothing, error=min(error, 1.0))
    predicted = _Ridge(content, rows, best)(new[new_has].astype(np.float64))
    return Reindexed(new_ids[new_has], predicted.astype(np.float32), error)


def extend(ranker: Ranker, table: pa.Table) -> None:
    """Append rows to the id table of a loaded ranker and their items to its vocabulary; scores of known items with histories of
    known items stay as they are.

    Parameters
    ----------
    ranker : Ranker
        The ranker, which is changed.
    table : pa.Table
        See :meth:`Reindexed.table`.
    """
    if not len(table):
        return
    layer = id_table(ranker)
    rows = np.stack([np.asarray(row, dtype=np.float32) for row in table.column("row").to_pylist()])
    with torch.no_grad():
        layer.weight.data = torch.cat([layer.weight.data, torch.from_numpy(rows)])
    layer.num_embeddings = len(layer.weight)
    names = [ranker.vocabulary.names, table.column("item_id").combine_chunks().cast(pa.large_string())]
    ranker.vocabulary = Vocabulary(pa.concat_arrays(names))


def id_table(ranker: object) -> Table:
    """The id table of a ranker.

    Raises
    ------
    FitError
        When it has none, or reads the neighbours of ids, which new items are given anyway.
    """
    from ranking.models.representations.id import IdRepresentation
    from ranking.training.ranker import Ranker

    parts = (
        [part for part in ranker.model.parts if isinstance(part, IdRepresentation)]
        if isinstance(ranker, Ranker)
        else []
    )
    if len(parts) != 1 or parts[0].strength > 0 or parts[0].pull > 0:
        raise FitError(
            "expected a neural ranker with the representation id, and without a neighbour prior or its loss, to give new items "
            'rows of its id table, got another one; adapt it without new rows, or train one with representations = ["id", '
            '"content"]'
        )
    return parts[0].table


class _Ridge:
    """Ridge regression on standardised inputs, with an intercept that is not shrunk."""

    def __init__(self, inputs: Doubles, targets: Doubles, strength: float) -> None:
        self.mean, deviation = inputs.mean(axis=0), inputs.std(axis=0)
        self.scale = np.where(deviation > 1e-9, 1 / np.maximum(deviation, 1e-9), 0.0)
        scaled = (inputs - self.mean) * self.scale
        self.intercept = targets.mean(axis=0)
        gram = scaled.T @ scaled + strength * np.eye(scaled.shape[1])
        self.weights = np.linalg.solve(gram, scaled.T @ (targets - self.intercept))

    def __call__(self, inputs: Doubles) -> Doubles:
        mapped: Doubles = (inputs - self.mean) * self.scale @ self.weights + self.intercept
        return mapped


def _mean_square(values: Doubles) -> float:
    return float((values**2).mean()) if values.size else 0.0
