"""The shape of a ranker, without torch."""

from __future__ import annotations

from pydantic import Field

from sidkit.config import Section


class ModelSpec(Section):
    """Widths and dropouts (``[ranker.model]`` of a preset)."""

    dim: int = Field(default=16, ge=1)
    """Width of each item representation."""
    heads: int = Field(default=2, ge=1)
    """Heads of the target attention."""
    hidden: tuple[int, ...] = (64, 32)
    """Widths of the head's layers."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    id_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of ids replaced by the unknown id in training."""
    table_rows: int = Field(default=50_000, ge=1)
    """Most rows of a hashed code table."""
