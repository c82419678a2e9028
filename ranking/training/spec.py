"""Training configuration; does not import torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from ranking.data.caps import Caps
from ranking.data.targets import CLICKED, Target
from sidkit.core.section import Section


class TrainingSpec(Section):
    """Optimizer, early stopping, device and row limits (``[ranker.training]`` of a preset)."""

    epochs: int = Field(default=8, ge=1)
    """Maximum number of epochs."""
    patience: int = Field(default=2, ge=1)
    """Stop after this many epochs without a better validation AUC, once it is above .5; the best epoch's weights are saved."""
    batch_rows: int = Field(default=512, ge=1)
    """Rows per batch."""
    learning_rate: float = Field(default=5e-4, gt=0)
    """Learning rate of all weights outside embedding tables."""
    table_learning_rate: float = Field(default=5e-4, gt=0)
    """Learning rate of embedding tables, which overfit first."""
    code_table_learning_rate: float | None = Field(default=None, gt=0)
    """Learning rate of embedding tables of codes, whose rows have many training rows; unset: ``table_learning_rate``."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Weight decay of all weights outside embedding tables."""
    table_weight_decay: float = Field(default=1.0, ge=0)
    """Weight decay of embedding tables."""
    table_optimiser: Literal["adamw", "rowwise_adagrad"] = "adamw"
    """``adamw`` updates and decays every row at every step. ``rowwise_adagrad`` updates only the rows that a batch looks up,
    with steps that shrink as a row's gradients accumulate; use it for tables of millions of rows, or if rare rows are unstable.
    """
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` selects CUDA if available, else the CPU. Weights are bit-identical only on one CPU thread."""
    target: Target = Field(default=CLICKED, exclude=True)
    """What the ranker predicts: ``clicked``, or ``converted``, the conversion of an exposure, clicked or not. Histories are
    those of clicks in both cases."""
    # Excluded from dumps: it is an input of the stages of rows and frames, so that earlier runs stay valid.
    bf16: bool = False
    """Train with bfloat16 autocast."""
    max_train_rows: int | None = Field(default=None, ge=1)
    """Train on a sample of users with about this many rows; None uses all rows."""
    stream_rows: int = Field(default=5_000_000, ge=1, exclude=True)
    """A training part with more rows (after thinning) is streamed from disk; memory then holds its distinct items and
    histories, and a buffer of rows. Comparisons and the boosting baseline train in memory, on a sample of users with about
    this many rows, which is reported.
    """
    # Excluded from dumps: streaming is part of the frame's stage inputs, so that earlier runs stay valid.
    max_evaluation_rows: int | None = Field(default=None, ge=1)
    """Validate and test on samples of users with about this many rows each; None uses all rows. These rows are held in
    memory, at most about 1 kB each.
    """

    @model_serializer(mode="wrap")
    def _dump_later_fields_if_set(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Left out if unset, so that results of earlier versions remain valid.
        written: dict[str, Any] = handler(self)
        later = "code_table_learning_rate"
        return {name: value for name, value in written.items() if name != later or value is not None}

    @property
    def caps(self) -> Caps:
        """Maximum rows per part."""
        return Caps(self.max_train_rows, self.max_evaluation_rows)
