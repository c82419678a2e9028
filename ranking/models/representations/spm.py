"""Embeddings of SentencePiece pieces of the codes (arXiv 2306.08121, section on adaptation: SPM)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import numpy as np
import torch
from torch import Tensor

from ranking.data.batch import ItemBatch, Seen
from ranking.models.representations.base import CodeTable, ItemShape
from ranking.models.representations.coded import CodedRepresentation
from ranking.models.representations.spm_vocabulary import Pieces, learn_pieces
from ranking.models.spec import START, ModelSpec


class SpmRepresentation(CodedRepresentation):
    """The sum of the embeddings of an item's pieces; frequent code combinations get longer pieces.

    The vocabulary is learned on the codes of the training candidates, weighted by exposures. It is fitted state: the
    SentencePiece model file as ``uint8`` in the artefact. Codes without a training row are single pieces with untrained
    embeddings; items without codes share a row.

    Parameters
    ----------
    shape : ItemShape
        ``sizes`` are the codes per level.
    dim : int
        Width.
    model : Tensor
        The SentencePiece model, ``uint8 [bytes]``; empty for single codes only.
    start : float
        Standard deviation of the initial embeddings.
    """

    def __init__(self, shape: ItemShape, dim: int, model: Tensor, start: float = START) -> None:
        super().__init__(shape, dim)
        self.pieces = Pieces(shape.sizes, model.numpy().tobytes())
        for name, tensor in self.pieces.tensors.items():
            self.register_buffer(f"tree_{name}", tensor, persistent=False)
        self.table = CodeTable(self.pieces.count, dim, start)
        self._keep({"model": model})

    @classmethod
    def fit(cls, shape: ItemShape, spec: ModelSpec, seen: Seen) -> dict[str, Tensor]:
        """Learn the vocabulary; empty if no candidate has codes."""
        items = np.flatnonzero((seen.shown > 0) & (seen.codes >= 0).all(axis=1))
        codes, back = np.unique(seen.codes[items], axis=0, return_inverse=True)
        counts = np.zeros(len(codes), dtype=np.int64)
        np.add.at(counts, back.ravel(), seen.shown[items])
        model = learn_pieces(codes, counts, shape.sizes, spec.spm_pieces) if len(codes) else b""
        return {"model": torch.tensor(list(model), dtype=torch.uint8)}

    @classmethod
    def from_spec(cls, shape: ItemShape, spec: ModelSpec, fitted: Mapping[str, Tensor] | None = None) -> Self:
        """See :class:`Representation`."""
        return cls(
            shape, spec.dim, (fitted or {}).get("model", torch.zeros(0, dtype=torch.uint8)), spec.code_table_start
        )

    def forward(self, items: ItemBatch) -> Tensor:
        """See :class:`Representation`."""
        rows = self.piece_rows(items.codes)
        return (self.table.rows(rows) * (rows > 0)[:, :, None]).sum(dim=1)

    def piece_rows(self, codes: Tensor) -> Tensor:
        """Table rows ``int64 [items, levels]`` of the pieces; see :meth:`Pieces.segment`."""
        tensors = {name: getattr(self, f"tree_{name}") for name in self.pieces.tensors}
        return self.pieces.segment(codes, tensors)
