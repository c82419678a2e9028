"""The ranker: item representations, a pooled history, numeric features, a DNN head."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ranking.data.batch import Batch, MatchMoments
from ranking.models.cross import CrossLayers
from ranking.models.dropout import Dropout
from ranking.models.histories import HISTORIES, History, SidMatchHistory, Space
from ranking.models.numeric_bins import NumericBins
from ranking.models.representations import BEHAVIOUR, check_representations, representation
from ranking.models.representations.base import ItemShape
from ranking.models.spec import ModelSpec

Fitted = Mapping[str, Mapping[str, Tensor]]
"""Representation name -> its fitted state."""
_CUT = 5.0
"""Scaled matches are cut off at so many deviations, as numeric features are."""


class CtrModel(nn.Module):
    """Click logits.

    The head sees the candidate in every representation, the pooled history and its product with the candidate, how the
    candidate matches the history in each representation, the numeric features, and how far they come within their bins.

    Parameters
    ----------
    representations : tuple of str
        Names in :data:`ranking.models.representations.REPRESENTATIONS`.
    shape : ItemShape
        Of the items.
    numeric_dim : int
        Numeric features.
    spec : ModelSpec
        Widths, dropouts and the options of the parts.
    fitted : mapping, optional
        What the representations' ``fit`` gave.
    edges : sequence of sequences of float, optional
        Of the numeric features' bins, in scaled units; by default features have none.

    Raises
    ------
    ConfigError
        When a representation is unknown, or the history or the codes do not suit it.
    """

    def __init__(
        self,
        representations: tuple[str, ...],
        shape: ItemShape,
        numeric_dim: int,
        spec: ModelSpec,
        fitted: Fitted | None = None,
        edges: Sequence[Sequence[float]] = (),
    ) -> None:
        super().__init__()
        check_representations(representations, spec.history)
        shape = replace(shape, numeric_dim=numeric_dim)
        self.parts = [representation(name).from_spec(shape, spec, (fitted or {}).get(name)) for name in representations]
        self.representations = nn.ModuleList(self.parts)
        self.names = representations
        behaviour = sum(part.dim for name, part in zip(representations, self.parts, strict=True) if name in BEHAVIOUR)
        items = sum(part.dim for part in self.parts)
        self.history: History = HISTORIES[spec.history](items - behaviour, behaviour, spec)
        self.pools: list[History] = [self.history]
        if spec.sid_match != "none":
            self.sid_match = SidMatchHistory(items - behaviour, behaviour, spec, shape.refining)
            self.pools.append(self.sid_match)
        matches = sum(part.match_dim for part in self.parts)
        self.register_buffer("match_mean", torch.zeros(matches))
        self.register_buffer("match_scale", torch.ones(matches))
        self.bins = NumericBins(edges)
        width = items + sum(pool.dim for pool in self.pools) + matches + numeric_dim + self.bins.dim
        layers: list[nn.Module] = []
        for wide, narrow in itertools.pairwise([width, *spec.hidden]):
            layers += [nn.Linear(wide, narrow), nn.ReLU(), Dropout(spec.dropout)]
        self.deep = nn.Sequential(*layers)
        self.cross = CrossLayers(width, spec.cross_layers) if spec.cross_layers else None
        deep_width = [width, *spec.hidden][-1]
        self.last = nn.Linear(deep_width + (width if self.cross else 0), 1)

    match_mean: Tensor
    match_scale: Tensor

    def forward(self, batch: Batch) -> Tensor:
        """Logits ``float32 [rows]``."""
        modality, behaviour = self.spaces(batch)
        pooled = [pool(modality, behaviour, batch) for pool in self.pools]
        matches = self.matches(batch) if batch.matches is None else batch.matches
        matches = ((matches - self.match_mean) * self.match_scale).clamp(-_CUT, _CUT)
        numbers = [batch.numeric, self.bins(batch.numeric)]
        features = torch.cat([modality.candidate, behaviour.candidate, *pooled, matches, *numbers], dim=1)
        hidden = self.deep(features)
        if self.cross is not None:
            hidden = torch.cat([hidden, self.cross(features)], dim=1)
        logits: Tensor = self.last(hidden)
        return logits.squeeze(1)

    def spaces(self, batch: Batch) -> tuple[Space, Space]:
        """Candidates and items in the modality space and in the behaviour space; a space without representations is 0 wide."""
        encoded = [part.encode(batch) for part in self.parts]
        rows, items = len(batch.candidate), len(batch.items.index)
        found = []
        for wanted in (False, True):
            chosen = [each for name, each in zip(self.names, encoded, strict=True) if (name in BEHAVIOUR) == wanted]
            found.append(
                Space(
                    torch.cat([own for _, own in chosen] or [batch.numeric.new_zeros((rows, 0))], dim=1),
                    torch.cat([each for each, _ in chosen] or [batch.numeric.new_zeros((items, 0))], dim=1),
                )
            )
        return found[0], found[1]

    def matches(self, batch: Batch) -> Tensor:
        """The matches of all representations, ``float32 [rows, matches]``; they depend on no weight, so once is enough."""
        found = [part.match(batch.items, batch.candidate, batch.history, batch.mask) for part in self.parts]
        return torch.cat(found, dim=1)

    def scale_matches(self, moments: MatchMoments) -> None:
        """From now on show the head matches by the mean and deviation that those of the training rows have: a cosine with
        a mean over many items hardly moves, and a network learns slowly from what hardly moves.
        """
        scale = torch.where(moments.deviation > 1e-6, 1 / moments.deviation.clamp(min=1e-6), 0.0)
        self.match_mean.copy_(moments.mean)
        self.match_scale.copy_(scale)

    def auxiliary(self, batch: Batch) -> dict[str, Tensor]:
        """The representations' own losses of a training batch, weighted, by ``<representation>.<loss>``."""
        return {
            f"{name}.{loss}": value
            for name, part in zip(self.names, self.parts, strict=True)
            for loss, value in part.auxiliary(batch).items()
        }
