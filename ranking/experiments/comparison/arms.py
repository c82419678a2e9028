"""The arms of a comparison: small TOML files, each a ranker and the codebook that it reads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
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

CODES_AS_FEATURES = "id_codes"
"""The baseline that every arm is compared with, and whose number of parameters the others get."""
ID_ALONE = "id"
"""The second shared baseline: the item's id without content or codes."""
SHUFFLED = "id_codes_shuffled"
"""The control of :data:`CODES_AS_FEATURES`, which tells meaning from capacity."""
BOOSTING = "gbdt"
"""The baseline to beat."""
_TRAINING_IRRELEVANT = {"title", "paper", "rolling", "extra", "baseline", "codebook", "codebook_changes", "sized_by"}


class ComparedArm(ArmSpec):
    """One file of ``sidkit/presets/arms``, or a user's own."""

    title: str
    """What the arm is, in a few words."""
    paper: str | None = None
    """The arm's number in the tables of results (``A3``), which names it in results of earlier versions too."""
    codebook: str = "rqkmeans"
    """The preset whose ``[codebook]`` gives codes and content vectors: a name, or a path that ends in ``.toml``."""
    codebook_changes: dict[str, Any] = Field(default_factory=dict)
    """Keys of ``[codebook]`` that differ from the preset's, for arms that compare tokenizers or encoders."""
    extra: bool = False
    """Whether the arm answers a side question: it is then run by name, and not by ``all``."""
    baseline: str | None = None
    """The ablation baseline: an arm on the same inputs without this one's idea, to compare with besides the shared ones."""
    sized_by: SizedBy = "dim"
    """What changes when the arm is brought to as many parameters as :data:`CODES_AS_FEATURES` has: its width, or a hashed
    table's rows."""
    rolling: bool = False
    """Whether the arm is also evaluated at earlier time origins."""

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


@cache
def shipped_arms() -> dict[str, ComparedArm]:
    """The arms that are shipped, by name: A2 before A10, those without a number last."""
    arms = {path.stem: load_model(ComparedArm, path) for path in sorted(ARMS.glob("*.toml"))}
    return dict(sorted(arms.items(), key=lambda each: _natural(each[1].paper or each[0])))


def arm_names() -> list[str]:
    """The names of the shipped arms."""
    return list(shipped_arms())


def arm_name(name: str) -> str:
    """The name of an arm, given its number in the papers' table (``A3``) or a name, which stays as it is."""
    return next((arm for arm, spec in shipped_arms().items() if spec.paper == name), name)


def paper_number(arm: str) -> str:
    """The number of an arm in the papers' table; empty for one that has none."""
    spec = shipped_arms().get(arm)
    return spec.paper or "" if spec is not None else ""


def load_arms(names: Sequence[str]) -> dict[str, ComparedArm]:
    """Read arms by name, by number or by path; ``all`` names all shipped arms that are not ``extra``.

    Parameters
    ----------
    names : sequence of str
        ``id_codes`` and the like, their numbers (``A3``), or paths that end in ``.toml`` (the arm is then called as the
        file is).

    Raises
    ------
    ConfigError
        When there is no such arm, its name cannot be one (:mod:`sidkit.core.names`), two are called the same, or a file holds
        something unknown.
    """
    shipped = shipped_arms()
    ordinary = [name for name, arm in shipped.items() if not arm.extra]
    chosen = [each for name in names for each in (ordinary if name == "all" else [arm_name(name)])]
    found: dict[str, ComparedArm] = {}
    for name in dict.fromkeys(chosen):
        own = name.endswith(".toml")
        arm = check_name("arm", Path(name).name.removesuffix(".toml") if own else name)
        if arm_name(arm) != arm:
            raise ConfigError(f"{arm!r} is the number of the shipped arm {arm_name(arm)!r}; rename the file {name}")
        if not (Path(name).is_file() if own else name in shipped):
            raise ConfigError(f"no arm {name!r}; there are {', '.join(shipped)}, or give the path of a .toml file")
        if arm in found:
            raise ConfigError(f"two arms are called {arm!r}; rename one of the files")
        spec = load_model(ComparedArm, Path(name)) if own else shipped[name]
        baseline = arm_name(spec.baseline) if spec.baseline is not None else None
        found[arm] = spec.model_copy(update={"baseline": baseline})
    if not found:
        raise ConfigError(f"no arm is named; there are {', '.join(shipped)}, or `all`")
    return found


def _natural(name: str) -> tuple[str, int, str]:
    parts = re.fullmatch(r"([A-Za-z]*)(\d*)(.*)", name)
    assert parts is not None
    return parts[1], int(parts[2] or 0), parts[3]
