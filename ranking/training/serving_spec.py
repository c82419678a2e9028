"""Serving requirements of a ranker."""

from __future__ import annotations

from dataclasses import dataclass

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
    """Half-open column range of the content vectors to match with a history (None: all columns). Set in rankers of earlier
    versions whose vectors were trained on the clicks of their training rows."""
    target: Target = CLICKED
    """What scores predict."""
    match_codes: bool = True
    """Whether codes may be matched against the history's; False in rankers of earlier versions whose codes were trained on the
    clicks of their training rows."""
    schema: FeatureSchema = BUILT_IN
    """The features besides the built-in ones."""
