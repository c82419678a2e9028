"""What a ranker must be served with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class ServingSpec:
    """The codebook and the feature service of a ranker: what it reads in training, and must read in serving."""

    codebook: str
    codebook_hash: str
    """The content hash of the codebook; codes of another mean something else."""
    service: str
    """The feature service."""
    features: dict[str, str]
    """Features that the service must give -> their Feast types."""
    history_length: int
    """Items of a user's history."""
    sizes: tuple[int, ...]
    """Codes per level of the codebook."""
    residual_levels: int | None = None
    """How many of the first levels refine each other (None: all)."""
    content_columns: tuple[int, int] | None = None
    """Half-open column range of the content vectors that was not trained on clicks (None: all columns)."""
    match_codes: bool = True
    """Whether the codes were not trained on clicks, so that they may be matched with the history's."""
