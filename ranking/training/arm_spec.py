"""Arms of a preset, and how rankers are built and trained, without torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ValidationInfo, field_serializer, field_validator, model_validator

from ranking.models.representations import REPRESENTATION_NAMES, check_representations, reads_codes
from ranking.models.spec import ModelSpec
from ranking.training.spec import TrainingSpec
from sidkit.core.config import Section
from sidkit.core.errors import ConfigError


class ArmSpec(Section):
    """One competitor of a comparison (``[arms.<name>]``)."""

    kind: Literal["neural", "gbdt"] = "neural"
    representations: tuple[str, ...] = ()
    """Item representations of a neural arm, concatenated: names in :data:`ranking.models.representations.REPRESENTATIONS`, or
    plug-ins (:mod:`sidkit.core.plugins`)."""
    model: ModelSpec = ModelSpec()
    """What this arm's model has of its own (``[arms.<name>.model]``); what is not written there is as in ``ranker.model``."""
    shuffle_codes: bool = False
    """Give each item the codes of another: the same marginals and parameters, no meaning."""
    random_codes: bool = False
    """Give each item codes by a hash of its id: the same table sizes, every code equally likely, no meaning."""

    @field_validator("representations")
    @classmethod
    def _representations_are_resolved(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        return tuple(REPRESENTATION_NAMES.resolved_field(name, info) for name in names)

    @model_validator(mode="after")
    def _can_be_built(self) -> ArmSpec:
        if (self.kind == "neural") != bool(self.representations):
            raise ValueError("a neural arm needs at least one item representation, a gbdt arm has none")
        if self.kind == "neural":
            try:
                check_representations(self.representations, "target_attention")
            except ConfigError as error:
                raise ValueError(str(error)) from error
        elif self.model.model_fields_set or self.is_control:
            raise ValueError(
                "a gbdt arm has neither a model nor codes; leave model, shuffle_codes and random_codes out"
            )
        if self.shuffle_codes and self.random_codes:
            raise ValueError("shuffle_codes and random_codes are two controls; make two arms of them")
        return self

    @field_serializer("model")
    def _what_is_written(self, model: ModelSpec) -> dict[str, Any]:
        # A default that is written overrides; one that is not does not. A dump must tell the two apart.
        return model.model_dump(mode="json", exclude_unset=True)

    def model_spec(self, shared: ModelSpec) -> ModelSpec:
        """The arm's model: ``shared`` (``ranker.model``) with what the arm overrides.

        Raises
        ------
        ConfigError
            When the arm's representations do not suit its history.
        """
        own = {name: getattr(self.model, name) for name in self.model.model_fields_set}
        spec = shared.model_copy(update=own)
        if self.kind == "neural":
            check_representations(self.representations, spec.history)
        return spec

    @property
    def is_control(self) -> bool:
        """True for shuffled or random codes."""
        return self.shuffle_codes or self.random_codes

    def uses_codes(self, shared: ModelSpec) -> bool:
        """Whether the arm reads codes: by a representation, or by matching them with the history."""
        return self.kind == "neural" and (
            any(map(reads_codes, self.representations)) or self.model_spec(shared).sid_match != "none"
        )

    @property
    def can_serve(self) -> bool:
        """Controls and the boosting baseline are trained to be compared with, not to serve."""
        return self.kind == "neural" and not self.is_control


class RankerSpec(Section):
    """How rankers are built and trained (``[ranker]``)."""

    serve: tuple[str, ...] = ()
    """Arms that may serve; the best of them on validation is promoted."""
    model: ModelSpec = ModelSpec()
    training: TrainingSpec = TrainingSpec()
