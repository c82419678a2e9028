"""How a ranker is trained, without torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ranking.data.caps import Caps
from sidkit.core.config import Section


class TrainingSpec(Section):
    """Optimizer and stopping (``[ranker.training]`` of a preset)."""

    epochs: int = Field(default=8, ge=1)
    """At most so many passes over the training rows."""
    patience: int = Field(default=2, ge=1)
    """Stop after so many epochs without a better validation AUC; the best epoch's weights are saved."""
    batch_rows: int = Field(default=512, ge=1)
    learning_rate: float = Field(default=5e-4, gt=0)
    table_learning_rate: float = Field(default=5e-4, gt=0)
    """Of embedding tables, which overfit first."""
    weight_decay: float = Field(default=0.01, ge=0)
    table_weight_decay: float = Field(default=1.0, ge=0)
    table_optimiser: Literal["adamw", "rowwise_adagrad"] = "adamw"
    """``adamw`` moves and decays every row at every step. ``rowwise_adagrad`` touches only the rows that a batch looks up, and
    its steps shrink with a row's evidence: for tables of millions of rows, and where rare rows jump."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` takes a CUDA device where there is one. Only one CPU thread gives the same weights bit by bit."""
    bf16: bool = False
    """Multiply matrices in bfloat16 while training."""
    max_train_rows: int | None = Field(default=None, ge=1)
    """Train on a sample of users with about so many rows; without it on all rows."""
    stream_rows: int = Field(default=5_000_000, ge=1, exclude=True)
    """A training part of more rows (after thinning) stays on disk and is streamed; memory then holds its distinct items and
    histories, and a buffer of rows. A comparison of arms, and the boosting baseline, hold their rows in memory: they take a
    sample of users with about so many rows, and say so.
    """
    # Not in a dump: where rows lie marks a run by its frame, and earlier runs stay valid.
    max_evaluation_rows: int | None = Field(default=None, ge=1)
    """Choose epochs, and evaluate, on samples of users with about so many rows each; without it on all rows. These rows lie
    in memory, at most about 1 kB each.
    """

    @property
    def caps(self) -> Caps:
        """How many rows of each part are used."""
        return Caps(self.max_train_rows, self.max_evaluation_rows)
