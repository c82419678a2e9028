"""Configuration of the CTR model; importable without torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, ValidationInfo, field_validator, model_serializer

from ranking.models.histories import HISTORY_NAMES
from sidkit.core.errors import ConfigError
from sidkit.core.section import Section

SizedBy = Literal["dim", "table_rows"]
"""What is adjusted to match a parameter budget: the width of all representations, or the rows of a hashed table."""

SidPool = Literal["sum", "concat", "tokens"]
"""How ``sid`` combines the rows of an item's codes."""

START = 0.01
"""Default standard deviation of the initial embeddings, near zero, so that untrained rows have almost no effect."""
_LATER = (
    "attention",
    "attention_scale",
    "history_scale",
    "id_table_start",
    "code_table_start",
    "prior_strength",
    "prior_neighbours",
    "prior_random",
    "alignment_weight",
    "alignment_temperature",
    "shuffled_counts",
    "neighbour_lists",
    "transfer_terms",
    "graph_contrast_weight",
    "graph_contrast_temperature",
    "lm_prior_weight",
    "lm_prior_warm",
    "keep_view_weight",
    "mass_interactions",
    "query_layers",
    "query_view_columns",
    "query_dropout",
    "mask_ratio",
    "masked_codes_weight",
    "masked_users_weight",
    "masked_temperature",
)
"""Fields that earlier versions did not have."""


class ModelSpec(Section):
    """Widths, dropout and options of the parts (``[ranker.model]`` of a preset; an arm may override any of them)."""

    dim: int = Field(default=16, ge=1)
    """Width of each item representation."""
    heads: int = Field(default=2, ge=1)
    """Heads of each attention."""
    hidden: tuple[int, ...] = (64, 32)
    """Widths of the head's layers."""
    cross_layers: int = Field(default=0, ge=0)
    """DCN-v2 cross layers in parallel to the deep layers."""
    dropout: float = Field(default=0.2, ge=0, lt=1)
    """Dropout in the head."""
    history: str = "target_attention"
    """Pooling of the history: a name in :data:`ranking.models.histories.HISTORIES`, or a plug-in."""
    attention: Literal["dot", "cosine"] = "dot"
    """Scores of the attentions over the history: scaled dot products, or cosines with a learned scale per head."""
    attention_scale: float = Field(default=10.0, gt=0, le=100)
    """``cosine``: initial scale of the cosines; the larger, the more the weights differ at the start."""
    history_scale: float | None = Field(default=None, gt=0)
    """Standardise the pooled histories, by moments of the training batches, to this deviation; unset: as they are. Products of
    short vectors start with a hundredth of the deviation of numeric features, which is 1: the head hardly reads them."""
    id_table_start: float = Field(default=START, gt=0)
    """Standard deviation of the initial id embeddings."""
    code_table_start: float = Field(default=START, gt=0)
    """Standard deviation of the initial code embeddings; those of ``mba`` start at 0."""
    numeric_bins: int = Field(default=0, ge=0)
    """Quantile bins per numeric feature for a piecewise linear encoding; 0 for none."""
    sid_match: Literal["none", "mean", "attention"] = "none"
    """Additional pooling of the history items that share the candidate's first one and first two codes."""
    id_dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of ids replaced by the unknown id in training."""
    table_rows: int = Field(default=50_000, ge=1)
    """Maximum rows of a hashed code table."""
    sid_pool: SidPool = "sum"
    """``sid``: sum the codes' rows, concatenate them and apply a linear layer, or keep one ``dim`` wide token per code
    (``tokens``), which the history ``anchors`` tells apart."""
    ngram: int = Field(default=2, ge=1)
    """``ngram``: codes per n-gram."""
    spm_pieces: int = Field(default=8_000, ge=1)
    """``spm``: maximum pieces of the vocabulary, single codes included."""
    gate_parts: Literal["rq_opq", "rq", "opq"] = "rq_opq"
    """``rq_opq_gate``: the full model, without OPQ (arm ``smile_rq``), or without gate and transfer (arm ``smile_opq``)."""
    gate_fuse: Literal["concat", "mean"] = "concat"
    """``rq_opq_gate``: concatenate the RQ rows and apply a linear layer, or take their mean."""
    gate_hidden: int = Field(default=16, ge=1)
    """``rq_opq_gate`` and ``shared_gated``: width of the gate's hidden layer."""
    gate_bias: float = -1.0
    """``rq_opq_gate``: initial bias of the gate's logit; values below 0 favour the codes."""
    gate_unknown: float = Field(default=0.01, ge=0, le=1)
    """``rq_opq_gate``: maximum gate value of the unknown id."""
    gate_evidence: float = Field(default=20.0, gt=0)
    """``rq_opq_gate``: initial number of training rows at which an id and its codes have equal weight in a history."""
    opq_scale: float = Field(default=0.5, gt=0)
    """``rq_opq_gate``: the paper's lambda, the weight of the OPQ vector."""
    transfer_weight: float = Field(default=0.01, ge=0)
    """``rq_opq_gate``: weight of the transfer loss."""
    transfer_temperature: float = Field(default=1.0, gt=0)
    """``rq_opq_gate``: temperature of the transfer loss."""
    transfer_terms: Literal["both", "codes", "ids"] = "both"
    """``rq_opq_gate``: terms of the transfer loss: the paper's two, or only that which pulls the codes to the id, or only that
    which pulls the id to the codes."""
    contrast_weight: float = Field(default=0.05, ge=0)
    """``rq_opq_gate``: weight of the contrastive loss on OPQ vectors."""
    contrast_temperature: float = Field(default=0.1, gt=0)
    """``rq_opq_gate``: temperature of the contrastive loss."""
    contrast_negatives: int = Field(default=512, ge=1)
    """``rq_opq_gate`` and ``shared_gated``: maximum number of in-batch negatives, sampled for each batch."""
    keep_view_weight: float = Field(default=0.01, ge=0)
    """``kept_views``: weight of the loss that keeps id and codes in the gated vector."""
    neighbours: int = Field(default=10, ge=1)
    """``rq_opq_gate``: nearest OPQ codes from which a positive is drawn."""
    prior_strength: float = Field(default=0.0, ge=0)
    """``id`` and ``group_mean``: impressions at which an id's row and the mean row of its neighbours, or groups, have equal
    weight; 0: no prior."""
    prior_neighbours: int = Field(default=32, ge=1)
    """``id``, ``graph_smoothed`` and ``group_mean``: maximum number of neighbours of an item in a list, or of members of a
    group, among the training window's items."""
    prior_random: bool = False
    """``id``, ``graph_smoothed`` and ``group_mean``: control, take the rows of random items instead of the neighbours' or the
    groups'; such an arm cannot serve."""
    neighbour_lists: tuple[str, ...] = ()
    """``id`` and ``graph_smoothed``: lists of the codebook that have the neighbours (``[codebook.neighbours]``); empty: the
    items of the training window with the nearest content."""
    graph_contrast_weight: float = Field(default=0.0, ge=0)
    """``graph_smoothed``: weight of the contrast between the vector of each list and that of all; LATTICE's is 0.03."""
    graph_contrast_temperature: float = Field(default=0.5, gt=0)
    """``graph_smoothed``: temperature of the contrast."""
    lm_prior_weight: float = Field(default=0.0, ge=0)
    """``id``: weight of the loss that pulls an item's row to the rows of its neighbours; 0: no loss."""
    lm_prior_warm: int = Field(default=10, ge=0)
    """``id``: training rows from which on a neighbour's row is not pulled to the item's."""
    query_layers: int = Field(default=2, ge=1)
    """``code_queries``: layers of attention."""
    query_view_columns: int = Field(default=32, ge=1)
    """``code_queries``: content columns per view; ``view_dim`` of the encoder ``whitened_views``."""
    query_dropout: float = Field(default=0.3, ge=0, lt=1)
    """``code_queries``: dropout in its layers."""
    mask_ratio: float = Field(default=0.5, ge=0, le=1)
    """``code_queries``: share of codes that are masked for its losses."""
    masked_codes_weight: float = Field(default=0.06, ge=0)
    """``code_queries``: weight of the prediction of masked codes. A tenth of the paper's, whose main loss, a softmax over
    items, is about ten times a click loss."""
    masked_users_weight: float = Field(default=0.04, ge=0)
    """``code_queries``: weight of the contrast of histories with and without masked codes; a tenth of the paper's."""
    masked_temperature: float = Field(default=0.07, gt=0)
    """``code_queries``: temperature of both losses."""
    alignment_weight: float = Field(default=0.02, ge=0)
    """``shared_gated``: weight of the gated alignment of id and content vectors."""
    alignment_temperature: float = Field(default=0.1, gt=0)
    """``shared_gated``: temperature of the alignment."""
    shuffled_counts: bool = False
    """``shared_gated`` and ``routed_sid``: control, read the item statistics of a random training row; such an arm cannot
    serve."""
    mass_interactions: float = Field(default=50.0, gt=0)
    """``routed_sid``: interactions from which the codes of an item have their full weight."""
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
    def _later_fields_if_set(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without an empty ``options`` and unset fields of :data:`_LATER`: what earlier versions wrote stays the same, and so
        do its hashes. A field that is set to its default still overrides ``ranker.model``.
        """
        written: dict[str, Any] = handler(self)
        left_out = {name for name in _LATER if name not in self.model_fields_set}
        if not self.options:
            left_out.add("options")
        return {name: value for name, value in written.items() if name not in left_out}

    @property
    def is_control(self) -> bool:
        """Whether a part reads random items or rows, to measure what the right ones contribute."""
        return self.prior_random or self.shuffled_counts


def with_weight(spec: ModelSpec, key: str, weight: float) -> ModelSpec:
    """Return a spec with another weight of an auxiliary loss; ``key`` is a field, or ``options.<name>`` of a plug-in.

    Fields that were not set remain unset, so an arm still inherits them.
    """
    field, _, option = key.partition(".")
    value = {**spec.options, option: weight} if option else weight
    return spec.model_copy(update={field: value})
