"""The figures of a codebook: those its artefact holds, those of its table as it is now, and what each of them says."""

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
    """One row of the table: texts for people."""

    label: str
    at_fit: str
    now: str
    says: str


_SHARE, _NUMBER = "share", "number"
_EXPLAINED: dict[str, tuple[str, str, str]] = {
    "items": ("Items", _NUMBER, "How many items the figures of the column are of."),
    "utilisation": (
        "Utilisation per level",
        _SHARE,
        "Used codes of a level out of all it has. Dead codes are capacity that nobody uses.",
    ),
    "prefix_utilisation": (
        "Distinct prefixes of possible ones",
        _SHARE,
        "Distinct prefixes of each length out of as many as there could be: no more than combinations, nor than items.",
    ),
    "prefix_utilisation_of_all": (
        "Distinct prefixes of all combinations",
        _SHARE,
        "The same out of all combinations of codes. Papers mix these two up.",
    ),
    "perplexity": (
        "Perplexity per level",
        _SHARE,
        "exp(entropy) of a level's code shares out of its codes: 100% when all codes hold equally many items.",
    ),
    "gini": ("Gini per level", _NUMBER, "Inequality of a level's code counts: 0 all equal, near 1 a few hold all."),
    "collision_rate": (
        "Collision rate",
        _SHARE,
        "1 - distinct full codes / items. Low is not the goal by itself: alike items may well share a code.",
    ),
    "independent_code_rate": (
        "Items with a code of their own",
        _SHARE,
        "Share of items whose full code no other item has.",
    ),
    "largest_bucket": ("Largest bucket", _NUMBER, "Most items that share one full code."),
    "residual_norm": (
        "Mean residual norm",
        _NUMBER,
        "Average distance from an item's vector to what its codes stand for, as assigned.",
    ),
    "reconstruction_error": (
        "Reconstruction error",
        _SHARE,
        "Squared distance from vectors to what their codes stand for, out of the vectors' whole spread; lower keeps more.",
    ),
    "reconstruction_errors": (
        "Reconstruction error per level",
        _SHARE,
        "The same with the first levels alone; a dash where these stand for nothing by themselves.",
    ),
    "unexplained_spread": (
        "Unexplained spread per level",
        _SHARE,
        "Share of the vectors' spread that is left inside prefixes: the least error that any decoder could reach.",
    ),
    "content_cohesion": (
        "Content cohesion per level",
        _NUMBER,
        "Mean cosine of two items that share a prefix minus that of any two items: how alike they are.",
    ),
    "behaviour_cohesion": (
        "Behaviour cohesion per level",
        _NUMBER,
        "How many times as often as by chance items that are chosen together share a prefix; 1 is chance.",
    ),
    "hit_rate": (
        "Hit rate",
        _SHARE,
        "How often an item that is chosen together with another is found among the nearest to it.",
    ),
    "balance": ("Balance", _NUMBER, "How evenly items are spread over codes, before and after codes were balanced."),
    "roundtrip": ("Round trip", _SHARE, "Share of codes that come back when what they stand for is encoded again."),
}


def figures(facts: Facts) -> list[Figure]:
    """Rows of the table: the figures that can be explained, then what else the artefact holds."""
    held, now = facts.metrics, figures_now(facts)
    rows = [
        Figure(label, text(held.get(key), kind), text(now.get(key), kind), says)
        for key, (label, kind, says) in _EXPLAINED.items()
        if key in held or key in now
    ]
    for key in sorted(set(held) - set(_EXPLAINED)):
        kind, says = _explained_by_its_beginning(key)
        rows.append(Figure(key.replace("_", " ").capitalize(), text(held[key], kind), text(None), says))
    return rows


def figures_now(facts: Facts) -> dict[str, Any]:
    """The figures of all items that have codes now, under the artefact's keys."""
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
    """A figure for people: shares as per cent, lists level by level, what is missing as a dash."""
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


def _explained_by_its_beginning(key: str) -> tuple[str, str]:
    """Kind and meaning of ``hit_rate_at_30`` or ``balance_last``: those of the figure it begins with."""
    for name in sorted(_EXPLAINED, key=len, reverse=True):
        if key.startswith(name):
            return _EXPLAINED[name][1:]
    return _NUMBER, "As the artefact's metrics.json holds it."
