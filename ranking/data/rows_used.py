"""Used and available rows of the training, validation and test parts, for reports."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

PARTS = ("train", "validation", "test")

PartRows = Mapping[str, Mapping[str, int]]
"""``train``, ``validation``, ``test`` -> ``used`` and ``available`` rows."""


def part_rows(used: Mapping[str, int], available: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """Used and available rows of each part, as JSON values."""
    return {name: {"used": int(used[name]), "available": int(available[name])} for name in PARTS}


def of_sample(parts: PartRows, available: Sequence[int]) -> dict[str, dict[str, int]]:
    """Replace ``available`` by the row counts before thinning, for rows thinned before negatives were sampled."""
    return part_rows({name: parts[name]["used"] for name in PARTS}, dict(zip(PARTS, available, strict=True)))


def rows_summary(parts: PartRows) -> str:
    """A one-line summary."""
    cells = []
    for name in PARTS:
        used, available = parts[name]["used"], parts[name]["available"]
        share = "all" if used == available else f"{used:,} of"
        cells.append(f"{name} {share} {available:,}")
    return f"used: {', '.join(cells)}{'' if uses_all(parts) else ' (thinned by user)'}"


def uses_all(parts: PartRows) -> bool:
    """Whether all available rows are used."""
    return all(part["used"] == part["available"] for part in parts.values())
