"""Items with similar vectors: cosine similarity of a codebook's encoder vectors, as of the feature tables."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from semantic_ids.codebook import Codebook
from semantic_ids.pairs.known_items import KnownItems, known_items
from sidkit.core.arrays import Floats, Ints
from sidkit.core.errors import ConfigError
from sidkit.core.repo import Repo
from sidkit.tables import read_build


@dataclass(frozen=True)
class SimilarItems:
    """The items most similar to one item: ``ids`` ``object [k]`` and ``similarity`` ``float32 [k]``, falling."""

    ids: npt.NDArray[np.object_]
    similarity: Floats


class ItemNeighbours:
    """The encoder vectors of all items with content, and the search among them.

    Parameters
    ----------
    repo : Repo
        With built tables.
    codebook : Codebook
        Its encoder computes the vectors.
    """

    def __init__(self, repo: Repo, codebook: Codebook) -> None:
        self._repo = repo
        self._codebook = codebook

    @cached_property
    def _known(self) -> KnownItems:
        return known_items(self._repo, read_build(self._repo)["as_of_us"])

    @cached_property
    def _unit(self) -> Floats:
        vectors = self._codebook.vectors(self._known.content)
        unit: Floats = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return unit

    def of(self, item_id: str, k: int = 10) -> SimilarItems:
        """The ``k`` items with the largest cosine similarity, without the item itself; ties in the order of ids.

        Raises
        ------
        ConfigError
            When the item has no content, or ``k`` is below 1.
        """
        if k < 1:
            raise ConfigError(f"expected k of at least 1, got {k}")
        at = bisect_left(self._known.ids, item_id)
        if at == len(self._known) or self._known.ids[at] != item_id:
            raise ConfigError(
                f"expected an item with content in the tables, got {item_id!r}; check the id, or ingest the item and run "
                "`sidkit tables build`"
            )
        similarity = self._unit @ self._unit[at]
        similarity[at] = -np.inf
        order = _largest(similarity, min(k, len(similarity) - 1))
        return SimilarItems(self._known.ids[order], similarity[order])


def _largest(values: Floats, count: int) -> Ints:
    """Places of the ``count`` largest values, falling; ties in the order of places."""
    if count <= 0:
        return np.zeros(0, dtype=np.int64)
    last = np.partition(values, len(values) - count)[len(values) - count]
    places = np.flatnonzero(values >= last)
    return places[np.argsort(-values[places], kind="stable")[:count]]
