"""The shape of a ranker, without torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, ValidationInfo, field_validator, model_serializer

from ranking.models.histories import HISTORY_NAMES
from sidkit.core.config import Section
from sidkit.core.errors import ConfigError

SizedBy = Literal["dim", "table_rows"]
"""Keys by which a model is brought to a number of parameters: the width of every representation, a hashed table's rows."""


class ModelSpec(Section):
    """Widths, dropouts and options of the parts (``[ranker.model]`` of a preset; an arm may override any of them)."""

    dim: int = Field(default=16, ge=1)
    """Width of each item representation."""
    heads: int = Field(default=2, ge=1)
    """Heads of each attention."""
    hidden: tuple[int, ...] = (64, 32)
    """Widths of the head's layers."""
    cross_layers: int = Field(default=0, ge=0)
    """DCN-v2 cross layers beside the head's deep ones."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    history: str = "target_attention"
    """How the history becomes vectors: a name in :data:`ranking.models.histories.HISTORIES`, or a plug-in."""
    numeric_bins: int = Field(default=0, ge=0)
    """The head is also told how far each numeric feature has come within this many quantile bins (0: it is not)."""
    sid_match: Literal["none", "mean", "attention"] = "none"
    """Pool, beside that, the history items that share the candidate's first one and first two codes."""
    id_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of ids replaced by the unknown id in training."""
    table_rows: int = Field(default=50_000, ge=1)
    """Most rows of a hashed code table."""
    sid_pool: Literal["sum", "concat"] = "sum"
    """``sid``: sum the codes' rows, or map them side by side to the width."""
    ngram: int = Field(default=2, ge=1)
    """``ngram``: codes per n-gram."""
    spm_pieces: int = Field(default=8_000, ge=1)
    """``spm``: most pieces of the vocabulary, single codes included."""
    gate_parts: Literal["rq_opq", "rq", "opq"] = "rq_opq"
    """``rq_opq_gate``: the whole, without OPQ (arm A10), or without gate and transfer (arm A11)."""
    gate_fuse: Literal["concat", "mean"] = "concat"
    """``rq_opq_gate``: RQ rows side by side through a linear layer, or their mean."""
    gate_hidden: int = Field(default=16, ge=1)
    """``rq_opq_gate``: width of the gate's hidden layer."""
    gate_bias: float = -1.0
    """``rq_opq_gate``: where the gate's logit starts; below 0 it favours the codes."""
    gate_unknown: float = Field(default=0.01, ge=0, le=1)
    """``rq_opq_gate``: the most that the row of the unknown id may count."""
    gate_evidence: float = Field(default=20.0, gt=0)
    """``rq_opq_gate``: training rows at which an id and its codes count alike in a history, at the start."""
    opq_scale: float = Field(default=0.5, gt=0)
    """``rq_opq_gate``: the paper's lambda, the share of the OPQ vector."""
    transfer_weight: float = Field(default=0.01, ge=0)
    """``rq_opq_gate``: weight of the transfer loss."""
    transfer_temperature: float = Field(default=1.0, gt=0)
    contrast_weight: float = Field(default=0.05, ge=0)
    """``rq_opq_gate``: weight of the OPQ contrast."""
    contrast_temperature: float = Field(default=0.1, gt=0)
    contrast_negatives: int = Field(default=512, ge=1)
    """``rq_opq_gate``: most items of a batch that are negatives of the others, drawn anew for each batch."""
    neighbours: int = Field(default=10, ge=1)
    """``rq_opq_gate``: nearest OPQ codes from which a positive is drawn."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Of representations and histories of a user's own, which read them from here (``[ranker.model.options]``)."""

    @field_validator("history")
    @classmethod
    def _history_is_resolved(cls, name: str, info: ValidationInfo) -> str:
        name = HISTORY_NAMES.resolved_field(name, info)
        if name not in HISTORY_NAMES.built_in:
            try:
                HISTORY_NAMES.find(name)
            except ConfigError as error:
                raise ValueError(str(error)) from error
        return name

    @model_serializer(mode="wrap")
    def _options_where_there_are_any(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without an empty ``options``: what was written before there were any stays what it was, and so do its hashes."""
        written: dict[str, Any] = handler(self)
        if not self.options:
            written.pop("options", None)
        return written
