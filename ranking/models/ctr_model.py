"""The CTR model: item representations, a pooled history, numeric features and a DNN head."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from ranking.data.batch import Batch, MatchMoments
from ranking.data.coded_inputs import CodedInputs
from ranking.models.coded_layers import CodedLayers
from ranking.models.cross import CrossLayers
from ranking.models.dropout import Dropout
from ranking.models.histories import HISTORY_NAMES
from ranking.models.histories.base import History, Space
from ranking.models.histories.sid_match import SidMatchHistory
from ranking.models.numeric_bins import NumericBins
from ranking.models.parts import Part, parts_in
from ranking.models.representations import check_representations, knows_ids, representation, short_names
from ranking.models.representations.base import ItemShape, Representation
from ranking.models.spec import ModelSpec
from ranking.models.standardise import Standardise

Fitted = Mapping[str, Mapping[str, Tensor]]
"""Representation name -> its fitted state."""
_CUT = 5.0
"""Scaled matches and standardised histories are clipped at this many standard deviations, like numeric features."""


class CtrModel(nn.Module):
    """Predict click logits.

    The head's input is the concatenation of the candidate in every representation, the pooled history and its product
    with the candidate, the matches of each representation, the numeric features and their piecewise linear encoding, and the
    coded features.

    Parameters
    ----------
    representations : tuple of str
        Names in :data:`ranking.models.representations.REPRESENTATIONS`, or plug-ins.
    shape : ItemShape
        Shape of the items.
    numeric_dim : int
        Number of numeric features.
    spec : ModelSpec
        Widths, dropout and options of the parts.
    fitted : mapping, optional
        Fitted state of the representations, from their ``fit``.
    edges : sequence of sequences of float, optional
        Bin edges of the numeric features, in scaled units; by default there are no bins.
    inputs : CodedInputs, optional
        The coded features; by default there are none.

    Raises
    ------
    ConfigError
        When a representation is unknown, or incompatible with the history or the codes.
    """

    def __init__(
        self,
        representations: tuple[str, ...],
        shape: ItemShape,
        numeric_dim: int,
        spec: ModelSpec,
        fitted: Fitted | None = None,
        edges: Sequence[Sequence[float]] = (),
        inputs: CodedInputs | None = None,
    ) -> None:
        super().__init__()
        check_representations(representations, spec.history)
        shape = replace(shape, numeric_dim=numeric_dim)
        self.parts = [representation(name).from_spec(shape, spec, (fitted or {}).get(name)) for name in representations]
        self.representations = nn.ModuleList(self.parts)
        self.names = representations
        self.history_name = spec.history
        behaviour = sum(part.dim for name, part in zip(representations, self.parts, strict=True) if knows_ids(name))
        items = sum(part.dim for part in self.parts)
        self.history: History = HISTORY_NAMES.find(spec.history)(
            modality_dim=items - behaviour, behaviour_dim=behaviour, spec=spec
        )
        self.pools: list[History] = [self.history]
        if spec.sid_match != "none":
            self.sid_match = SidMatchHistory(items - behaviour, behaviour, spec, shape.refining)
            self.pools.append(self.sid_match)
        matches = sum(part.match_dim for part in self.parts)
        self.register_buffer("match_mean", torch.zeros(matches))
        self.register_buffer("match_scale", torch.ones(matches))
        pooled = sum(pool.dim for pool in self.pools)
        self.standardise = Standardise(pooled) if spec.history_scale is not None and pooled else None
        self.history_scale = spec.history_scale or 1.0
        self.bins = NumericBins(edges)
        self.coded = CodedLayers(inputs or CodedInputs())
        width = items + pooled + matches + numeric_dim + self.bins.dim + self.coded.dim
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
        pooled = torch.cat([pool(modality, behaviour, batch) for pool in self.pools], dim=1)
        if self.standardise is not None:
            pooled = self.standardise(pooled).clamp(-_CUT, _CUT) * self.history_scale
        matches = self.matches(batch) if batch.matches is None else batch.matches
        matches = ((matches - self.match_mean) * self.match_scale).clamp(-_CUT, _CUT)
        numbers = [batch.numeric, self.bins(batch.numeric), self.coded(batch.coded, batch.numeric)]
        features = torch.cat([modality.candidate, behaviour.candidate, pooled, matches, *numbers], dim=1)
        hidden = self.deep(features)
        if self.cross is not None:
            hidden = torch.cat([hidden, self.cross(features)], dim=1)
        logits: Tensor = self.last(hidden)
        return logits.squeeze(1)

    def spaces(self, batch: Batch) -> tuple[Space, Space]:
        """Candidates and items in the modality and the behaviour space; a space without representations has width 0."""
        encoded = [part.encode(batch) for part in self.parts]
        rows, items = batch.candidate.shape[0], batch.items.index.shape[0]
        spaces = []
        for behaviour in (False, True):
            chosen = [each for name, each in zip(self.names, encoded, strict=True) if knows_ids(name) == behaviour]
            spaces.append(
                Space(
                    torch.cat([vectors for _, vectors in chosen] or [batch.numeric.new_zeros((rows, 0))], dim=1),
                    torch.cat([vectors for vectors, _ in chosen] or [batch.numeric.new_zeros((items, 0))], dim=1),
                )
            )
        return spaces[0], spaces[1]

    def matches(self, batch: Batch) -> Tensor:
        """The matches of all representations, ``float32 [rows, matches]``; parameter-free, so they can be precomputed."""
        parts = [part.match(batch.items, batch.candidate, batch.history, batch.mask) for part in self.parts]
        return torch.cat(parts, dim=1)

    def scale_matches(self, moments: MatchMoments) -> None:
        """Standardise matches from now on by the mean and standard deviation of those of the training rows. A mean cosine over
        many items has a small variance, which would slow down learning.
        """
        scale = torch.where(moments.deviation > 1e-6, 1 / moments.deviation.clamp(min=1e-6), 0.0)
        self.match_mean.copy_(moments.mean)
        self.match_scale.copy_(scale)

    def auxiliary(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted auxiliary losses of a training batch after its ``forward``: ``<representation or history>.<loss>``."""
        modules: list[tuple[str, Representation | History]] = [*zip(self.names, self.parts, strict=True)]
        modules.append((self.history_name, self.history))
        return {f"{name}.{loss}": value for name, module in modules for loss, value in module.auxiliary(batch).items()}

    def evaluated_parts(self) -> tuple[Part, ...]:
        """The attentions, embedding tables and gates, by ``<representation or history>.<path>``."""
        modules: list[nn.Module] = [*self.parts, *self.pools, self.coded]
        names = [*short_names(self.names), *short_names((self.history_name,)), *("sid_match" for _ in self.pools[1:])]
        names.append("features")
        return tuple(part for name, module in zip(names, modules, strict=True) for part in parts_in(module, name))
