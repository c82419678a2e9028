"""Configuration of arms and rankers; does not import torch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_serializer,
    model_validator,
)

from ranking.data.code_schema import is_code_pattern, may_read_code_stats
from ranking.data.control_codes import ControlKind
from ranking.data.decoded import CONTENT_VECTORS, DECODED_VECTORS, VectorsOf
from ranking.data.schema import FeatureSchema, only_removes
from ranking.models.histories import HISTORY_NAMES
from ranking.models.representations import (
    REPRESENTATION_NAMES,
    check_representations,
    reads_codes,
    representation,
    short_names,
)
from ranking.models.rerank_spec import RerankSpec
from ranking.models.rerankers import RERANKER_NAMES
from ranking.models.spec import ModelSpec, with_weight
from ranking.training.adapters import ADAPTER_NAMES
from ranking.training.boosting_spec import BoostingSpec
from ranking.training.spec import TrainingSpec
from sidkit.core.errors import ConfigError
from sidkit.core.section import Section

if TYPE_CHECKING:
    from ranking.models.histories.base import History
    from ranking.models.representations.base import Representation

AnyArm = TypeVar("AnyArm", bound="ArmSpec")
MOST_MEMBERS = 5
"""Maximum number of members of a blend: the grid of weights grows fast with their number."""
_FIELDS_OF = {
    "of": ("blend", "adapter"),
    "by_counts": ("blend",),
    "shuffled_counts": ("blend",),
    "boosting": ("gbdt",),
    "reranker": ("neural",),
    "rerank": ("neural",),
    "adapter": ("adapter",),
    "days": ("adapter",),
    "shuffled_items": ("adapter",),
}
"""Field -> the kinds of arms that have it."""
DERIVED = frozenset({"blend", "adapter"})
"""Kinds of arms that are made from the predictions of other arms."""


class ArmSpec(Section):
    """One arm of a comparison (``[arms.<name>]``)."""

    kind: Literal["neural", "gbdt", "blend", "adapter"] = "neural"
    """A neural ranker, gradient boosting on the same features, a blend: the weighted mean of other arms' logits, with
    weights chosen on validation rows, or an adapter: another arm, frozen, whose logits are corrected by the rows of the last
    days."""
    of: tuple[str, ...] = ()
    """The arms of a blend: two to five other arms of the same run, in any order; of an adapter: the frozen arm, and for a gate
    optionally a second one."""
    adapter: str = "bias"
    """Of an adapter: a name in :data:`ranking.training.adapters.ADAPTERS`, or a plug-in. ``bias`` has a scale and a shift per
    item; ``gate`` mixes the frozen arm with the second one, or else with the item's click rate as of the row."""
    days: float = Field(default=1.0, gt=0, le=3650)
    """Of an adapter: it is refitted daily on the rows of so many days before."""
    shuffled_items: bool = False
    """Control of an adapter: it is fitted on rows with the items of random rows. It cannot serve."""
    by_counts: bool = False
    """Of a blend of two arms: their weights depend on the candidate's exposures, clicks and age as of the row, by four numbers
    that are fitted on validation rows (:mod:`ranking.training.count_gate`)."""
    shuffled_counts: bool = False
    """Control of ``by_counts``: the gate reads the counts and age of random rows. Such a blend cannot serve."""
    representations: tuple[str, ...] = ()
    """Item representations of a neural arm, concatenated: names from :data:`ranking.models.representations.REPRESENTATIONS`, or
    plug-ins (:mod:`sidkit.core.plugins`)."""
    model: ModelSpec = ModelSpec()
    """Model settings of this arm (``[arms.<name>.model]``); unset keys are inherited from ``ranker.model``."""
    reranker: str | None = None
    """Of a neural arm: scores the candidates of a request together, after the ranker. A name in
    :data:`ranking.models.rerankers.RERANKERS`, or a plug-in."""
    rerank: RerankSpec = RerankSpec()
    """Settings of the re-ranker (``[arms.<name>.rerank]``)."""
    boosting: BoostingSpec = BoostingSpec()
    """Settings of a gbdt arm (``[arms.<name>.boosting]``)."""
    features: tuple[str, ...] | None = None
    """Patterns of the features besides the built-in ones that this arm reads, such as ``["item_attributes__*"]``; unset:
    those of ``ranker.features``. A pattern that starts with ``!`` removes features (``["!*code_*"]``: no statistics of
    codes), without others from those of ``ranker.features``. An empty list reads none."""
    vectors: VectorsOf = CONTENT_VECTORS
    """Where the arm's item vectors come from: ``content``, the encoder's vectors, or ``decoded``, what the codes stand for in
    the encoder's space. An arm with decoded vectors is served from codes and the codebook, without content vectors."""
    shuffle_codes: bool = False
    """Permute the codes among items: same marginals and embedding tables, but no semantics. Decoded vectors and statistics of
    codes are those of the permuted codes."""
    random_codes: bool = False
    """Replace the codes by a hash of the item id: same table sizes, uniform codes, no semantics; else like
    ``shuffle_codes``."""

    @field_validator("representations")
    @classmethod
    def _representations_are_resolved(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        return tuple(REPRESENTATION_NAMES.resolved_field(name, info) for name in names)

    @field_validator("adapter")
    @classmethod
    def _adapter_is_resolved(cls, name: str, info: ValidationInfo) -> str:
        return ADAPTER_NAMES.known_field(name, info)

    @field_validator("reranker")
    @classmethod
    def _reranker_is_resolved(cls, name: str | None, info: ValidationInfo) -> str | None:
        return None if name is None else RERANKER_NAMES.known_field(name, info)

    @model_validator(mode="after")
    def _can_be_built(self) -> ArmSpec:
        if (self.kind == "neural") != bool(self.representations):
            raise ValueError(
                f"expected at least one representation for a neural arm and none for {_a(_other(self.kind))} arm, got "
                f"{len(self.representations)} for kind {self.kind!r}; set representations or kind"
            )
        for field, kinds in _FIELDS_OF.items():
            if field in self.model_fields_set and self.kind not in kinds and getattr(self, field):
                raise ValueError(
                    f"only {_a(' or '.join(kinds))} arm has {field!r}, got it for kind {self.kind!r}; remove it or set "
                    "kind"
                )
        if self.reranker is None and "rerank" in self.model_fields_set:
            raise ValueError('rerank has settings of a re-ranker, got none; set reranker = "joint", or remove rerank')
        if self.kind == "neural":
            try:
                check_representations(self.representations, "target_attention")
            except ConfigError as error:
                raise ValueError(str(error)) from error
        elif self.model.model_fields_set:
            raise ValueError(f"{_a(self.kind)} arm has no model; remove model")
        elif self.is_control and not (self.kind == "gbdt" and (self.is_decoded or may_read_code_stats(self.features))):
            raise ValueError(
                f"{_a(self.kind)} arm with these settings reads no codes; remove shuffle_codes and random_codes"
                + (', or let features select statistics of codes ("code_*")' if self.kind == "gbdt" else "")
            )
        if self.kind in DERIVED and self.is_decoded:
            raise ValueError(f"{_a(self.kind)} arm reads no item vectors; remove vectors, or set it for the arms in of")
        if self.shuffle_codes and self.random_codes:
            raise ValueError(
                "expected at most one of shuffle_codes and random_codes, got both; define one arm for each"
            )
        return self

    @model_validator(mode="after")
    def _has_members(self) -> ArmSpec:
        if self.kind == "blend" and not 2 <= len(set(self.of)) == len(self.of) <= MOST_MEMBERS:
            raise ValueError(
                f"expected two to {MOST_MEMBERS} distinct arms to blend, got {', '.join(self.of) or 'none'}; set of, such as "
                'of = ["gbdt", "content"]'
            )
        if self.kind == "adapter" and not 1 <= len(set(self.of)) == len(self.of) <= self._most_adapted:
            raise ValueError(
                f"expected one arm to adapt, and for a gate at most a second one, got {', '.join(self.of) or 'none'} for "
                f'adapter {self.adapter!r}; set of, such as of = ["id_content"]'
            )
        if self.by_counts and len(self.of) != 2:
            raise ValueError(
                f"expected two arms to blend by counts, got {len(self.of)}: {', '.join(self.of)}; name two, or remove by_counts"
            )
        if self.shuffled_counts and not self.by_counts:
            raise ValueError("shuffled_counts is the control of by_counts; set by_counts = true, or remove it")
        return self

    @property
    def _most_adapted(self) -> int:
        return 2 if ADAPTER_NAMES.find(self.adapter).takes_other else 1

    @field_serializer("model")
    def _dump_overrides(self, model: ModelSpec) -> dict[str, Any]:
        # A key that is set to its default still overrides ranker.model, so a dump must keep set and unset keys apart.
        return model.model_dump(mode="json", exclude_unset=True)

    @model_serializer(mode="wrap")
    def _dump_fields_of_kind(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Fields of other kinds stay out of dumps, so that results of earlier versions remain valid.
        written = {name: value for name, value in dump(self).items() if self.kind in _FIELDS_OF.get(name, (self.kind,))}
        if self.reranker is None:
            written = {name: value for name, value in written.items() if name not in {"reranker", "rerank"}}
        default = {"features": None, "vectors": CONTENT_VECTORS, "by_counts": False, "shuffled_counts": False}
        return {name: value for name, value in written.items() if name not in default or value != default[name]}

    def model_spec(self, shared: ModelSpec) -> ModelSpec:
        """Merge ``shared`` (``ranker.model``) with the arm's overrides.

        Raises
        ------
        ConfigError
            When the arm's representations are incompatible with its history encoder.
        """
        overrides = {name: getattr(self.model, name) for name in self.model.model_fields_set}
        spec = shared.model_copy(update=overrides)
        if self.kind == "neural":
            check_representations(self.representations, spec.history)
        return spec

    def schema_of(self, schema: FeatureSchema, shared: tuple[str, ...] | None) -> FeatureSchema:
        """The features that the arm reads, of all features; ``shared`` are the patterns of ``ranker.features``.

        Raises
        ------
        ConfigError
            When a pattern that adds features matches none.
        """
        own = self.features
        if shared is not None and (own is None or only_removes(own)):
            schema = schema.select(shared)
        return schema if own is None else schema.select(own)

    @property
    def is_control(self) -> bool:
        """True for shuffled or random codes."""
        return self.shuffle_codes or self.random_codes

    @property
    def is_decoded(self) -> bool:
        """Whether the arm's item vectors are decoded from codes."""
        return self.vectors == DECODED_VECTORS

    @property
    def control(self) -> ControlKind | None:
        """How the codes of a control are made; None for other arms."""
        if not self.is_control:
            return None
        return "shuffled" if self.shuffle_codes else "random"

    def counted_control(self, shared: tuple[str, ...] | None) -> ControlKind | None:
        """How the codes are made by which the features of a control are counted; None for other arms, and for a control that
        reads no statistics of codes. ``shared`` are the patterns of ``ranker.features``.
        """
        inherits = self.features is None or only_removes(self.features)
        reads = may_read_code_stats(self.features) and (not inherits or may_read_code_stats(shared))
        return self.control if reads else None

    def uses_codes(self, shared: ModelSpec) -> bool:
        """Whether the arm reads codes: by a representation, decoded, by matching them against the history, as a control, or by
        naming statistics of code prefixes in ``features``. An arm that reads those by default does without them where there
        are none.
        """
        if self.is_control or self.is_decoded or any(map(is_code_pattern, self.features or ())):
            return True
        return self.kind == "neural" and (
            self.reranker is not None
            or any(map(reads_codes, self.representations))
            or self.model_spec(shared).sid_match != "none"
        )

    @property
    def can_serve(self) -> bool:
        """Whether the arm may serve: controls are only compared. The members of a blend must be able to serve too."""
        shuffled = self.shuffled_counts or self.shuffled_items
        return not self.is_control and not self.model.is_control and not shuffled


def losses_of(arm: ArmSpec, shared: ModelSpec) -> dict[str, str]:
    """Return the auxiliary losses of an arm, ``<representation or history>.<loss>``, each with the key of its weight; imports
    torch.
    """
    if arm.kind != "neural":
        return {}
    spec = arm.model_spec(shared)
    parts: list[tuple[str, type[Representation | History]]] = [
        (label, representation(name))
        for label, name in zip(short_names(arm.representations), arm.representations, strict=True)
    ]
    parts.append((short_names((spec.history,))[0], HISTORY_NAMES.find(spec.history)))
    return {f"{label}.{loss}": key for label, part in parts for loss, key in part.losses(spec).items()}


def without_loss(arm: AnyArm, shared: ModelSpec, loss: str) -> AnyArm:
    """Return the arm with the weight of one of its auxiliary losses set to 0.

    Raises
    ------
    ConfigError
        When the arm has no such loss.
    """
    losses = losses_of(arm, shared)
    if loss not in losses:
        raise ConfigError(f"expected a loss of the arm, one of {', '.join(losses) or 'none'}, got {loss!r}")
    changed = with_weight(arm.model_spec(shared), losses[loss], 0.0)
    field = losses[loss].partition(".")[0]
    return arm.model_copy(update={"model": arm.model.model_copy(update={field: getattr(changed, field)})})


def _a(kind: str) -> str:
    return f"an {kind}" if kind.startswith("a") else f"a {kind}"


def _other(kind: str) -> str:
    return "gbdt" if kind == "neural" else kind


class RankerSpec(Section):
    """How rankers are built and trained (``[ranker]``)."""

    serve: tuple[str, ...] = ()
    """Arms that may serve; the one with the best validation AUC is promoted. Blends choose their weights on validation rows."""
    features: tuple[str, ...] | None = None
    """Patterns of the features besides the built-in ones that arms read, such as ``["*"]`` or ``["user_attributes__country"]``;
    unset: all. ``sidkit features list`` shows their names."""
    model: ModelSpec = ModelSpec()
    training: TrainingSpec = TrainingSpec()

    @field_validator("model")
    @classmethod
    def _model_is_no_control(cls, model: ModelSpec) -> ModelSpec:
        if model.is_control:
            raise ValueError(
                "prior_random and shuffled_counts make controls, which cannot serve; set them in the model of an arm"
            )
        return model

    @model_serializer(mode="wrap")
    def _dump_features_if_set(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Left out if unset, so that results of earlier versions remain valid.
        return {name: value for name, value in dump(self).items() if name != "features" or value is not None}
