"""Serving requirements of a ranker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

from ranking.data.decoded import CONTENT_VECTORS, VectorsOf
from ranking.data.feature_views import CONTENT
from ranking.data.schema import BUILT_IN, FeatureSchema
from ranking.data.targets import CLICKED, Target


@dataclass(frozen=True, kw_only=True)
class ServingSpec:
    """The codebook and the feature service of a ranker; serving must use those of training."""

    codebook: str
    codebook_hash: str
    """Content hash of the codebook; codes of different codebooks are not comparable."""
    service: str
    """Name of the feature service."""
    features: dict[str, str]
    """Required features of the service -> their Feast types."""
    history_length: int
    """Maximum number of items in a user's history."""
    sizes: tuple[int, ...]
    """Number of codes per level of the codebook."""
    residual_levels: int | None = None
    """Number of leading residual levels (None: all)."""
    content_columns: tuple[int, int] | None = None
    """Half-open column range of the content vectors that was not trained on clicks (None: all columns)."""
    target: Target = CLICKED
    """What scores predict."""
    match_codes: bool = True
    """Whether codes may be matched against the history's; False if the codes were trained on clicks."""
    vectors: VectorsOf = CONTENT_VECTORS
    """Whether item vectors are those of the items' content, or decoded from their codes."""
    schema: FeatureSchema = BUILT_IN
    """The features besides the built-in ones."""

    def of_vectors(self, vectors: VectorsOf) -> Self:
        """The same requirements with other item vectors.

        Decoded ones need no content vectors from the feature service. Where codes were trained on clicks, so were the vectors
        decoded from them, which then may not be matched.
        """
        if vectors == self.vectors:
            return self
        needed = {name: kind for name, kind in self.features.items() if not _is_vector(name, kind)}
        columns = self.content_columns if self.match_codes else (0, 0)
        return replace(self, vectors=vectors, features=needed, content_columns=columns)


def _is_vector(name: str, kind: str) -> bool:
    return name.startswith(f"{CONTENT}__") and kind.startswith("Array(")


def joined_spec(specs: Sequence[ServingSpec]) -> ServingSpec:
    """What serving several rankers of one codebook and of the same item vectors at once requires: the features of all."""
    first = specs[0]
    schema = FeatureSchema(tuple({each.name: each for spec in specs for each in spec.schema.features}.values()))
    needed = {feature: kind for spec in specs for feature, kind in spec.features.items()}
    stated = {each.name: getattr(first, each.name) for each in fields(ServingSpec)}
    return ServingSpec(**{**stated, "schema": schema, "features": needed})
