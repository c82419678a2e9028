"""What a preset says of rankers and arms."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_serializer, model_validator

from ranking.model_spec import ModelSpec
from ranking.representations import WITHOUT_CODES, check_representations
from ranking.training_spec import TrainingSpec
from semantic_ids.drift import DriftThresholds
from semantic_ids.fitting import without_codes
from semantic_ids.pipeline import CodebookSpec
from semantic_ids.sweep import SweepGrid
from sidkit.config import Section, load_model
from sidkit.errors import ConfigError, FitError
from sidkit.names import LONGEST, RULE, is_name
from sidkit.presets import preset_path


class ArmSpec(Section):
    """One competitor of a comparison (``[arms.<name>]``)."""

    kind: Literal["neural", "gbdt"] = "neural"
    representations: tuple[str, ...] = ()
    """Item representations of a neural arm, concatenated."""
    model: ModelSpec = ModelSpec()
    """What this arm's model has of its own (``[arms.<name>.model]``); what is not written there is as in ``ranker.model``."""
    shuffle_codes: bool = False
    """Give each item the codes of another: the same marginals and parameters, no meaning."""
    random_codes: bool = False
    """Give each item codes by a hash of its id: the same table sizes, every code equally likely, no meaning."""

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
        """Whether the arm's codes were robbed of their meaning."""
        return self.shuffle_codes or self.random_codes

    def uses_codes(self, shared: ModelSpec) -> bool:
        """Whether the arm reads codes: by a representation, or by matching them with the history."""
        return self.kind == "neural" and (
            bool(set(self.representations) - WITHOUT_CODES) or self.model_spec(shared).sid_match != "none"
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


class Preset(Section):
    """A whole system."""

    codebook: CodebookSpec = CodebookSpec()
    sweep: SweepGrid = SweepGrid()
    """What `sidkit codebooks sweep` tries."""
    health: DriftThresholds = DriftThresholds()
    """When `sidkit codebooks health` calls a codebook stale."""
    ranker: RankerSpec = RankerSpec()
    arms: dict[str, ArmSpec] = Field(min_length=1)

    @model_validator(mode="after")
    def _can_be_built(self) -> Preset:
        for name, arm in self.arms.items():
            if not is_name(name):
                raise ValueError(f"{name!r} cannot name an arm: at most {LONGEST} characters of {RULE}")
            try:
                arm.model_spec(self.ranker.model)
            except ConfigError as error:
                raise ValueError(f"arms.{name}: {error}") from error
        return self

    @model_validator(mode="after")
    def _can_serve(self) -> Preset:
        wrong = [name for name in self.ranker.serve if name not in self.arms or not self.arms[name].can_serve]
        if wrong:
            fit = [name for name, arm in self.arms.items() if arm.can_serve]
            raise ValueError(
                f"ranker.serve names {', '.join(wrong)}, which cannot serve; the arms that can are {', '.join(fit)}"
            )
        return self


def arms_without_codes(preset: Preset) -> Preset:
    """The preset with those of its arms that read no codes.

    Raises
    ------
    FitError
        When there are none.
    """
    shared = preset.ranker.model
    arms = {name: arm for name, arm in preset.arms.items() if not arm.uses_codes(shared)}
    if not arms:
        raise FitError(
            f"all arms of the preset ({', '.join(preset.arms)}) read codes, and no codes can be learned from this catalogue; "
            'add an arm without codes, such as representations = ["id", "content"], or bring at least 40 items with vectors'
        )
    ranker = preset.ranker.model_copy(update={"serve": tuple(name for name in preset.ranker.serve if name in arms)})
    return preset.model_copy(update={"arms": arms, "ranker": ranker, "codebook": without_codes(preset.codebook)})


def load_preset(name: str) -> Preset:
    """Read a preset by name, or from a path that ends in ``.toml``.

    Raises
    ------
    ConfigError
        When there is no such preset, or it holds something unknown.
    """
    return load_model(Preset, preset_path(name))
