"""The metrics table of a report: values at the fit, values of the current table, and an explanation of each metric."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from semantic_ids.quality import code_metrics
from semantic_ids.report.facts import Facts


@dataclass(frozen=True)
class Figure:
    """One row of the metrics table, as display texts."""

    label: str
    at_fit: str
    now: str
    says: str


_SHARE, _NUMBER = "share", "number"
_EXPLAINED: dict[str, tuple[str, str, str]] = {
    "items": ("Items", _NUMBER, "Number of items that the values of the column are computed on."),
    "utilisation": (
        "Utilisation per level",
        _SHARE,
        "Share of a level's codes that are used. Dead codes are unused capacity.",
    ),
    "prefix_utilisation": (
        "Distinct prefixes of possible ones",
        _SHARE,
        "Distinct prefixes of each length, relative to the smaller of the number of combinations and the number of items.",
    ),
    "prefix_utilisation_of_all": (
        "Distinct prefixes of all combinations",
        _SHARE,
        "The same relative to all combinations of codes. Papers use either definition.",
    ),
    "perplexity": (
        "Perplexity per level",
        _SHARE,
        "exp(entropy) of a level's code shares, relative to its number of codes: 100% when all codes are used equally.",
    ),
    "gini": (
        "Gini per level",
        _NUMBER,
        "Inequality of a level's code counts: 0 if all are equal, near 1 if a few hold all.",
    ),
    "collision_rate": (
        "Collision rate",
        _SHARE,
        "1 - distinct full codes / items. Low is not a goal in itself: similar items may share a code.",
    ),
    "independent_code_rate": (
        "Items with a unique code",
        _SHARE,
        "Share of items whose full code is unique (independent coding rate, ICR).",
    ),
    "largest_bucket": ("Largest bucket", _NUMBER, "Largest number of items with the same full code."),
    "residual_norm": (
        "Mean residual norm",
        _NUMBER,
        "Mean distance between an item's vector and its reconstruction, as of the assignment.",
    ),
    "reconstruction_error": (
        "Reconstruction error",
        _SHARE,
        "Squared distance between vectors and reconstructions, relative to the total variance; lower is better.",
    ),
    "reconstruction_errors": (
        "Reconstruction error per level",
        _SHARE,
        "The same with the first levels only; a dash where a prefix cannot be decoded.",
    ),
    "unexplained_spread": (
        "Unexplained spread per level",
        _SHARE,
        "Within-prefix share of the vectors' variance: a lower bound of the error of any decoder.",
    ),
    "content_cohesion": (
        "Content cohesion per level",
        _NUMBER,
        "Mean cosine of two items that share a prefix, minus that of any two items.",
    ),
    "behaviour_cohesion": (
        "Behaviour cohesion per level",
        _NUMBER,
        "How much more often co-clicked items share a prefix than expected by chance; 1 is chance.",
    ),
    "hit_rate": (
        "Hit rate",
        _SHARE,
        "How often a co-clicked item is among the nearest items.",
    ),
    "balance": ("Balance", _NUMBER, "How evenly items are distributed over codes, before and after balancing."),
    "roundtrip": ("Round trip", _SHARE, "Share of codes that are unchanged by decoding and encoding again."),
}


def figures(facts: Facts) -> list[Figure]:
    """Rows of the table: the known metrics, then any others in the artefact."""
    at_fit, now = facts.metrics, figures_now(facts)
    rows = [
        Figure(label, text(at_fit.get(key), kind), text(now.get(key), kind), says)
        for key, (label, kind, says) in _EXPLAINED.items()
        if key in at_fit or key in now
    ]
    for key in sorted(set(at_fit) - set(_EXPLAINED)):
        kind, says = _explained_by_prefix(key)
        rows.append(Figure(key.replace("_", " ").capitalize(), text(at_fit[key], kind), text(None), says))
    return rows


def figures_now(facts: Facts) -> dict[str, Any]:
    """The metrics of all items that currently have codes, by the artefact's keys."""
    codes, sizes = facts.items.codes.astype(np.int32), facts.record.sizes
    if len(codes) == 0:
        return {"items": 0}
    reachable, possible = code_metrics.prefix_utilisation(codes, sizes)
    return {
        "items": len(codes),
        "utilisation": code_metrics.utilisation(codes, sizes),
        "prefix_utilisation": reachable,
        "prefix_utilisation_of_all": possible,
        "perplexity": code_metrics.perplexity(codes, sizes),
        "gini": code_metrics.gini(codes, sizes),
        "collision_rate": code_metrics.collision_rate(codes),
        "independent_code_rate": code_metrics.independent_code_rate(codes),
        "largest_bucket": code_metrics.largest_bucket(codes),
        "residual_norm": float(facts.items.residual_norm.mean()),
    }


def text(value: Any, kind: str = _NUMBER) -> str:
    """Format a value: shares as percentages, lists level by level, missing values as a dash."""
    if isinstance(value, Mapping):
        return " · ".join(f"{str(key).replace('_', ' ')} {text(inner, kind)}" for key, inner in value.items()) or "–"
    if isinstance(value, list | tuple):
        return " · ".join(text(inner, kind) for inner in value) or "–"
    if value is None or (isinstance(value, float) and not isfinite(value)):
        return "–"
    return str(value) if isinstance(value, bool | str) else _number(value, kind)


def _number(value: float, kind: str) -> str:
    if kind == _SHARE and 0 <= value <= 1:
        return f"{value:.4%}" if 0 < value < 0.0005 else f"{value:.1%}".replace(".0%", "%")
    if isinstance(value, int) or abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:,.4g}"


def _explained_by_prefix(key: str) -> tuple[str, str]:
    """Kind and explanation of a key such as ``hit_rate_at_30``: those of the metric it starts with."""
    for name in sorted(_EXPLAINED, key=len, reverse=True):
        if key.startswith(name):
            return _EXPLAINED[name][1:]
    return _NUMBER, "Value from the artefact's metrics.json."
