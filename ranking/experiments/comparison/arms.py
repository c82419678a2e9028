"""The arms of a comparison: TOML files that each define a ranker and its codebook."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from ranking.data.split import TimeSplit
from ranking.models.spec import SizedBy
from ranking.pipeline.presets import load_preset
from ranking.training.arm_members import check_blends
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
"""The baseline of every comparison; with equal budgets, neural arms are sized to its parameter count."""
ID_ALONE = "id"
"""The second shared baseline: the item's id without content or codes."""
CONTENT = "id_content"
"""The third shared baseline, the strongest plain one on cold items: the item's id and its content vector."""
SHUFFLED = "id_codes_shuffled"
"""The control for :data:`CODES_AS_FEATURES`: the same capacity, with codes that carry no meaning."""
BOOSTING = "gbdt"
"""The baseline to beat."""
PAPERS, ALL = "papers", "all"
"""Groups of shipped arms: those of the two papers with their baselines, and every one that the data allow."""
_TRAINING_IRRELEVANT = {
    "title",
    "paper",
    "extra",
    "baseline",
    "codebook",
    "codebook_changes",
    "training_rows",
    "sized_by",
}


class ComparedArm(ArmSpec):
    """One arm, read from ``sidkit/presets/arms`` or from a given ``.toml`` file."""

    title: str
    """Short description of the arm."""
    paper: str | None = None
    """The arm's number in the results tables (``A3``); results of earlier versions use it as the name."""
    codebook: str = "rqkmeans"
    """The preset whose ``[codebook]`` provides codes and content vectors: a name, or a path ending in ``.toml``."""
    codebook_changes: dict[str, Any] = Field(default_factory=dict)
    """Keys of ``[codebook]`` that override the preset's, for arms that compare tokenizers or encoders."""
    extra: bool = False
    """Whether ``papers`` leaves the arm out; it then runs when named, and with ``all``."""
    baseline: str | None = None
    """The ablation baseline: an arm with the same inputs but without the tested component."""
    training_rows: Literal["all", "after_clicks"] = "all"
    """The rows to train on: all before the validation rows, or those from where the window of codebooks that learn from clicks
    ends. An arm of such a codebook has the latter always; ``after_clicks`` gives another arm the same rows, so that later rows
    are not taken for a gain of its codes."""
    sized_by: SizedBy = "dim"
    """What is scaled to match the parameter count of :data:`CODES_AS_FEATURES`: the width, or the rows of a hashed table."""

    @field_validator("codebook_changes")
    @classmethod
    def _changes_are_resolved(cls, changes: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        """Resolve plug-in paths relative to the arm's file instead of the preset's."""
        names: dict[str, Registry[Any]] = {"encoder": ENCODER_NAMES, "quantizer": QUANTIZER_NAMES}
        named = {key: changes[key] for key in names if isinstance(changes.get(key), str)}
        return {**changes, **{key: names[key].resolved_field(name, info) for key, name in named.items()}}

    def codebook_spec(self) -> CodebookSpec:
        """Return the preset's codebook with this arm's changes.

        Raises
        ------
        ConfigError
            If the preset does not exist, or a change is not a key of ``[codebook]``.
        """
        spec = load_preset(self.codebook).codebook
        unknown = set(self.codebook_changes) - set(CodebookSpec.model_fields)
        if unknown:
            raise ConfigError(
                f"codebook_changes has unknown keys: {', '.join(sorted(unknown))}; expected keys of [codebook]: "
                f"{', '.join(CodebookSpec.model_fields)}"
            )
        return CodebookSpec.model_validate({**spec.model_dump(), **self.codebook_changes})

    def split_of(self, split: TimeSplit) -> TimeSplit:
        """The split of the settings with this arm's training rows, if its codebook does not learn from clicks."""
        if self.training_rows == "all":
            return split
        return split.training_from(split.fit_end_us(learns_from_clicks=True))

    def trained_by(self) -> dict[str, Any]:
        """Return every setting that affects training, except the codebook, as JSON."""
        return self.model_dump(mode="json", exclude=_TRAINING_IRRELEVANT)


@cache
def shipped_arms() -> dict[str, ComparedArm]:
    """Return the shipped arms by name, sorted by number (A2 before A10); arms without a number come last."""
    arms = {path.stem: load_model(ComparedArm, path) for path in sorted(ARMS.glob("*.toml"))}
    return dict(sorted(arms.items(), key=lambda arm: _natural_order(arm[1].paper or arm[0])))


def arm_names() -> list[str]:
    """Return the names of the shipped arms."""
    return list(shipped_arms())


def arm_name(name: str) -> str:
    """Return the name of an arm, given its number in the papers' table (``A3``) or its name."""
    return next((arm for arm, spec in shipped_arms().items() if spec.paper == name), name)


def paper_number(arm: str) -> str:
    """Return the number of an arm in the papers' table, or an empty string if it has none."""
    spec = shipped_arms().get(arm)
    return spec.paper or "" if spec is not None else ""


def load_arms(names: Sequence[str]) -> dict[str, ComparedArm]:
    """Load arms by name, number or path; ``papers`` selects the shipped arms that are not ``extra``, and ``all`` every one.

    Parameters
    ----------
    names : sequence of str
        Names such as ``id_codes``, numbers (``A3``), ``papers``, ``all``, or paths ending in ``.toml``, whose stem becomes the
        arm's name.

    Raises
    ------
    ConfigError
        If an arm is unknown, its name is invalid (:mod:`sidkit.core.names`) or given twice, a file has unknown keys, or a
        blend names arms that are not given.
    """
    shipped = shipped_arms()
    selected = [arm for name in names for arm in (_groups().get(name) or [arm_name(name)])]
    arms: dict[str, ComparedArm] = {}
    for name in dict.fromkeys(selected):
        is_path = name.endswith(".toml")
        arm = check_name("arm", Path(name).name.removesuffix(".toml") if is_path else name)
        if arm_name(arm) != arm:
            raise ConfigError(f"{arm!r} is the number of the shipped arm {arm_name(arm)!r}; rename the file {name}")
        if not (Path(name).is_file() if is_path else name in shipped):
            raise ConfigError(
                f"unknown arm {name!r}; expected one of {', '.join(shipped)}, or the path of a .toml file"
            )
        if arm in arms:
            raise ConfigError(f"two arms have the name {arm!r}; rename one of the files")
        spec = load_model(ComparedArm, Path(name)) if is_path else shipped[name]
        baseline = arm_name(spec.baseline) if spec.baseline is not None else None
        arms[arm] = spec.model_copy(update={"baseline": baseline, "of": tuple(map(arm_name, spec.of))})
    if not arms:
        raise ConfigError(f"no arms given; expected one or more of {', '.join(shipped)}, {PAPERS} or {ALL}")
    check_blends(arms)
    return arms


def optional_arms(names: Sequence[str]) -> frozenset[str]:
    """Return the arms that ``all`` alone selects: a comparison skips those that the data do not allow."""
    if ALL not in names:
        return frozenset()
    named = {arm for name in names if name != ALL for arm in (_groups().get(name) or [arm_name(name)])}
    return frozenset(shipped_arms()) - named


def _groups() -> dict[str, list[str]]:
    """Name of a group of arms -> its arms."""
    shipped = shipped_arms()
    return {PAPERS: [name for name, arm in shipped.items() if not arm.extra], ALL: list(shipped)}


def _natural_order(name: str) -> tuple[str, int, str]:
    parts = re.fullmatch(r"([A-Za-z]*)(\d*)(.*)", name)
    assert parts is not None
    return parts[1], int(parts[2] or 0), parts[3]
