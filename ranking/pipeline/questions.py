"""Which arms of a preset are compared: codes against arms without codes, by what each arm reads."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ranking.pipeline.presets import Preset
from ranking.training.arm_spec import DERIVED


@dataclass(frozen=True)
class Question:
    """What an arm with codes gains over one baseline."""

    arm: str
    baseline: str
    over: str
    """What the baseline has instead of codes: ``ids``, ``shuffled codes``, ``random codes``, ``content``, ``ids and
    content``, ``boosting`` or
    ``the blend``.
    """


def baselines(preset: Preset, by_prefix: Collection[str] = ()) -> list[str]:
    """Arms that the others are compared with: those without codes, the controls, boosting, and blends without codes.

    ``by_prefix`` names the arms that read statistics of code prefixes, which have codes too.
    """
    roles = {arm: _role(preset, arm, by_prefix) for arm in preset.arms}
    order = ("ids", "content", "ids and content", "shuffled codes", "random codes", "boosting", "the blend")
    return [arm for role in order for arm in preset.arms if roles[arm] == role]


def questions(
    preset: Preset, validation_auc: Mapping[str, Sequence[float]], by_prefix: Collection[str] = ()
) -> tuple[Question, ...]:
    """Return what to say about codes: one question per baseline.

    The arm is the one with codes that has the best mean validation AUC; against a control it is the arm with the control's
    inputs, so that both differ in the codes alone.

    Parameters
    ----------
    preset : Preset
        The preset in use.
    validation_auc : mapping
        Arm -> validation AUC of each seed.
    by_prefix : collection of str
        Arms that read statistics of code prefixes.
    """
    coded = [arm for arm in preset.arms if _role(preset, arm, by_prefix) == "codes" and validation_auc.get(arm)]
    if not coded:
        return ()
    best = max(coded, key=lambda arm: float(np.mean(validation_auc[arm])))
    pairs = []
    for baseline in baselines(preset, by_prefix):
        arm = best
        if preset.arms[baseline].is_control:
            same = [name for name in coded if _inputs(preset, name) == _inputs(preset, baseline)]
            if not same:
                continue
            arm = same[0]
        pairs.append(Question(arm, baseline, _role(preset, baseline, by_prefix)))
    return tuple(pairs)


def without_baselines(preset: Preset, by_prefix: Collection[str]) -> str | None:
    """A warning if all arms but the controls read codes, and some but not all of them only statistics of codes; else None."""
    if not by_prefix or any(not preset.arms[arm].is_control for arm in baselines(preset, by_prefix)):
        return None
    plain = [arm for arm in baselines(preset) if arm in by_prefix and not preset.arms[arm].is_control]
    coded = {arm for arm, spec in preset.arms.items() if spec.kind not in DERIVED} - set(plain)
    if not plain or not coded:
        return None
    return (
        f"no arm is a baseline for codes: {', '.join(plain)} read statistics of codes. To compare with arms without codes, add "
        'features = ["!*code_*"] to them in the preset'
    )


def _role(preset: Preset, arm: str, by_prefix: Collection[str]) -> str:
    spec = preset.arms[arm]
    if spec.kind in DERIVED:
        return _role_of_derived(preset, arm, by_prefix)
    if spec.is_control:
        return "shuffled codes" if spec.shuffle_codes else "random codes"
    if spec.uses_codes(preset.ranker.model) or arm in by_prefix:
        return "codes"
    if spec.kind == "gbdt":
        return "boosting"
    if "content" not in spec.representations:
        return "ids"
    return "content" if spec.representations == ("content",) else "ids and content"


def _role_of_derived(preset: Preset, arm: str, by_prefix: Collection[str]) -> str:
    spec = preset.arms[arm]
    if spec.kind == "adapter":
        return f"an adapter of {spec.of[0]}"
    roles = {_role(preset, member, by_prefix) for member in spec.of}
    return "the blend" if roles <= {"ids", "content", "ids and content", "boosting"} else "a blend with codes"


def _inputs(preset: Preset, arm: str) -> tuple[object, ...]:
    spec = preset.arms[arm]
    return (
        *(spec.kind, spec.vectors, spec.features, spec.boosting),
        *spec.representations,
        spec.model_spec(preset.ranker.model),
    )
