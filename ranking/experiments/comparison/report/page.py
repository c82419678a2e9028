"""Self-contained HTML report on comparisons: one file, no network access, identical bytes for identical input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ranking.data.codebook_window import CodebookWindow
from ranking.data.targets import CLICKED
from ranking.experiments.comparison.arms import CODES_AS_FEATURES
from ranking.experiments.comparison.baselines import CONTROL, INPUTS, tested_by
from ranking.experiments.comparison.liveness import ArmPart
from ranking.experiments.comparison.liveness_table import liveness_cells
from ranking.experiments.comparison.tables import SHORT, budgets
from ranking.training.calibration import SAMPLED_METRICS
from sidkit.core.files import written_beside
from sidkit.core.intervals import EVIDENCE
from sidkit.reports import render_page

_SCRIPTS = ("axes.js", "arms.js", "models.js")
_ROW = ("arm", "slice", "metric", "baseline", "mean", "low", "high", "delta", "delta_low", "delta_high", "verdict")


@dataclass(frozen=True)
class _Cell:
    """A cell: its text, and an optional difference and note in small type."""

    text: str
    delta: str = ""
    note: str = ""
    evidence: bool = False
    """Whether the verdict is better or worse."""


@dataclass(frozen=True)
class _Table:
    """A table; the first cell of each row is its row header."""

    caption: str
    head: list[str]
    rows: list[list[_Cell]]


def write_page(comparisons: Sequence[Mapping[str, Any]], out: Path) -> Path:
    """Write the report on comparisons of the same arms on several data sets; an existing file is replaced."""
    with written_beside(out) as temporary:
        temporary.write_text(render(comparisons), encoding="utf-8")
    return out


def render(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """Return the page as text; ``comparisons`` are results of :meth:`ComparisonResult.as_json`."""
    data = [
        {
            "data": facts["data"],
            "columns": _ROW,
            "rows": [[row[key] for key in _ROW] for row in facts["rows"]],
            "slices": facts["slices"],
            "titles": {arm: arm_facts["title"] for arm, arm_facts in facts["arms"].items()},
            "roles": (INPUTS, CONTROL),
            "tested_by": tested_by(facts),
            "calibration": facts["calibration"],
            "probes": facts["probes"],
        }
        for facts in comparisons
    ]
    first = comparisons[0]
    content = {
        "summary": (
            f"{len(first['arms'])} arms, {max(unit['seed'] for unit in first['units']) + 1} seeds, "
            f"{max(len(facts['origins']) for facts in comparisons)} time origins, {len(comparisons)} data sets"
        ),
        "comparisons": [
            {
                "data": facts["data"],
                "auc": _auc_table(facts),
                "arms": _arm_table(facts),
                "slices": _slice_table(facts),
                "windows": _windows(facts),
                "skipped": facts.get("skipped", {}),
                "liveness": _liveness_table(facts),
            }
            for facts in comparisons
        ],
    }
    return render_page(__package__, styles=["style.css"], scripts=_SCRIPTS, data=data, content=content)


def _auc_table(facts: Mapping[str, Any]) -> _Table:
    slices = [name for name in SHORT if name in facts["slices"]]
    rows = [row for row in facts["rows"] if row["metric"] == "auc"]
    by = {(row["arm"], row["slice"]): row for row in reversed(rows)}
    arms = dict.fromkeys(row["arm"] for row in rows)
    head = ["arm", *(f"{name} ({facts['slices'][name]['positives']:,} positives)" for name in slices)]
    return _Table(
        "AUC, and its difference to the first baseline with a 95 % interval; bold: better or worse",
        head,
        [[_arm(facts, arm), *(_auc(by.get((arm, name))) for name in slices)] for arm in arms],
    )


def _auc(row: Mapping[str, Any] | None) -> _Cell:
    if row is None or row["mean"] is None:
        return _Cell("–")
    if row["delta_low"] is None:
        return _Cell(f"{row['mean']:.4f}")
    delta = f"{row['delta']:+.4f} [{row['delta_low']:+.4f}, {row['delta_high']:+.4f}]"
    return _Cell(f"{row['mean']:.4f}", delta, f"to {row['baseline']}", row["verdict"] in EVIDENCE)


def _arm_table(facts: Mapping[str, Any]) -> _Table:
    """Build the table of sizes, epochs and times per arm."""
    sizes = {arm: (total, without_tables, ratio) for arm, total, without_tables, ratio in budgets(facts["arms"])}
    body = []
    for arm, arm_facts in facts["arms"].items():
        total, without_tables, ratio = sizes.get(arm, (None, None, None))
        seeds = arm_facts["auc_by_seed"].get("all", [])
        first = arm_facts["first_epoch_auc"].get("all")
        epochs = [epoch + 1 for epoch in arm_facts["best_epoch"] if epoch is not None]
        texts = [
            *(f"{value:,}" if value else "–" for value in (total, without_tables)),
            f"{ratio:.2f}" if ratio else "–",
            f"{first:.4f}" if first else "–",
            f"{sum(seeds) / len(seeds):.4f}" if seeds else "–",
            f"{min(seeds):.4f} to {max(seeds):.4f}" if seeds else "–",
            ", ".join(map(str, epochs)) or "–",
            f"{sum(arm_facts['seconds']) / len(arm_facts['seconds']):.1f}",
        ]
        body.append([_arm(facts, arm), *map(_Cell, texts)])
    head = [
        "arm",
        "parameters",
        "without tables",
        f"of {CODES_AS_FEATURES}",
        "AUC after epoch 1",
        "AUC of the best epoch",
        "over seeds",
        "best epochs",
        "seconds a seed",
    ]
    return _Table("Parameters, epochs and time", head, body)


def _slice_table(facts: Mapping[str, Any]) -> _Table:
    cuts = facts["cuts"]
    body = [
        [name, *(f"{size[key]:,}" for key in ("rows", "positives", "users")), f"{size['gauc_kept']:.0%}"]
        for name, size in facts["slices"].items()
    ]
    sampled = f". {SAMPLED_METRICS.rstrip('.')}" if facts.get("sampled_negatives") else ""
    note = (
        f"Slices of the test rows. Theta 80 % is {cuts['theta_80']:,} exposures in 7 days; head from {cuts['head_from']:,}, "
        f"tail below {cuts['tail_below']:,}; thresholds are chosen on validation rows. GAUC by {facts['gauc_by']}; "
        f"target: {facts.get('target', CLICKED)}{sampled}"
    )
    return _Table(
        note, ["slice", "rows", "positives", "users", "ranked by GAUC"], [[_Cell(text) for text in row] for row in body]
    )


def _windows(facts: Mapping[str, Any]) -> list[str]:
    """Return how many training rows follow the clicks that each codebook learned from."""
    return [
        f"Time origin {number}: {sentence}."
        for number, origin in enumerate(facts["origins"])
        for window in origin.get("codebooks") or ()
        if (sentence := CodebookWindow(**window).sentence) is not None
    ]


def _liveness_table(facts: Mapping[str, Any]) -> _Table:
    """Build the table of the parts of all arms, one row per part."""
    body = []
    for arm, parts in facts.get("liveness", {}).items():
        for values in parts:
            part = ArmPart(**values)
            cells = liveness_cells(part)
            texts = [
                part.kind,
                {True: "yes", False: "no", None: "unknown"}[part.own],
                cells.entropy,
                cells.size,
                "-" if part.moved is None else f"{part.moved:.2f}",
                cells.off,
                "-" if part.deviation is None else f"{part.deviation:.4f}",
                cells.alive,
            ]
            body.append([_Cell(arm, note=part.name), *map(_Cell, texts)])
    head = [
        "arm and part",
        "kind",
        "own",
        "entropy / log n",
        "size / start",
        "moved",
        "AUC with it off",
        "SD over seeds",
        "alive",
    ]
    return _Table("Liveness of the parts, on validation rows" if body else "Liveness was not measured", head, body)


def _arm(facts: Mapping[str, Any], arm: str) -> _Cell:
    """Build the row header of an arm."""
    return _Cell(arm, note=facts["arms"].get(arm, {}).get("title", "the true probabilities"))
