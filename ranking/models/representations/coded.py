"""Base class of representations that use codes."""

from __future__ import annotations

from torch import Tensor

from ranking.data.batch import ItemBatch
from ranking.models.representations.base import ItemShape, Representation
from ranking.models.representations.matches import code_matches


class CodedRepresentation(Representation):
    """A representation of an item's codes, with code match features for the head if ``shape.match_codes``.

    Parameters
    ----------
    shape : ItemShape
        ``sizes`` are the codes per level.
    dim : int
        Width.
    """

    def __init__(self, shape: ItemShape, dim: int) -> None:
        super().__init__(dim)
        self.sizes, self.residual_levels = shape.sizes, shape.refining
        self.match_dim = 2 * len(shape.sizes) if shape.match_codes else 0
        self._match_codes = shape.match_codes

    def match(self, items: ItemBatch, candidate: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        """See :func:`code_matches`; width 0 if codes must not be matched."""
        if not self._match_codes:
            return items.content.new_zeros((candidate.shape[0], 0))
        return code_matches(items, candidate, history, mask, self.residual_levels)
