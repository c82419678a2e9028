"""The ranker: item representations, target attention over the history, numeric features, a DNN head."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional

from ranking.attention import TargetAttention
from ranking.model_spec import ModelSpec
from ranking.representations import REPRESENTATIONS, representation
from ranking.representations.base import ItemShape
from ranking.tensors import TIME_BUCKETS, Batch
from sidkit.errors import ConfigError


class CtrModel(nn.Module):
    """Click logits.

    The item vector is the concatenation of the representations; the head sees the candidate, the history pooled by
    target attention, their product, how the candidate matches the history in each representation, and the numeric
    features.

    Parameters
    ----------
    representations : tuple of str
        Names in :data:`ranking.representations.REPRESENTATIONS`.
    shape : ItemShape
        Of the items.
    numeric_dim : int
        Numeric features.
    spec : ModelSpec
        Widths and dropouts.

    Raises
    ------
    ConfigError
        When a representation is unknown.
    """

    def __init__(self, representations: tuple[str, ...], shape: ItemShape, numeric_dim: int, spec: ModelSpec) -> None:
        super().__init__()
        unknown = [name for name in representations if name not in REPRESENTATIONS]
        if unknown or not representations:
            raise ConfigError(f"no item representation {unknown}; there are {', '.join(REPRESENTATIONS)}")
        self.parts = [representation(name).from_spec(shape, spec) for name in representations]
        self.representations = nn.ModuleList(self.parts)
        dim = spec.dim * len(representations)
        matches = sum(part.match_dim for part in self.parts)
        self.attention = TargetAttention(dim, spec.heads, TIME_BUCKETS)
        self.heads = spec.heads
        widths = [dim * (1 + 2 * spec.heads) + matches + numeric_dim, *spec.hidden]
        layers: list[nn.Module] = []
        for wide, narrow in itertools.pairwise(widths):
            layers += [nn.Linear(wide, narrow), nn.ReLU(), nn.Dropout(spec.dropout)]
        self.head = nn.Sequential(*layers, nn.Linear(widths[-1], 1))

    def forward(self, batch: Batch) -> Tensor:
        """Logits ``float32 [rows]``."""
        items = torch.cat([representation(batch.items) for representation in self.parts], dim=1)
        candidate = functional.embedding(batch.candidate, items)
        pooled = self.attention(candidate, functional.embedding(batch.history, items), batch.mask, batch.gap_bucket)
        product = pooled * candidate.repeat(1, self.heads)
        matches = [part.match(batch.items, batch.candidate, batch.history, batch.mask) for part in self.parts]
        logits: Tensor = self.head(torch.cat([candidate, pooled, product, *matches, batch.numeric], dim=1))
        return logits.squeeze(1)
