"""What a preset says of rankers and arms."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ranking.model_spec import ModelSpec
from ranking.representations import REPRESENTATIONS
from ranking.training_spec import TrainingSpec
from semantic_ids.drift import DriftThresholds
from semantic_ids.pipeline import CodebookSpec
from semantic_ids.sweep import SweepGrid
from sidkit.config import Section, load_model
from sidkit.presets import preset_path


class ArmSpec(Section):
    """One competitor of a comparison (``[arms.<name>]``)."""

    kind: Literal["neural", "gbdt"] = "neural"
    representations: tuple[str, ...] = ()
    """Item representations of a neural arm, concatenated."""
    shuffle_codes: bool = False
    """Give each item the codes of another: the same marginals and parameters, no meaning."""

    @model_validator(mode="after")
    def _can_be_built(self) -> ArmSpec:
        unknown = [name for name in self.representations if name not in REPRESENTATIONS]
        if unknown:
            raise ValueError(f"no item representation {', '.join(unknown)}; there are {', '.join(REPRESENTATIONS)}")
        if (self.kind == "neural") != bool(self.representations):
            raise ValueError("a neural arm needs at least one item representation, a gbdt arm has none")
        return self

    @property
    def can_serve(self) -> bool:
        """Controls and the boosting baseline are trained to be compared with, not to serve."""
        return self.kind == "neural" and not self.shuffle_codes


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
    def _can_serve(self) -> Preset:
        wrong = [name for name in self.ranker.serve if name not in self.arms or not self.arms[name].can_serve]
        if wrong:
            fit = [name for name, arm in self.arms.items() if arm.can_serve]
            raise ValueError(
                f"ranker.serve names {', '.join(wrong)}, which cannot serve; the arms that can are {', '.join(fit)}"
            )
        return self


def load_preset(name: str) -> Preset:
    """Read a preset by name, or from a path that ends in ``.toml``.

    Raises
    ------
    ConfigError
        When there is no such preset, or it holds something unknown.
    """
    return load_model(Preset, preset_path(name))
