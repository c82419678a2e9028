"""Settings of a re-ranker; does not import torch."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from sidkit.core.section import Section


class RerankSpec(Section):
    """Settings of the re-ranker of an arm (``[arms.<name>.rerank]``)."""

    dim: int = Field(default=32, ge=1)
    """Width of the token vectors; a multiple of ``heads``."""
    heads: int = Field(default=2, ge=1)
    """Heads of each attention."""
    layers: int = Field(default=2, ge=0)
    """Layers of the transformer."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout in training."""
    pointwise: float = Field(default=1.0, ge=0)
    """Weight of the log-loss of each row beside the list-wise loss; with 0, scores are no probabilities."""
    epochs: int = Field(default=10, ge=1)
    """Maximum number of epochs."""
    patience: int = Field(default=2, ge=1)
    """Epochs without a better validation AUC after which training ends."""
    batch_rows: int = Field(default=1024, ge=1)
    """Rows of a batch, in whole requests."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Rate of AdamW."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Weight decay of AdamW."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Of re-rankers of a user's own, which read them from here."""
