"""Configuration of arms and rankers; does not import torch."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

from pydantic import ValidationInfo, field_serializer, field_validator, model_validator

from ranking.models.representations import (
    REPRESENTATION_NAMES,
    check_representations,
    reads_codes,
    representation,
    short_names,
)
from ranking.models.spec import ModelSpec, with_weight
from ranking.training.spec import TrainingSpec
from sidkit.core.config import Section
from sidkit.core.errors import ConfigError

AnyArm = TypeVar("AnyArm", bound="ArmSpec")


class ArmSpec(Section):
    """One arm of a comparison (``[arms.<name>]``)."""

    kind: Literal["neural", "gbdt"] = "neural"
    """A neural ranker, or gradient boosting on the same features."""
    representations: tuple[str, ...] = ()
    """Item representations of a neural arm, concatenated: names from :data:`ranking.models.representations.REPRESENTATIONS`, or
    plug-ins (:mod:`sidkit.core.plugins`)."""
    model: ModelSpec = ModelSpec()
    """Model settings of this arm (``[arms.<name>.model]``); unset keys are inherited from ``ranker.model``."""
    shuffle_codes: bool = False
    """Permute the codes among items: same marginals and number of parameters, but no semantics."""
    random_codes: bool = False
    """Replace the codes by a hash of the item id: same table sizes, uniform codes, no semantics."""

    @field_validator("representations")
    @classmethod
    def _representations_are_resolved(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        return tuple(REPRESENTATION_NAMES.resolved_field(name, info) for name in names)

    @model_validator(mode="after")
    def _can_be_built(self) -> ArmSpec:
        if (self.kind == "neural") != bool(self.representations):
            raise ValueError(
                "expected at least one representation for a neural arm and none for a gbdt arm, got "
                f"{len(self.representations)} for kind {self.kind!r}; set representations or kind"
            )
        if self.kind == "neural":
            try:
                check_representations(self.representations, "target_attention")
            except ConfigError as error:
                raise ValueError(str(error)) from error
        elif self.model.model_fields_set or self.is_control:
            raise ValueError("a gbdt arm has neither a model nor codes; remove model, shuffle_codes and random_codes")
        if self.shuffle_codes and self.random_codes:
            raise ValueError(
                "expected at most one of shuffle_codes and random_codes, got both; define one arm for each"
            )
        return self

    @field_serializer("model")
    def _dump_overrides(self, model: ModelSpec) -> dict[str, Any]:
        # A key that is set to its default still overrides ranker.model, so a dump must keep set and unset keys apart.
        return model.model_dump(mode="json", exclude_unset=True)

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

    @property
    def is_control(self) -> bool:
        """True for shuffled or random codes."""
        return self.shuffle_codes or self.random_codes

    def uses_codes(self, shared: ModelSpec) -> bool:
        """Whether the arm reads codes, through a representation or by matching them against the history."""
        return self.kind == "neural" and (
            any(map(reads_codes, self.representations)) or self.model_spec(shared).sid_match != "none"
        )

    @property
    def can_serve(self) -> bool:
        """Whether the arm may serve: controls and the boosting baseline are only compared."""
        return self.kind == "neural" and not self.is_control


def losses_of(arm: ArmSpec, shared: ModelSpec) -> dict[str, str]:
    """Return the auxiliary losses of an arm, ``<representation>.<loss>``, each with the key of its weight; imports torch."""
    if arm.kind != "neural":
        return {}
    spec = arm.model_spec(shared)
    return {
        f"{label}.{loss}": key
        for label, name in zip(short_names(arm.representations), arm.representations, strict=True)
        for loss, key in representation(name).losses(spec).items()
    }


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


class RankerSpec(Section):
    """How rankers are built and trained (``[ranker]``)."""

    serve: tuple[str, ...] = ()
    """Arms that may serve; the one with the best validation AUC is promoted."""
    model: ModelSpec = ModelSpec()
    training: TrainingSpec = TrainingSpec()
