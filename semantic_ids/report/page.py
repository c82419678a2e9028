"""Self-contained HTML report on a codebook: one file, no network access, identical bytes for identical input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from semantic_ids.report import passages
from semantic_ids.report.facts import Facts, collect_facts
from semantic_ids.report.figures import figures, text
from semantic_ids.report.periods import by_period
from semantic_ids.report.tree import EMBEDDED_ITEMS, shortened, tree
from sidkit.core.arrays import Doubles, Floats
from sidkit.core.files import written_beside
from sidkit.core.repo import Repo
from sidkit.reports import render_page

_SCRIPTS = ("colours.js", "charts.js", "tree.js", "map.js")


def write_report(repo: Repo, name: str, out: Path) -> Path:
    """Write the report on a published codebook.

    Parameters
    ----------
    repo : Repo
        Repository with the codebook and its table.
    name : str
        The codebook's name.
    out : Path
        The HTML file; an existing file is replaced.

    Returns
    -------
    Path
        ``out``.

    Raises
    ------
    UnknownVersionError
        If the codebook does not exist.
    LifeCycleError
        If it is not published.
    ArtifactError
        If its files are missing or modified.
    """
    page = render(collect_facts(repo, name))
    with written_beside(out) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return out


def render(facts: Facts) -> str:
    """Return the page as text."""
    unit, periods = by_period(facts.arrivals, facts.fit_codes, facts.record.sizes[0], facts.record.fit_end_us)
    data = {**tree_data(facts), "map": _map(facts), "drift": [vars(period) for period in periods]}
    content = {
        "name": facts.record.name,
        "state": facts.record.state,
        "summary": passages.summary(facts),
        "tiles": passages.tiles(facts),
        "described": passages.described(facts),
        "figures": figures(facts),
        "tree_note": passages.tree_note(facts, len(data["tree"]["items"]["id"])),
        "collisions": passages.collisions(facts),
        "map_note": passages.map_note(facts, data["map"]["kept_spread"]),
        "unit": unit,
        "periods": periods,
        "drift_note": passages.drift_note(facts, periods),
        "text": text,
    }
    return render_page(__package__, scripts=_SCRIPTS, data=data, content=content)


def tree_data(facts: Facts, most: int = EMBEDDED_ITEMS) -> dict[str, Any]:
    """Return the data of the shared scripts ``colours.js`` and ``tree.js``, with at most that many items."""
    return {"tree": tree(facts.items, facts.tree_levels, most), "total": len(facts.items), "levels": _levels(facts)}


def project(vectors: Floats) -> tuple[Doubles, float]:
    """Project vectors on their first two principal axes.

    Returns ``float64 [rows, 2]`` and the share of the variance explained. The sign of each axis makes its largest loading
    positive.
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64) if len(vectors) else vectors
    flat = np.zeros((len(vectors), 2))
    spread = float((centred**2).sum())
    if spread == 0:
        return flat, 0.0
    _, strengths, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2]
    largest = np.abs(axes).argmax(axis=1)
    axes = axes * np.sign(axes[np.arange(len(axes)), largest])[:, None]
    flat[:, : len(axes)] = centred @ axes.T
    return flat, float((strengths[:2] ** 2).sum()) / spread


def _levels(facts: Facts) -> list[dict[str, Any]]:
    """Return the used codes of each level, most frequent first."""
    levels = []
    for level, size in enumerate(facts.record.sizes):
        counts = np.bincount(facts.items.codes[:, level], minlength=size)
        order = np.argsort(-counts, kind="stable")[: int((counts > 0).sum())]
        levels.append(
            {
                "size": size,
                "extra": level >= facts.tree_levels,
                "codes": order.tolist(),
                "counts": counts[order].tolist(),
            }
        )
    return levels


def _map(facts: Facts) -> dict[str, Any]:
    flat, kept_spread = project(facts.sample.vectors)
    # One scale for both axes preserves distances.
    reach = float(np.abs(flat).max()) if flat.size else 0.0
    places = np.rint(flat / reach * 10_000).astype(np.int64) if reach > 0 else flat.astype(np.int64)
    rows = facts.sample.rows
    return {
        "x": places[:, 0].tolist(),
        "y": places[:, 1].tolist(),
        "codes": facts.items.codes[rows].tolist(),
        "id": facts.items.ids.take(rows).to_pylist(),
        "title": [shortened(title) for title in facts.items.titles.take(rows).to_pylist()],
        "category": facts.items.categories.take(rows).to_pylist(),
        "kept_spread": round(kept_spread, 4),
    }
