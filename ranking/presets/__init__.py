"""Presets: which parts make a system, one small TOML each."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from ranking.model_spec import ModelSpec
from ranking.training_spec import TrainingSpec
from semantic_ids.pipeline import CodebookSpec
from sidkit.config import Section, load_model
from sidkit.errors import ConfigError

FOLDER = Path(__file__).parent


class ArmSpec(Section):
    """One competitor of a comparison (``[arms.<name>]``)."""

    kind: Literal["neural", "gbdt"] = "neural"
    representations: tuple[str, ...] = ()
    """Item representations of a neural arm, concatenated."""
    shuffle_codes: bool = False
    """Give each item the codes of another: the same marginals and parameters, no meaning."""


class RankerSpec(Section):
    """How rankers are built and trained (``[ranker]``)."""

    serve: tuple[str, ...] = ()
    """Arms that may serve; the best of them on validation is promoted."""
    model: ModelSpec = ModelSpec()
    training: TrainingSpec = TrainingSpec()


class Preset(Section):
    """A whole system."""

    codebook: CodebookSpec = CodebookSpec()
    ranker: RankerSpec = RankerSpec()
    arms: dict[str, ArmSpec] = Field(min_length=1)


def preset_names() -> list[str]:
    """The presets that there are."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_preset(name: str) -> Preset:
    """Read a preset by name, or from a path that ends in ``.toml``.

    Raises
    ------
    ConfigError
        When there is no such preset, or it holds something unknown.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file():
        raise ConfigError(
            f"no preset {name!r}; there are {', '.join(preset_names())}, or give the path of a .toml file"
        )
    return load_model(Preset, path)
