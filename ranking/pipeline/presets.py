"""Presets: TOML files that configure the codebook, the ranker and the arms."""

from __future__ import annotations

from collections.abc import Iterable

from pydantic import Field, model_validator

from ranking.data.code_schema import is_code_pattern
from ranking.training.arm_members import check_blends, check_served
from ranking.training.arm_spec import ArmSpec, RankerSpec
from semantic_ids.encoders import ENCODER_NAMES
from semantic_ids.fitting import CodebookSpec, codebook_modules, without_codes
from semantic_ids.quality.drift import DriftThresholds
from semantic_ids.quality.sweep import SweepGrid
from semantic_ids.quantizers import QUANTIZER_NAMES
from sidkit.core.config import load_model
from sidkit.core.errors import ConfigError, FitError
from sidkit.core.extras import require
from sidkit.core.names import LONGEST, RULE, is_name
from sidkit.core.section import Section
from sidkit.presets import preset_path


class Preset(Section):
    """Configuration of a codebook, its health checks, a ranker and arms."""

    codebook: CodebookSpec = CodebookSpec()
    sweep: SweepGrid = SweepGrid()
    """Grid of `sidkit codebooks sweep`."""
    health: DriftThresholds = DriftThresholds()
    """Thresholds by which `sidkit codebooks health` reports a codebook as stale."""
    ranker: RankerSpec = RankerSpec()
    arms: dict[str, ArmSpec] = Field(min_length=1)

    @model_validator(mode="after")
    def _can_be_built(self) -> Preset:
        try:
            ENCODER_NAMES.find(self.codebook.encoder)
            QUANTIZER_NAMES.find(self.codebook.quantizer)
        except ConfigError as error:
            raise ValueError(f"codebook: {error}") from error
        for name, arm in self.arms.items():
            if not is_name(name):
                raise ValueError(
                    f"{name!r} cannot name an arm: expected at most {LONGEST} characters of {RULE}; rename it"
                )
            try:
                arm.model_spec(self.ranker.model)
            except ConfigError as error:
                raise ValueError(f"arms.{name}: {error}") from error
        try:
            check_blends(self.arms)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self

    @model_validator(mode="after")
    def _can_serve(self) -> Preset:
        try:
            check_served(self.arms, self.ranker.serve)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self


def arms_without_codes(preset: Preset, *, content: bool = True) -> Preset:
    """Return the preset without the arms that read codes, and without blends of them; ``content=False``: nor content.

    If none of the arms that may serve is left, all other neural arms that can serve may.

    Raises
    ------
    FitError
        When no arm is left.
    """
    shared = preset.ranker.model
    usable = {name: arm for name, arm in preset.arms.items() if not arm.uses_codes(shared)}
    if not content:
        usable = {name: arm for name, arm in usable.items() if "content" not in arm.representations}
    arms = {name: arm for name, arm in usable.items() if set(arm.of) <= set(usable)}
    if not arms and not content:
        raise FitError(
            f"all arms of the preset ({', '.join(preset.arms)}) read codes or content, but the source has no vectors; add "
            'an arm such as representations = ["id"], or compute vectors with `sidkit data embed`'
        )
    if not arms:
        raise FitError(
            f"all arms of the preset ({', '.join(preset.arms)}) read codes, but no codes can be fitted on this catalogue; "
            'add an arm without codes, such as representations = ["id", "content"], or provide at least 40 items with vectors'
        )
    serve = tuple(name for name in preset.ranker.serve if name in arms)
    serve = serve or tuple(name for name, arm in arms.items() if arm.can_serve and arm.kind == "neural")
    features = preset.ranker.features
    if features is not None:
        features = tuple(pattern for pattern in features if not is_code_pattern(pattern))
    ranker = preset.ranker.model_copy(update={"serve": serve, "features": features})
    return preset.model_copy(update={"arms": arms, "ranker": ranker, "codebook": without_codes(preset.codebook)})


def check_extras(preset: Preset) -> None:
    """Check that the optional packages of a preset are installed, before any work.

    Raises
    ------
    MissingExtraError
        When one is missing.
    """
    modules = ["torch", "safetensors", *codebook_modules(preset.codebook), *arm_modules(preset.arms.values())]
    require(*modules, purpose="this preset", extra="rank")


def arm_modules(arms: Iterable[ArmSpec]) -> list[str]:
    """Return the optional modules that training and evaluating arms needs besides torch."""
    modules = ["scipy"]
    for arm in arms:
        modules += ["sklearn"] if arm.kind == "gbdt" else []
        modules += ["sentencepiece"] if "spm" in arm.representations else []
    return modules


def load_preset(name: str) -> Preset:
    """Load a preset by name, or from a ``.toml`` path.

    Raises
    ------
    ConfigError
        When the preset is missing or invalid.
    """
    return load_model(Preset, preset_path(name))
