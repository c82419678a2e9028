"""One self-contained HTML page about one or more comparisons: no other file, no network, the same bytes for the same facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ranking.experiments.comparison.arms import CODES_AS_FEATURES
from ranking.experiments.comparison.tables import SHORT, budgets
from semantic_ids.report.inline import SHARED_SCRIPT, SHARED_STYLE, inline_page
from sidkit.core.bootstrap import NO_EVIDENCE
from sidkit.core.files import written_beside

_FOLDER = Path(__file__).parent
_SCRIPTS = ("axes.js", "arms.js", "models.js")
_ROW = ("arm", "slice", "metric", "baseline", "mean", "low", "high", "delta", "delta_low", "delta_high", "verdict")


def write_page(comparisons: Sequence[Mapping[str, Any]], out: Path) -> Path:
    """Write the page about comparisons of the same arms on several data sets; one that is there is replaced."""
    with written_beside(out) as temporary:
        temporary.write_text(render(comparisons), encoding="utf-8")
    return out


def render(comparisons: Sequence[Mapping[str, Any]]) -> str:
    """The page, as text. ``comparisons`` are the facts that :meth:`Comparison.run` gives."""
    data = [
        {
            "data": facts["data"],
            "columns": _ROW,
            "rows": [[row[key] for key in _ROW] for row in facts["rows"]],
            "slices": facts["slices"],
            "titles": {arm: own["title"] for arm, own in facts["arms"].items()},
            "calibration": facts["calibration"],
            "probes": facts["probes"],
        }
        for facts in comparisons
    ]
    first = comparisons[0]
    slots = {
        "summary": escape(
            f"{len(first['arms'])} arms, {max(unit['seed'] for unit in first['units']) + 1} seeds, "
            f"{max(len(facts['origins']) for facts in comparisons)} time origins, {len(comparisons)} data sets"
        ),
        "tables": "".join(map(_tables, comparisons)),
    }
    return inline_page(
        _FOLDER / "page.html", [SHARED_STYLE, _FOLDER / "style.css"],
        [SHARED_SCRIPT, *(_FOLDER / name for name in _SCRIPTS)], data, slots,
    )  # fmt: skip


def _tables(facts: Mapping[str, Any]) -> str:
    """What needs no script: AUC with differences, budgets and epochs, slices."""
    return (
        f'<section aria-label="Tables of {escape(facts["data"])}"><h2>{escape(facts["data"])}: the numbers</h2>'
        f"{_auc_table(facts)}{_arm_table(facts)}{_slice_table(facts)}</section>"
    )


def _auc_table(facts: Mapping[str, Any]) -> str:
    slices = [name for name in SHORT if name in facts["slices"]]
    rows = [row for row in facts["rows"] if row["metric"] == "auc"]
    by = {(row["arm"], row["slice"]): row for row in reversed(rows)}
    arms = dict.fromkeys(row["arm"] for row in rows)
    head = ["arm", *(f"{name} ({facts['slices'][name]['positives']:,} positives)" for name in slices)]
    body = [[_titled(facts, arm), *(_auc(by.get((arm, name))) for name in slices)] for arm in arms]
    return _table(
        "AUC, and its difference to the first baseline with a 95 % interval over users; bold where there is evidence",
        head,
        body,
    )


def _auc(row: Mapping[str, Any] | None) -> str:
    if row is None or row["mean"] is None:
        return "–"
    if row["delta_low"] is None:
        return f"{row['mean']:.4f}"
    shown = f"{row['delta']:+.4f} [{row['delta_low']:+.4f}, {row['delta_high']:+.4f}]"
    shown = shown if row["verdict"] == NO_EVIDENCE else f"<b>{shown}</b>"
    return f"{row['mean']:.4f}<br><small>{shown} to {escape(row['baseline'])}</small>"


def _arm_table(facts: Mapping[str, Any]) -> str:
    sizes = {arm: (whole, bare, ratio) for arm, whole, bare, ratio in budgets(facts["arms"])}
    body = []
    for arm, own in facts["arms"].items():
        whole, bare, ratio = sizes.get(arm, (None, None, None))
        seeds = own["auc_by_seed"].get("all", [])
        first = own["first_epoch_auc"].get("all")
        epochs = [epoch + 1 for epoch in own["best_epoch"] if epoch is not None]
        body.append(
            [
                _titled(facts, arm), *(f"{value:,}" if value else "–" for value in (whole, bare)),
                f"{ratio:.2f}" if ratio else "–", f"{first:.4f}" if first else "–",
                f"{sum(seeds) / len(seeds):.4f}" if seeds else "–",
                f"{min(seeds):.4f} to {max(seeds):.4f}" if seeds else "–", ", ".join(map(str, epochs)) or "–",
                f"{sum(own['seconds']) / len(own['seconds']):.1f}",
            ]
        )  # fmt: skip
    head = [
        "arm", "parameters", "without tables", f"of {CODES_AS_FEATURES}", "AUC after epoch 1", "AUC of the best epoch",
        "over seeds", "best epochs", "seconds a seed",
    ]  # fmt: skip
    return _table("Parameters, epochs and time", head, body)


def _slice_table(facts: Mapping[str, Any]) -> str:
    cuts = facts["cuts"]
    body = [
        [escape(name), *(f"{shown[key]:,}" for key in ("rows", "positives", "users")), f"{shown['gauc_kept']:.0%}"]
        for name, shown in facts["slices"].items()
    ]
    note = (
        f"Slices of the test rows. Theta 80 % is {cuts['theta_80']:,} exposures of 7 days; head from {cuts['head_from']:,}, "
        f"tail below {cuts['tail_below']:,}; all chosen on validation rows. GAUC by {facts['gauc_by']}"
    )
    return _table(note, ["slice", "rows", "positives", "users", "ranked by GAUC"], body)


def _titled(facts: Mapping[str, Any], arm: str) -> str:
    title = facts["arms"].get(arm, {}).get("title", "the true probabilities")
    return f"{escape(arm)} <small>{escape(title)}</small>"


def _table(caption: str, head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table whose cells are HTML already, and whose head and caption are not."""
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    rows = "".join(
        f'<tr><th scope="row">{cells[0]}</th>{"".join(f"<td>{cell}</td>" for cell in cells[1:])}</tr>' for cells in body
    )
    return (
        f'<div class="scroll"><table><caption>{escape(caption)}.</caption><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )
