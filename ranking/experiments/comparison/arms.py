"""The arms of a comparison: small TOML files, each a competitor and the codebook that it reads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationInfo, field_validator

from ranking.models.spec import SizedBy
from ranking.pipeline.presets import load_preset
from ranking.training.arm_spec import ArmSpec
from semantic_ids.encoders import ENCODER_NAMES
from semantic_ids.lifecycle import CodebookSpec
from semantic_ids.quantizers import QUANTIZER_NAMES
from sidkit.core.config import load_model
from sidkit.core.errors import ConfigError
from sidkit.core.names import check_name
from sidkit.core.plugins import Registry
from sidkit.presets import ARMS

CODES_AS_FEATURES, ID_ALONE, SHUFFLED, BOOSTING = "A3", "A0", "A4", "gbdt"
"""What every arm is compared with, the control that tells meaning from capacity, and who may not be lost to."""
_TRAINING_IRRELEVANT = {"title", "rolling", "extra", "baseline", "codebook", "codebook_changes", "sized_by"}


class ComparedArm(ArmSpec):
    """One file of ``sidkit/presets/arms``, or a user's own."""

    title: str
    """What the arm is, in a few words."""
    codebook: str = "rqkmeans"
    """The preset whose ``[codebook]`` gives codes and content vectors: a name, or a path that ends in ``.toml``."""
    codebook_changes: dict[str, Any] = Field(default_factory=dict)
    """Keys of ``[codebook]`` that differ from the preset's, for arms that compare tokenizers or encoders."""
    extra: bool = False
    """Whether the arm answers a side question: it is then run by name, and not by ``all``."""
    baseline: str | None = None
    """An arm to compare this one with besides A3 and A0, where it is compared too: what it would be without its idea."""
    sized_by: SizedBy = "dim"
    """What gives way when the arm is brought to as many parameters as A3 has: its width, or a hashed table's rows."""
    rolling: bool = False
    """Whether the arm is also judged at earlier time origins."""

    @field_validator("codebook_changes")
    @classmethod
    def _changes_are_resolved(cls, changes: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        """Plug-ins are relative to the arm's file, not to the preset's."""
        names: dict[str, Registry[Any]] = {"encoder": ENCODER_NAMES, "quantizer": QUANTIZER_NAMES}
        named = {key: changes[key] for key in names if isinstance(changes.get(key), str)}
        return {**changes, **{key: names[key].resolved_field(name, info) for key, name in named.items()}}

    def codebook_spec(self) -> CodebookSpec:
        """The preset's codebook with this arm's changes.

        Raises
        ------
        ConfigError
            When there is no such preset, or a change names no key of ``[codebook]``.
        """
        spec = load_preset(self.codebook).codebook
        unknown = set(self.codebook_changes) - set(CodebookSpec.model_fields)
        if unknown:
            raise ConfigError(
                f"codebook_changes names {', '.join(sorted(unknown))}; [codebook] has "
                f"{', '.join(CodebookSpec.model_fields)}"
            )
        return CodebookSpec.model_validate({**spec.model_dump(), **self.codebook_changes})

    def trained_by(self) -> dict[str, Any]:
        """All that decides the training but the codebook, as JSON."""
        return self.model_dump(mode="json", exclude=_TRAINING_IRRELEVANT)


def arm_names() -> list[str]:
    """The arms that are shipped, A2 before A10."""
    return sorted((path.stem for path in ARMS.glob("*.toml")), key=_natural)


def load_arms(names: Sequence[str]) -> dict[str, ComparedArm]:
    """Read arms by name or by path; ``all`` stands for all that are shipped and are no ``extra``.

    Parameters
    ----------
    names : sequence of str
        ``A0`` and the like, or paths that end in ``.toml`` (the arm is then called as the file is).

    Raises
    ------
    ConfigError
        When there is no such arm, its name cannot be one (:mod:`sidkit.core.names`), two are called the same, or a file holds
        something unknown.
    """
    asked = [each for name in names for each in (_ordinary() if name == "all" else [name])]
    found: dict[str, ComparedArm] = {}
    for name in dict.fromkeys(asked):
        own = name.endswith(".toml")
        arm = check_name("arm", Path(name).name.removesuffix(".toml") if own else name)
        path = Path(name) if own else ARMS / f"{name}.toml"
        if not path.is_file():
            raise ConfigError(f"no arm {name!r}; there are {', '.join(arm_names())}, or give the path of a .toml file")
        if arm in found:
            raise ConfigError(f"two arms are called {arm!r}; rename one of the files")
        found[arm] = load_model(ComparedArm, path)
    if not found:
        raise ConfigError(f"no arm is named; there are {', '.join(arm_names())}, or `all`")
    return found


def _ordinary() -> list[str]:
    return [name for name in arm_names() if not load_model(ComparedArm, ARMS / f"{name}.toml").extra]


def _natural(name: str) -> tuple[str, int, str]:
    parts = re.fullmatch(r"([A-Za-z]*)(\d*)(.*)", name)
    assert parts is not None
    return parts[1], int(parts[2] or 0), parts[3]
