"""Layers for coded features: embedding tables of categories, means over lists, projections of vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ranking.data.coded_inputs import MISSING_ROW, UNKNOWN_ROW, CodedInput, CodedInputs

WIDEST = 16
"""Maximum width of a category's vector."""


class CategoryTable(nn.Embedding):
    """The table of one categorical feature; it trains like a layer, since it has few rows, all with many training rows.

    Parameters
    ----------
    rows : int
        Rows: missing (0), unknown (1), and the categories.
    """

    def __init__(self, rows: int) -> None:
        # 6 n^(1/4), a rule of thumb of wide-and-deep models; capped at the width of the item representations.
        super().__init__(rows, min(WIDEST, math.ceil(6 * max(rows - 2, 1) ** 0.25)))

    def reset_parameters(self) -> None:
        """Unit variance per vector; the unknown row is 0 until a rare category trains it."""
        nn.init.normal_(self.weight, std=1 / math.sqrt(self.embedding_dim))
        with torch.no_grad():
            self.weight[UNKNOWN_ROW].zero_()


class CodedLayers(nn.Module):
    """Map the coded features of a batch to ``float32 [rows, dim]``.

    Parameters
    ----------
    inputs : CodedInputs
        The features.
    """

    def __init__(self, inputs: CodedInputs) -> None:
        super().__init__()
        self.layers = nn.ModuleDict({_key(each.name): _layer(each) for each in inputs.features})
        self._kinds = [(_key(each.name), each.kind) for each in inputs.features]
        widths = [
            layer.embedding_dim if isinstance(layer, CategoryTable) else layer.out_features
            for layer in self.layers.values()
            if isinstance(layer, CategoryTable | nn.Linear)
        ]
        self.dim = sum(widths)

    def forward(self, coded: Sequence[Tensor], rows: Tensor) -> Tensor:
        """Encode one tensor per feature; ``rows`` is any tensor with a row per row, of the type of the result."""
        parts = []
        for (key, kind), values in zip(self._kinds, coded, strict=True):
            vectors = self.layers[key](values)
            if kind == "categories":
                valid = (values != MISSING_ROW).unsqueeze(2)
                vectors = (vectors * valid).sum(dim=1) / valid.sum(dim=1).clamp(min=1)
            parts.append(vectors)
        return torch.cat(parts, dim=1) if parts else rows.new_zeros((rows.shape[0], 0))


def _layer(feature: CodedInput) -> nn.Module:
    if feature.kind == "vector":
        return nn.Linear(feature.width, min(WIDEST, feature.width))
    return CategoryTable(feature.table_rows)


def _key(name: str) -> str:
    """A name of a module, which may hold no dot."""
    return name.replace(".", "_")
