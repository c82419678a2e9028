"""Arms that are made from others: blends and adapters, their members, and the order in which arms are made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ranking.training.arm_spec import DERIVED, ArmSpec
from sidkit.core.errors import ConfigError

_ORDER = ("neural", "gbdt", "blend", "adapter")
"""Kinds of arms in an order in which members come first."""


def check_blends(arms: Mapping[str, ArmSpec]) -> None:
    """Check that the members of every blend and adapter are other arms of the same run, that blends blend no blends, and that
    nothing is made from an adapter.

    Raises
    ------
    ConfigError
        When a member is missing, is the blend itself, or is a blend.
    """
    for name, arm in arms.items():
        for member in arm.of:
            if member == name:
                raise ConfigError(f"arms.{name}.of: the {arm.kind} names itself; name other arms")
            if member not in arms:
                others = [other for other, spec in arms.items() if spec.kind not in DERIVED]
                raise ConfigError(
                    f"arms.{name}.of: expected arms of the same run ({', '.join(others)}), got {member!r}; add this arm or "
                    "change of"
                )
            if arms[member].kind == "adapter":
                raise ConfigError(f"arms.{name}.of: {member!r} is an adapter; name the arm that it adapts instead")
            if arm.kind == arms[member].kind == "blend":
                raise ConfigError(f"arms.{name}.of: {member!r} is a blend; name the arms that it blends instead")


def check_served(arms: Mapping[str, ArmSpec], serve: Iterable[str]) -> None:
    """Check that arms may serve.

    Raises
    ------
    ConfigError
        When one is missing, is a control, or is a blend of a control or of members with different item vectors.
    """
    invalid = [name for name in serve if name not in arms or not arms[name].can_serve]
    if invalid:
        valid = [name for name, arm in arms.items() if arm.can_serve]
        raise ConfigError(
            f"ranker.serve: expected arms that can serve ({', '.join(valid)}), got {', '.join(invalid)}; remove them"
        )
    for name in serve:
        spec, members = arms[name], {member: arms[member] for member in arms[name].of}
        controls = [member for member, arm in members.items() if not arm.can_serve]
        if controls:
            raise ConfigError(
                f"ranker.serve: the {spec.kind} {name} has members that cannot serve ({', '.join(controls)}); remove it"
            )
        if len({arm.vectors for arm in members.values()}) > 1:
            listed = ", ".join(f"{member} reads {arm.vectors}" for member, arm in members.items())
            raise ConfigError(
                f"ranker.serve: expected members of the {spec.kind} {name} with the same item vectors, got {listed}; name "
                "arms with the same vectors, or remove it"
            )


def saved_arms(arms: Mapping[str, ArmSpec], serve: Iterable[str]) -> frozenset[str]:
    """The arms besides the neural ones whose artefacts are saved: those that may serve, and their members."""
    needed, waiting = set[str](), list(serve)
    while waiting:
        name = waiting.pop()
        needed.add(name)
        waiting += arms[name].of
    return frozenset(name for name in needed if arms[name].kind != "neural")


def members_first(arms: Mapping[str, ArmSpec]) -> list[str]:
    """Return the names of the arms in their order, with blends after the arms that are trained, and adapters last."""
    return sorted(arms, key=lambda name: in_order(arms[name]))


def in_order(arm: ArmSpec) -> int:
    """0 for an arm that is trained, 1 for a blend, 2 for an adapter: the members of an arm have lower numbers."""
    return max(_ORDER.index(arm.kind) - 1, 0)
